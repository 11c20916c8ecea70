"""A worker process, as the manager sees it, and how long its calls may take."""

from __future__ import annotations

import math
import select
import signal
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Literal, Protocol

from vecsess.wire.channel import Channel
from vecsess.wire.messages import Command, Exited


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeouts:
    """How long each call of an environment may take, in seconds; None waits for ever.

    Deadlines are per environment call, whatever the grouping, on the monotonic clock.

    Attributes:
        start_s: from a worker's start until it has built its environments; also until a policy that
            acts there has arrived, with what it imports.
        reset_s: one `reset`, an auto-reset included.
        step_s: one `step`.
        policy_s: one decision of a policy that acts at the workers.
        close_s: closing the session altogether; what is left then is killed.

    Example:
        >>> Timeouts(step_s=None).step_s is None  # so that a breakpoint in `step` can be used
        True
    """

    start_s: float | None = 60.0
    reset_s: float | None = 60.0
    step_s: float | None = 60.0
    policy_s: float | None = 60.0
    close_s: float = 5.0

    def __post_init__(self) -> None:
        for field_ in fields(self):
            value = getattr(self, field_.name)
            if value is None and field_.name != "close_s":
                continue
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 <= value < math.inf:  # NaN is a deadline that never comes
                raise ValueError(
                    f"Timeouts.{field_.name}: expected seconds, 0 or more, or None to wait for "
                    f"ever (not for close_s), got {value!r}"
                )


class OutOfTimeError(TimeoutError):
    """The caller's own deadline has passed; what is under way goes on, and can be waited for."""


class Sender(Protocol):
    """What sent a worker its last command, as recovery needs it; see `Flight`."""

    unread: bool

    def owed_by(self, worker: Worker) -> int | None:
        """Returns the number of the command whose reply it owes."""
        ...

    def message(self, worker: Worker) -> Command | None:
        """Returns the last command as this worker got it."""
        ...

    def resend(self, worker: Worker, without: set[int]) -> None:
        """Sends a successor the command that its predecessor was lost in."""
        ...

    def gather(self, timeout_s: float | None = None) -> None:
        """Waits for the replies to it."""
        ...

    def retire(self, worker: Worker) -> None:
        """Goes on without a worker for good."""
        ...


@dataclass(slots=True, eq=False)  # itself and no other: lists of workers are searched all the time
class Worker:
    """A worker process, as the manager sees it."""

    index: int
    first_env: int
    rows: int
    channel: Channel
    slab_fd: int
    generation: int = 0
    pid: int = 0
    pidfd: int = -1
    exit: Exited | None = None
    dead: bool = False
    # What there is of a successor: a process was asked for, or it was told what to build too.
    stage: Literal["", "asked", "building"] = ""
    due: float | None = None  # until when it is to have described what it built
    # What files it and its predecessors were read from: when modified, in ns, size, when changed.
    sources: dict[str, list[int]] = field(default_factory=dict)
    changed: str = ""  # one of them that its successor read in another state
    watch: select.poll = field(default_factory=select.poll)  # its replies and its end
    flight: Sender = field(init=False)  # what sent it its last command
    owed: set[tuple[int, int]] = field(default_factory=set)  # given up: generation, number
    losses: int = 0  # how often it was lost, and replaced
    waited_s: float = 0.0  # how long the manager has slept for it
    # In this process: steps all, given number and infos; whether there is no reply to take.
    step_here: Callable[[int, int], bool] | None = None

    def holds(self, env: int) -> bool:
        """Whether an environment lives in this worker."""
        return self.first_env <= env < self.first_env + self.rows


def describe_exit(code: int) -> str:
    """Returns "exit code 3" or "SIGKILL ..." for a code as `Popen.returncode` has it."""
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    if name == "SIGKILL":
        return "SIGKILL (where nobody sent it, the kernel ran out of memory: see `dmesg`)"
    return name
