"""SB3VecEnv: what SB3's own vector environments do, with SB3's own as the oracle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest

from tests.losses import kill
from tests.train.extras import NEEDS
from tests.train.train_envs import BrightSideEnv, Env, MoreShifted, Shifted, TalkativeEnv
from vecsess import VecCheckedSession
from vecsess.errors import ActionError, ClosedError, EnvError, StateError

sb3 = pytest.importorskip("stable_baselines3", reason=NEEDS)

from stable_baselines3.common import vec_env  # noqa: E402  # skipped above where it is missing
from stable_baselines3.common.evaluation import evaluate_policy  # noqa: E402

from vecsess.integrations.sb3 import SB3VecEnv  # noqa: E402

N = 5

MAKERS: dict[str, Callable[[], Env]] = {
    "terminates": lambda: gymnasium.make("CartPole-v1"),
    "truncates": lambda: gymnasium.make("Pendulum-v1", max_episode_steps=17),
    "infos": lambda: TalkativeEnv(),
    "dict": lambda: TalkativeEnv(nested=True),
    "image": lambda: BrightSideEnv(),
}


@pytest.fixture(params=[0, 2])
def talkative(request: pytest.FixtureRequest) -> Iterator[Any]:
    maker = lambda: Shifted(TalkativeEnv(render_mode="rgb_array"))  # noqa: E731
    with VecCheckedSession(maker, N, workers=request.param) as vec:
        yield SB3VecEnv(vec)


def assert_same(one: Any, other: Any) -> None:
    """Compares trees of arrays and plain data, types included."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert type(one) is type(other)
        np.testing.assert_array_equal(one, other)
        if isinstance(one, np.ndarray):
            assert one.dtype == other.dtype


def trajectory(env: Any, steps: int = 60) -> list[Any]:
    """Returns all that an environment gives out, with actions drawn from a seed."""
    env.seed(3)
    env.action_space.seed(4)
    told: list[Any] = [env.reset(), list(env.reset_infos)]
    for _ in range(steps):
        actions = np.array([env.action_space.sample() for _ in range(env.num_envs)])
        observations, rewards, dones, infos = env.step(actions)
        told += [observations, rewards, dones, list(infos), [dict(i) for i in env.reset_infos]]
    return told


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", MAKERS)
def test_it_gives_out_what_the_dummy_does(name: str, workers: int) -> None:
    expected = trajectory(vec_env.DummyVecEnv([MAKERS[name]] * N))
    with VecCheckedSession(MAKERS[name], N, workers=workers) as vec:
        assert_same(trajectory(SB3VecEnv(vec)), expected)


def test_an_ended_episode_is_told_as_documented() -> None:
    with VecCheckedSession(MAKERS["infos"], N, workers=2) as vec:
        env = SB3VecEnv(vec)
        env.seed(0)
        env.reset()
        ways = set()
        for _ in range(40):
            observations, _, dones, infos = env.step(np.zeros(N, np.int64))
            for i in range(N):
                assert ("terminal_observation" in infos[i]) == bool(dones[i])
                if dones[i]:
                    assert not np.array_equal(infos[i]["terminal_observation"], observations[i])
                    assert env.reset_infos[i]["length"] > 0
                    ways.add(infos[i]["TimeLimit.truncated"])
        assert ways == {True, False}


def test_observations_are_not_changed_by_later_steps(talkative: Any) -> None:
    first = talkative.reset()
    kept = first.copy()
    second, *_ = talkative.step(np.zeros(N, np.int64))
    copied = second.copy()
    talkative.step(np.ones(N, np.int64))
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(second, copied)


def test_seeds_and_options_are_used_at_the_next_reset_and_once(talkative: Any) -> None:
    assert list(talkative.seed(7)) == [7, 8, 9, 10, 11]
    talkative.set_options({"level": 2})
    first = talkative.reset()
    assert [info["seed"] for info in talkative.reset_infos] == [7, 8, 9, 10, 11]
    assert [info["options"] for info in talkative.reset_infos] == [{"level": 2}] * N
    second = talkative.reset()
    assert [info["seed"] for info in talkative.reset_infos] == [None] * N
    assert [info["options"] for info in talkative.reset_infos] == [{}] * N
    assert not np.array_equal(first, second)
    talkative.seed(7)
    np.testing.assert_array_equal(talkative.reset(), first)


