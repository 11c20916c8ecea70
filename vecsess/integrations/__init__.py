"""Bridges to other libraries, each in a module that imports that library; none is imported here."""
