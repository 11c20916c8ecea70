"""Whatever breaks a rollout off in the trainer, its session stands where the next call says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.sessions import zeros
from vecsess import VecCheckedSession, collect_rollout
from vecsess.errors import PolicyError, StateError

pytestmark = pytest.mark.usefixtures("no_process_left")
N, AT = 4, 3
WAYS: dict[str, dict[str, Any]] = {
    "lockstep": {},
    "pipelined": {"pace": "pipelined"},
    "free": {"pace": "free"},
    "workers": {"inference": "workers"},
}
# What a policy does, and the error that comes of it in the trainer.
DEEDS: dict[str, type[BaseException]] = {
    "raises": ZeroDivisionError,
    "is interrupted": KeyboardInterrupt,
    "gives a wrong action": ValueError,
    "gives another shape": ValueError,
    "gives another dtype": TypeError,
}


class Unruly:
    """Decides well, but for one call."""

    noise_size = 1

    def __init__(self, deed: str = "", at: int = AT) -> None:
        self._deed, self._calls, self._at = deed, 0, at

    def act(self, observations: Any, *, noise: Any, **_: Any) -> Any:
        self._calls += 1
        actions = (noise[:, 0] * 2).astype(np.int64)
        if self._deed and self._calls == self._at:
            actions = self._misbehave(actions)
        return actions, np.zeros(len(noise)), np.zeros(len(noise))

    def _misbehave(self, actions: Any) -> Any:
        match self._deed:
            case "raises":
                raise ZeroDivisionError
            case "is interrupted":
                raise KeyboardInterrupt
            case "gives a wrong action":
                return actions + 100
            case "gives another shape":
                return actions[:, None]
        return actions.astype(np.float64)

    def value(self, observations: Any, **_: Any) -> Any:
        return np.zeros(len(observations))


@pytest.mark.parametrize("way", WAYS)
def test_a_rollout_that_was_broken_off_goes_on_or_says_that_it_needs_a_reset(way: str) -> None:
    how = WAYS[way]
    with (
        VecCheckedSession("CartPole-v1", N, workers=2) as vec,
        VecCheckedSession("CartPole-v1", N, workers=0) as oracle,
    ):
        for seed, (deed, error) in enumerate(DEEDS.items()):
            vec.start(seed=seed)
            oracle.start(seed=seed)
            with pytest.raises(PolicyError if way == "workers" else error):
                collect_rollout(vec, Unruly(deed), 16, seed=0, **how)
            if way == "lockstep":  # between two steps
                collect_rollout(oracle, Unruly(), AT - 1, seed=0)
                np.testing.assert_array_equal(vec.observe(), oracle.observe())
            else:
                for verb in (
                    vec.observe,
                    vec.checkpoint,
                    lambda: vec.step(zeros(N)),
                    lambda: vec.reset(options={"reset_mask": np.arange(N) == 0}),
                    lambda: collect_rollout(vec, Unruly(), 4, **how),
                ):
                    with pytest.raises(StateError, match="first: its last call failed"):
                        verb()
                vec.start(seed=seed)
                oracle.start(seed=seed)
            ours = collect_rollout(vec, Unruly(), 8, seed=1, **how)
            theirs = collect_rollout(oracle, Unruly(), 8, seed=1)
            np.testing.assert_array_equal(ours.observations, theirs.observations)


@pytest.mark.parametrize("way", ["lockstep", "pipelined", "free"])
@pytest.mark.parametrize("deed", DEEDS)
def test_before_any_worker_was_told_it_is_as_if_nothing_had_happened(way: str, deed: str) -> None:
    with VecCheckedSession("CartPole-v1", N, workers=2) as vec:
        before = vec.start(seed=0)
        with pytest.raises(DEEDS[deed]):
            collect_rollout(vec, Unruly(deed, at=1), 16, seed=0, **WAYS[way])
        np.testing.assert_array_equal(vec.observe(), before)
        assert vec.step_checked(zeros(N)).valid.all()
