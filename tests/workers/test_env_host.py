"""What happens to an environment: steps, auto-reset, and the rows that come of them."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from tests.envs import CountingEnv, counting, faulty
from tests.workers.hosts import host_of, reset
from vecsess.wire.values import unpack_value
from vecsess.workers.env_host import ALL_INFOS, FINAL_INFOS, NO_INFOS, EnvHost
from vecsess.workers.env_source import BuildError

ACTION_SPACES = {
    "Discrete": spaces.Discrete(3),
    "Discrete int32": spaces.Discrete(3, dtype=np.int32),
    "Box": spaces.Box(-1, 1, (2,), np.float32),
    "Box float64": spaces.Box(-1, 1, (2, 2), np.float64),
    "Box without axes": spaces.Box(-1, 1, (), np.float32),
    "Box of bytes": spaces.Box(0, 255, (3,), np.uint8),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
    "MultiBinary": spaces.MultiBinary(3),
    "MultiBinary with axes": spaces.MultiBinary([2, 2]),
    "Dict": spaces.Dict(a=spaces.Discrete(3), b=spaces.Box(-1, 1, (2,), np.float32)),
    "Tuple": spaces.Tuple([spaces.Discrete(3), spaces.MultiBinary(2)]),
}


class RecordingEnv(CountingEnv):
    """Keeps the actions that it gets, as they are."""

    def __init__(self, action_space: Any) -> None:
        super().__init__(length=100, action_space=action_space)
        self.actions: list[Any] = []

    def step(self, action: Any) -> Any:
        self.actions.append(action)
        return super().step(0)


def form_of(action: Any) -> Any:
    """Returns all that an environment could tell of an action: types, dtypes, shapes, values."""
    if isinstance(action, dict):
        return {key: form_of(part) for key, part in action.items()}
    if isinstance(action, tuple):
        return tuple(form_of(part) for part in action)
    return type(action), action.dtype, action.shape, action.tolist()


def place(host: EnvHost, batch: Any) -> None:
    """Writes a batch of actions into the slab, as the manager does."""
    parts = batch.values() if isinstance(batch, dict) else batch
    parts = parts if isinstance(batch, dict | tuple) else [batch]
    for array, part in zip(host.views.actions, parts, strict=True):
        array[0] = part


@pytest.mark.parametrize("name", ACTION_SPACES)
def test_actions_arrive_as_gymnasiums_own_vector_environments_give_them(name: str) -> None:
    makers: list[Any] = [partial(RecordingEnv, ACTION_SPACES[name])] * 3
    host, reference = host_of(makers), SyncVectorEnv(makers)
    reset(host)
    reference.reset(seed=0)
    reference.action_space.seed(0)
    for _ in range(5):
        batch = reference.action_space.sample()
        place(host, copy.deepcopy(batch))
        assert host.step(NO_INFOS) == ([], [])
        reference.step(batch)
    for mine, theirs in zip(host.envs, reference.envs, strict=True):
        assert isinstance(mine, RecordingEnv)
        assert isinstance(theirs, RecordingEnv)
        assert [form_of(a) for a in mine.actions] == [form_of(a) for a in theirs.actions]
    host.close()
    reference.close()


@pytest.mark.parametrize("name", ["Box", "MultiDiscrete", "Dict"])
def test_an_action_that_is_kept_does_not_change(name: str) -> None:
    host = host_of([partial(RecordingEnv, ACTION_SPACES[name])])
    reset(host)
    (env,) = host.envs
    assert isinstance(env, RecordingEnv)
    for array in host.views.actions:
        array[...] = 1
    host.step(NO_INFOS)
    before = form_of(env.actions[0])
    for array in host.views.actions:
        array[...] = 0
    host.step(NO_INFOS)
    assert form_of(env.actions[0]) == before


class FreshEnv(CountingEnv):
    """Gives out a new array each time: Gymnasium keeps the last observation by reference."""

    def _observe(self, action: float) -> Any:
        return super()._observe(action).copy()


class TestSameStep:
    def test_the_last_observation_is_kept_from_the_reset_in_the_same_buffer(self) -> None:
        host = host_of(counting(2, length=3))
        reset(host)
        for _ in range(3):
            host.step(NO_INFOS)
        views = host.views
        np.testing.assert_array_equal(views.finals[0][0, :, :2], [[0, 3], [0, 3]])
        np.testing.assert_array_equal(views.observations[0][0, :, :2], [[1, 0], [1, 0]])
        np.testing.assert_array_equal(views.terminated[0], 1)

    def test_it_equals_gymnasium_step_by_step(self) -> None:
        makers: list[Any] = [partial(FreshEnv, length) for length in (1, 2, 3)]
        reference = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
        host = host_of(makers)
        first, _ = reference.reset(seed=5)
        reset(host, 5)
        np.testing.assert_array_equal(host.views.observations[0][0], first)
        for _ in range(12):
            observations, rewards, terminated, truncated, infos = reference.step([1, 0, 1])
            place(host, np.array([1, 0, 1]))
            assert host.step(NO_INFOS) == ([], [])
            views = host.views
            np.testing.assert_array_equal(views.observations[0][0], observations)
            np.testing.assert_array_equal(views.rewards[0], rewards)
            np.testing.assert_array_equal(views.terminated[0], terminated)
            np.testing.assert_array_equal(views.truncated[0], truncated)
            for row in np.flatnonzero(terminated):
                np.testing.assert_array_equal(views.finals[0][0, row], infos["final_obs"][row])
        reference.close()


def test_next_step_resets_with_the_step_after() -> None:
    host = host_of(counting(1, length=2), "next_step")
    reset(host)
    told = []
    for _ in range(4):
        host.step(NO_INFOS)
        views = host.views
        told.append((*views.observations[0][0, 0, :2], views.rewards[0, 0], views.terminated[0, 0]))
    assert told == [(0, 1, 1, 0), (0, 2, 1, 1), (1, 0, 0, 0), (1, 1, 1, 0)]


def test_disabled_waits_for_a_reset() -> None:
    host = host_of(counting(2, length=1), "disabled")
    reset(host)
    assert host.step(NO_INFOS) == ([], [])
    _, failures = host.step(NO_INFOS)
    assert [failure[:3] for failure in failures] == [
        [row, "raised", "RuntimeError"] for row in (0, 1)
    ]
    assert "reset_mask" in failures[0][3]
    host.reset([1], [None], b"", NO_INFOS)
    _, failures = host.step(NO_INFOS)
    assert [failure[0] for failure in failures] == [0]


class InfoEnv(CountingEnv):
    """Tells infos, in one array that it reuses."""

    def __init__(self) -> None:
        super().__init__(length=2)
        self.told = np.zeros(1)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        observation, _ = super().reset(seed=seed)
        self.told[0] = -1
        return observation, {"told": self.told, "options": options}

    def step(self, action: Any) -> Any:
        result = super().step(action)
        self.told[0] = self.steps
        return *result[:4], {"told": self.told, "code": print}


@pytest.mark.parametrize(
    ("infos", "expected"),
    [
        (NO_INFOS, []),
        (FINAL_INFOS, [("final_info", 2)]),
        (ALL_INFOS, [("final_info", 2), ("info", -1)]),
    ],
)
def test_infos_are_packed_before_the_environment_reuses_them(infos: int, expected: Any) -> None:
    host = host_of([InfoEnv])
    reset(host)
    host.step(NO_INFOS)
    host.take_asides()
    values, failures = host.step(infos)
    assert not failures
    assert [(what, unpack_value(data)["told"][0]) for _, what, data in values] == expected
    assert all("code" not in unpack_value(data) for _, _, data in values)
    warned = [unpack_value(data) for _, what, data in host.take_asides() if what == "warning"]
    assert len(warned) == bool(infos)
    assert all("info['code'] was left out" in text for text in warned)
    host.step(infos)
    assert not host.take_asides(), "once is enough"


def test_one_environment_that_raises_does_not_stop_the_others() -> None:
    host = host_of(faulty(3, 1, "ValueError"))
    reset(host)
    _, failures = host.step(NO_INFOS)
    assert [failure[:4] for failure in failures] == [[1, "raised", "ValueError", "a bad value"]]
    assert "_break_in" in failures[0][4]
    np.testing.assert_array_equal(host.views.observations[0][0, :, 1], [1, 0, 1])
    assert type(host.last_exception) is ValueError


def test_only_some_rows_can_be_stepped() -> None:
    host = host_of(counting(3))
    reset(host)
    host.step(NO_INFOS, [0, 2])
    np.testing.assert_array_equal(host.views.observations[0][0, :, 1], [1, 0, 1])


class WatchingEnv(CountingEnv):
    """Notes what the hint in the slab says while it is called."""

    host: EnvHost
    seen: list[int]

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self.seen.append(int(self.host.views.running[0]))
        return super().reset(seed=seed)

    def step(self, action: Any) -> Any:
        self.seen.append(int(self.host.views.running[0]))
        return super().step(action)


def test_the_hint_tells_which_environment_is_being_called() -> None:
    host = host_of([partial(WatchingEnv, 2)] * 2)
    for env in host.envs:
        assert isinstance(env, WatchingEnv)
        env.host, env.seen = host, []
    reset(host)
    host.step(NO_INFOS)
    host.step(NO_INFOS)
    assert [env.seen for env in host.envs] == [[2, 0, 0, 2], [3, 1, 1, 3]]  # type: ignore[attr-defined]
    assert host.views.running[0] == -1


def test_a_host_that_can_not_be_built_closes_what_was() -> None:
    closed = []

    class ClosingEnv(CountingEnv):
        def close(self) -> None:
            closed.append(self)

    def fail() -> gymnasium.Env[Any, Any]:
        raise KeyError("broken")

    with pytest.raises(BuildError) as caught:
        host_of([ClosingEnv, ClosingEnv, fail])
    assert caught.value.row == 2
    assert type(caught.value.__cause__) is KeyError
    assert len(closed) == 2


def test_a_close_that_raises_does_not_keep_the_others_open(
    capfd: pytest.CaptureFixture[str],
) -> None:
    host = host_of([*faulty(1, 0, "print", "close"), *faulty(1, 0, "ValueError", "close")])
    host.close()
    out, err = capfd.readouterr()
    assert "ValueError: a bad value" in err
    assert "printed by an environment" in out
    assert not host.envs
