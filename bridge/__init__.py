"""The programs that the manager spawns; thin."""
