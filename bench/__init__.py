"""Benchmarks: ``python -m vecsess.bench``."""
