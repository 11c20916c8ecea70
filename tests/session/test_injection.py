"""An exception at any line of the package: the session can be reset or closed, and nothing lies.

A trace function raises at the k-th line that is executed in the trainer's process. Each case is a
verb; some lose a worker first, so that the verb holds a recovery. `VECSESS_INJECT=all` tries every
k, `VECSESS_INJECT=7` every seventh; else it is a seeded sample.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

import vecsess
from vecsess import RestartPolicy, VecCheckedSession, collect_rollout
from vecsess.bench.faults.overdue import within
from vecsess.collect.policies import RandomPolicy
from vecsess.collect.sources import begin_rollout
from vecsess.errors import ClosedError, StateError

pytestmark = [
    pytest.mark.usefixtures("no_process_left"),
    # What is broken off in a finalizer or in a callback can't be raised there.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
PACKAGE = str(Path(vecsess.__file__).parent)
N, DEADLINE_S, SAMPLED = 3, 30, 5
ACTIONS = [np.arange(step, step + N) % 2 for step in range(4)]
Verb = Callable[[VecCheckedSession], Any]


class Injected(Exception):
    """What is raised where nobody expects anything."""


class OverdueError(BaseException):
    """The deadline has passed; no handler in the package takes it for something else."""


class Injection:
    """Counts the package's lines while it is entered, and raises at one of them.

    Args:
        at: the number of that line, from 1; 0 only counts.
        kind: of the exception.
    """

    def __init__(self, at: int, kind: type[BaseException]) -> None:
        self.at, self.kind, self.lines, self.place = at, kind, 0, "nowhere"
        self.raised = False

    def __enter__(self) -> Injection:
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, _: Any) -> Any:
        code = frame.f_code
        if not code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            self.lines += 1
            if self.lines == self.at:
                self.raised = True
                self.place = f"{code.co_filename}:{frame.f_lineno} in {code.co_qualname}"
                raise self.kind(self.place)
        return self._trace


def open_session(**how: Any) -> VecCheckedSession:
    limits = RestartPolicy(max_restarts=None)
    return VecCheckedSession("CartPole-v1", n=N, workers=2, restart_policy=limits, **how)


def rows_after(vec: VecCheckedSession, pace: str) -> list[Any]:
    """Resets, steps, and collects: what must come out the same whatever happened before."""
    found: list[Any] = [vec.reset(seed=11)[0]]
    for actions in ACTIONS:
        found += vec.step(actions)[:4]
    policy = RandomPolicy(vec.single_action_space)
    rollout = collect_rollout(vec, policy, 6, seed=3, pace=pace)  # type: ignore[arg-type]
    return [*found, rollout.observations, rollout.rewards, rollout.valid, rollout.next_values]


def step_in_halves(vec: VecCheckedSession) -> None:
    vec.step_async(ACTIONS[0])
    vec.step_wait()


def collecting(**how: Any) -> Verb:
    def collect(vec: VecCheckedSession) -> None:
        collect_rollout(vec, RandomPolicy(vec.single_action_space), 4, seed=1, **how)

    return collect


def learn_meanwhile(vec: VecCheckedSession) -> None:
    under_way = begin_rollout(vec, RandomPolicy(vec.single_action_space), 4, seed=1)
    try:
        under_way.result()
    except BaseException:
        with contextlib.suppress(StateError):  # it is there, or a reset is needed
            under_way.result()
        raise


def restore(vec: VecCheckedSession) -> None:
    VecCheckedSession.restore(vec.checkpoint()).close()


@dataclass(frozen=True)
class Case:
    """A verb, and what goes before it.

    Attributes:
        verb: what is broken off.
        kill: a worker is lost before.
        server: the fork server is lost before.
        pace: of the rollout that is looked at afterwards.
        how: arguments of the session.
    """

    verb: Verb
    kill: bool = False
    server: bool = False
    pace: str = "lockstep"

    def prepare(self, vec: VecCheckedSession) -> None:
        vec.reset(seed=5)
        vec.step(ACTIONS[1])
        if self.kill:
            os.kill(vec.pids[-1], signal.SIGKILL)
        supervisor = vec.engine.fleet.supervisor
        if self.server and supervisor is not None:
            process = supervisor._owned.server
            assert process is not None
            process.kill()
            process.wait()


CASES = {
    "reset": Case(lambda vec: vec.reset(seed=2)),
    "step": Case(lambda vec: vec.step(ACTIONS[0])),
    "step in halves": Case(step_in_halves),
    "observe": Case(lambda vec: vec.observe()),
    "call": Case(lambda vec: vec.call("has_wrapper_attr", "x")),
    "get_attr": Case(lambda vec: vec.get_attr("np_random_seed")),
    "set_attr": Case(lambda vec: vec.set_attr("gravity", 9.8)),
    "checkpoint": Case(lambda vec: vec.checkpoint()),
    "lockstep": Case(collecting()),
    "pipelined": Case(collecting(pace="pipelined"), pace="pipelined"),
    "free": Case(collecting(pace="free"), pace="free"),
    "workers": Case(collecting(inference="workers")),
    "meanwhile": Case(learn_meanwhile),
    "step, replayed": Case(lambda vec: vec.step(ACTIONS[0]), kill=True),
    "reset, replaced": Case(lambda vec: vec.reset(seed=2), kill=True),
    "call, replayed": Case(lambda vec: vec.call("has_wrapper_attr", "x"), kill=True),
    "pipelined, replayed": Case(collecting(pace="pipelined"), kill=True, pace="pipelined"),
    "free, replayed": Case(collecting(pace="free"), kill=True, pace="free"),
    "workers, replayed": Case(collecting(inference="workers"), kill=True),
    "step, server lost": Case(lambda vec: vec.step(ACTIONS[0]), server=True),
}
KINDS = {"exception": Injected, "interrupt": KeyboardInterrupt}


def chosen(lines: int, seed: str, sampled: int = SAMPLED) -> list[int]:
    """Returns at which lines there is to be an exception."""
    how = os.environ.get("VECSESS_INJECT", "")
    if how:
        stride = 1 if how == "all" else int(how)
        return list(range(1, lines + 1, stride))
    return sorted(random.Random(seed).sample(range(1, lines + 1), min(sampled, lines)))


def attempt(case: Case, vec: VecCheckedSession, at: int, kind: type[BaseException]) -> Injection:
    """Runs a case's verb with an exception at one line; whatever comes of it is all right."""
    case.prepare(vec)
    with (
        within(DEADLINE_S, OverdueError()),
        Injection(at, kind) as injection,
        contextlib.suppress(Exception, kind),
    ):
        case.verb(vec)
    return injection


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CASES)
def test_whatever_is_broken_off_the_session_can_be_reset(name: str, kind: str) -> None:
    case = CASES[name]
    with open_session() as vec:
        expected = rows_after(vec, case.pace)
        attempt(case, vec, 0, KINDS[kind])  # imports and caches
        lines = attempt(case, vec, 0, KINDS[kind]).lines
        for at in chosen(lines, name):
            injection = attempt(case, vec, at, KINDS[kind])
            where = f"line {at} of {lines}, {injection.place}"
            try:
                with within(DEADLINE_S, OverdueError()):
                    ours = rows_after(vec, case.pace)
            except (Exception, OverdueError) as error:
                raise AssertionError(f"no reset after {where}") from error
            for one, other in zip(ours, expected, strict=True):
                np.testing.assert_array_equal(one, other, where)


