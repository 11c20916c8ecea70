"""Each of Gymnasium's vector wrappers, in each mode in which it works over SyncVectorEnv."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import vector as wrappers

from tests.gymnasium.comparison import assert_same
from tests.gymnasium.mode_envs import DiaryEnv
from tests.gymnasium.sample_envs import SampleEnv
from vecsess import Contract, VecCheckedSession

N = 3
STEPS = 12
Vec = VectorEnv[Any, Any, Any]

IMAGES = partial(SampleEnv, spaces.Box(0, 255, (8, 6, 3), np.uint8))
BOXES = partial(SampleEnv, spaces.Box(-1.0, 1.0, (2, 3)))
DICTS = partial(SampleEnv, spaces.Dict(a=spaces.Box(0, 1, (2,)), b=spaces.Discrete(4)))
PENDULUMS = partial(gymnasium.make, "Pendulum-v1", max_episode_steps=4)
FRAMES = partial(DiaryEnv, render_mode="rgb_array")

CASES: dict[str, tuple[Callable[..., Any], Callable[[Vec], Vec]]] = {
    "TransformObservation": (
        BOXES,
        lambda vec: wrappers.TransformObservation(vec, lambda batch: batch * 2),
    ),
    "VectorizeTransformObservation": (
        DICTS,
        lambda vec: wrappers.VectorizeTransformObservation(
            vec, gymnasium.wrappers.transform_observation.FlattenObservation
        ),
    ),
    "FilterObservation": (DICTS, lambda vec: wrappers.FilterObservation(vec, ["a"])),
    "FlattenObservation": (DICTS, wrappers.FlattenObservation),
    "GrayscaleObservation": (IMAGES, wrappers.GrayscaleObservation),
    "ResizeObservation": (IMAGES, lambda vec: wrappers.ResizeObservation(vec, (4, 4))),
    "ReshapeObservation": (BOXES, lambda vec: wrappers.ReshapeObservation(vec, (3, 2))),
    "RescaleObservation": (
        BOXES,
        lambda vec: wrappers.RescaleObservation(
            vec, np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)
        ),
    ),
    "DtypeObservation": (BOXES, lambda vec: wrappers.DtypeObservation(vec, np.float64)),
    "NormalizeObservation": (BOXES, wrappers.NormalizeObservation),
    "TransformAction": (
        PENDULUMS,
        lambda vec: wrappers.TransformAction(vec, lambda batch: batch / 2),
    ),
    "VectorizeTransformAction": (
        PENDULUMS,
        lambda vec: wrappers.VectorizeTransformAction(
            vec, gymnasium.wrappers.RescaleAction, min_action=-0.5, max_action=0.5
        ),
    ),
    "ClipAction": (PENDULUMS, wrappers.ClipAction),
    "RescaleAction": (PENDULUMS, lambda vec: wrappers.RescaleAction(vec, -0.5, 0.5)),
    "TransformReward": (
        DiaryEnv,
        lambda vec: wrappers.TransformReward(vec, lambda batch: batch * 3 - 1),
    ),
    "VectorizeTransformReward": (
        DiaryEnv,
        lambda vec: wrappers.VectorizeTransformReward(
            vec, gymnasium.wrappers.TransformReward, func=lambda reward: reward - 1
        ),
    ),
    "ClipReward": (DiaryEnv, lambda vec: wrappers.ClipReward(vec, 0.5, 1.0)),
    "NormalizeReward": (DiaryEnv, wrappers.NormalizeReward),
    "RecordEpisodeStatistics": (DiaryEnv, wrappers.RecordEpisodeStatistics),
    "DictInfoToList": (BOXES, wrappers.DictInfoToList),
    "a stack of them": (
        DiaryEnv,
        lambda vec: wrappers.NormalizeReward(
            wrappers.RecordEpisodeStatistics(wrappers.DtypeObservation(vec, np.float32))
        ),
    ),
}
# Gymnasium refuses these itself: they would leave `final_obs` as it was.
NOT_IN_THE_SAME_STEP = {
    *(name for name in CASES if name.endswith("Observation")),
    "a stack of them",
}
OF_ARRAY_LIBRARIES = {
    "ArrayConversion": ("array_api_compat",),
    "NumpyToTorch": ("torch", "array_api_compat"),
    "JaxToNumpy": ("jax",),
    "JaxToTorch": ("jax", "torch"),
}
OF_FRAMES = {"RecordVideo", "HumanRendering"}


def test_none_is_forgotten() -> None:
    bases = {"VectorObservationWrapper", "VectorActionWrapper", "VectorRewardWrapper"}
    covered = CASES.keys() | OF_ARRAY_LIBRARIES.keys() | OF_FRAMES
    assert set(wrappers.__all__) - bases <= covered


def session(maker: Callable[..., Any], mode: AutoresetMode, workers: int) -> VecCheckedSession:
    # Wrappers of actions may ask for ones out of range, and Gymnasium's own classes pass them on.
    contract = Contract(action_range="allow")
    return VecCheckedSession(maker, N, workers=workers, autoreset_mode=mode, contract=contract)


# What the wrappers themselves warn of.
@pytest.mark.filterwarnings("ignore:.*Box (low|high)'s precision:UserWarning")
@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("name", CASES)
def test_it_gives_what_it_gives_over_gymnasiums(
    name: str, mode: AutoresetMode, workers: int
) -> None:
    maker, wrap = CASES[name]
    expected = play(SyncVectorEnv([maker] * N, autoreset_mode=mode), wrap, mode)
    refused = mode is AutoresetMode.SAME_STEP and name in NOT_IN_THE_SAME_STEP
    refused |= mode is AutoresetMode.DISABLED and name == "NormalizeObservation"
    assert (type(expected[-1]) is ValueError) == refused
    with session(maker, mode, workers) as vec:
        assert_same(play(vec, wrap, mode), expected)


def play(vec: Vec, wrap: Callable[[Vec], Vec], mode: AutoresetMode) -> list[Any]:
    """Returns what comes of resets and steps, but the time of day; an error comes last."""
    results: list[Any] = []
    try:
        envs = wrap(vec)
        results.append([str(envs.observation_space), str(envs.action_space), envs.metadata])
        envs.action_space.seed(1)
        results.append(deepcopy(envs.reset(seed=0)))
        for _ in range(STEPS):
            results.append(deepcopy(timeless(envs.step(envs.action_space.sample()))))
            done = np.asarray(results[-1][2] | results[-1][3])
            if mode is AutoresetMode.DISABLED and done.any():
                results.append(deepcopy(envs.reset(options={"reset_mask": done})))
    except ValueError as error:
        results.append(error)
    return results


def timeless(result: Any) -> Any:
    """Returns a step's result without the seconds that `RecordEpisodeStatistics` measures."""
    *arrays, infos = result
    if isinstance(infos, dict) and "episode" in infos:
        parts = infos["episode"].items()
        infos = {**infos, "episode": {k: v for k, v in parts if k not in ("t", "_t")}}
    return (*arrays, infos)


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("name", OF_ARRAY_LIBRARIES)
def test_ones_that_need_an_array_library(name: str, mode: AutoresetMode) -> None:
    for library in OF_ARRAY_LIBRARIES[name]:
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed: it is in no extra that tests need")
    wrap = getattr(wrappers, name)
    with session(DiaryEnv, mode, 2) as vec:
        envs = wrap(vec, np, np) if name == "ArrayConversion" else wrap(vec)
        assert np.asarray(envs.reset(seed=0)[0]).shape == (N, 3)
        actions: Any = np.zeros(N, np.int64)
        if name.endswith("Torch"):
            actions = importlib.import_module("torch").from_numpy(actions)
        observations, rewards, terminated, *_ = envs.step(actions)
        assert type(observations).__module__.partition(".")[0] == (
            "torch" if name.endswith("Torch") else "numpy"
        )
        assert np.asarray(observations)[:, 1].tolist() == [1] * N
        assert np.asarray(rewards).tolist() == [0.0] * N
        assert not np.asarray(terminated).any()