def test_each_environment_may_have_options_of_its_own(talkative: Any) -> None:
    options = [{"level": 1}, {}, {"level": 1}, {"level": np.arange(2)}, {}]
    talkative.seed(0)
    talkative.set_options(options)
    first = talkative.reset()
    assert_same([info["options"] for info in talkative.reset_infos], options)
    talkative.seed(0)
    np.testing.assert_array_equal(talkative.reset(), first)


def test_methods_are_called_where_they_are_meant(talkative: Any) -> None:
    assert talkative.env_method("multiply", 3) == [6] * N
    assert talkative.env_method("multiply", 3, times=5, indices=[1, 3]) == [15, 15]
    assert talkative.env_method("multiply", 3, indices=4) == [6]
    assert talkative.get_attr("asked") == [1, 2, 1, 2, 2]


def test_attributes_are_read_and_set_where_they_are_meant(talkative: Any) -> None:
    assert talkative.get_attr("difficulty") == [1] * N
    talkative.set_attr("difficulty", 3, indices=[0, 2])
    talkative.set_attr("difficulty", 5, indices=4)
    assert talkative.get_attr("difficulty") == [3, 1, 3, 1, 5]
    assert talkative.get_attr("difficulty", indices=range(1, 3)) == [1, 3]
    talkative.set_attr("difficulty", [7, 8])  # one value, which is a list
    assert talkative.get_attr("difficulty") == [[7, 8]] * N


def test_what_is_not_there_is_an_attribute_error(talkative: Any) -> None:
    with pytest.raises(AttributeError, match="nowhere"):
        talkative.get_attr("nowhere")
    with pytest.raises(AttributeError, match="nowhere"):
        talkative.env_method("nowhere")
    assert not talkative.has_attr("nowhere")


def test_an_attribute_is_there_whatever_its_type(talkative: Any) -> None:
    assert talkative.has_attr("difficulty")
    assert talkative.has_attr("multiply")
    assert talkative.get_attr("asked") == [0] * N  # asking did not call it
    with pytest.raises(EnvError, match="plain data"):
        talkative.get_attr("multiply")


def test_what_only_reads_leaves_an_episode_replayable() -> None:
    with VecCheckedSession(lambda: TalkativeEnv(render_mode="rgb_array"), 2, workers=2) as vec:
        env = SB3VecEnv(vec, pure_calls=["multiply"])
        env.seed(0)
        env.reset()
        assert env.has_attr("difficulty")
        assert env.get_attr("asked") == [0, 0]
        assert len(env.get_images()) == 2
        assert env.env_method("multiply", 2) == [4, 4]
        env.step(np.zeros(2, np.int64))
        kill(vec, 0, wait=True)
        env.step(np.zeros(2, np.int64))
        assert [text for one in vec.incidents for text in one.outcomes.values()] == [
            "replayed episode"
        ]
        with pytest.raises(ValueError, match="use `step` directly"):
            SB3VecEnv(vec, pure_calls=["step"])


@pytest.mark.parametrize("level", ["final", "none"])
def test_less_of_infos_may_be_asked_for(level: Any) -> None:
    with VecCheckedSession(MAKERS["infos"], N, workers=2) as vec:
        env, ended = SB3VecEnv(vec, infos=level), 0
        env.reset()
        assert all("length" in info for info in env.reset_infos)
        for _ in range(12):
            _, _, dones, infos = env.step(np.zeros(N, np.int64))
            assert [("step" in info) for info in infos] == [
                bool(done) and level == "final" for done in dones
            ]
            assert [("terminal_observation" in info) for info in infos] == dones.tolist()
            ended += int(dones.sum())
        assert ended > N
        with pytest.raises(ValueError, match="expected one of"):
            SB3VecEnv(vec, infos="some")  # type: ignore[arg-type]


