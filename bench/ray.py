"""What a cluster of Ray costs and saves: `python -m vecsess.bench ray`, on nodes of this machine.

Overhead is the time of a rollout beyond what the slowest shard took to collect its own part.
"""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from rich.console import Console
from rich.table import Table

from vecsess import RandomPolicy
from vecsess.bench.cases import find_case
from vecsess.bench.nodes import Nodes, ray_surroundings

_T = 128
_WEIGHTS = (10_000, 6_700_000, 50_000_000)
_ANSWER_S = 5.0
_KINDS = ("actor", "raylet", "node", "SIGSTOP")
_NODES = (8, 64, 512)
Rows = list[dict[str, Any]]


class Heavy(RandomPolicy):
    """Acts at random, and carries weights of a size."""

    def __init__(self, size_bytes: int) -> None:
        """Makes them."""
        super().__init__(spaces.Discrete(2))
        self.weights = np.zeros(size_bytes, np.uint8)


def run_ray(console: Console, rounds: int = 7) -> Rows:
    """Measures on a cluster of two nodes; prints tables and returns their rows."""
    with surroundings():
        nodes = Nodes(cpus=8)
        try:
            nodes.join()
            overheads = _overheads(rounds)
            _print(console, "Overhead a rollout of 128 locksteps, ms", overheads)
            console.print(_on_paper(overheads))
            losses = [_loss(nodes, kind) for kind in _KINDS for _ in range(max(1, rounds // 2))]
            _print(console, "From a kill to the batch, s, beyond the part's own time", losses)
            return [*overheads, *losses]
        finally:
            nodes.end()


def run_campaign(losses: int, seed: int, console: Console, progress: Console) -> Rows:
    """Strikes again and again while a session collects; prints a table and returns its rows."""
    from vecsess.bench.ray_losses import run_losses

    with surroundings():
        rows = run_losses(losses, seed, console, progress)
    _print(console, f"Losses in the middle of a rollout, seed {seed}", rows)
    different = sum(row["batches that differ"] for row in rows)
    struck = sum(row["times"] for row in rows)
    console.print(f"{struck} losses, {different} batches that differ from those of one machine")
    return rows


@contextmanager
def surroundings() -> Iterator[None]:
    """Keeps Ray's files in a folder of their own, which is removed."""
    folder = Path(tempfile.mkdtemp(prefix="vb-"))  # short: the paths of its sockets are not
    before = dict(os.environ)
    os.environ.update(ray_surroundings(folder))
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for name in os.environ.keys() - before.keys():
            del os.environ[name]


def _overheads(rounds: int) -> Rows:
    cartpole = "CartPole-v1"
    cases: list[tuple[str, Any, int, int, int]] = [
        ("CartPole, N = 64", cartpole, 64, 4, 0),
        ("images, N = 16", find_case("image").env, 16, 2, 0),
        *((f"CartPole, N = 64, weights {size:,} B", cartpole, 64, 4, size) for size in _WEIGHTS),
        *(("CartPole, 16 a shard", cartpole, 16 * shards, shards, 0) for shards in (1, 2, 4, 8)),
    ]
    return [
        {"case": name, "shards": shards, **_overhead(env, n, shards, size, rounds)}
        for name, env, n, shards, size in cases
    ]


def _overhead(env: Any, n: int, shards: int, size: int, rounds: int) -> dict[str, float]:
    from vecsess.integrations.ray import RaySession

    overheads, own = [], []
    with RaySession(env, n, shards=shards, workers=0, start_s=120.0, race=None) as vec:
        policy, out = Heavy(size), None
        for index in range(rounds + 1):
            began = time.perf_counter()
            out = vec.collect(policy, _T, seed=index, out=out)
            took_s = time.perf_counter() - began
            slowest_s = max(each.took_s for each in vec.health())
            if index:  # the first allocates
                overheads.append(took_s - slowest_s)
                own.append(slowest_s)
    overhead_ms = statistics.median(overheads) * 1e3
    return {
        "part ms": statistics.median(own) * 1e3,
        "overhead ms": overhead_ms,
        "a shard ms": overhead_ms / shards,
    }


def _loss(nodes: Nodes, kind: str) -> dict[str, Any]:
    """Returns how long a rollout took beyond its own time, less what silence is waited for."""
    from vecsess.integrations.ray import RaySession

    env = find_case("heavy", step_us=2000, sleeping=True).env
    with RaySession(
        env, 8, shards=4, workers=1, answer_s=_ANSWER_S, race=None, start_s=120.0
    ) as vec:
        policy = Heavy(0)
        vec.collect(policy, _T, seed=0)
        own_s = max(each.took_s for each in vec.health())
        killed: list[float] = []

        def strike() -> None:
            killed.append(time.perf_counter())
            _STRIKES[kind](nodes, nodes.with_shards())

        timer = threading.Timer(own_s / 3, strike)
        timer.start()
        vec.collect(policy, _T)
        took_s = time.perf_counter()
        timer.join()
        waited_s = _ANSWER_S if kind == "SIGSTOP" else 0.0
        beyond_s = took_s - killed[0] - own_s - waited_s
        lost = len(vec.incidents)
    nodes.mend()
    return {"killed": kind, "part s": own_s, "beyond s": beyond_s, "shards lost": lost}


def _first_shard(nodes: Nodes, node: str, number: int) -> None:
    os.kill(nodes.shards(node)[0], number)


_STRIKES: dict[str, Callable[[Nodes, str], None]] = {
    "actor": lambda nodes, node: _first_shard(nodes, node, signal.SIGKILL),
    "raylet": lambda nodes, node: os.kill(nodes.raylet(node), signal.SIGKILL),
    "node": lambda nodes, node: nodes.signal(node, signal.SIGKILL),
    "SIGSTOP": lambda nodes, node: _first_shard(nodes, node, signal.SIGSTOP),
}


def _on_paper(rows: Rows) -> str:
    """Says what more nodes would cost, by the overhead of a shard measured with the most."""
    last = rows[-1]
    part_bytes = 16 * _T * (4 * 4 + 8 + 4 + 8 + 4 + 4 + 4)  # CartPole's row, and its flags
    lines = ["On paper, one shard a node, CartPole 16 a shard:"]
    for count in _NODES:
        driver_s = count * last["a shard ms"] / 1e3
        rate = count * part_bytes / max(driver_s, last["part ms"] / 1e3)
        lines.append(
            f"  {count:>4} nodes: the driver needs {driver_s:.2f} s a rollout, and takes "
            f"{rate / 1e6:.1f} MB/s"
        )
    lines.append(
        "  Where the driver needs as long as a part takes, it is the limit: make parts longer "
        "(a larger horizon, more environments a shard), or run a session for each learner."
    )
    return "\n".join(lines)


def _print(console: Console, title: str, rows: Rows) -> None:
    table = Table(title=title)
    for name in rows[0]:
        table.add_column(name, justify="left" if isinstance(rows[0][name], str) else "right")
    for row in rows:
        table.add_row(*(f"{v:.2f}" if isinstance(v, float) else str(v) for v in row.values()))
    console.print(table)
