"""`vecsess replay FILE`: runs a reproducer in this process, up to the step that ended a worker."""

from __future__ import annotations

import argparse
import pickle
import random

import numpy as np
from rich.console import Console

from vecsess.cli.failures import CommandError
from vecsess.cli.figures import plural
from vecsess.errors import VecsessError
from vecsess.fleet.in_process import replay_here
from vecsess.fleet.reports import MAX_BRIEF, printable
from vecsess.recovery.reproducer import read_reproducer
from vecsess.wire.values import Fields, Given

NOT_REPRODUCED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    parser.add_argument(
        "file",
        metavar="FILE",
        help="a reproducer, as incidents name it; it holds a pickle: open only those you trust",
    )
    parser.epilog = (
        "To stop where it breaks: python -m pdb -m vecsess replay FILE, "
        "or gdb --args python -m vecsess replay FILE"
    )


def run(options: argparse.Namespace) -> int:
    """Replays; comes back only if nothing ended this process."""
    try:
        content = read_reproducer(options.file)
    except ValueError as error:
        raise CommandError(f"{error}. Give the file that an incident names") from error
    console = Console(highlight=False)
    script, env = content["script"], content["env"]
    steps = sum(entry[1] for entry in script if entry[0] == "steps")
    console.print(f"env {env}: {plural(steps, 'step')}, of which the last ended its worker")
    # As its worker was: for environments that use the global generators.
    random.seed(env)
    np.random.seed(env)  # the global one is what they use
    return _conclude(console, _replayed(options.file, content))


def _replayed(file: str, content: Fields) -> list[Given]:
    """Returns what failed: an environment's exceptions are among it, so others are the file's."""
    try:
        source = pickle.loads(content["source"])  # noqa: S301  # from a file that the user trusts
        reply = replay_here(source, content["env"], content["settings"], content["script"])
    except VecsessError:
        raise
    except Exception as error:  # a damaged pickle trips over anything
        raise CommandError(
            f"{file}: no environment can be made of what it holds "
            f"({type(error).__name__}: {printable(str(error), MAX_BRIEF)}). "
            "Run it in the folder and with the packages of the session that wrote it"
        ) from error
    return reply.failures


def _conclude(console: Console, failures: list[Given]) -> int:
    """Says what happened, where this process has lived on."""
    for _, kind, name, message, trace in failures:
        console.print(printable(trace or f"{kind}: {name}: {message}"), markup=False)
    if failures:
        console.print("the environment raised, and this process has lived on")
    else:
        console.print(
            "nothing happened this time: what ended the worker came from outside, or depends on "
            "more than seeds and actions"
        )
    return NOT_REPRODUCED
