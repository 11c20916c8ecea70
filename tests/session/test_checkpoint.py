"""A session as plain data: what a checkpoint holds, and what a restored session goes on with."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import msgpack
import numpy as np
import pytest
from gymnasium import spaces

from vecsess import Contract, RestartPolicy, Timeouts, VecCheckedSession, collect_rollout
from vecsess.collect.policies import RandomPolicy
from vecsess.errors import StateError, VecsessError
from vecsess.session import signature
from vecsess.wire.values import pack_value, unpack_value

N = 4
pytestmark = pytest.mark.usefixtures("no_process_left")


class Speaker(gymnasium.Env[Any, Any]):
    """Observes a text and a number, and is told a text."""

    observation_space = spaces.Dict({"said": spaces.Text(20), "count": spaces.Box(0, 9e9, (1,))})
    action_space = spaces.Text(5, charset="ab")

    def __init__(self, words: Any = ("one", "two", "three")) -> None:
        self.words = list(words)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        self.steps += len(action)
        return self._seen(), float(self.steps), self.steps > 12, False, {}

    def _seen(self) -> Any:
        word = self.words[int(self.np_random.integers(len(self.words)))]
        return {"said": word, "count": np.array([self.steps], np.float32)}


def through_a_file(data: dict[str, Any]) -> dict[str, Any]:
    """Returns what a checkpoint is after it was packed by msgpack and read again."""
    read: dict[str, Any] = msgpack.unpackb(msgpack.packb(data), strict_map_key=False)
    return read


def actions_of(vec: VecCheckedSession, steps: int) -> list[Any]:
    vec.action_space.seed(3)
    return [vec.action_space.sample() for _ in range(steps)]


def steps_of(vec: VecCheckedSession, actions: list[Any]) -> list[Any]:
    return [vec.step(action)[:4] for action in actions]


def assert_same(one: Any, other: Any) -> None:
    assert repr(one) == repr(other)


@pytest.mark.parametrize("env", ["CartPole-v1", Speaker], ids=["arrays", "by pipe"])
@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (2, None), (None, 3)])
def test_a_session_goes_on_where_it_was_in_any_grouping(
    env: Any, before: int | None, after: int | None
) -> None:
    with VecCheckedSession(env, N, workers=before) as vec:
        vec.reset(seed=5)
        actions = actions_of(vec, 40)
        steps_of(vec, actions[:20])
        data, seen = through_a_file(vec.checkpoint()), vec.observe()
        expected = steps_of(vec, actions[20:])
    given = {} if isinstance(env, str) else {"env": env}
    with VecCheckedSession.restore(data, workers=after, **given) as vec:
        assert vec.unrestored == {}
        assert_same(vec.observe(), seen)
        assert_same(steps_of(vec, actions[20:]), expected)


def test_rollouts_go_on_with_the_same_noise_and_episodes() -> None:
    with VecCheckedSession("CartPole-v1", N, workers=2) as vec:
        policy = RandomPolicy(vec.single_action_space)
        collect_rollout(vec, policy, 33, seed=1)
        data = through_a_file(vec.checkpoint())
        expected = collect_rollout(vec, policy, 33)
    with VecCheckedSession.restore(data, workers=0) as vec:
        found = collect_rollout(vec, policy, 33)
    np.testing.assert_array_equal(found.observations, expected.observations)
    assert found.episodes == expected.episodes


def by_seven(seed: int, env: int, episode: int) -> int:
    return seed + 7 * episode + env


def long_or_short(env: int, episode: int) -> dict[str, Any]:
    return {"low": -0.01 * env, "high": 0.01 * env + 0.01}


SETTINGS: dict[str, Any] = {
    "contract": Contract(reward_range=(0.0, 5.0)),
    "timeouts": Timeouts(step_s=17.0),
    "restart_policy": RestartPolicy(max_restarts=3),
    "on_error": "truncate",
    "on_violation": "restart",
    "on_limit": "quarantine",
    "episode_seeds": "per_episode",
    "episode_options": {"low": -0.02, "high": 0.02},
    "autoreset_mode": "next_step",
    "infos": "final",
    "copy": False,
    "max_episodes": 1000,
    "make_kwargs": {"sutton_barto_reward": np.bool_(True)},
    "first_env": 3,
    "worker_env": {"VECSESS_TEST_SAID": "yes"},
    "pass_env": ["VECSESS_TEST_TOKEN"],
}


def variables_of(vec: VecCheckedSession) -> list[bytes]:
    """Returns the variables of a worker that these tests know."""
    told = Path(f"/proc/{vec.pids[0]}/environ").read_bytes().split(b"\0")
    return sorted(each for each in told if each.startswith(b"VECSESS_TEST_"))


@pytest.mark.parametrize("name", SETTINGS)
def test_what_is_plain_data_is_as_it_was(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VECSESS_TEST_TOKEN", "secret")
    with VecCheckedSession("CartPole-v1", N, workers=2, **{name: SETTINGS[name]}) as vec:
        vec.reset(seed=0)
        actions = actions_of(vec, 60)
        steps_of(vec, actions[:30])
        data = through_a_file(vec.checkpoint())
        expected, terms = steps_of(vec, actions[30:]), vec.engine.terms
        variables = variables_of(vec)
    with VecCheckedSession.restore(data, workers=2) as vec:
        assert vec.engine.terms == terms
        assert variables_of(vec) == variables
        assert_same(steps_of(vec, actions[30:]), expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("episode_seeds", by_seven),
        ("episode_options", long_or_short),
        ("env", partial(gymnasium.make, "CartPole-v1")),
        ("make_kwargs", {"max_episode_steps": 20, "render_mode": None, "extra": object()}),
    ],
)
def test_what_is_not_must_be_given_again_and_is_named(name: str, value: Any) -> None:
    given = {"env": "CartPole-v1", name: value}
    if name == "make_kwargs":
        given["env"] = "tests.session.test_checkpoint:Taking-v0"
    with VecCheckedSession(n=N, workers=2, **given) as vec:
        vec.reset(seed=0)
        actions = actions_of(vec, 60)
        steps_of(vec, actions[:30])
        data = through_a_file(vec.checkpoint())
        expected = steps_of(vec, actions[30:])
    with pytest.raises(StateError, match=rf"{name}=\.\.\."):
        VecCheckedSession.restore(data, workers=2)
    with VecCheckedSession.restore(data, workers=1, **{name: value}) as vec:
        assert_same(steps_of(vec, actions[30:]), expected)


def taking(extra: Any = None, **given: Any) -> Any:
    """Makes a CartPole that is given an object."""
    del extra
    return gymnasium.make("CartPole-v1", **given).unwrapped


gymnasium.register("Taking-v0", taking, max_episode_steps=20)


def test_a_chain_of_seeds_goes_on_through_an_unseeded_reset() -> None:
    with VecCheckedSession("CartPole-v1", N, workers=2, episode_seeds="per_episode") as vec:
        vec.reset(seed=11)
        steps_of(vec, actions_of(vec, 30))
        data = through_a_file(vec.checkpoint())
        expected = vec.reset()[0]
    with VecCheckedSession.restore(data) as vec:
        np.testing.assert_array_equal(vec.reset()[0], expected)


@pytest.mark.parametrize("data", [None, {}, {"format": 1}, b"x", []])
def test_something_else_is_no_checkpoint(data: Any) -> None:
    with pytest.raises(StateError, match="expected a checkpoint of format"):
        VecCheckedSession.restore(data)


@pytest.mark.parametrize(
    "damage", [{"recipe": 5}, {"state": b"\xc1"}, {"state": b"\x80"}, {"state": 5}]
)
def test_a_damaged_one_of_nobody_is_refused(damage: dict[str, Any]) -> None:
    with VecCheckedSession("CartPole-v1", 1, workers=0) as vec:
        vec.reset(seed=0)
        data = through_a_file(vec.checkpoint())
    with pytest.raises(StateError, match="damaged"):
        VecCheckedSession.restore({**data, **damage}, workers=0)


ODD: list[Any] = [None, -1, 2**40, 2**70, 0.5, float("nan"), "text", b"bytes", [], {}, [[1]], True]
ODD += [np.zeros(3), np.zeros((2, 2), np.float32)]


def places(plain: Any) -> Iterator[tuple[Any, ...]]:
    """Yields the way to each part of plain data, the whole one's too."""
    yield ()
    parts = plain.items() if isinstance(plain, dict) else ()
    for key, part in enumerate(plain) if isinstance(plain, list) else parts:
        yield from ((key, *rest) for rest in places(part))