@pytest.mark.filterwarnings("ignore:.*same-step:UserWarning")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("mode", AutoresetMode)
def test_videos(mode: AutoresetMode, workers: int, tmp_path: Path) -> None:
    folders = {}
    with session(FRAMES, mode, workers) as vec:
        for name, envs in (
            ("ours", vec),
            ("theirs", SyncVectorEnv([FRAMES] * N, autoreset_mode=mode)),
        ):
            folders[name] = tmp_path / name
            recorded = wrappers.RecordVideo(
                envs, str(folders[name]), episode_trigger=lambda episode: episode < 2
            )
            recorded.reset(seed=0)
            for _ in range(8):
                _, _, terminated, truncated, _ = recorded.step(np.zeros(N, np.int64))
                if mode is AutoresetMode.DISABLED and (terminated | truncated).any():
                    recorded.reset(options={"reset_mask": terminated | truncated})
            recorded.close()
    films = {name: sorted(f.name for f in folder.iterdir()) for name, folder in folders.items()}
    assert films["ours"] == films["theirs"]
    assert any(name.endswith(".mp4") for name in films["ours"])


@pytest.mark.parametrize("mode", AutoresetMode)
def test_a_window(mode: AutoresetMode, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pygame", reason="pygame comes with the extra `envs`")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    with session(FRAMES, mode, 2) as vec:
        window = wrappers.HumanRendering(vec)
        window.reset(seed=0)
        window.step(np.zeros(N, np.int64))
        assert window.render_mode == "human"
        window.close()
