"""`vecsess check FILE.json`: holds a JSON rollout against a contract, transition by transition."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from gymnasium import spaces

from vecsess.cli.failures import CommandError
from vecsess.cli.figures import plural
from vecsess.cli.session_options import add_making_options, positive
from vecsess.contract import Contract
from vecsess.errors import ContractViolation
from vecsess.integrations.transitions import TransitionError, load_transitions_all
from vecsess.session.client import Client
from vecsess.wire.values import Fields, Space

BAD = 1
SHOWN = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    add = parser.add_argument
    add("file", type=Path, metavar="FILE.json", help="what collect --out wrote, or another system")
    add("--env", metavar="ID", help="whose spaces they are of; also module:ID")
    add_making_options(parser)
    add("--obs-shape", metavar="A,B,..", help="in place of --env: an array; '' for a number")
    add("--obs-dtype", default="float32", metavar="DTYPE", help="of that array (float32)")
    add("--n-actions", type=positive, metavar="N", help="in place of --env: actions 0 to N - 1")
    two: Fields = {"nargs": 2, "type": float, "metavar": ("LOW", "HIGH")}
    add("--obs-range", **two, help="closed interval for each number of an observation")
    add("--reward-range", **two, help="closed interval for each reward")
    add("--exclusive-done-flags", action="store_true", help="never terminated and truncated")
    add("--json", action="store_true", help="the report for a program, on one line")


def run(options: argparse.Namespace) -> int:
    """Prints how many are good and what is wrong with the first bad ones; returns the exit code."""
    observation_space, action_space = _spaces(options)
    try:
        contract = Contract(
            obs_range=_range(options.obs_range),
            reward_range=_range(options.reward_range),
            require_exclusive_done_flags=options.exclusive_done_flags,
        )
        results = load_transitions_all(options.file, contract, observation_space, action_space)
    except (ContractViolation, ValueError) as error:
        raise CommandError(f"{options.file}: {error}") from error
    errors = [result for result in results if isinstance(result, TransitionError)]
    if options.json:
        print(json.dumps(_report(options.file, len(results), errors)))
    else:
        _show(options.file, len(results), errors)
    return BAD if errors else 0


def _range(ends: list[float] | None) -> tuple[float, float] | None:
    return None if ends is None else (ends[0], ends[1])


def _spaces(options: argparse.Namespace) -> tuple[Space, Space]:
    """Returns the spaces that the options tell of; an environment is asked in its own process."""
    by_hand = options.obs_shape is not None and options.n_actions is not None
    if (options.env is not None) == by_hand:
        raise CommandError(
            "say whose transitions they are: --env ID, or --obs-shape with --n-actions"
        )
    if by_hand:
        return _box(options.obs_shape, options.obs_dtype), spaces.Discrete(options.n_actions)
    with Client.spawn(options.env, make_kwargs=options.make_kwargs) as client:
        return client.observation_space, client.action_space


def _box(shape: str, dtype: str) -> spaces.Box:
    try:
        sides = [int(side) for side in shape.split(",") if side.strip()]
        kind = np.dtype(dtype)
        low, high = (-np.inf, np.inf)
        if kind.kind in "iu":
            low, high = np.iinfo(kind).min, np.iinfo(kind).max
        if min(sides, default=0) < 0 or kind.kind not in "iuf":
            raise ValueError("expected sides of 0 or more, and a dtype of numbers")
        return spaces.Box(low, high, tuple(sides), kind.type)
    except (ValueError, TypeError) as error:
        raise CommandError(f"--obs-shape {shape!r} --obs-dtype {dtype!r}: {error}") from error


def _report(file: Path, count: int, errors: list[TransitionError]) -> dict[str, object]:
    first = [{"index": e.index, "field": e.field, "error": e.reason} for e in errors[:SHOWN]]
    bad = len(errors)
    return {"file": str(file), "count": count, "good": count - bad, "bad": bad, "errors": first}


def _show(file: Path, count: int, errors: list[TransitionError]) -> None:
    good = count - len(errors)
    print(f"{file}: {plural(count, 'transition')}, {good:,} good, {len(errors):,} bad")
    for error in errors[:SHOWN]:
        print(f"  transition {error.index}, {error.field}: {error.reason}")
    if len(errors) > SHOWN:
        print(f"  and {len(errors) - SHOWN:,} more")
