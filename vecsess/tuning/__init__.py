"""Which layout is the fastest on this machine, measured.

It runs sessions as users do and counts what they cost.
Nothing in it changes how a session behaves.
"""
