"""Transitions as JSON: exact round trips, and what a bad file is told."""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vecsess import VecCheckedSession, collect_rollout, tree
from vecsess.collect.policies import RandomPolicy
from vecsess.collect.rollout import Rollout
from vecsess.contract import Contract, Transition
from vecsess.errors import ContractViolation, SpaceError
from vecsess.integrations.transitions import (
    TransitionError,
    dump_transitions,
    load_transitions,
    load_transitions_all,
    save_transitions,
    transitions_of,
)

PAIR = spaces.Box(-np.inf, np.inf, (2,), np.float32)
TWO = spaces.Discrete(2)
GOOD = {
    "obs": [0.5, 1],
    "action": 1,
    "reward": -1.5,
    "terminated": False,
    "truncated": True,
    "next_obs": [0.25, 2.0],
}


def finite(width: Literal[32, 64]) -> st.SearchStrategy[float]:
    return st.floats(width=width, allow_nan=False, allow_infinity=False)


def text_of(*records: Any) -> str:
    return json.dumps({"transitions": list(records)})


def load_one(record: Any, contract: Contract | None = None) -> Transition:
    return load_transitions(text_of(record), contract or Contract(), PAIR, TWO)[0]


def random_transition(observations: Any, actions: Any, seed: int) -> Transition:
    observations.seed(seed)
    actions.seed(seed)
    return Transition(
        observation=observations.sample(),
        action=actions.sample(),
        reward=float(np.random.default_rng(seed).normal()),
        next_observation=observations.sample(),
        terminated=bool(seed % 2),
        truncated=bool(seed % 3),
    )


def assert_same(one: Transition, other: Transition) -> None:
    for field in ("observation", "action", "next_observation"):
        pairs = zip(
            tree.leaves(getattr(one, field)), tree.leaves(getattr(other, field)), strict=True
        )
        for left, right in pairs:
            assert (left.dtype, left.shape) == (right.dtype, right.shape)
            assert left.tobytes() == right.tobytes()
    assert (one.reward, one.terminated, one.truncated) == (
        other.reward,
        other.terminated,
        other.truncated,
    )


class TestRoundTrip:
    @pytest.mark.parametrize(
        "space",
        [
            spaces.Box(-np.inf, np.inf, (3,), np.float32),
            spaces.Box(-1, 1, (2, 2), np.float64),
            spaces.Box(-1, 1, (), np.float16),
            spaces.Box(0, 255, (4, 4, 3), np.uint8),
            spaces.Box(0, 2**64 - 1, (5,), np.uint64),
            spaces.Discrete(7, start=-3),
            spaces.MultiDiscrete([3, 4]),
            spaces.MultiBinary((2, 3)),
            spaces.Dict({"a": spaces.Box(0, 1, (2,)), "b": spaces.Tuple((TWO, PAIR))}),
        ],
        ids=str,
    )
    def test_every_space_comes_back_bit_for_bit(self, space: Any) -> None:
        steps = [random_transition(space, space, seed) for seed in range(6)]
        loaded = load_transitions(dump_transitions(steps), Contract(), space, space)
        for one, other in zip(steps, loaded, strict=True):
            assert_same(one, other)

    @given(
        observation=st.one_of(
            hnp.arrays(np.float32, 4, elements=finite(32)),
            hnp.arrays(np.float64, 4, elements=finite(64)),
        ),
        reward=finite(64),
    )
    def test_every_finite_number_comes_back_bit_for_bit(
        self, observation: Any, reward: float
    ) -> None:
        space = spaces.Box(-np.inf, np.inf, (4,), observation.dtype.type)
        step = Transition(observation, np.int64(1), reward, observation[::-1], True, False)
        loaded = load_transitions(dump_transitions([step]), Contract(), space, TWO)
        assert_same(step, loaded[0])

    def test_a_file_holds_what_was_saved(self, tmp_path: Path) -> None:
        steps = [random_transition(PAIR, TWO, seed) for seed in range(3)]
        save_transitions(tmp_path / "steps.json", steps)
        for path in (tmp_path / "steps.json", str(tmp_path / "steps.json")):
            loaded = load_transitions(path, Contract(), PAIR, TWO)
            assert [step.reward for step in loaded] == [step.reward for step in steps]

    def test_the_format_is_the_reference_systems(self) -> None:
        step = load_one(GOOD)
        assert json.loads(dump_transitions([step])) == {"transitions": [GOOD]}

    def test_no_transitions_are_a_list_too(self) -> None:
        assert load_transitions(dump_transitions([]), Contract(), PAIR, TWO) == []


