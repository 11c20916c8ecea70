"""What a session waits for, and which calls it takes meanwhile."""

from __future__ import annotations

import enum


class Phase(enum.Enum):
    """What a session waits for; the value is what an error says of it."""

    NEW = "it has not been reset yet"
    READY = "it is ready to step"
    ENDED = "an episode has ended, and with autoreset_mode='disabled' nothing resets it by itself"
    STEPPING = "a step is under way"
    RESETTING = "a reset is under way"
    CALLING = "a call is under way"
    BROKEN = "its last call failed"
    CLOSED = "it was closed"


# What is under way in these phases, as Gymnasium's errors name it.
PENDING = {Phase.STEPPING: "step", Phase.RESETTING: "reset", Phase.CALLING: "call"}
AT_REST = (Phase.NEW, Phase.READY, Phase.ENDED, Phase.BROKEN)
STARTED = (Phase.READY, Phase.ENDED)
