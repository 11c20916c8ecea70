"""The command line: `python -m vecsess.bench [command] [options]`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from vecsess.bench.cases import CASES, find_case
from vecsess.bench.measure import Plan

try:
    from rich.console import Console
except ModuleNotFoundError:
    sys.exit("the bench prints with rich: install vecsess[cli]")

from vecsess.bench.commands import COMMANDS, Options
from vecsess.bench.registry import EVERYTHING
from vecsess.bench.report import document, machine
from vecsess.bench.results import write_results
from vecsess.bench.runs import run_all

_WIDTH = 140
_AS_GIVEN = {each.name for each in fields(Options)} - {"case", "sizes", "plan"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    parser = _parser()
    given = parser.parse_args(argv)
    if given.command in _PAGES:
        return _PAGES[given.command](parser, given)
    command = COMMANDS[given.command]
    found = machine()  # before we put load on it
    try:
        case = find_case(given.env or command.case, step_us=given.step_us, sleeping=given.sleeping)
        options = Options(
            case=case,
            sizes=given.n or command.sizes,
            plan=Plan(
                seconds=given.seconds or command.plan.seconds,
                rounds=given.rounds or command.plan.rounds,
            ),
            **{name: value for name, value in vars(given).items() if name in _AS_GIVEN},
        )
        data = command.run(options, _wide_console(), Console(stderr=True))
    except ValueError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        return 130
    if given.json is not None:
        text = json.dumps(document(given.command, options.plan, found, data), indent=1)
        given.json.write_text(text + "\n")
    return int(any(table.get("failed") for table in data))


def _all(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    del parser
    folder = given.out or Path("bench-results")
    failed = run_all(folder, main, lambda line: Console(stderr=True).rule(line))
    if failed != 130:
        write_results(folder, folder / "RESULTS.md")
    return failed


def _results(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    try:
        write_results(given.json_dir, given.out or Path("bench/RESULTS.md"))
    except ValueError as error:
        parser.error(str(error))
    return 0


def _ray(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    from vecsess.bench.ray import run_campaign, run_ray  # here: Ray is an extra

    del parser
    if given.losses:
        rows = run_campaign(given.losses, given.seed, _wide_console(), Console(stderr=True))
    else:
        rows = run_ray(Console(), given.rounds or 7)
    if given.json is not None:
        given.json.write_text(json.dumps({"machine": machine(), "ray": rows}, indent=1) + "\n")
    return int(any(row.get("batches that differ") for row in rows))


_PAGES = {"all": _all, "ray": _ray, "results": _results}
_ABOUT_PAGES = {
    "all": "everything that RESULTS.md is made of, into the folder --out (twelve minutes)",
    "ray": "shards on the nodes of a cluster of Ray, which is simulated here",
    "results": "the page --out (bench/RESULTS.md) from the files in --json-dir",
}


def _wide_console() -> Console:
    # The table needs this much; beyond a terminal's edge is better than cut off in a file.
    console = Console()
    return console if console.width >= _WIDTH else Console(width=_WIDTH)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m vecsess.bench",
        description="Measure vecsess beside others: interleaved rounds, medians.",
        epilog="commands:\n"
        + "\n".join(f"  {name:<12}{command.about}" for name, command in COMMANDS.items())
        + "".join(f"\n  {name:<12}{about}" for name, about in _ABOUT_PAGES.items())
        + f"\n\ncontenders for --only:\n  {' '.join(EVERYTHING)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("command", nargs="?", default="throughput", choices=(*COMMANDS, *_PAGES), metavar="command")
    add("--env", metavar="CASE", help=f"an environment id, or one of {', '.join(CASES)}")
    add("-n", type=_sizes, metavar="N[,N...]", help="environments")
    add("--seconds", type=_positive, help="length of a slice (1; tune: 0.25)")
    add("--rounds", type=_count, help="slices for each contender (5; tune: 3)")
    add("--step-us", type=_positive, metavar="US", help="mean step time of image and heavy")
    add("--sleeping", action=argparse.BooleanOptionalAction, help="whether their steps sleep")
    add("--peers", default="all", metavar="KEYS", help="all (default), none, or sb3,envpool,...")
    add("--only", metavar="KEYS", help="measure these contenders and no others")
    add("--kills", type=int, default=2000, metavar="K", help="of the fault campaign (2000)")
    add("--losses", type=_count, metavar="K", help="of the campaign of ray, in place of its tables")
    add("--seed", type=int, default=0, metavar="S", help="of these campaigns (0)")
    add("--policy-ms", type=float, default=0.0, metavar="MS", help="of a policy's call, for tune")
    add("--policy-row-us", type=float, default=0.0, metavar="US", help="likewise, of each row")
    add(
        "--start-limit",
        dest="start_limit_s",
        type=_positive,
        default=150.0,
        metavar="S",
        help="of a sweep (150)",
    )
    add("--json", type=Path, metavar="FILE", help="write the figures, the machine, the versions")
    add("--out", type=Path, metavar="PATH", help="the folder of all, the page of results")
    add("--json-dir", type=Path, default=Path("bench-results"), metavar="DIR", help="for results")
    add("--plots", type=Path, metavar="DIR", help="write plots (PNG) into this folder")
    return parser


def _sizes(text: str) -> tuple[int, ...]:
    sizes = tuple(int(size) for size in text.split(","))
    if min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"expected numbers from 1, got {text!r}")
    return sizes


def _count(text: str) -> int:
    (count,) = _sizes(text)
    return count


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


if __name__ == "__main__":
    sys.exit(main())
