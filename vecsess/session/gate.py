"""Which verb a session takes when, and what it leaves behind: one table, and the only way in.

Nothing else assigns a session's phase. A verb goes through `with gate.during(verb)`: it is refused
or let in, and whichever way it leaves, the table says where the session stands then.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from vecsess.errors import (
    CallTimeout,
    ClosedError,
    EnvError,
    NoPendingCallError,
    PendingCallError,
    ResetNeededError,
    StateError,
    ThreadError,
)


class Phase(enum.Enum):
    """What a session waits for; the value is what an error says of it."""

    NEW = "it has not been reset yet"
    READY = "it is ready to step"
    ENDED = "an episode has ended, and with autoreset_mode='disabled' nothing resets it by itself"
    STEPPING = "a step is under way"
    RESETTING = "a reset is under way"
    CALLING = "a call is under way"
    COLLECTING = "a rollout is under way"
    BROKEN = "its last call failed"
    CLOSED = "it was closed"

    __hash__ = object.__hash__  # Enum's own is written in Python, and each verb needs some


# What is under way in these phases, as Gymnasium's errors name it.
PENDING = {Phase.STEPPING: "step", Phase.RESETTING: "reset", Phase.CALLING: "call"}
AT_REST = frozenset({Phase.NEW, Phase.READY, Phase.ENDED, Phase.BROKEN})
STARTED = frozenset({Phase.READY, Phase.ENDED})
_READY = frozenset({Phase.READY})
_OPEN = frozenset(Phase) - {Phase.CLOSED}
_RESETTABLE = _OPEN - {Phase.COLLECTING}  # a policy can't pull the rug from under its rollout


@dataclass(frozen=True, slots=True)
class Rule:
    """One verb's line of the table.

    Attributes:
        allowed: the phases in which it may be called.
        meanwhile: the phase from the moment on at which a worker is told; None changes nothing.
        then: where it leads when all went well: "rest" (ready, or ended where an episode waits
            for its reset), "before" (where it came from), "pending" (its other half is to come),
            or a phase.
        failed: where an environment's own error leads once a worker was told; any other error
            leads to broken.
    """

    allowed: frozenset[Phase]
    meanwhile: Phase | None = None
    then: Phase | str = "before"
    failed: Phase | str = Phase.BROKEN


# A failure before any worker was told leads back to where the verb came from. One whose answers
# can still be waited for (a timeout, Ctrl-C in the wait) leaves the verb pending.
RULES: dict[str, Rule] = {
    "reset": Rule(_RESETTABLE, Phase.RESETTING, "rest"),
    "reset_async": Rule(AT_REST, Phase.RESETTING, "pending"),
    "reset_wait": Rule(frozenset({Phase.RESETTING}), Phase.RESETTING, "rest"),
    "step": Rule(_READY, Phase.STEPPING, "rest"),
    "step_async": Rule(_READY, Phase.STEPPING, "pending"),
    "step_wait": Rule(frozenset({Phase.STEPPING}), Phase.STEPPING, "rest"),
    "step_checked": Rule(STARTED),
    "step_into": Rule(_READY, Phase.STEPPING, "rest"),
    "collect": Rule(_READY, Phase.COLLECTING, "rest"),
    "begin_rollout": Rule(_READY, Phase.COLLECTING, Phase.COLLECTING),
    "result": Rule(frozenset({Phase.COLLECTING}), Phase.COLLECTING, "rest"),
    "observe": Rule(STARTED),
    "call": Rule(AT_REST, Phase.CALLING, "before", "before"),
    "call_async": Rule(AT_REST, Phase.CALLING, "pending", "before"),
    "call_wait": Rule(frozenset({Phase.CALLING}), Phase.CALLING, "before", "before"),
    "set_attr": Rule(AT_REST, Phase.CALLING, "before", "before"),
    "checkpoint": Rule(_READY),
    "restore": Rule(frozenset({Phase.NEW}), Phase.RESETTING, Phase.READY),
    "close": Rule(_OPEN, None, Phase.CLOSED),
}


class Gate:
    """A session's phase, whose thread it is, and what is pending.

    Args:
        ended: returns the environments that wait for a reset; only "disabled" knows any.
    """

    def __init__(self, ended: Callable[[], list[int]] = list) -> None:
        self._phase = Phase.NEW
        self._before = Phase.NEW  # the phase that a call under way came from
        self._thread = threading.get_ident()
        self._ended = ended
        self._rule = RULES["observe"]  # of the verb that came in last
        self._told = self._resumable = self._foreign = False
        self._within = False  # whether a verb came in that has not left
        self._given_up = False  # whether a wait for what is under way was broken off
        self._unawaited = False  # whether nobody has waited for what is under way
        self._passages = {verb: _Passage(self, verb, rule) for verb, rule in RULES.items()}

    @property
    def phase(self) -> Phase:
        """Where the session stands."""
        return self._phase

    @property
    def unawaited(self) -> str:
        """What is under way that nobody has waited for; "" for nothing."""
        return PENDING.get(self._phase, "") if self._unawaited else ""

    def during(self, verb: str) -> _Passage:
        """Returns the context in which a verb runs.

        Raises, when it is entered:
            ClosedError, PendingCallError, NoPendingCallError, ResetNeededError, StateError: the
                verb has no place in this phase.
            ThreadError: another thread's session.
        """
        return self._passages[verb]

    def tell(self) -> None:
        """From here on workers are told: what fails now has happened."""
        self._told = True
        if self._rule.meanwhile is not None:
            self._phase = self._rule.meanwhile

    def hold(self, *, resumable: bool) -> None:
        """Says whether what is pending can still be waited for if this verb is broken off now."""
        self._resumable = resumable

    def break_off(self) -> None:
        """Who was to end a rollout is gone: also where that was while it left this gate."""
        if self._phase is Phase.COLLECTING and threading.get_ident() == self._thread:
            self._phase = Phase.BROKEN

    def abandon(self) -> None:
        """In a forked copy of the trainer: the session is its parent's."""
        self._phase, self._foreign = Phase.CLOSED, True

    # --- in and out, called by passages ----------------------------------------------------------

    def enter(self, verb: str, rule: Rule) -> None:
        """Lets a verb in, or raises the error that says why not."""
        if self._within and self._phase in PENDING:  # broken off while it left: nothing to wait for
            self._phase = Phase.BROKEN
        if self._phase not in rule.allowed or threading.get_ident() != self._thread:
            self._refuse(verb, rule)
        self._told = self._resumable = False
        self._rule, self._within = rule, True
        if self._phase not in PENDING:
            self._before = self._phase

    def leave(self, rule: Rule, error: BaseException | None) -> None:
        """Sets the phase that a verb leaves behind."""
        if error is None:
            self._unawaited = rule.then == "pending"
            self._given_up = False
            self._phase = self._resolve(rule.then, rule)
        elif self._told:
            waits = self._resumable and not isinstance(error, Exception)
            pending = rule.meanwhile is not None and rule.meanwhile in PENDING
            if pending and (isinstance(error, CallTimeout) or waits):
                self._given_up, self._unawaited = True, False
            else:
                own = isinstance(error, EnvError)
                self._phase = self._resolve(rule.failed, rule) if own else Phase.BROKEN
        self._within = False

    def _resolve(self, then: Phase | str, rule: Rule) -> Phase:
        if isinstance(then, Phase):
            return then
        if then == "pending" and rule.meanwhile is not None:
            return rule.meanwhile
        if then == "before":
            return self._before
        return Phase.ENDED if self._ended() else Phase.READY

    def _refuse(self, verb: str, rule: Rule) -> None:
        """Raises, but where a reset may take the place of what a wait was broken off for."""
        if threading.get_ident() != self._thread:
            raise ThreadError(
                "expected a call from the thread that made this session, got one from "
                f"{threading.current_thread().name!r}; make a session for each thread"
            )
        phase = self._phase
        if verb == "reset_async" and self._given_up and phase in PENDING:
            return
        if phase is Phase.CLOSED and self._foreign:
            raise ClosedError(
                f"`{verb}`: this session belongs to the process that forked this one, which makes "
                "its own, or lets the other step"
            )
        if phase is Phase.CLOSED:
            raise ClosedError(f"`{verb}`: this session was closed; make a new one")
        if verb.endswith("_wait"):
            what = verb.removesuffix("_wait")
            raise NoPendingCallError(
                f"Calling `{verb}` without any prior call to `{what}_async`.", what
            )
        if phase is Phase.COLLECTING:
            raise StateError(
                f"`{verb}`: {phase.value}; it has to return first, or its result() be taken"
            )
        if phase in PENDING:
            pending = PENDING[phase]
            raise PendingCallError(
                f"Calling `{verb}` while waiting for a pending call to `{pending}` to complete: "
                f"{phase.value}; wait for it with {pending}_wait(), or reset()",
                pending,
            )
        if phase is Phase.ENDED:
            raise ResetNeededError(
                f"`{verb}`: expected reset() of environments {self._ended()} first: {phase.value}; "
                "pass options={'reset_mask': mask}"
            )
        raise StateError(f"`{verb}`: expected reset() first: {phase.value}")


class _Passage:
    """One verb's way through the gate; made once, so that a step costs two method calls."""

    __slots__ = ("_gate", "_rule", "_verb")

    def __init__(self, gate: Gate, verb: str, rule: Rule) -> None:
        self._gate, self._verb, self._rule = gate, verb, rule

    def __enter__(self) -> None:
        self._gate.enter(self._verb, self._rule)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._gate.leave(self._rule, error)
