"""`vecsess doctor`: whether this machine, and an environment, are fit, and what would help."""

from __future__ import annotations

from vecsess.cli.doctor.command import add_arguments, run

__all__ = ["add_arguments", "run"]