def test_what_can_be_waited_for_after_an_interrupt_comes_out_right() -> None:
    case, came = CASES["step"], 0
    with open_session() as vec:
        case.prepare(vec)
        expected = [vec.step(actions)[:4] for actions in (ACTIONS[0], ACTIONS[2])]
        lines = attempt(case, vec, 0, KeyboardInterrupt).lines
        sampled = chosen(lines, "wait", 24)
        # Where the workers are quick the trainer hardly waits: then it is looked for.
        for tried, at in enumerate([*sampled, *range(lines // 3, lines)]):
            if came and tried >= len(sampled):
                break
            injection = attempt(case, vec, at, KeyboardInterrupt)
            if not injection.raised:
                continue
            try:
                rows = vec.step_wait()[:4]
            except StateError:
                continue
            came += 1
            os.kill(vec.pids[0], signal.SIGKILL)  # what was noted of it brings it back
            for ours, theirs in zip((rows, vec.step(ACTIONS[2])[:4]), expected, strict=True):
                np.testing.assert_equal(ours, theirs, injection.place)
        assert all("replayed" in str(each.outcomes) for each in vec.incidents)
    assert came


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_breaks_off_a_close_another_one_closes(kind: str) -> None:
    def close(at: int) -> int:
        vec = open_session()
        vec.reset(seed=0)
        with within(DEADLINE_S, OverdueError()):
            with Injection(at, KINDS[kind]) as injection, contextlib.suppress(KINDS[kind]):
                vec.close()
            vec.close()
            with pytest.raises(ClosedError):
                vec.reset()
        return injection.lines

    for at in chosen(close(0), "close", 4):
        close(at)


@pytest.mark.parametrize("kind", KINDS)
def test_what_breaks_off_a_restore_leaves_nothing(kind: str) -> None:
    with open_session() as vec:
        vec.reset(seed=0)
        restore(vec)
        with Injection(0, KINDS[kind]) as counted:
            restore(vec)
        for at in chosen(counted.lines, "restore", 4):
            suppressed = contextlib.suppress(Exception, KINDS[kind])
            with within(DEADLINE_S, OverdueError()), suppressed, Injection(at, KINDS[kind]):
                restore(vec)
