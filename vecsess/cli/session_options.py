"""The options that say which environments to run, and the session that they describe."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math

from vecsess.cli.failures import CommandError
from vecsess.fleet.worker import Timeouts
from vecsess.session.vector import VecCheckedSession
from vecsess.wire.values import Fields


def add_session_options(parser: argparse.ArgumentParser) -> None:
    """Adds `--env`, `-n`, `--workers` and their like."""
    add = parser.add_argument
    add("--env", default="CartPole-v1", metavar="ID", help="also module:ID (CartPole-v1)")
    add("-n", type=positive, default=16, metavar="N", help="environments (16)")
    add(
        "--workers",
        type=_workers,
        metavar="N|auto|0",
        help="processes: one per environment by default, auto for one per core, 0 for this one",
    )
    add_making_options(parser)
    add("--seed", type=int, default=0, metavar="S", help="of environments and actions (0)")
    add(
        "--step-timeout",
        type=positive_seconds,
        metavar="SECONDS",
        help="kill an environment that takes longer for one step (60)",
    )


def add_making_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `gymnasium.make` is to know."""
    parser.add_argument(
        "--make-kwargs",
        type=_json_object,
        default={},
        metavar="JSON",
        help="""arguments for gymnasium.make, such as '{"render_mode": "rgb_array"}'""",
    )
    parser.add_argument(
        "--preload",
        action="append",
        default=[],
        metavar="MODULE",
        help="import it once, before the workers are forked; may be repeated",
    )


def open_session(options: argparse.Namespace) -> VecCheckedSession:
    """Starts the session that the options describe.

    Raises:
        CommandError: options that do not go together.
        VecsessError: as `VecCheckedSession` does.
    """
    for module in options.preload:
        require_module(module)
    limits = {} if options.step_timeout is None else {"step_s": options.step_timeout}
    try:
        return VecCheckedSession(
            options.env,
            options.n,
            make_kwargs=options.make_kwargs,
            workers=options.workers,
            preload=options.preload,
            timeouts=Timeouts(**limits),
        )
    except ValueError as error:  # of the arguments; an environment's is an EnvError
        if type(error) is ValueError:
            raise CommandError(f"{error}. `vecsess collect --help` lists the options") from error
        raise


def require_module(name: str) -> None:
    """Refuses a `--preload` that can't be imported, before any process is started."""
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        found = None
    if found is None:
        raise CommandError(
            f"--preload {name}: no such module for this Python. Install it, or run where it lies"
        )


def positive(text: str) -> int:
    """Returns a number of at least 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def positive_seconds(text: str) -> float:
    """Returns seconds above 0, for argparse."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"expected seconds above 0, got {text!r}")
    return seconds


def _workers(text: str) -> int | str:
    if text == "auto":
        return text
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number, 0 or auto, got {text!r}")
    return int(text)


def _json_object(text: str) -> Fields:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(
            f"expected a JSON object, got {text!r} ({error}); names and texts take double "
            """quotes: --make-kwargs '{"frameskip": 4}'"""
        ) from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"expected a JSON object, got {text!r}")
    return value