class TestRollouts:
    """A whole rollout becomes transitions, each with its true next observation."""

    @pytest.mark.parametrize("n", [1, 3])
    def test_it_is_what_the_environments_did(self, n: int) -> None:
        with VecCheckedSession("CartPole-v1", n=n, workers=0) as vec:
            policy = RandomPolicy(vec.single_action_space)
            rollout = collect_rollout(vec, policy, 60, seed=4)
            spaces_ = vec.single_observation_space, vec.single_action_space
        assert len(rollout.final_steps) >= n
        steps = list(transitions_of(rollout))
        text = dump_transitions(steps, {"env_id": "CartPole-v1", "seed": 4, "steps": len(steps)})
        assert json.loads(text)["meta"] == {"env_id": "CartPole-v1", "seed": 4, "steps": 60 * n}
        loaded = load_transitions(text, Contract(), *spaces_)
        env = gymnasium.make("CartPole-v1")
        observation, _ = env.reset(seed=4)
        for step in loaded[:60]:
            np.testing.assert_array_equal(step.observation, observation)
            observation, reward, terminated, truncated, _ = env.step(int(step.action))
            np.testing.assert_array_equal(step.next_observation, observation)
            assert (step.reward, step.terminated, step.truncated) == (reward, terminated, truncated)
            if step.done:
                observation, _ = env.reset()
        env.close()

    def test_rows_of_a_lost_environment_are_left_out(self) -> None:
        rollout = Rollout.empty(3, 2, PAIR, TWO)
        rollout.valid[...] = True
        rollout.valid[1, 1] = False
        rollout.rewards[...] = np.arange(6).reshape(3, 2)
        assert [step.reward for step in transitions_of(rollout)] == [0, 2, 4, 1, 5]


class TestSaving:
    @pytest.mark.parametrize("field", ["observation", "reward", "next_observation"])
    @pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
    def test_numbers_that_json_has_not_are_refused(self, field: str, number: float) -> None:
        good = load_one(GOOD)
        value = number if field == "reward" else np.array([1.0, number], dtype=np.float32)
        bad = dataclasses.replace(good, **{field: value})
        with pytest.raises(TransitionError, match="transition 1: expected finite") as caught:
            dump_transitions([good, bad])
        assert (caught.value.index, caught.value.field) == (1, field)

    def test_a_batch_is_refused(self) -> None:
        batch = dataclasses.replace(load_one(GOOD), valid=np.ones(2, dtype=bool))
        with pytest.raises(ValueError, match="one environment, got a batch"):
            dump_transitions([batch])


BAD_FIELDS = [
    ("obs", [0.5], "observation", r"shape \[2\], got \[1\]: \[0.5\]"),
    ("obs", 0.5, "observation", r"shape \[2\], got \[\]: 0.5"),
    ("obs", [[0.5], [1.0]], "observation", r"shape \[2\], got \[2, 1\]"),
    ("obs", [1.0, [0.5]], "observation", r"a finite number, got \[0.5\]"),
    ("obs", [True, 1.0], "observation", "a finite number, got true"),
    ("obs", [None, 1.0], "observation", "a finite number, got null"),
    ("obs", ["1", 1.0], "observation", 'a finite number, got "1"'),
    ("obs", [float("nan"), 1.0], "observation", "a finite number, got NaN"),
    ("next_obs", [1.0, float("inf")], "next_observation", "a finite number, got Infinity"),
    ("next_obs", [1.0, 1e300], "next_observation", "numbers that fit float32"),
    ("next_obs", [1.0, 10**400], "next_observation", "numbers that fit float32"),
    ("action", 2, "action", "an action in Discrete"),
    ("action", -1, "action", "an action in Discrete"),
    ("action", 0.5, "action", "an integer, got 0.5"),
    ("action", 1e300, "action", "numbers that fit int64"),
    ("action", float("nan"), "action", "an integer, got NaN"),
    ("action", 2.0, "action", "an action in Discrete"),
    ("action", "1", "action", 'an integer, got "1"'),
    ("action", True, "action", "an integer, got true"),
    ("action", 2**80, "action", "numbers that fit int64"),
    ("reward", None, "reward", "a finite number, got null"),
    ("reward", True, "reward", "a finite number, got true"),
    ("reward", [1.0], "reward", r"a finite number, got \[1.0\]"),
    ("terminated", 0, "terminated", "true or false, got 0"),
    ("truncated", None, "truncated", "true or false, got null"),
]


