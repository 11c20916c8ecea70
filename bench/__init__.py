"""The bench: ours, Gymnasium and the peers, interleaved, each in a process of its own.

Start it with `python -m vecsess.bench --help`. Nothing else of vecsess imports this package.
"""
