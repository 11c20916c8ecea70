"""Whether two vector environments gave the same: values, shapes, dtypes, keys and masks."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from vecsess import VecCheckedSession


def assert_same(ours: Any, theirs: Any, place: str = "result") -> None:
    """Compares two results part by part; a failure names the part."""
    if isinstance(theirs, dict):
        assert isinstance(ours, dict), place
        if "final_obs" not in place:  # an observation has its space's order, not the environment's
            assert list(ours) == list(theirs), place
        assert set(ours) == set(theirs), place
        for key, value in theirs.items():
            assert_same(ours[key], value, f"{place}[{key!r}]")
    elif isinstance(theirs, tuple | list):
        assert isinstance(ours, tuple | list), place
        assert len(ours) == len(theirs), place
        for index, pair in enumerate(zip(ours, theirs, strict=True)):
            assert_same(*pair, f"{place}[{index}]")
    elif isinstance(theirs, np.ndarray):
        assert ours.dtype == theirs.dtype, place
        assert ours.shape == theirs.shape, place
        if theirs.dtype == object:
            assert_same(list(ours), list(theirs), place)
        else:
            np.testing.assert_array_equal(ours, theirs, err_msg=place)
    elif isinstance(theirs, Exception):
        assert type(ours) is type(theirs), place
    elif "final_obs" in place and isinstance(theirs, np.integer):
        # What an environment gives for a Discrete space in memory, int or np.int64, is an int.
        assert type(ours) in (int, type(theirs)), place
        assert ours == theirs, place
    else:
        assert type(ours) is type(theirs), place
        assert ours == theirs, f"{place}: {ours!r} is not {theirs!r}"


class Twins:
    """The same environments in a session and in Gymnasium's `SyncVectorEnv`; each call compares.

    Args:
        makers: one callable for each environment.
        mode: of auto-reset.
        arguments: for the session.
    """

    def __init__(self, makers: list[Any], mode: AutoresetMode, **arguments: Any) -> None:
        observation_mode = arguments.get("observation_mode", "same")
        self.theirs: VectorEnv[Any, Any, Any] = SyncVectorEnv(
            makers, autoreset_mode=mode, observation_mode=observation_mode
        )
        self.ours = VecCheckedSession(makers, autoreset_mode=mode, **arguments)

    def __enter__(self) -> Twins:
        return self

    def __exit__(self, *_: object) -> None:
        self.ours.close()
        self.theirs.close()

    def reset(self, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        theirs = self.theirs.reset(seed=seed, options=None if options is None else dict(options))
        assert_same(self.ours.reset(seed=seed, options=options), theirs, "reset")
        return theirs

    def step(self, actions: Any) -> Any:
        theirs = self.theirs.step(actions)
        assert_same(self.ours.step(actions), theirs, "step")
        return theirs

    def run(self, steps: int, seed: Any = 0, action_seed: int = 1) -> int:
        """Resets, takes random steps, and resets by mask where the mode wants it.

        Returns:
            How many episodes ended.
        """
        self.theirs.action_space.seed(action_seed)
        self.reset(seed)
        episodes = 0
        for _ in range(steps):
            _, _, terminated, truncated, _ = self.step(self.theirs.action_space.sample())
            done = terminated | truncated
            episodes += int(done.sum())
            if done.any() and self.ours.autoreset_mode is AutoresetMode.DISABLED:
                self.reset(None, {"reset_mask": done})
        return episodes
