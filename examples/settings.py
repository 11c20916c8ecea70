"""The settings of `ppo.py`, with CleanRL's hyperparameters as defaults, and its command line."""

import argparse
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

import gymnasium
import numpy as np

from vecsess import Contract, RestartPolicy, VecCheckedSession, VecsessError
from vecsess.collect.sources import Inference, Pace


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What a run is made of; None stands for a default that depends on the spaces."""

    env: str = "CartPole-v1"
    seed: int = 1
    steps: int | None = None  # of the environments, in all
    n: int = 16
    workers: str = "auto"
    pace: Pace = "lockstep"  # of `collect_rollout`
    inference: Inference = "trainer"  # where the agent acts
    act_rows: int | None = None  # in each call of the agent; None: as many as environments
    overlap: bool = False  # learns from a rollout while the workers collect the next
    horizon: int | None = None
    learning_rate: float | None = None  # falls to 0 over all steps
    minibatches: int | None = None  # in each epoch
    epochs: int | None = None
    clip: float | None = None  # of the ratio, and of the change of a value
    entropy: float | None = None
    value: float = 0.5
    max_grad_norm: float = 0.5
    gamma: float = 0.99
    lam: float = 0.95
    lstm: bool = False

    def filled(self, observations: gymnasium.Space, actions: gymnasium.Space) -> "Settings":
        """Returns these settings with the defaults of CleanRL's ppo.py or its siblings.

        Only small networks that choose among actions, as for CartPole, learn four times as fast.
        """
        image, box = is_image(observations), isinstance(actions, gymnasium.spaces.Box)
        rows = 2048 if box else 1024 if image else 512
        found = {"steps": 300_000, "learning_rate": 2.5e-4, "minibatches": 4, "epochs": 4}
        found |= {"entropy": 0.01, "clip": 0.1 if image else 0.2}
        if box:
            found |= {"learning_rate": 3e-4, "minibatches": 32, "epochs": 10, "entropy": 0.0}
        elif not image and not self.lstm:
            # CleanRL's rate is Atari's: an update's KL divergence would be 0.0006, and not 0.003.
            found |= {"steps": 100_000, "learning_rate": 1e-3}
        found["horizon"] = max(1, rows // self.n)
        missing = {name: found[name] for name in found if getattr(self, name) is None}
        return dataclasses.replace(self, **missing)


def is_image(space: gymnasium.Space) -> bool:
    return space.dtype == np.uint8 and len(space.shape or ()) == 3


def env_maker(env_id: str) -> Callable[[], gymnasium.Env]:
    """Returns what a worker makes its environments with: images as they are, all else flat."""

    def make() -> gymnasium.Env:  # nested, so that it travels without this module, and torch
        env = gymnasium.make(env_id)
        space = env.observation_space
        if isinstance(space, gymnasium.spaces.Box) and len(space.shape) in (1, 3):
            return env
        return gymnasium.wrappers.FlattenObservation(env)

    return make


def session_options(settings: Settings, *, chaos: bool = False) -> dict[str, Any]:
    """Returns the arguments of the session, other than which environments and how many."""
    module, _, _ = settings.env.rpartition(":")
    at_workers = settings.overlap or settings.inference == "workers"
    acting = ["torch"] if at_workers else []
    entry_point = module or gymnasium.spec(settings.env).entry_point
    return {
        # Imported once, before the workers are forked: they start, and come back, much sooner.
        "preload": acting
        + ([entry_point.partition(":")[0]] if isinstance(entry_point, str) else []),
        "workers": int(settings.workers) if settings.workers.isdigit() else settings.workers,
        "contract": Contract(action_range="clip"),  # a normal distribution has no bounds
        "restart_policy": RestartPolicy(max_restarts=None, backoff_s=0.0) if chaos else None,
    }


def open_session(settings: Settings, *, chaos: bool = False) -> VecCheckedSession:
    """Starts the environments, or ends the program with a sentence that says why it can't."""
    try:
        options = session_options(settings, chaos=chaos)
        return VecCheckedSession(env_maker(settings.env), settings.n, **options)
    except (VecsessError, gymnasium.error.Error, ImportError, ValueError) as error:
        stop(str(error))


def stop(message: str) -> NoReturn:
    """Ends the program as argparse does: one line, exit code 2."""
    print(f"error: {message.splitlines()[0]}", file=sys.stderr)
    raise SystemExit(2)


def parse(about: str, argv: list[str] | None = None) -> tuple[Settings, argparse.Namespace]:
    """Reads a flag for each field of the settings, and the options of the run."""
    parser = argparse.ArgumentParser(description=about)
    for field in dataclasses.fields(Settings):
        flag = "--" + field.name.replace("_", "-")
        if field.type is bool:
            parser.add_argument(flag, action="store_true")
        elif get_origin(field.type) is Literal:
            parser.add_argument(flag, choices=get_args(field.type), default=field.default)
        else:
            optional = get_args(field.type)  # int | None
            kind = optional[0] if optional else field.type
            parser.add_argument(flag, type=kind, default=field.default, metavar=kind.__name__)
    run = parser.add_argument_group("run")
    run.add_argument("--logdir", help="TensorBoard scalars go here")
    run.add_argument("--curve", type=Path, help="the learning curve goes here, as PNG")
    run.add_argument("--checkpoint", type=Path, help="written now and then, and at the end")
    run.add_argument("--save-every", type=int, default=50, help="updates between checkpoints")
    run.add_argument("--resume", type=Path, help="a checkpoint; its settings hold")
    run.add_argument("--stop-at", type=int, help="stop after so many environment steps")
    run.add_argument("--chaos", type=float, nargs="?", const=0.5, metavar="SECONDS")
    run.add_argument("--eval-episodes", type=int, default=100, help="0 for none")
    run.add_argument("--require", type=float, help="fail where their mean return is below")
    options = parser.parse_args(argv)
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(Settings)}
    return Settings(**given), options