def test_wrappers_are_found_by_class(talkative: Any) -> None:
    assert talkative.env_is_wrapped(Shifted) == [True] * N
    assert talkative.env_is_wrapped(MoreShifted, indices=[0, 1]) == [False, False]
    assert talkative.env_is_wrapped(gymnasium.Wrapper, indices=2) == [True]
    with VecCheckedSession(lambda: MoreShifted(TalkativeEnv()), 1, workers=1) as vec:
        assert SB3VecEnv(vec).env_is_wrapped(Shifted) == [True]


def test_frames_are_tiled_into_one_image(talkative: Any) -> None:
    talkative.reset()
    talkative.step(np.zeros(N, np.int64))
    assert talkative.render_mode == "rgb_array"
    assert [image.shape for image in talkative.get_images()] == [(4, 4, 3)] * N
    image = talkative.render()
    assert image.shape == (12, 8, 3)  # 3 rows of 2
    assert image.max() == 1


def test_without_a_render_mode_there_is_nothing_to_show() -> None:
    with VecCheckedSession("CartPole-v1", n=2, workers=1) as vec:
        env = SB3VecEnv(vec)
        with pytest.warns(UserWarning, match="render mode is None"):
            assert env.get_images() == [None, None]


def test_a_reset_cancels_a_step_under_way(talkative: Any) -> None:
    talkative.seed(1)
    first = talkative.reset()
    talkative.step_async(np.zeros(N, np.int64))
    talkative.seed(1)
    np.testing.assert_array_equal(talkative.reset(), first)


def test_closing_it_closes_the_session() -> None:
    vec = VecCheckedSession("CartPole-v1", n=2, workers=1)
    env = SB3VecEnv(vec)
    env.close()
    env.close()
    with pytest.raises(ClosedError):
        vec.reset()


def test_it_wants_same_step_auto_reset() -> None:
    with (
        VecCheckedSession("CartPole-v1", n=2, workers=0, autoreset_mode="next_step") as vec,
        pytest.raises(StateError, match="same-step"),
    ):
        SB3VecEnv(vec)


WRAPPERS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "VecNormalize": ("truncates", lambda env: vec_env.VecNormalize(env)),
    "VecNormalize of a Dict": (
        "dict",
        lambda env: vec_env.VecNormalize(env, norm_obs_keys=["vector"]),
    ),
    "VecFrameStack": ("image", lambda env: vec_env.VecFrameStack(env, 4)),
    "VecTransposeImage": ("image", lambda env: vec_env.VecTransposeImage(env)),
    "VecCheckNan": ("infos", lambda env: vec_env.VecCheckNan(env, raise_exception=True)),
    "VecExtractDictObs": ("dict", lambda env: vec_env.VecExtractDictObs(env, "vector")),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers_give_what_they_give_over_the_dummy(name: str) -> None:
    maker, wrap = WRAPPERS[name]
    expected = trajectory(wrap(vec_env.DummyVecEnv([MAKERS[maker]] * N)))
    with VecCheckedSession(MAKERS[maker], N, workers=2) as vec:
        assert_same(trajectory(wrap(SB3VecEnv(vec))), expected)


def test_the_monitor_counts_whole_episodes() -> None:
    def episodes(env: Any) -> list[tuple[float, int]]:
        told = trajectory(vec_env.VecMonitor(env))
        infos = [info for infos in told[5::5] for info in infos if "episode" in info]
        return [(info["episode"]["r"], info["episode"]["l"]) for info in infos]

    expected = episodes(vec_env.DummyVecEnv([MAKERS["terminates"]] * N))
    with VecCheckedSession(MAKERS["terminates"], N, workers=2) as vec:
        assert episodes(SB3VecEnv(vec)) == expected
    assert expected


