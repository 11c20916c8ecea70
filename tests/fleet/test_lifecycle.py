"""The states of a session, and sessions that are forgotten, or shared by mistake."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.envs import counting, faulty
from tests.processes import all_gone, processes_below, run_script
from tests.sessions import open_session, zeros
from vecsess import EnvError, VecCheckedSession
from vecsess.errors import (
    ClosedError,
    NoPendingCallError,
    PendingCallError,
    StateError,
    ThreadError,
)

N = 3
GROUPINGS = [pytest.param(0, id="in the trainer"), pytest.param(2, id="2 workers")]
pytestmark = pytest.mark.usefixtures("no_process_left")


# --- calls that do not fit the state -------------------------------------------------------------

STEPS: dict[str, Callable[[VecCheckedSession], Any]] = {
    "step": lambda vec: vec.step(zeros(N)),
    "step_checked": lambda vec: vec.step_checked(zeros(N)),
    "step_async": lambda vec: vec.step_async(zeros(N)),
    "observe": lambda vec: vec.observe(),
}
RESETS: dict[str, Callable[[VecCheckedSession], Any]] = {
    "reset": lambda vec: vec.reset(),
    "start": lambda vec: vec.start(),
}


@pytest.mark.parametrize("workers", GROUPINGS)
class TestState:
    def test_a_step_before_the_first_reset(self, workers: int) -> None:
        with open_session(counting(N), N, workers=workers) as vec:
            assert not vec.started
            for step in STEPS.values():
                with pytest.raises(StateError, match=r"expected reset\(\) first.*not been reset"):
                    step(vec)
            vec.reset()
            assert vec.started

    def test_any_use_after_close(self, workers: int) -> None:
        vec = open_session(counting(N), N, workers=workers)
        vec.reset()
        vec.close()
        for call in (STEPS | RESETS).values():
            with pytest.raises(ClosedError, match="was closed; make a new one"):
                call(vec)
        assert not vec.started

    def test_any_use_from_a_second_thread(self, workers: int) -> None:
        with open_session(counting(N), N, workers=workers) as vec:
            vec.reset(seed=0)
            for call in (STEPS | RESETS).values():
                error = in_thread(partial(call, vec))
                assert isinstance(error, ThreadError)
                assert "make a session for each thread" in str(error)
            np.testing.assert_array_equal(vec.step(zeros(N))[0][:, 1], 1)

    def test_a_step_after_a_failed_one(self, workers: int) -> None:
        with open_session(faulty(N, 1, "KeyError", at=1), N, workers=workers) as vec:
            vec.reset()
            vec.step(zeros(N))
            with pytest.raises(EnvError):
                vec.step(zeros(N))
            for step in STEPS.values():
                with pytest.raises(StateError, match="its last call failed"):
                    step(vec)

    def test_a_step_while_another_is_under_way(self, workers: int) -> None:
        with open_session(counting(N), N, workers=workers) as vec:
            vec.reset()
            vec.step_async(zeros(N))
            for step in STEPS.values():
                with pytest.raises(PendingCallError, match="a step is under way"):
                    step(vec)
            np.testing.assert_array_equal(vec.step_wait()[0][:, 1], 1)

    def test_nothing_to_wait_for(self, workers: int) -> None:
        with open_session(counting(N), N, workers=workers) as vec:
            vec.reset()
            with pytest.raises(NoPendingCallError):
                vec.step_wait()

    def test_a_reset_instead_of_waiting(self, workers: int) -> None:
        with open_session(counting(N), N, workers=workers) as vec:
            vec.reset(seed=0)
            vec.step_async(zeros(N))
            np.testing.assert_array_equal(vec.reset(seed=0)[0][:, 1], 0)
            np.testing.assert_array_equal(vec.step(zeros(N))[0][:, 1], 1)

    def test_closing_twice(self, workers: int) -> None:
        vec = open_session(counting(N), N, workers=workers)
        vec.close()
        vec.close()
        with vec:
            pass
        assert not processes_below()


def test_a_wait_that_was_too_short_loses_nothing() -> None:
    with open_session(counting(N, duration_s=0.3), N, workers=N) as vec:
        vec.reset(seed=0)
        vec.step_async(zeros(N))
        with pytest.raises(TimeoutError, match="still pending"):
            vec.step_wait(timeout=0.01)
        np.testing.assert_array_equal(vec.step_wait()[0][:, 1], 1)


def in_thread(call: Callable[[], Any]) -> BaseException | None:
    """Returns what a call raises in another thread."""
    caught: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except Exception as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    return caught[0] if caught else None


# --- forgotten sessions --------------------------------------------------------------------------


@pytest.mark.parametrize("workers", GROUPINGS)
def test_an_unclosed_session_warns_and_is_cleaned_up(workers: int) -> None:
    vec = open_session(counting(N), N, workers=workers)
    vec.reset()
    below = processes_below()
    with pytest.warns(ResourceWarning, match=r"was not closed; use it in a `with`"):
        vec = forget(vec)
    assert all_gone(below, 5.0)


def test_a_session_that_is_collected_in_a_cycle() -> None:
    """The collector gives back its descriptors before it ends; others may have them by then."""
    gc.collect()
    gc.disable()  # not before the warning is awaited
    try:
        below = lose_in_a_cycle()
        with pytest.warns(ResourceWarning, match="was not closed") as warned:
            gc.collect()
    finally:
        gc.enable()
    assert len(warned) == 1, "nothing else went wrong"
    assert all_gone(below, 5.0)


def lose_in_a_cycle() -> set[int]:
    """Opens a session that only itself refers to; returns its processes."""
    vec: Any = open_session(counting(N), N, workers=2)
    vec.reset()
    vec.cycle = vec
    return processes_below()


def forget(vec: VecCheckedSession) -> Any:
    """Drops the caller's last reference, which this parameter is by then."""
    del vec
    gc.collect()


