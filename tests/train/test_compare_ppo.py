"""The comparison: the same PPO on every vector environment gives the same episodes."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from tests.train.extras import NEEDS

pytest.importorskip("torch", reason=NEEDS)
pytest.importorskip("stable_baselines3", reason=NEEDS)

NAMES = ["SyncVectorEnv", "AsyncVectorEnv", "SubprocVecEnv", "vecsess"]
ROUNDED = ["vecsess, pipelined", "vecsess, at the workers"]  # matrix products of other rows


@pytest.mark.parametrize(("env", "steps"), [("CartPole-v1", 3 * 512), ("Pendulum-v1", 2 * 2048)])
def test_the_same_seed_gives_the_same_episodes_everywhere(env: str, steps: int) -> None:
    compare_ppo = importlib.import_module("compare_ppo")
    settings = compare_ppo.Settings(env=env, steps=steps, n=4, epochs=1, workers="2")
    found: dict[str, list[dict[str, Any]]] = compare_ppo.compare(settings, rounds=1)
    assert list(found) == NAMES + ROUNDED
    runs = [run for name in found for run in found[name]]
    assert [run["steps"] for run in runs] == [steps] * len(found)
    assert all(run["collecting"] > 0 and run["learning"] > 0 for run in runs)
    lockstep = [run["curve"] for run in runs[: len(NAMES)]]
    assert lockstep[0]
    assert all(curve == lockstep[0] for curve in lockstep)


def test_other_episodes_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    compare_ppo = importlib.import_module("compare_ppo")
    curves = iter([[(1, 1.0)], [(1, 1.0)], [(1, 2.0)], [(1, 1.0)], [(1, 1.0)], [(1, 1.0)]])
    monkeypatch.setattr(compare_ppo, "measure", lambda *_: {"curve": next(curves)})
    with pytest.raises(SystemExit, match=r"\['SubprocVecEnv'\] had others"):
        compare_ppo.compare(compare_ppo.Settings(), rounds=1)


def test_it_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    importlib.import_module("compare_ppo").main(["--env", "CartPole-v1", "--steps", "2048"])
    printed = capsys.readouterr().out
    assert "CartPole-v1, 16 environments, 2,048 steps, seed 1" in printed
    assert all(name in printed for name in NAMES + ROUNDED)
    assert "100%" in printed
