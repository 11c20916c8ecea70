"""What is done about failures, how often, and the record of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal

from vecsess.errors import ContractViolation, VecsessError


@dataclass(frozen=True, kw_only=True, slots=True)
class RestartPolicy:
    """How often workers may be restarted, as an OTP supervisor's intensity and period.

    Attributes:
        max_restarts: how many restarts of one worker within `within_s`; None for any number.
        within_s: the period, in seconds.
        backoff_s: how long the second restart in a row waits; each further one twice as long,
            with up to a quarter more at random. The first does not wait.
        max_backoff_s: the longest such wait.
        replay_budget_s: how long the steps of one replay may take before the ladder goes on,
            without constructor, reset, and the first step, which may have to compile.
        log_bytes: how much memory the log of actions, checksums, resets and attributes may take;
            the last 512 steps of actions of fixed shape, and what attributes are set to now, stay.
        reproducer_dir: where the file goes that reproduces a poisonous step; None for a
            folder of the user's own among the temporary files, which keeps the newest 20.

    Example:
        >>> RestartPolicy(max_restarts=3, within_s=60).max_restarts
        3
    """

    max_restarts: int | None = 10
    within_s: float = 60.0
    backoff_s: float = 0.1
    max_backoff_s: float = 5.0
    replay_budget_s: float = 2.0
    log_bytes: int = 64 << 20
    reproducer_dir: str | None = None


Reaction = Literal["replay", "truncate", "raise"]
FailureReaction = Literal["raise", "truncate", "restart"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reactions:
    """What is done about each kind of failure."""

    on_crash: Reaction = "replay"
    on_error: FailureReaction = "raise"
    on_violation: FailureReaction = "raise"
    on_limit: Literal["raise", "quarantine"] = "raise"

    def to(self, error: VecsessError) -> FailureReaction:
        """Returns what is done about what an environment raised, or broke of the contract."""
        return self.on_violation if isinstance(error, ContractViolation) else self.on_error

    def __post_init__(self) -> None:
        allowed = {
            "on_crash": ("replay", "truncate", "raise"),
            "on_error": ("raise", "truncate", "restart"),
            "on_violation": ("raise", "truncate", "restart"),
            "on_limit": ("raise", "quarantine"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name}: expected one of {values}, got {getattr(self, name)!r}")


@dataclass(slots=True)
class Incident:
    """What went wrong, and what was done about it.

    Attributes:
        what: the error, as text.
        kind: its class, such as "WorkerDied".
        worker: index of the worker; -1 for the fork server.
        generation: the worker's generation that was lost.
        env: the environment that the worker was calling, None between calls.
        outcomes: for each environment of the worker, what was done: "replayed episode",
            "replayed seeded reset", "truncated: ...", "reset".
        duration_s: from the loss to the successor at work.
        time_s: when it was noticed, on the clock of `time.time`.

    Example:
        >>> Incident("it ended with SIGKILL", "WorkerDied", worker=1, generation=0, env=None).kind
        'WorkerDied'
    """

    what: str = field(repr=False)  # with a traceback, as long as it gets
    kind: str
    worker: int
    generation: int
    env: int | None
    outcomes: dict[int, str] = field(default_factory=dict)
    duration_s: float = 0.0
    time_s: float = field(default_factory=time.time)