def with_odd(plain: Any, place: tuple[Any, ...], odd: Any) -> Any:
    if not place:
        return odd
    copied = copy.copy(plain)
    copied[place[0]] = with_odd(copied[place[0]], place[1:], odd)
    return copied


@pytest.mark.filterwarnings("ignore::UserWarning")  # of what is not brought back
def test_whatever_an_unsigned_one_holds_a_session_goes_on_or_says_what_is_wrong() -> None:
    with VecCheckedSession("CartPole-v1", 2, workers=0) as vec:
        vec.reset(seed=0)
        steps_of(vec, actions_of(vec, 3))
        data = vec.checkpoint()
    state = unpack_value(data["state"], max_objects=None)
    told = 0
    for place, odd in itertools.product(places(state), ODD):
        packed = pack_value(with_odd(state, place, odd))
        unsigned = {"format": data["format"], "recipe": data["recipe"], "state": packed}
        try:
            with VecCheckedSession.restore(unsigned, workers=0) as vec:
                vec.step(np.zeros(2, np.int64))
        except VecsessError:
            told += 1
    assert told > 200  # the rest are values that may stand there


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_whatever_arguments_an_unsigned_one_tells_are_good_or_refused() -> None:
    with VecCheckedSession("CartPole-v1", 2, workers=0) as vec:
        vec.reset(seed=0)
        data = vec.checkpoint()
    given = data["recipe"]["given"]
    recipes = [
        {"given": {**given, name: pack_value(odd)}, "missing": []}
        for name, odd in itertools.product(given, ODD)
    ]
    strange: list[Any] = [5, [], "\x1b[31m"]
    recipes += [{"given": given, "missing": [name]} for name in strange]
    told = []
    for recipe in recipes:
        unsigned = {"format": data["format"], "recipe": recipe, "state": data["state"]}
        try:
            with VecCheckedSession.restore(unsigned, workers=0) as vec:
                vec.step(np.zeros(2, np.int64))
        except VecsessError as error:
            told.append(str(error))
    assert len(told) > 200
    assert all(text.isprintable() and len(text) < 1000 for text in told)


