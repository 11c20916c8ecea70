"""Every space as observation and as action, in every grouping, as in Gymnasium's SyncVectorEnv."""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from tests.gymnasium.comparison import Twins, assert_same
from tests.gymnasium.sample_envs import FunctionSpace, NamedSpace, OpaqueSpace, SampleEnv
from vecsess import ContractViolation, VecCheckedSession, collect_rollout
from vecsess.errors import ActionError
from vecsess.wire.spaces import CustomSpace

N = 3
FLOATS = [np.float16, np.float32, np.float64]
INTEGERS = [getattr(np, f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)]

ARRAY_SPACES: dict[str, spaces.Space[Any]] = {
    **{f"Box {kind.__name__}": spaces.Box(-1, 1, (2, 3), kind) for kind in FLOATS},
    **{f"Box {kind.__name__}": spaces.Box(0, 100, (3,), kind) for kind in INTEGERS},
    "Box bool": spaces.Box(0, 1, (4,), np.bool_),
    "Box scalar": spaces.Box(-1.0, 1.0, ()),
    "Box integer scalar": spaces.Box(0, 9, (), np.int16),
    "Box of size zero": spaces.Box(-1.0, 1.0, (0,)),
    "Box with a side of zero": spaces.Box(-1.0, 1.0, (2, 0, 3)),
    "Box unbounded": spaces.Box(-np.inf, np.inf, (2,)),
    "image": spaces.Box(0, 255, (12, 12, 3), np.uint8),
    "Discrete": spaces.Discrete(5),
    "Discrete from a start": spaces.Discrete(5, start=-2),
    "Discrete of int8": spaces.Discrete(5, dtype=np.int8),
    "Discrete of uint16": spaces.Discrete(5, start=3, dtype=np.uint16),
    "MultiDiscrete": spaces.MultiDiscrete([2, 5, 3]),
    "MultiDiscrete of two axes": spaces.MultiDiscrete(np.array([[2, 3], [4, 5]])),
    "MultiDiscrete from a start": spaces.MultiDiscrete([4, 4], start=[-1, 7]),
    "MultiBinary": spaces.MultiBinary(6),
    "MultiBinary of two axes": spaces.MultiBinary([2, 3]),
    "Dict": spaces.Dict(image=spaces.Box(0, 255, (2, 2), np.uint8), speed=spaces.Box(-1, 1, ())),
    "Dict in its own order": spaces.Dict([("b", spaces.Discrete(2)), ("a", spaces.Discrete(3))]),
    "Dict of Dict": spaces.Dict(
        a=spaces.Dict(b=spaces.Discrete(3), c=spaces.Dict(d=spaces.MultiBinary(2)))
    ),
    "Dict of Tuple": spaces.Dict(pair=spaces.Tuple([spaces.Discrete(2), spaces.Box(0, 1, (2,))])),
    "Tuple": spaces.Tuple([spaces.Discrete(2), spaces.Box(-1, 1, (2,), np.float64)]),
    "Tuple of Tuple": spaces.Tuple(
        [spaces.Tuple([spaces.Discrete(2, start=4)]), spaces.Dict(a=spaces.MultiDiscrete([2, 2]))]
    ),
}
PIPED_SPACES: dict[str, spaces.Space[Any]] = {
    "Text": spaces.Text(8),
    "Text of a charset": spaces.Text(5, min_length=0, charset="äöü☃"),
    "Sequence": spaces.Sequence(spaces.Discrete(4)),
    "Sequence of Box": spaces.Sequence(spaces.Box(-1, 1, (2,))),
    "Sequence stacked": spaces.Sequence(spaces.Box(-1, 1, (2,)), stack=True),
    "Sequence of Dict stacked": spaces.Sequence(
        spaces.Dict(a=spaces.Discrete(3), b=spaces.Box(0, 1, (1,))), stack=True
    ),
    "Sequence of Tuple": spaces.Sequence(spaces.Tuple([spaces.Discrete(3), spaces.Text(3)])),
    "Graph": spaces.Graph(spaces.Box(-1, 1, (3,)), spaces.Discrete(4)),
    "Graph without edges": spaces.Graph(spaces.Discrete(5), None),
    "OneOf": spaces.OneOf([spaces.Discrete(3), spaces.Box(0, 1, (2,)), spaces.Text(4)]),
    "custom": NamedSpace(4),
    "Dict with Text": spaces.Dict(mission=spaces.Text(9), image=spaces.Box(0, 255, (2,), np.uint8)),
    "Dict with custom": spaces.Dict(
        a=NamedSpace(2),
        b=spaces.Tuple([spaces.Graph(spaces.Box(0, 1, (1,)), None), spaces.Discrete(2)]),
    ),
    "Tuple with Sequence": spaces.Tuple(
        [spaces.Sequence(spaces.MultiBinary(2)), spaces.Discrete(2)]
    ),
}
ALL_SPACES = ARRAY_SPACES | PIPED_SPACES


