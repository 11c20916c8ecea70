"""The runs that `bench/RESULTS.md` is made of: one after the other, in about twelve minutes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

_SHORT = ("--rounds", "3")
_LONG = ("--rounds", "5")

RUNS: dict[str, tuple[str, ...]] = {
    "cartpole-16": ("throughput", "--env", "cartpole", "-n", "16", *_SHORT),
    "cartpole-64-256": (
        *("throughput", "--env", "cartpole", "-n", "64,256"),
        *("--only", "bare,bare-cores,async,ours-auto,ours-0", *_SHORT),
    ),
    "halfcheetah-16": (
        *("throughput", "--env", "halfcheetah", "-n", "16"),
        *("--only", "bare,bare-cores,async,sb3,tianshou,envpool,ours-n,ours-auto", *_SHORT),
    ),
    "pong-16": (
        *("throughput", "--env", "pong", "-n", "16"),
        *("--only", "bare,bare-cores,async,envpool,ours-n,ours-auto", *_SHORT),
    ),
    "image-busy": (
        *("collect", "--env", "image", "--no-sleeping", "-n", "16"),
        *("--only", "bare,usual-loop,collect-n,collect-auto", *_SHORT),
    ),
    "image-asleep": (
        *("collect", "--env", "image", "--sleeping", "-n", "16"),
        *("--only", "bare,usual-loop,collect-n", *_SHORT),
    ),
    "free": ("free", "-n", "16", "--seconds", "1.5", *_SHORT),
    "pipelined": ("pipelined", "-n", "16", *_SHORT),
    "slow": ("slow", "-n", "16", *_SHORT),
    "manager": ("manager", "-n", "16,256", *_LONG),
    "worker": ("worker", "-n", "16", *_LONG),
    "checks": ("checks", "-n", "16", *_LONG),
    "start": ("start", "--env", "cartpole", "-n", "16,64", "--only", "async,ours-n", *_LONG),
    "tune": ("tune", "--env", "cartpole", "-n", "16"),
    "tune-policy": ("tune", "--env", "steady", "-n", "16", "--policy-ms", "1"),
    "sweep": (
        *("sweep", "--env", "cartpole", "-n", "1,4,16,64,256", "--seconds", "0.5"),
        *("--start-limit", "45", *_SHORT),
    ),
}

Run = Callable[[list[str]], int]


def run_all(folder: Path, run: Run, tell: Callable[[str], None]) -> int:
    """Runs everything, each with its JSON file, and plots where there is something to see.

    Args:
        folder: for JSON files and plots.
        run: the command line: takes arguments, returns an exit code.
        tell: is told which run is next.

    Returns:
        The exit code of the first run that failed, after all the others; 0 where none did.
    """
    folder.mkdir(parents=True, exist_ok=True)
    failed = 0
    for number, (name, arguments) in enumerate(RUNS.items(), 1):
        tell(f"{number} of {len(RUNS)}: {' '.join(arguments)}")
        places = ["--json", str(folder / f"{name}.json")]
        if arguments[0] in ("throughput", "sweep", "collect"):
            places += ["--plots", str(folder / "plots" / name)]
        code = run([*arguments, *places])
        failed = failed or code
        if code == 130:  # Ctrl-C means all of them
            return code
    return failed
