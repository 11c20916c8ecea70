"""vecsess in the libraries that people use: each module needs one of them, or an extra.

Nothing below may import from here.
A new library gets a module of its own.
"""