class TestLoading:
    @pytest.mark.parametrize(("name", "value", "field", "message"), BAD_FIELDS)
    def test_a_field_of_a_wrong_form_is_refused(
        self, name: str, value: Any, field: str, message: str
    ) -> None:
        with pytest.raises(TransitionError, match=f"transition 0: expected {message}") as caught:
            load_one({**GOOD, name: value})
        assert (caught.value.index, caught.value.field) == (0, field)

    @pytest.mark.parametrize("name", list(GOOD))
    def test_a_missing_key_is_named(self, name: str) -> None:
        with pytest.raises(TransitionError, match=f'expected the key "{name}"'):
            load_one({key: value for key, value in GOOD.items() if key != name})

    def test_a_transition_that_is_no_object_is_refused(self) -> None:
        with pytest.raises(TransitionError, match=r"expected an object, got \[1\]"):
            load_one([1])

    @pytest.mark.parametrize(
        ("contract", "field"),
        [
            (Contract(obs_range=(0.0, 1.0)), "next_observation"),
            (Contract(obs_range=(0.4, 3.0)), "next_observation"),
            (Contract(reward_range=(0.0, 1.0)), "reward"),
        ],
    )
    def test_the_contract_is_checked(self, contract: Contract, field: str) -> None:
        with pytest.raises(TransitionError) as caught:
            load_one(GOOD, contract)
        assert caught.value.field == field

    def test_whole_numbers_may_be_written_as_floats(self) -> None:
        pixels = spaces.Box(0, 255, (3,), np.uint8)
        record = {**GOOD, "obs": [3.0, 0, 255.0], "action": 1.0, "next_obs": [1, 2, 3.0]}
        (step,) = load_transitions(text_of(record), Contract(), pixels, TWO)
        assert step.observation.tolist() == [3, 0, 255]
        assert step.observation.dtype == np.uint8
        assert step.action == 1
        assert type(step.action) is np.int64
        for bad, message in (
            ([0.5, 0, 0], "an integer, got 0.5"),
            ([256.0, 0, 0], "numbers that fit uint8"),
            ([-1, 0, 0], "numbers that fit uint8"),
            ([True, 0, 0], "an integer, got true"),
        ):
            with pytest.raises(TransitionError, match=message) as caught:
                load_transitions(text_of({**record, "obs": bad}), Contract(), pixels, TWO)
            assert caught.value.field == "observation"

    def test_the_order_of_checks_is_the_reference_systems(self) -> None:
        contract = Contract(
            require_exclusive_done_flags=True, reward_range=(0.0, 1.0), obs_range=(-1, 1)
        )
        bad = {**GOOD, "terminated": True, "reward": 2, "obs": [9, 9], "next_obs": [9, 9]}
        bad["action"] = 7
        mended = [
            ("action", "action", 1),
            ("terminated", "terminated", False),
            ("reward", "reward", 0.5),
            ("observation", "obs", [0, 0]),
            ("next_observation", "next_obs", [0, 0]),
        ]
        for field, name, good in mended:
            with pytest.raises(TransitionError) as caught:
                load_one(bad, contract)
            assert caught.value.field == field
            bad[name] = good
        load_one(bad, contract)

    @given(st.data())
    def test_whatever_a_file_holds_each_transition_is_read_or_refused(self, data: Any) -> None:
        plain = st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
            max_leaves=8,
        )
        fields = st.fixed_dictionaries({}, optional=dict.fromkeys(GOOD, plain))
        records = data.draw(st.lists(plain | fields.map(lambda bad: {**GOOD, **bad}), max_size=4))
        pixels, nested = spaces.Box(0, 9, (2, 0, 3), np.uint8), spaces.Dict({"a": PAIR, "b": TWO})
        for space in (PAIR, TWO, pixels, nested, spaces.Text(3)):
            results = load_transitions_all(text_of(*records), Contract(), space, TWO)
            assert len(results) == len(records)
            for index, result in enumerate(results):
                if isinstance(result, TransitionError):
                    assert result.index == index
                    assert "expected " in result.reason
                else:
                    assert space.contains(result.observation)

    @pytest.mark.parametrize("depth", [63, 64, 65, 200])
    def test_numbers_nested_too_deeply_are_refused(self, depth: int) -> None:
        deep: Any = 1.0
        for _ in range(depth):
            deep = [deep]
        with pytest.raises(TransitionError, match=r"expected shape \[2\], got"):
            load_one({**GOOD, "obs": deep})

    def test_texts_are_read_where_their_space_has_them(self) -> None:
        text = spaces.Dict({"mission": spaces.Text(5), "view": PAIR})
        view = {"mission": "go", "view": [0, 1]}
        record = {**GOOD, "obs": view, "next_obs": view}
        (step,) = load_transitions(text_of(record), Contract(), text, TWO)
        assert step.observation["mission"] == "go"
        for wrong in ("too long", 5):
            bad = {**record, "next_obs": {**view, "mission": wrong}}
            with pytest.raises(TransitionError, match="expected a text in Text") as caught:
                load_transitions(text_of(bad), Contract(), text, TWO)
            assert caught.value.field == "next_observation['mission']"

    @pytest.mark.parametrize("space", [spaces.Sequence(PAIR), spaces.OneOf([PAIR, TWO])])
    def test_a_space_without_a_form_in_json_is_refused(self, space: Any) -> None:
        with pytest.raises(SpaceError, match=r"space\['x'\]: expected arrays, numbers and texts"):
            load_transitions(text_of(GOOD), Contract(), spaces.Dict({"x": space}), TWO)

    def test_a_file_of_the_reference_systems_form(self) -> None:
        """Written by hand, as its exporter writes: `meta` first, floats everywhere."""
        text = """{
          "meta": {"env_id": "CartPole-v1", "seed": 0, "steps": 2},
          "transitions": [
            {"obs": [0.5, 1], "action": 1.0, "reward": 1.0, "terminated": false,
             "truncated": false, "next_obs": [0.75, 2.0]},
            {"obs": [0.75, 2.0], "action": 0, "reward": 1, "terminated": true,
             "truncated": false, "next_obs": [1e0, -3.0]}
          ]
        }"""
        first, second = load_transitions(text, Contract(), PAIR, TWO)
        assert (first.action, second.action, second.terminated) == (1, 0, True)
        assert second.next_observation.tolist() == [1.0, -3.0]

    @pytest.mark.parametrize("action_range", ["clip", "allow"])
    def test_a_box_action_that_was_not_refused_then_is_not_refused_now(
        self, action_range: Any
    ) -> None:
        record = {**GOOD, "action": [3.0, 0.0]}
        contract = Contract(action_range=action_range)
        loaded = load_transitions(text_of(record), contract, PAIR, spaces.Box(-1, 1, (2,)))
        assert loaded[0].action.tolist() == [3.0, 0.0]
        with pytest.raises(TransitionError, match="an action in Box"):
            load_transitions(text_of(record), Contract(), PAIR, spaces.Box(-1, 1, (2,)))

    def test_nested_observations_name_the_part(self) -> None:
        space = spaces.Dict({"a": spaces.Tuple((PAIR, TWO))})
        record = {**GOOD, "obs": {"a": [[0.0, 1.0], 1.5]}, "next_obs": {"a": [[0.0, 1.0], 1]}}
        with pytest.raises(TransitionError, match=r"an integer, got 1\.5") as caught:
            load_transitions(text_of(record), Contract(), space, TWO)
        assert caught.value.field == "observation['a'][1]"
        for wrong in ({"b": 1}, [1], {"a": [[0.0, 1.0]]}):
            with pytest.raises(TransitionError, match=r"expected (an object with|a list of 2)"):
                load_transitions(text_of({**GOOD, "obs": wrong}), Contract(), space, TWO)

    def test_the_strict_loader_stops_at_the_first_bad_transition(self) -> None:
        text = text_of(GOOD, {**GOOD, "reward": None}, {})
        with pytest.raises(TransitionError, match="transition 1: ") as caught:
            load_transitions(text, Contract(), PAIR, TWO)
        assert caught.value.index == 1

    def test_the_other_loader_gives_a_result_or_an_error_for_each(self) -> None:
        text = text_of(GOOD, {**GOOD, "reward": None}, GOOD, {**GOOD, "action": 5})
        results = load_transitions_all(text, Contract(), PAIR, TWO)
        assert [type(result) for result in results] == [
            Transition,
            TransitionError,
            Transition,
            TransitionError,
        ]
        errors = [result for result in results if isinstance(result, TransitionError)]
        assert [(error.index, error.field) for error in errors] == [(1, "reward"), (3, "action")]

    @pytest.mark.parametrize("load", [load_transitions, load_transitions_all])
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", "expected JSON"),
            ('{"transitions": 3}', 'an object with a list "transitions"'),
            ('{"steps": []}', 'an object with a list "transitions"'),
            ('{"transitions": ' + "[" * 100_000, "expected JSON"),
        ],
    )
    def test_a_text_that_is_no_rollout_is_refused(self, load: Any, text: str, message: str) -> None:
        with pytest.raises(ContractViolation, match=message):
            load(text, Contract(), PAIR, TWO)

    @pytest.mark.parametrize("data", [b"[]", b"\xff\xfe{", b""])
    def test_a_file_that_is_no_rollout_is_refused(self, tmp_path: Path, data: bytes) -> None:
        (tmp_path / "bad.json").write_bytes(data)
        with pytest.raises(ContractViolation, match="expected"):
            load_transitions(tmp_path / "bad.json", Contract(), PAIR, TWO)

    def test_a_missing_file_is_pythons_own_error(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            load_transitions(tmp_path / "none.json", Contract(), PAIR, TWO)
