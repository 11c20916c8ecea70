"""Trains the same PPO on different vector environments: the same returns, in less time.

    python examples/compare_ppo.py                                   # CartPole and HalfCheetah
    python examples/compare_ppo.py --env HalfCheetah-v5 --steps 65536 --rounds 3

Everything but the environments is the same: the agent, the hyperparameters, the noise that actions
are made from, the seeds of the environments. So the curves are the same, bit for bit on one kind
of CPU, which is checked (but for the pipelined pace and for acting at the workers, where rounding
may differ). The contenders take turns, round by round, and the time of each is the median: shared
machines vary.
"""

import argparse
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from settings import Settings, env_maker, open_session
from sources import GymnasiumSource, SB3Source

from vecsess.errors import extra

with extra("train,sb3", needed_by="examples/compare_ppo.py"):
    import torch
    from ppo import Trainer
    from rich.console import Console
    from rich.table import Table
    from stable_baselines3.common.vec_env import SubprocVecEnv

OURS = "vecsess"
PACED, AT_WORKERS = f"{OURS}, pipelined", f"{OURS}, at the workers"


def contenders(s: Settings) -> dict[str, Callable[[], Any]]:
    """Returns what opens each of them; n environments each."""
    makers = [env_maker(s.env)] * s.n
    mode = AutoresetMode.SAME_STEP

    return {
        "SyncVectorEnv": lambda: GymnasiumSource(SyncVectorEnv(makers, autoreset_mode=mode)),
        "AsyncVectorEnv": lambda: GymnasiumSource(AsyncVectorEnv(makers, autoreset_mode=mode)),
        "SubprocVecEnv": lambda: SB3Source(SubprocVecEnv(makers)),
        OURS: lambda: open_session(s),
        PACED: lambda: open_session(s),
        AT_WORKERS: lambda: open_session(dataclasses.replace(s, inference="workers")),
    }


def measure(open_envs: Callable[[], Any], s: Settings) -> dict[str, Any]:
    """Trains once; returns the seconds spent collecting and learning, and the curve.

    The start of the workers is not in them: it depends on how long a run is.
    """
    vec = open_envs()
    try:
        trainer = Trainer(s, vec)
        vec.start(seed=s.seed)
        seconds = {"collecting": 0.0, "learning": 0.0}
        for _ in range(trainer.updates):
            begin = time.perf_counter()
            rollout = trainer.collect()
            between = time.perf_counter()
            trainer.learn(rollout)
            seconds["collecting"] += between - begin
            seconds["learning"] += time.perf_counter() - between
    finally:
        vec.close()
    return {**seconds, "curve": trainer.curve, "steps": trainer.steps}


def compare(s: Settings, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Returns the measurements of each contender, one for each round."""
    found: dict[str, list[dict[str, Any]]] = {}
    for _ in range(rounds):
        for name, open_envs in contenders(s).items():
            pace = "pipelined" if name == PACED else "lockstep"
            inference = "workers" if name == AT_WORKERS else "trainer"
            run = measure(open_envs, dataclasses.replace(s, pace=pace, inference=inference))
            found.setdefault(name, []).append(run)
    # A matrix product may round differently where the policy sees half of the rows at a time.
    others = (PACED, AT_WORKERS)
    curves = {name: runs[0]["curve"] for name, runs in found.items() if name not in others}
    different = [name for name in curves if curves[name] != curves[OURS]]
    if different:
        raise SystemExit(f"expected the same episodes from all, {different} had others")
    return found


def table(s: Settings, found: dict[str, list[dict[str, Any]]]) -> Table:
    steps = found[OURS][0]["steps"]
    shown = Table(title=f"{s.env}, {s.n} environments, {steps:,} steps, seed {s.seed}")
    columns = ("wall-clock", "collecting", "share of it", "to Async", "steps/s", "return")
    for column in ("", *columns):
        shown.add_column(column, justify="right" if column else "left")
    median = {
        (name, part): float(np.median([run[part] for run in runs]))
        for name, runs in found.items()
        for part in ("collecting", "learning")
    }
    for name, runs in found.items():
        collecting = median[name, "collecting"]
        total = collecting + median[name, "learning"]
        last = [value for _, value in runs[0]["curve"][-100:]]
        shown.add_row(
            name,
            f"{total:.1f} s",
            f"{collecting:.1f} s",
            f"{collecting / total:.0%}",
            f"{collecting / median['AsyncVectorEnv', 'collecting']:.0%}",
            f"{steps / total:,.0f}",
            f"{np.mean(last):.1f}" if last else "-",
        )
    return shown


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--env", action="append", help="may be given again")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", default="auto", help="of vecsess")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for env in options.env or ["CartPole-v1", "HalfCheetah-v5"]:
        settings = Settings(
            env=env, steps=options.steps, n=options.n, seed=options.seed, workers=options.workers
        )
        Console(width=100).print(table(settings, compare(settings, options.rounds)))


if __name__ == "__main__":
    main()
