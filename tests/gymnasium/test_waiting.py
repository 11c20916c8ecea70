"""Calls in two halves: what is under way, how long to wait for it, and what it may not spoil."""

from __future__ import annotations

import multiprocessing
import re
from functools import partial
from typing import Any

import numpy as np
import pytest
from gymnasium.error import AlreadyPendingCallError, ClosedEnvironmentError, NoAsyncCallError

from tests.gymnasium.mode_envs import DiaryEnv, SlowEnv
from vecsess import VecCheckedSession
from vecsess.errors import CallTimeout, StateError
from vecsess.wire.channel import Patience

N = 3
BRIEF_S = 0.02
LONG_S = 0.5  # of a step; the waits for it are unlimited
GROUPINGS = [1, 2, None]
QUICK = np.zeros(N, np.float32)


def slow_step(env: int = 1) -> Any:
    actions = QUICK.copy()
    actions[env] = LONG_S
    return actions


def open_slow(workers: int | None, reset_s: float = 0.0) -> VecCheckedSession:
    return VecCheckedSession(partial(SlowEnv, reset_s), N, workers=workers)


@pytest.mark.parametrize("workers", GROUPINGS)
class TestTooShort:
    def test_a_step_stays_pending(self, workers: int | None) -> None:
        with open_slow(workers) as vec:
            first = vec.reset(seed=0)[0]
            vec.step_async(slow_step())
            for kind in (TimeoutError, multiprocessing.TimeoutError, CallTimeout):
                with pytest.raises(kind, match=r"still pending: step_wait\(\) again, or reset"):
                    vec.step_wait(BRIEF_S)
            observations = vec.step_wait()[0]
            assert observations[:, 1].tolist() == [1, 1, 1]
            np.testing.assert_allclose(observations[:, 2], slow_step())
            assert (observations[:, 3] != first[:, 3]).all()

    @pytest.mark.parametrize("told", [True, False], ids=["told", "untold"])
    @pytest.mark.parametrize("spin_ns", [0, 200_000])
    def test_what_has_come_needs_no_time(
        self, workers: int | None, spin_ns: int, told: bool
    ) -> None:
        with open_slow(workers) as vec:
            vec.reset(seed=0)
            vec.engine.lockstep.flight.patience = Patience(spin_ns)
            vec.step_async(QUICK)
            supervisor: Any = vec.engine.fleet.supervisor
            for worker in vec.engine.lockstep.workers:
                assert supervisor.wait(worker, 30.0)
            if not told:  # the pipe counts, whatever stands in shared memory
                vec.engine.lockstep.views.reply[:] = 0
            assert vec.step_wait(0)[0][:, 1].tolist() == [1, 1, 1]

    def test_a_reset_takes_its_place_and_gets_none_of_it(self, workers: int | None) -> None:
        with open_slow(workers) as vec:
            first = vec.reset(seed=0)[0]
            vec.step_async(slow_step())
            with pytest.raises(TimeoutError):
                vec.step_wait(BRIEF_S)
            again = vec.reset(seed=0)[0]
            np.testing.assert_array_equal(again[:, 1:], first[:, 1:])
            np.testing.assert_array_equal(again[:, 0], first[:, 0] + 1)
            assert vec.step(QUICK)[0][:, 1].tolist() == [1, 1, 1]
            assert vec.step(QUICK)[0][:, 1].tolist() == [2, 2, 2]

    def test_so_does_a_reset_in_two_halves(self, workers: int | None) -> None:
        with open_slow(workers) as vec:
            vec.reset(seed=0)
            vec.step_async(slow_step())
            with pytest.raises(TimeoutError):
                vec.step_wait(BRIEF_S)
            vec.reset_async(seed=0)
            assert vec.reset_wait()[0][:, 1].tolist() == [0, 0, 0]

    def test_a_mask_would_lose_the_others_step(self, workers: int | None) -> None:
        with open_slow(workers) as vec:
            vec.reset(seed=0)
            vec.step_async(slow_step())
            with pytest.raises(TimeoutError):
                vec.step_wait(BRIEF_S)
            with pytest.raises(StateError, match="every environment first: a step is under way"):
                vec.reset(options={"reset_mask": np.array([True, False, False])})
            assert vec.step_wait()[0][:, 1].tolist() == [1, 1, 1]

    def test_a_reset_stays_pending(self, workers: int | None) -> None:
        with open_slow(workers, reset_s=LONG_S / 2) as vec:
            vec.reset_async(seed=4)
            with pytest.raises(TimeoutError, match="reset is still pending"):
                vec.reset_wait(BRIEF_S)
            observations, infos = vec.reset_wait()
            assert observations[:, :3].tolist() == [[0, 0, 0]] * N
            assert infos == {}

    def test_a_call_stays_pending(self, workers: int | None) -> None:
        with open_slow(workers) as vec:
            vec.reset(seed=0)
            vec.call_async("nap", LONG_S)
            with pytest.raises(TimeoutError, match="call is still pending"):
                vec.call_wait(BRIEF_S)
            assert vec.call_wait() == (LONG_S,) * N
            assert vec.step(QUICK)[0][:, 1].tolist() == [1, 1, 1]

    def test_a_late_answer_is_nobodys(self, workers: int | None) -> None:
        with open_slow(workers) as vec:
            vec.reset(seed=0)
            for _ in range(3):
                vec.step_async(slow_step(0))
                with pytest.raises(TimeoutError):
                    vec.step_wait(BRIEF_S)
                np.testing.assert_array_equal(vec.reset(seed=0)[0][:, 1], 0)
                for step in (1, 2):
                    np.testing.assert_array_equal(vec.step(QUICK)[0][:, 1], step)

    def test_it_can_be_closed(self, workers: int | None) -> None:
        vec = open_slow(workers)
        vec.reset(seed=0)
        vec.step_async(slow_step())
        with pytest.raises(TimeoutError):
            vec.step_wait(BRIEF_S)
        vec.close(terminate=True)
        assert vec.closed


