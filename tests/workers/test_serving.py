"""What an environment does to the process that serves it: forks, breakpoints, odd results."""

from __future__ import annotations

import os
import pdb
from functools import partial
from typing import Any

import pytest

from tests.envs import CountingEnv
from vecsess import ContractViolation, EnvError, VecCheckedSession
from vecsess.errors import ClosedError


class ForkingEnv(CountingEnv):
    """Forks in a step, and lets both processes come back."""

    def step(self, action: Any) -> Any:
        pid = os.fork()
        result = super().step(action)
        if pid:
            os.waitpid(pid, 0)
        return result


class ResultEnv(CountingEnv):
    """Gives anything as the result of a step."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self.result = result

    def step(self, action: Any) -> Any:
        return self.result


class DebuggedEnv(CountingEnv):
    """Stops for a debugger."""

    def __init__(self, stop: Any) -> None:
        super().__init__()
        self.stop = stop

    def step(self, action: Any) -> Any:
        self.stop()
        return super().step(action)


def test_a_forked_copy_that_comes_back_is_named_and_ended(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with VecCheckedSession(ForkingEnv, 2, workers=1) as vec:
        first, _ = vec.reset(seed=0)
        for step in range(1, 4):
            observations, rewards, *_ = vec.step([0, 1])
            assert observations[:, 1].tolist() == [step, step]
            assert rewards.tolist() == [1.0, 1.0]
        assert not vec.incidents
    assert "came back from the environment's code and was ended" in capfd.readouterr().err
    assert first.shape == (2, 4)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("result", "got"),
    [
        (None, "got NoneType"),
        ((1, 2.0, False, {}), "got tuple of 4; this is an environment of the old Gym API"),
        ((), "got tuple of 0"),
        (3, "got int"),
        ([1] * 6, "got list of 6"),
    ],
    ids=str,
)
def test_a_step_must_give_five_things(result: Any, got: str, workers: int) -> None:
    with VecCheckedSession(partial(ResultEnv, result), 1, workers=workers) as vec:
        vec.reset(seed=0)
        with pytest.raises(ContractViolation, match=r"expected \(observation, reward") as caught:
            vec.step([0])
    assert got in str(caught.value)


@pytest.mark.parametrize("stop", [breakpoint, pdb.set_trace], ids=["breakpoint", "pdb"])
def test_a_breakpoint_in_a_worker_says_where_it_works(stop: Any) -> None:
    with VecCheckedSession(partial(DebuggedEnv, stop), 1, workers=1) as vec:
        vec.reset(seed=0)
        with pytest.raises(EnvError, match="which a worker has not: use workers=0"):
            vec.step([0])


def test_a_forked_trainer_is_told_whose_the_session_is() -> None:
    with VecCheckedSession(CountingEnv, 1, workers=1) as vec:
        vec.reset(seed=0)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                vec.step([0])
            except ClosedError as error:
                code = 0 if "belongs to the process that forked this one" in str(error) else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert vec.step([0])[1].tolist() == [1.0]