@pytest.mark.parametrize(
    ("maker", "policy"), [("dict", "MultiInputPolicy"), ("truncates", "MlpPolicy")]
)
def test_ppo_takes_dict_observations_and_continuous_actions(maker: str, policy: str) -> None:
    with VecCheckedSession(MAKERS[maker], N, workers=2) as vec:
        model = sb3.PPO(policy, SB3VecEnv(vec), n_steps=16, batch_size=20, n_epochs=1, seed=0)
        model.learn(2 * 16 * N)
        assert model.num_timesteps == 2 * 16 * N


@pytest.mark.slow
def test_ppo_learns_cartpole() -> None:
    with VecCheckedSession("CartPole-v1", n=8, workers="auto") as vec:
        env = vec_env.VecMonitor(SB3VecEnv(vec))
        model = sb3.PPO(
            "MlpPolicy",
            env,
            seed=0,
            n_steps=32,
            batch_size=256,
            n_epochs=20,
            gamma=0.98,
            gae_lambda=0.8,
            learning_rate=1e-3,
        )
        model.learn(40_000)
        mean, _ = evaluate_policy(model, env, n_eval_episodes=16)
    assert mean >= 200  # a random policy gets about 22


class ActionEnv(gymnasium.Env[Any, Any]):
    """Counts right actions; its reset knows of no options."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 12}  # noqa: RUF012  # as Gymnasium has it
    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, space: gymnasium.Space[Any], render_mode: str | None = None) -> None:
        self.action_space, self.render_mode = space, render_mode
        self.steps = 0

    def reset(self, *, seed: int | None = None) -> Any:  # type: ignore[override]
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        right = float(self.action_space.contains(action))
        return np.zeros(2, np.float32), right, self.steps == 5, False, {}


SPACES = {
    "MultiBinary": gymnasium.spaces.MultiBinary(3),
    "MultiDiscrete": gymnasium.spaces.MultiDiscrete([2, 3]),
    "Box": gymnasium.spaces.Box(-1, 1, (2,), np.float32),
    "Discrete": gymnasium.spaces.Discrete(3),
}
NESTED = {
    "Dict": gymnasium.spaces.Dict(SPACES),
    "Tuple": gymnasium.spaces.Tuple([SPACES["Box"], SPACES["Discrete"]]),
}


class TestAsVecEnvCls:
    @pytest.mark.parametrize("name", SPACES)
    def test_sb3_makes_it_and_its_monitor_tells_of_returns(self, name: str) -> None:
        from stable_baselines3.common.env_util import make_vec_env

        envs = make_vec_env(
            lambda: ActionEnv(SPACES[name]),
            n_envs=2,
            seed=0,
            vec_env_cls=SB3VecEnv,
            vec_env_kwargs={"workers": 1},
        )
        model = sb3.PPO("MlpPolicy", envs, n_steps=16, batch_size=32, n_epochs=1, device="cpu")
        model.learn(32)
        assert [episode["l"] for episode in model.ep_info_buffer] == [5] * 6
        assert {episode["r"] for episode in model.ep_info_buffer} == {5.0}
        assert envs.metadata["render_fps"] == 12
        envs.close()

    @pytest.mark.parametrize("name", NESTED)
    def test_a_list_of_actions_is_a_batch(self, name: str) -> None:
        space = NESTED[name]
        envs = SB3VecEnv([lambda: ActionEnv(space)] * 3, workers=0)
        envs.reset()
        assert envs.step([space.sample() for _ in range(3)])[1].tolist() == [1.0] * 3
        envs.close()

    def test_what_is_no_bit_is_refused_still(self) -> None:
        envs = SB3VecEnv([lambda: ActionEnv(SPACES["MultiBinary"])] * 2, workers=0)
        envs.reset()
        for bad in (0.5, 2.0, np.nan):
            with pytest.raises(ActionError):
                envs.step(np.full((2, 3), bad, np.float32))
        envs.close()

    def test_a_session_has_its_arguments_already(self) -> None:
        with VecCheckedSession(n=2, workers=0) as vec, pytest.raises(TypeError, match="workers"):
            SB3VecEnv(vec, workers=2)
