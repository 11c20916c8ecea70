"""The table of phases: which verb is taken when, and where each way out of it leads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from vecsess import VecCheckedSession
from vecsess.errors import (
    CallTimeout,
    ClosedError,
    EnvError,
    NoPendingCallError,
    PendingCallError,
    StateError,
    ThreadError,
    WorkerDied,
)
from vecsess.session.gate import PENDING, RULES, Gate, Phase

VERBS = sorted(RULES)
EXITS: dict[str, BaseException | None] = {
    "success": None,
    "the environment's error": EnvError("it raised"),
    "a lost worker": WorkerDied("gone", worker=0),
    "a timeout": CallTimeout("late"),
    "an error of ours": RuntimeError("a bug"),
    "Ctrl-C": KeyboardInterrupt(),
}


def gate_in(phase: Phase) -> Gate:
    """Returns a gate that was led to a phase by verbs alone."""
    waiting = [0] if phase is Phase.ENDED else []
    gate = Gate(lambda: waiting)
    for verb in WAYS[phase]:
        leave(gate, verb.removesuffix("!"), RuntimeError() if verb.endswith("!") else None)
    if phase is Phase.COLLECTING:
        gate.during("collect").__enter__()
        gate.tell()
    assert gate.phase is phase
    return gate


WAYS: dict[Phase, tuple[str, ...]] = {
    Phase.NEW: (),
    Phase.READY: ("reset",),
    Phase.ENDED: ("reset",),
    Phase.STEPPING: ("reset", "step_async"),
    Phase.RESETTING: ("reset_async",),
    Phase.CALLING: ("call_async",),
    Phase.COLLECTING: ("reset",),
    Phase.BROKEN: ("reset!",),
    Phase.CLOSED: ("close",),
}


def leave(
    gate: Gate, verb: str, error: BaseException | None, *, told: bool = True, waits: bool = False
) -> None:
    """Goes through the gate, and out by an error or none."""
    try:
        with gate.during(verb):
            if told:
                gate.tell()
            gate.hold(resumable=waits)
            if error is not None:
                raise error
    except BaseException as caught:
        if caught is not error:
            raise


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_is_taken_where_the_table_says(phase: Phase, verb: str) -> None:
    gate = gate_in(phase)
    if phase in RULES[verb].allowed:
        leave(gate, verb, None)
        return
    with pytest.raises(StateError) as caught:
        leave(gate, verb, None)
    assert gate.phase is phase, "what is refused changes nothing"
    assert f"`{verb}`" in str(caught.value)
    if phase is Phase.CLOSED:
        assert isinstance(caught.value, ClosedError)
    elif verb.endswith("_wait"):
        assert isinstance(caught.value, NoPendingCallError)
    elif phase in PENDING:
        assert isinstance(caught.value, PendingCallError)


def expected_after(phase: Phase, verb: str, way: str) -> Phase:
    """What the table's words mean."""
    rule = RULES[verb]
    pending = rule.meanwhile if rule.meanwhile in PENDING else None
    if way == "a timeout" and pending:
        return pending
    word = rule.then if way == "success" else rule.failed
    if way not in ("success", "the environment's error") and word == "before":
        word = Phase.BROKEN
    came_from = Phase.NEW if phase is Phase.CALLING else phase  # how `gate_in` got there
    if way == "success" and word == "rest":
        return Phase.ENDED if phase is Phase.ENDED else Phase.READY
    return {"before": came_from, "pending": pending or phase}.get(str(word), word)  # type: ignore[arg-type]


@pytest.mark.parametrize("way", EXITS)
@pytest.mark.parametrize("verb", VERBS)
def test_each_way_out_leads_where_the_table_says(verb: str, way: str) -> None:
    for phase in RULES[verb].allowed:
        gate = gate_in(phase)
        leave(gate, verb, EXITS[way])
        assert gate.phase is expected_after(phase, verb, way), (verb, phase)
        if RULES[verb].then is not Phase.COLLECTING:  # whose handle ends it
            assert gate.phase is not Phase.COLLECTING


@pytest.mark.parametrize("way", [way for way in EXITS if way != "success"])
@pytest.mark.parametrize("verb", VERBS)
def test_before_a_worker_was_told_nothing_has_happened(verb: str, way: str) -> None:
    for phase in RULES[verb].allowed:
        gate = gate_in(phase)
        leave(gate, verb, EXITS[way], told=False)
        assert gate.phase is phase


@pytest.mark.parametrize("verb", [verb for verb in VERBS if RULES[verb].meanwhile in PENDING])
def test_a_wait_that_is_broken_off_can_be_taken_up_again_where_the_answers_still_come(
    verb: str,
) -> None:
    for phase in RULES[verb].allowed:
        gate = gate_in(phase)
        leave(gate, verb, KeyboardInterrupt(), waits=True)
        assert gate.phase is RULES[verb].meanwhile
        leave(gate, "reset", None)
        assert gate.phase in (Phase.READY, Phase.ENDED)


def test_a_second_thread_is_refused_in_every_verb() -> None:
    gate, refused = Gate(), []

    def call_all() -> None:
        for verb in VERBS:
            try:
                leave(gate, verb, None)
            except ThreadError:
                refused.append(verb)

    thread = threading.Thread(target=call_all)
    thread.start()
    thread.join(30.0)
    assert refused == VERBS
    assert gate.phase is Phase.NEW


# --- the same through a session ------------------------------------------------------------------

ZEROS = np.zeros(2, np.int64)


def refuse(vec: VecCheckedSession, call: Callable[[], Any]) -> None:
    """Checks that a call is refused, and that the session goes on as if it had not been made."""
    with pytest.raises(StateError):
        call()
    assert vec.num_envs == 2


@pytest.mark.parametrize("workers", [0, 1])
def test_a_session_goes_through_its_gate(workers: int) -> None:
    with VecCheckedSession("CartPole-v1", 2, workers=workers) as vec:
        refuse(vec, lambda: vec.step(ZEROS))
        refuse(vec, vec.observe)
        refuse(vec, vec.checkpoint)
        vec.reset(seed=0)
        vec.step_async(ZEROS)
        for call in (
            lambda: vec.step(ZEROS),
            lambda: vec.reset_async(),
            lambda: vec.call("render"),
            lambda: vec.set_attr("x", 1),
            vec.observe,
            vec.checkpoint,
            vec.reset_wait,
            vec.call_wait,
        ):
            refuse(vec, call)
        expected = vec.step_wait()[0]
        np.testing.assert_array_equal(vec.observe(), expected)
    for call in (lambda: vec.step(ZEROS), vec.reset, vec.observe, vec.health, vec.checkpoint):
        with pytest.raises(ClosedError):
            call()
