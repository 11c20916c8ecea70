"""What both sides of the pipe share: messages, their limits, the slab, spaces and their forms.

It imports nothing else of vecsess, and starts and waits for no process.
What a frame may hold is said here and nowhere else.
"""