UNCLOSED = """
import gymnasium, os, psutil, sys
from vecsess import VecCheckedSession
vec = VecCheckedSession("CartPole-v1", n=3)
vec.reset()
print(*[child.pid for child in psutil.Process().children(recursive=True)], flush=True)
"""
EXITS = {
    "at its end": "",
    "by sys.exit": "sys.exit(3)",
    "by an exception": "raise RuntimeError('of the trainer')",
    "by os._exit": "os._exit(0)",
    "by a segfault": "import ctypes; ctypes.string_at(0)",
    "mid-step": "vec.step_async([0] * 3)",
}


@pytest.mark.parametrize("how", EXITS)
def test_an_interpreter_that_ends_without_close_leaves_nothing(how: str, tmp_path: Any) -> None:
    done = run_script(UNCLOSED + EXITS[how], tmp_path)
    pids = {int(pid) for pid in done.stdout.split()}
    assert len(pids) == 4, done.stderr
    assert all_gone(pids, 5.0)
    assert "[worker" not in done.stderr


def test_opening_and_closing_leaves_nothing_behind() -> None:
    process = psutil.Process()

    def use() -> None:
        with open_session(counting(N), N, workers=2) as vec:
            vec.reset()
            vec.step(zeros(N))

    def holds() -> tuple[int, int, int]:
        gc.collect()
        return process.num_fds(), process.num_threads(), len(process.children(recursive=True))

    use()  # what is imported or opened once for all
    before = holds()
    for _ in range(20):
        use()
    assert holds() == before


def test_a_start_that_fails_leaves_nothing_behind() -> None:
    process = psutil.Process()
    for attempt in range(4):
        with pytest.raises(ValueError, match="a bad value"):
            open_session(faulty(N, 1, "ValueError", "init"), N)
        gc.collect()
        if not attempt:
            before = process.num_fds()
    assert process.num_fds() == before
    assert not processes_below()


CRASHES = """
import os, sys
from vecsess import VecCheckedSession

class Holder:
    pass

vec = VecCheckedSession("CartPole-v1", n=2, workers=int(sys.argv[1]))
vec.reset(seed=0)
holder = Holder()
holder.vec, holder.own = vec, holder  # is let go of last
if sys.argv[2] == "killed":
    os.kill(vec.health()[0].pid, 9)
raise RuntimeError("the last line")
"""


@pytest.mark.parametrize("how", ["0 alive", "2 alive", "2 killed"])
def test_a_trainer_that_crashes_without_close_says_no_more_than_why(
    how: str, tmp_path: Path
) -> None:
    done = run_script(CRASHES, tmp_path, *how.split())
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "RuntimeError: the last line"
    assert "Exception ignored" not in done.stderr
    assert not done.stdout
