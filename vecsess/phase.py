"""What a session waits for, and which calls it takes meanwhile."""

from __future__ import annotations

import enum


class Phase(enum.Enum):
    """What a session waits for; the value is what an error says of it."""

    NEW = "it has not been reset yet"
    READY = "it is ready to step"
    STEPPING = "a step is under way"
    RESETTING = "a reset is under way"
    BROKEN = "its last call failed"
    CLOSED = "it was closed"
