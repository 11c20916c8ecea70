"""The commands of `python -m vecsess`, one module each.

They parse, call what is public, and print; nothing is computed here that a program might want.
"""
