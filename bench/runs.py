"""The runs that `bench/RESULTS.md` is made of: one after the other, in about twelve minutes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

_SHORT = ("--rounds", "3")
_LONG = ("--rounds", "5")

_STEP = (
    "bare,bare-cores,sync,async,dummy,sb3,ours-sb3,ours-auto,ours-n,ours-0,unchecked-0,into-auto"
)
_ROLLOUT = "bare,bare-acting,usual-sync,usual-loop,collect-auto,collect-n,collect-0,acting-auto"


def _throughput(
    env: str, sizes: str, only: str, rounds: tuple[str, ...] = _SHORT
) -> tuple[str, ...]:
    return ("throughput", "--env", env, "-n", sizes, "--only", only, *rounds)


def _collect(env: str, sizes: str, only: str) -> tuple[str, ...]:
    return ("collect", "--env", env, "-n", sizes, "--only", only, *_SHORT)


RUNS: dict[str, tuple[str, ...]] = {
    "cartpole-16": _throughput("cartpole", "16", f"{_STEP},tianshou,torchrl,pufferlib,envpool"),
    "cartpole-64-256": _throughput("cartpole", "64,256", "bare,sync,async,ours-auto,ours-0"),
    "halfcheetah-16": _throughput("halfcheetah", "16", f"{_STEP},tianshou,envpool"),
    "taxi-16": _throughput("taxi", "16", _STEP),
    "pong-16": _throughput("pong", "16", "bare,bare-cores,sync,async,envpool,ours-n,ours-auto"),
    "collect-cartpole": _collect("cartpole", "16,64", f"{_ROLLOUT},usual-envpool"),
    "collect-halfcheetah": _collect("halfcheetah", "16", _ROLLOUT),
    "collect-pong": _collect("pong", "16", "bare,bare-acting,usual-loop,collect-auto,acting-auto"),
    "acting-workers": _collect("cartpole", "8", "growth-1,growth-2,growth-4,growth-8,growth-16"),
    "acting-weights": _collect(
        "cartpole", "16", "weights-0B,weights-10kB,weights-6.7MB,weights-50MB"
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
