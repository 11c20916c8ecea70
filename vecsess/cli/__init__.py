"""The commands of `python -m vecsess`: a module each, with `add_arguments` and `run`."""
