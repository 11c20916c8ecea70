"""Environments that raise, workers that die, hang or chatter: what the caller is told."""

from __future__ import annotations

import builtins
import os
import signal
from typing import Any

import numpy as np
import pytest

from tests.envs import counting, faulty, obedient
from tests.processes import all_gone, processes_below, wait_until
from tests.sessions import open_session, zeros
from vecsess import EnvError, Timeouts, VecCheckedSession, WorkerDied, WorkerTimeout

N, GUILTY = 5, 3
GROUPINGS = [pytest.param(0, id="in the trainer"), pytest.param(2, id="2 workers")]
pytestmark = pytest.mark.usefixtures("no_process_left")


def step_into_fault(vec: VecCheckedSession, at: int, options: Any = None) -> None:
    vec.reset(seed=0, options=options)
    for _ in range(at + 1):
        vec.step(zeros(N))


# --- the environment raises ----------------------------------------------------------------------

RAISED = {
    "ValueError": "a bad value",
    "KeyError": "a missing key",
    "OSError": "no such thing",
    "UnicodeDecodeError": "bad byte",
    "ZeroDivisionError": "divided",
    "RecursionError": "too deep",
    "MemoryError": "",
    "StopIteration": "3",
    "AssertionError": "not so",
    "SyntaxError": "bad",
    "ExceptionGroup": "several (1 sub-exception)",
    "CustomError": "of my own",
    "UnprintableError": "<no text: RuntimeError in __str__>",
    "surrogates": "not text: \\udcff \\x1b[31m",
}
BUILTIN = {
    "OSError": FileNotFoundError,
    "CustomError": LookupError,
    "surrogates": ValueError,
    "ExceptionGroup": EnvError,
    "UnprintableError": EnvError,
}


@pytest.mark.parametrize("workers", GROUPINGS)
def test_an_environment_that_raises_is_told_of_and_can_be_reset(workers: int) -> None:
    with open_session(obedient(N), N, workers=workers) as vec:
        for place, at in (("step", 0), ("step", 2), ("reset", 0)):
            for fault, text in RAISED.items():
                options = {"fault": fault, "place": place, "at": at, "index": GUILTY}
                with pytest.raises(EnvError) as caught:
                    step_into_fault(vec, at, options)
                expect(caught.value, fault, text, workers)
                assert (caught.value.episode, caught.value.step) == (0, at)
                assert not vec.started
                vec.reset(seed=0, options={"fault": None})
                vec.step(zeros(N))


def expect(error: EnvError, fault: str, text: str, workers: int) -> None:
    assert isinstance(error, BUILTIN.get(fault) or getattr(builtins, fault))
    assert (error.env, error.worker) == (GUILTY, 1 if workers else 0)
    assert text in str(error)
    assert f"env {GUILTY}" in str(error)
    assert "faults.py" in error.remote_traceback
    assert "_break_in" in error.remote_traceback
    assert any("Traceback in the worker" in note for note in error.__notes__)


def test_in_the_trainer_the_cause_is_the_exception_itself() -> None:
    with open_session(faulty(N, GUILTY, "KeyError"), N, workers=0) as vec:
        vec.reset()
        with pytest.raises(EnvError) as caught:
            vec.step(zeros(N))
        assert type(caught.value.__cause__) is KeyError
        assert caught.value.__cause__.__traceback__ is not None


def test_several_that_raise_in_one_step_are_counted() -> None:
    makers = faulty(2, 0, "KeyError") + faulty(2, 1, "ValueError") + faulty(1, 0, "OSError")
    with open_session(makers, N, workers=2) as vec:
        vec.reset()
        with pytest.raises(KeyError, match="env 0") as caught:
            vec.step(zeros(N))
        assert "2 more environments failed in the same call" in caught.value.__notes__


# --- the worker dies -----------------------------------------------------------------------------

DEATHS = [
    ("exit 0", "exit code 0"),
    ("exit 3", "exit code 3"),
    ("sys.exit", "exit code 0"),
    ("sys.exit 5", "exit code 5"),
    ("segfault", "SIGSEGV"),
    ("abort", "SIGABRT"),
    ("SIGKILL", "SIGKILL (where nobody sent it, the kernel ran out of memory"),
    ("last words", "exit code 7"),
    ("leave a child and die", "SIGKILL"),
    ("leave a session and die", "SIGKILL"),
    ("leave a daemon and die", "SIGKILL"),
]


@pytest.mark.parametrize(("fault", "how"), DEATHS)
def test_a_death_in_step_names_how_and_who(fault: str, how: str) -> None:
    with open_session(faulty(N, GUILTY, fault, at=7), N, workers=2) as vec:
        with pytest.raises(WorkerDied) as caught:
            step_into_fault(vec, at=7)
        error = caught.value
        assert how in str(error)
        assert (error.worker, error.env, error.episode, error.step) == (1, GUILTY, 1, 2)
        assert ("these are my last words" in str(error)) == (fault == "last words")