def makers(observation_space: spaces.Space[Any], action_space: Any = None) -> list[Any]:
    return [partial(SampleEnv, observation_space, action_space)] * N


@pytest.mark.filterwarnings("ignore:.*Getting the length of a multi-dim:UserWarning")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", ALL_SPACES)
def test_a_space_as_observation_and_as_action(name: str, workers: int) -> None:
    space = ALL_SPACES[name]
    with Twins(makers(space, space), AutoresetMode.SAME_STEP, workers=workers) as twins:
        assert twins.ours.single_observation_space == space
        assert twins.ours.observation_space == batch_space(space, N)
        assert twins.ours.single_action_space == space
        assert twins.ours.action_space == batch_space(space, N)
        assert twins.run(8) == 2 * N
        assert twins.reset(seed=[3, None, 4])[0] in twins.ours.observation_space


def seeded(space: spaces.Space[Any]) -> SampleEnv:
    env = SampleEnv(deepcopy(space), deepcopy(space))
    env.action_space.seed(3)
    env.observation_space.seed(4)
    env.action_space.sample()
    return env


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", ["Discrete", "image", "Dict with custom", "Graph", "Sequence"])
def test_a_makers_seeds_of_spaces_come_along(name: str, workers: int) -> None:
    makers = [partial(seeded, ALL_SPACES[name])] * N
    with Twins(makers, AutoresetMode.SAME_STEP, workers=workers) as twins:
        for space in ("action_space", "single_action_space", "single_observation_space"):
            ours, theirs = getattr(twins.ours, space), getattr(twins.theirs, space)
            for _ in range(3):
                assert_same(ours.sample(), theirs.sample(), space)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
@pytest.mark.parametrize("name", ["Dict with custom", "Tuple", "Box scalar", "Discrete", "OneOf"])
def test_spaces_in_the_other_modes(name: str, mode: AutoresetMode) -> None:
    with Twins(makers(ALL_SPACES[name]), mode, workers=2) as twins:
        assert twins.run(9) >= 2 * N


@pytest.mark.parametrize("name", PIPED_SPACES)
def test_what_was_given_out_is_the_trainers_own(name: str) -> None:
    with VecCheckedSession(makers(PIPED_SPACES[name]), workers=1) as vec:
        vec.reset(seed=0)
        observations = vec.step([0] * N)[0]
        told = repr(observations)
        vec.step([0] * N)
        vec.reset(seed=1)
    assert repr(observations) == told


class TestRollouts:
    @pytest.mark.parametrize("workers", [0, 2])
    def test_dict_observations_are_a_dict_of_arrays(self, workers: int) -> None:
        space = spaces.Dict(
            image=spaces.Box(0, 255, (4, 4), np.uint8),
            inner=spaces.Tuple([spaces.Discrete(3), spaces.Box(-1, 1, ())]),
        )
        with VecCheckedSession(makers(space), workers=workers) as vec:
            rollout = collect_rollout(vec, uniform_policy(vec), 7, seed=0)
        assert rollout.observations["image"].shape == (7, N, 4, 4)
        assert rollout.observations["image"].dtype == np.uint8
        assert rollout.observations["inner"][0].shape == (7, N)
        assert rollout.observations["inner"][1].dtype == np.float32
        assert rollout.final_observations["image"].shape == (2 * N, 4, 4)

    @pytest.mark.parametrize("workers", [0, 2])
    def test_texts_are_arrays_of_objects(self, workers: int) -> None:
        space = spaces.Dict(mission=spaces.Text(9), place=spaces.Discrete(4))
        with VecCheckedSession(makers(space), workers=workers) as vec:
            rollout = collect_rollout(vec, uniform_policy(vec), 7, seed=0)
        assert rollout.observations["mission"].shape == (7, N)
        assert all(isinstance(text, str) for text in rollout.observations["mission"].flat)
        assert len(set(rollout.observations["mission"].flat)) > N
        assert rollout.final_observations["mission"].shape == (2 * N,)
        batch = rollout.to_actor_critic_batch()
        assert batch.observations["mission"].shape == (7 * N,)

    def test_a_checked_step_has_them_too(self) -> None:
        with VecCheckedSession(makers(PIPED_SPACES["Sequence"]), workers=2) as vec:
            first = vec.start(seed=0)
            for _ in range(3):
                transition = vec.step_checked([0] * N)
                assert_same(transition.observation, first)
                first = vec.observe()
            assert transition.truncated.all()
            assert transition.next_observation.shape == (N,)
            assert not any(map(equal, transition.next_observation, first))


