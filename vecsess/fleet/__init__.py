"""The worker processes, and what is said to them: started, watched, told, ended.

Here lives what knows of processes, pipes and the memory that they share.
What is lost is noticed here, but what is done about it is decided in `recovery`.
"""