# --- whose it is ---------------------------------------------------------------------------------


class Trap:
    """Makes a file of itself where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self._path,)


def becomes(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goes on as a user with this home."""
    monkeypatch.setenv("XDG_STATE_HOME", str(user))
    signature._key.cache_clear()


@pytest.fixture(autouse=True)
def _somebody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    becomes(tmp_path / "own", monkeypatch)
    yield
    signature._key.cache_clear()


HELD: dict[str, Any] = {
    "attributes": lambda vec, trap: vec.set_attr("extra", trap),
    "options": lambda vec, trap: vec.reset(options={"extra": trap}),
}


def holding(what: str, path: Path) -> dict[str, Any]:
    """Returns a checkpoint with a pickle that makes this file where it is run."""
    with VecCheckedSession("CartPole-v1", 1, workers=1) as vec:
        vec.reset(seed=0)
        HELD[what](vec, Trap(path))
        data = through_a_file(vec.checkpoint())
    path.unlink()
    return data


@pytest.mark.parametrize("what", HELD)
def test_pickles_are_taken_from_this_user_alone(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trap = tmp_path / "sprung"
    data = holding(what, trap)
    forged = {**data, "recipe": {**data["recipe"], "missing": ["env"]}}
    unsigned = {name: part for name, part in data.items() if name != "signature"}
    for other in (forged, unsigned):
        with pytest.raises(StateError, match=f"pickles of {what}.*trusted=True"):
            VecCheckedSession.restore(other, "CartPole-v1", workers=0)
    signature._key.cache_clear()  # as in another process of the same user
    with VecCheckedSession.restore(data, workers=0):
        assert trap.exists()
    trap.unlink()
    becomes(tmp_path / "another", monkeypatch)
    with pytest.raises(StateError, match=f"pickles of {what}.*trusted=True"):
        VecCheckedSession.restore(data, workers=0)
    assert not trap.exists()
    with VecCheckedSession.restore(data, workers=0, trusted=True):
        assert trap.exists()


@pytest.mark.parametrize("settings", [{}, {"worker_env": {"LD_PRELOAD": ""}}, {"pass_env": ["A"]}])
def test_of_a_stranger_without_pickles_only_variables_are_refused(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with VecCheckedSession("CartPole-v1", 2, workers=1, **settings) as vec:
        vec.reset(seed=0, options={})
        vec.reset(seed=0)
        data = through_a_file(vec.checkpoint())
    becomes(tmp_path / "another", monkeypatch)
    if settings:
        with pytest.raises(StateError, match="".join(settings)):
            VecCheckedSession.restore(data)
    else:
        VecCheckedSession.restore(data, workers=0).close()


def test_the_key_is_its_user_s_alone(tmp_path: Path) -> None:
    key = signature._key()
    path = tmp_path / "own" / "vecsess" / "checkpoint.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]
    path.chmod(0o644)
    signature._key.cache_clear()
    assert signature._key() != key, "one that others can read is none"
    path.unlink()
    (tmp_path / "theirs").write_bytes(bytes(32))
    path.symlink_to(tmp_path / "theirs")
    signature._key.cache_clear()
    assert signature._key() != bytes(32), "links are not followed"


def test_where_no_key_can_be_kept_a_checkpoint_is_good_in_its_process(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("no folder")
    data = holding("attributes", tmp_path / "sprung")
    VecCheckedSession.restore(data, workers=0).close()
    signature._key.cache_clear()  # as in another process
    with pytest.raises(StateError, match="trusted=True"):
        VecCheckedSession.restore(data, workers=0)


class Drifting(gymnasium.Env[Any, Any]):
    """Has randomness that nobody can seed."""

    observation_space = spaces.Box(0, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.random.default_rng().random(1, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.random.default_rng().random(1, np.float32), 0.0, False, False, {}


@pytest.mark.filterwarnings("ignore:.*did not reproduce:UserWarning")
def test_an_environment_that_does_not_come_back_begins_anew_and_is_told_of() -> None:
    with VecCheckedSession(Drifting, N, workers=2) as vec:
        vec.reset(seed=0)
        steps_of(vec, actions_of(vec, 3))
        data = through_a_file(vec.checkpoint())
    with pytest.warns(UserWarning, match="could not be restored"):
        vec = VecCheckedSession.restore(data, Drifting, workers=2)
    with vec:
        assert sorted(vec.unrestored) == list(range(N))
        assert vec.step(np.zeros(N, np.int64))[0].shape == (N, 1)
