"""What is done about what is lost: the log, the replays, the limits, and what a user is told.

It brings environments back to where the log says that they stood.
It knows no contract, no Gymnasium verb and no batch.
"""
