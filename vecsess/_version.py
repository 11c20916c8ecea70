"""The version: the one place where it is written; the build reads it without importing."""

__version__ = "0.1.0"
