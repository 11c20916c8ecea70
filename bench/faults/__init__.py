"""The fault campaign: `python -m vecsess.bench faults`."""
