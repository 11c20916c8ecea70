"""What the README and docs/cleanrl.md show for other trainers, run as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest

from tests.documents import blocks, promised_output
from tests.programs import run
from tests.train.extras import NEEDS
from vecsess import VecCheckedSession

torch = pytest.importorskip("torch", reason=NEEDS)
sb3 = pytest.importorskip("stable_baselines3", reason=NEEDS)

N, STEPS = 4, 96


class Agent:
    """What CleanRL's agent has."""

    def __init__(self) -> None:
        self.actor, self.critic = torch.nn.Linear(4, 2), torch.nn.Linear(4, 1)

    def get_value(self, x: Any) -> Any:
        return self.critic(x)


class Writer(list[tuple[str, float, int]]):
    """Keeps the scalars that a SummaryWriter would write."""

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.append((name, float(value), step))


def make_env(env_id: str, idx: int, capture_video: bool, run_name: str) -> Any:
    def thunk() -> Any:
        env = gymnasium.make(env_id, max_episode_steps=12)
        return gymnasium.wrappers.RecordEpisodeStatistics(env)

    return thunk


@pytest.fixture
def names() -> dict[str, Any]:
    """What CleanRL's ppo.py has defined before its environments."""
    args = SimpleNamespace(
        env_id="CartPole-v1",
        num_envs=N,
        num_steps=STEPS,
        capture_video=False,
        gamma=0.9,
        gae_lambda=0.8,
        batch_size=N * STEPS,
    )
    return {
        "np": np,
        "torch": torch,
        "args": args,
        "agent": Agent(),
        "device": torch.device("cpu"),
        "make_env": make_env,
        "run_name": "run",
        "writer": Writer(),
        "global_step": 0,
    }


def execute(code: str, names: dict[str, Any]) -> None:
    exec(compile(code, "<a snippet>", "exec"), names)


def test_the_readme_trains_stable_baselines() -> None:
    shown = blocks("README.md", "py")[0]
    names: dict[str, Any] = {}
    torch.set_num_threads(1)  # more of them would wait for each other on a busy machine
    execute(shown.replace("100_000", "4_000").replace("n_envs=16", "n_envs=2"), names)
    names["envs"].close()


@pytest.mark.parametrize("code", blocks("docs/trainers.md", "python"))
def test_the_page_on_trainers(code: str, tmp_path: Path) -> None:
    for module in re.findall(r"^(?:from|import) (\S+)", code, re.MULTILINE):
        pytest.importorskip(module, reason=f"needs {module}", exc_type=ImportError)
    script = tmp_path / "snippet.py"
    script.write_text(code)
    printed = run(script, cwd=tmp_path).stdout
    assert not [text for text in promised_output(code) if text not in printed], printed


def test_the_readme_makes_the_environments_of_cleanrl(names: dict[str, Any]) -> None:
    names["VecCheckedSession"] = VecCheckedSession
    execute(blocks("README.md", "py")[1], names)
    with names["envs"] as envs:
        assert envs.reset(seed=0)[0].shape == (N, 4)


def test_cleanrls_loop_runs_with_the_documented_changes(names: dict[str, Any]) -> None:
    make, episodes, truncation, _ = blocks("docs/cleanrl.md", "py")
    execute(make, names)
    rewards = names["rewards"] = torch.zeros(STEPS, N)
    given = torch.zeros(STEPS, N)
    lengths, cut = np.zeros(N), np.zeros((STEPS, N), bool)
    with names["envs"] as envs:
        envs.reset(seed=0)
        for step in range(STEPS):
            actions = np.full(N, step % 2)
            _, reward, terminations, truncations, infos = envs.step(actions)
            given[step] = rewards[step] = torch.tensor(reward)
            names |= {"step": step, "infos": infos, "global_step": step * N}
            names |= {"terminations": terminations, "truncations": truncations}
            execute(truncation, names)
            execute(episodes, names)
            lengths += 1
            ended = terminations | truncations
            logged = [value for _, value, at in names["writer"] if at == step * N]
            assert logged == lengths[ended].tolist()  # a reward of 1 for each step
            lengths[ended] = 0
            cut[step] = truncations & ~terminations
    assert cut.any()
    assert ((rewards != given).numpy() == cut).all()


def test_the_documented_batch_takes_the_place_of_cleanrls_loop(names: dict[str, Any]) -> None:
    make, _, _, batch = blocks("docs/cleanrl.md", "py")
    execute(make, names)
    with names["envs"]:
        execute(batch, names)
    rows = N * STEPS
    assert names["b_obs"].shape == (rows, 4)
    assert names["b_actions"].dtype == torch.int64
    for name in ("b_actions", "b_logprobs", "b_values", "b_advantages", "b_returns"):
        assert names[name].shape == (rows,)
    agent = names["agent"]
    with torch.no_grad():
        logits, values = agent.actor(names["b_obs"]), agent.get_value(names["b_obs"])
    log_probs = torch.distributions.Categorical(logits=logits).log_prob(names["b_actions"])
    torch.testing.assert_close(log_probs, names["b_logprobs"])
    torch.testing.assert_close(values.flatten(), names["b_values"])
    torch.testing.assert_close(names["b_advantages"] + names["b_values"], names["b_returns"])
    assert names["global_step"] == names["args"].batch_size == rows
    assert names["writer"]