@pytest.mark.parametrize("place", ["reset", "init"])
@pytest.mark.parametrize("fault", ["exit 0", "SIGKILL", "segfault", "last words"])
def test_a_death_elsewhere(fault: str, place: str) -> None:
    def use() -> None:
        with open_session(faulty(N, GUILTY, fault, place), N, workers=2) as vec:
            vec.reset()

    with pytest.raises(WorkerDied) as caught:
        use()
    assert caught.value.worker == 1
    assert dict(DEATHS)[fault] in str(caught.value)
    assert ("these are my last words" in str(caught.value)) == (fault == "last words")


def test_a_worker_killed_between_two_steps() -> None:
    with open_session(counting(N), N, workers=2) as vec:
        vec.reset(seed=0)
        vec.step(zeros(N))
        victim = vec.pids[-1]
        os.kill(victim, signal.SIGKILL)
        assert all_gone({victim}, 5.0)
        with pytest.raises(WorkerDied, match="SIGKILL") as caught:
            vec.step(zeros(N))
        assert caught.value.worker == 1


def test_a_session_can_be_reset_after_a_death() -> None:
    with open_session(counting(N), N, workers=2) as vec, open_session(counting(N), N) as twin:
        vec.reset(seed=0)
        victim = max(workers_of(vec))
        os.kill(victim, signal.SIGKILL)
        assert all_gone({victim}, 5.0)
        with pytest.raises(WorkerDied):
            vec.step(zeros(N))
        same(vec.reset(seed=3), twin.reset(seed=3))
        for _ in range(12):
            same(vec.step(zeros(N)), twin.step(zeros(N)))


def same(mine: Any, theirs: Any) -> None:
    """Compares all but how often an environment was reset in its life, and infos."""
    np.testing.assert_array_equal(mine[0][:, 1:], theirs[0][:, 1:])
    for one, other in zip(mine[1:4], theirs[1:4], strict=True):
        np.testing.assert_array_equal(one, other)


def workers_of(vec: VecCheckedSession) -> set[int]:
    """Returns the pids of a session's workers."""
    return set(vec.pids)


# --- a deadline is missed ------------------------------------------------------------------------

BRIEF = Timeouts(start_s=30, reset_s=0.6, step_s=0.6, close_s=2)


@pytest.mark.parametrize("fault", ["sleep", "spin", "SIGSTOP", "hold the GIL"])
@pytest.mark.parametrize("place", ["step", "reset"])
def test_a_hang_is_ended_at_its_deadline(fault: str, place: str) -> None:
    with open_session(faulty(N, GUILTY, fault, place), N, workers=2, timeouts=BRIEF) as vec:
        with pytest.raises(WorkerTimeout) as caught:
            step_into_fault(vec, at=0)
        error = caught.value
        assert isinstance(error, TimeoutError)
        assert (error.worker, error.env, error.episode, error.step) == (1, GUILTY, 0, 0)
        assert "within 0.6 s" in str(error)


@pytest.mark.parametrize("kind", ["child", "session", "daemon"])
def test_what_a_hanging_environment_has_started_is_ended_too(kind: str) -> None:
    fault = f"leave a {kind} and hang"
    with open_session(faulty(N, GUILTY, fault), N, workers=2, timeouts=BRIEF) as vec:
        vec.reset()
        with pytest.raises(WorkerTimeout):
            vec.step(zeros(N))
        assert wait_until(lambda: len(processes_below()) <= 3, 5.0), "server and two workers"


def test_a_deadline_is_per_call_whatever_the_grouping() -> None:
    """Ten environments that each take a third of the deadline, in one worker."""
    makers = counting(10, length=1000, duration_s=0.2)
    with open_session(makers, 10, workers=1, timeouts=BRIEF) as vec:
        vec.reset(seed=0)
        observations, *_ = vec.step(zeros(10))
        np.testing.assert_array_equal(observations[:, 1], 1)


# --- the environment talks -----------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["print", "write much"])
@pytest.mark.parametrize("place", ["init", "reset", "step", "close"])
def test_output_neither_breaks_a_frame_nor_blocks(
    fault: str, place: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with open_session(faulty(N, GUILTY, fault, place), N, workers=2) as vec:
        vec.reset(seed=0)
        for step in range(1, 4):
            observations, *_ = vec.step(zeros(N))
            np.testing.assert_array_equal(observations[:, 1], step)
    out, err = capfd.readouterr()
    assert out == "", "stdout belongs to the trainer"
    if fault == "print":
        assert "[worker 1] printed by an environment" in err
        assert "[worker 1] put by an environment" in err