def equal(one: Any, other: Any) -> bool:
    return bool(one == other)


def uniform_policy(vec: VecCheckedSession) -> Any:
    """Returns a policy that looks at nothing."""
    actions = int(vec.single_action_space.n)  # type: ignore[attr-defined]

    def rows(observations: Any) -> int:
        while isinstance(observations, dict | tuple):
            observations = (
                next(iter(observations.values()))
                if isinstance(observations, dict)
                else observations[0]
            )
        return len(observations)

    return (
        lambda observations: np.zeros((rows(observations), actions), np.float32),
        lambda observations: np.zeros(rows(observations), np.float32),
    )


class TestCustomSpaces:
    @pytest.mark.parametrize("workers", [0, 2])
    def test_a_class_that_the_trainer_knows_comes_back(self, workers: int) -> None:
        with VecCheckedSession(makers(NamedSpace(5)), workers=workers) as vec:
            assert type(vec.single_observation_space) is NamedSpace
            assert vec.single_observation_space.length == 5
            observations, _ = vec.reset(seed=0)
            assert isinstance(observations, tuple)
            assert observations in vec.observation_space

    @pytest.mark.parametrize("workers", [0, 2])
    def test_one_that_holds_code_is_replaced(self, workers: int) -> None:
        with VecCheckedSession(makers(FunctionSpace()), workers=workers) as vec:
            space = vec.single_observation_space
            assert isinstance(space, CustomSpace)
            assert space.name.endswith("FunctionSpace")
            observations, _ = vec.reset(seed=0)
            assert [type(one) for one in observations] == [str] * N
            with pytest.raises(NotImplementedError, match=r"FunctionSpace.* can't sample"):
                space.sample()

    def test_one_that_holds_code_can_be_given(self) -> None:
        single = FunctionSpace()
        mode = (batch_space(single, N), single)
        with VecCheckedSession(makers(FunctionSpace()), workers=2, observation_mode=mode) as vec:
            assert vec.single_observation_space is single
            assert vec.reset(seed=0)[0] in vec.observation_space

    @pytest.mark.parametrize("workers", [0, 2])
    def test_values_that_are_no_plain_data_are_refused_by_name(self, workers: int) -> None:
        with (
            VecCheckedSession(makers(OpaqueSpace()), workers=workers) as vec,
            pytest.raises(ContractViolation, match=r"can't send a builtins.object.*OpaqueSpace"),
        ):
            vec.reset(seed=0)


class TestForms:
    @pytest.mark.parametrize(
        ("name", "wrong"),
        [
            ("Text", 3),
            ("Sequence", [1]),
            ("Sequence stacked", np.zeros((2, 3), np.float32)),
            ("Graph", np.zeros(3)),
            ("OneOf", (3, 0)),
            ("OneOf", (0, "a")),
            ("Dict with Text", {"mission": 1, "image": np.zeros(2, np.uint8)}),
        ],
    )
    @pytest.mark.parametrize("workers", [0, 1])
    def test_a_value_of_another_form_is_a_violation(
        self, name: str, wrong: Any, workers: int
    ) -> None:
        with VecCheckedSession(makers(PIPED_SPACES[name]), workers=workers) as vec:
            vec.reset(seed=0)
            vec.set_attr("_source", [Constant(wrong)] * N)
            with pytest.raises(ContractViolation, match="expected") as caught:
                vec.step([0] * N)
        assert caught.value.env == 0
        assert str(caught.value.field).startswith("next_observation")

    @pytest.mark.parametrize(
        ("name", "wrong"),
        [
            ("Text", ["a", "b"]),
            ("Text", ["a", "b", 3]),
            ("Text", ["a", "b", "longer than eight"]),
            ("Text", "abc"),
            ("OneOf", [(0, 0), (0, 1), (0, 3)]),
            ("Sequence", [(0,), (1,), (4,)]),
        ],
    )
    def test_a_wrong_action_is_refused_before_any_worker_is_told(
        self, name: str, wrong: Any
    ) -> None:
        space = PIPED_SPACES[name]
        with VecCheckedSession(makers(spaces.Discrete(2), space), workers=2) as vec:
            vec.reset(seed=0)
            with pytest.raises(ActionError, match="expected"):
                vec.step(wrong)
            vec.action_space.seed(0)
            assert vec.step(vec.action_space.sample())[4]["_action"].all()


class Constant:
    """Has the shape of a space that gives always the same."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def sample(self) -> Any:
        return self.value