HALVES: dict[str, Any] = {
    "reset": lambda vec: vec.reset_async(),
    "step": lambda vec: vec.step_async([0] * N),
    "call": lambda vec: vec.call_async("add", 1.0),
}


@pytest.mark.parametrize("workers", [0, 2])
class TestOutOfOrder:
    @pytest.mark.parametrize("pending", HALVES)
    @pytest.mark.parametrize("asked", HALVES)
    def test_one_thing_at_a_time(self, workers: int, pending: str, asked: str) -> None:
        with VecCheckedSession(DiaryEnv, N, workers=workers) as vec:
            vec.reset()
            HALVES[pending](vec)
            told = f"Calling `{asked}_async` while waiting for a pending call to `{pending}`"
            with pytest.raises(AlreadyPendingCallError, match=told) as caught:
                HALVES[asked](vec)
            assert caught.value.name == pending
            with pytest.raises(AlreadyPendingCallError):
                vec.set_attr("length", 4)
            getattr(vec, f"{pending}_wait")()
            vec.step([0] * N)

    @pytest.mark.parametrize("waited", HALVES)
    def test_nothing_to_wait_for(self, workers: int, waited: str) -> None:
        with VecCheckedSession(DiaryEnv, N, workers=workers) as vec:
            told = f"Calling `{waited}_wait` without any prior call to `{waited}_async`."
            for _ in range(2):
                with pytest.raises(NoAsyncCallError, match=re.escape(told)) as caught:
                    getattr(vec, f"{waited}_wait")()
                assert caught.value.name == waited
                vec.reset()

    @pytest.mark.parametrize("pending", HALVES)
    def test_closing_in_between_warns_as_gymnasium_does(self, workers: int, pending: str) -> None:
        vec = VecCheckedSession(DiaryEnv, N, workers=workers)
        vec.reset()
        HALVES[pending](vec)
        told = f"Calling `close` while waiting for a pending call to `{pending}` to complete."
        with pytest.warns(UserWarning, match=re.escape(told)):
            vec.close(terminate=True)
        assert vec.closed

    def test_a_closed_session_takes_no_call(self, workers: int) -> None:
        vec = VecCheckedSession(DiaryEnv, N, workers=workers)
        vec.close()
        vec.close(timeout=1.0)
        calls: list[Any] = [
            lambda: vec.reset(),
            lambda: vec.reset_wait(),
            lambda: vec.step([0] * N),
            lambda: vec.step_wait(),
            lambda: vec.call("add", 1.0),
            lambda: vec.get_attr("length"),
            lambda: vec.set_attr("length", 1),
            lambda: vec.render(),
            *(partial(half, vec) for half in HALVES.values()),
        ]
        for call in calls:
            with pytest.raises(ClosedEnvironmentError):
                call()
