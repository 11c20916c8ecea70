"""Losses of every kind on a simulated cluster: `python -m vecsess.bench ray --losses 100`.

One session collects rollout after rollout. In the middle of each, something that it runs on is
killed, stopped or taken away, and the batch is compared, bit for bit, with one of one machine.
"""

from __future__ import annotations

import logging
import os
import signal
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import psutil
from gymnasium import spaces
from rich.console import Console

from vecsess import RandomPolicy, RestartPolicy, Timeouts, VecCheckedSession
from vecsess.bench.faults.rollouts import same_batch, wrong_rows
from vecsess.bench.nodes import Nodes
from vecsess.collect.rollout import Rollout
from vecsess.collect.sources import collect_rollout

_N, _T, _STEP_S = 8, 128, 0.003
_ANSWER_S, _CALL_S = 4.0, 3.0
_RESHARD_EVERY, _SHARDS = 10, (2, 5)
_NODES = 3
_MOST_WRONG = 20
_KILL, _STOP = signal.SIGKILL, signal.SIGSTOP


class Slow(gymnasium.Wrapper[Any, Any, Any, Any]):
    """CartPole whose steps take a while, so that a rollout has a middle."""

    def __init__(self, step_s: float) -> None:
        """Makes it."""
        super().__init__(gymnasium.make("CartPole-v1"))
        self._step_s = step_s

    def step(self, action: Any) -> Any:
        """Sleeps, then steps."""
        if self._step_s:
            time.sleep(self._step_s)
        return super().step(action)


@dataclass
class Tally:
    """What one kind of loss has done.

    Attributes:
        losses: how often it struck in the middle of a rollout.
        different: batches that were not those of one machine.
        took_s: from each to the batch.
    """

    losses: int = 0
    different: int = 0
    took_s: list[float] = field(default_factory=list)


def run_losses(losses: int, seed: int, console: Console, progress: Console) -> list[dict[str, Any]]:
    """Strikes so often, in a cluster that this process has not joined yet.

    Args:
        losses: how often.
        seed: of environments, kinds and moments.
        console: for what differs.
        progress: for what is going on.

    Returns:
        A row for each kind of loss; `different` says how many batches were not the same.
    """
    nodes = Nodes(_NODES, cpus=_SHARDS[1])
    logging.getLogger("vecsess").addHandler(logging.NullHandler())  # each loss is a line already
    tallies = {kind: Tally() for kind in STRIKES}
    try:
        nodes.join()
        with calm_session() as calm, struck_session() as vec:
            campaign = Campaign(nodes, vec, calm, seed, tallies)
            campaign.begin()
            while (done := sum(tally.losses for tally in tallies.values())) < losses:
                kind = campaign.strike_once()
                wrong = sum(tally.different for tally in tallies.values())
                took = tallies[kind].took_s[-1:] or [0.0]
                line = f"{done + 1}/{losses} {kind}: {took[0]:.1f} s, {wrong} differ"
                progress.print(line, style="dim", highlight=False)
                if wrong > _MOST_WRONG:
                    console.print("too many batches differ to go on")
                    break
    finally:
        nodes.end()
    return [_row(kind, tally) for kind, tally in tallies.items() if tally.losses]


def calm_session() -> VecCheckedSession:
    """Returns what the batches are compared with."""
    return VecCheckedSession(partial(Slow, 0.0), _N, workers=0)


def struck_session() -> Any:
    """Returns the session that is struck, on the cluster that was joined."""
    from vecsess.integrations.ray import RaySession

    return RaySession(
        partial(Slow, _STEP_S),
        _N,
        shards=4,
        workers=1,
        answer_s=_ANSWER_S,
        start_s=120.0,
        timeouts=Timeouts(step_s=_CALL_S),
        restart_policy=RestartPolicy(max_restarts=None),
    )


class Campaign:
    """One run of it.

    Args:
        nodes: the cluster.
        vec: is struck.
        calm: the same environments, on this machine.
        seed: of environments, kinds and moments.
        tallies: by kind of loss, where it is noted.
    """

    def __init__(
        self,
        nodes: Nodes,
        vec: Any,
        calm: VecCheckedSession,
        seed: int,
        tallies: dict[str, Tally],
    ) -> None:
        self._nodes, self._vec, self._calm, self._tallies = nodes, vec, calm, tallies
        self._seed, self._rng = seed, np.random.default_rng(seed)
        self._policy = RandomPolicy(spaces.Discrete(2))
        self._own_s, self._rounds, self._wanted = 0.0, 0, len(nodes.by_id)

    def begin(self) -> None:
        """Collects undisturbed, to see how long that takes."""
        self._calm.start(self._seed)
        self._vec.start(self._seed)
        seed = self._seed
        ours = collect_rollout(self._vec, self._policy, _T, seed=seed)
        theirs = collect_rollout(self._calm, self._policy, _T, seed=seed)
        if _differ(ours, theirs):
            raise RuntimeError("the batches differ before anything was lost: nothing can be shown")
        self._own_s = max(each.took_s for each in self._vec.health())

    def strike_once(self) -> str:
        """Collects a rollout in whose middle something is lost; returns what."""
        kind = str(self._rng.choice(list(STRIKES)))
        after_s = self._own_s * self._rng.uniform(0.1, 0.8)
        struck: list[float] = []
        timer = threading.Timer(after_s, self._strike, (kind, self._rng.random(), struck))
        timer.start()
        ours = collect_rollout(self._vec, self._policy, _T)
        ended_s = time.monotonic()
        timer.join()
        theirs = collect_rollout(self._calm, self._policy, _T)
        self._own_s = min(self._own_s, *(each.took_s for each in self._vec.health()))
        tally = self._tallies[kind]
        if struck and struck[0] < ended_s:  # what came too late strikes the next one
            tally.losses += 1
            tally.took_s.append(ended_s - struck[0])
        tally.different += _differ(ours, theirs)
        self._mend()
        return kind

    def _strike(self, kind: str, draw: float, struck: list[float]) -> None:
        nodes = self._nodes
        shards = [(node, pid) for node in nodes.by_id for pid in nodes.shards(node)]
        node, shard = shards[int(draw * len(shards))]
        struck.append(time.monotonic())
        STRIKES[kind](nodes, node, shard)

    def _mend(self) -> None:
        self._nodes.mend()
        while len(self._nodes.by_id) < self._wanted:
            self._nodes.add()
        self._rounds += 1
        if self._rounds % _RESHARD_EVERY == 0:
            self._vec.reshard(int(self._rng.integers(*_SHARDS)))


def _line_below(shard: int) -> list[int]:
    """Returns the fork server of a shard, then its workers."""
    return [each.pid for each in psutil.Process(shard).children(recursive=True)]


def _first(place: int, number: int) -> Callable[[Nodes, str, int], None]:
    """Returns what signals a shard's fork server (0) or its first worker (1)."""

    def strike(_: Nodes, __: str, shard: int) -> None:
        os.kill(_line_below(shard)[place], number)

    return strike


def _take_away(nodes: Nodes, node: str, _: int) -> None:
    nodes.cluster.remove_node(nodes.by_id.pop(node), allow_graceful=True)


def _all_shards(nodes: Nodes, node: str, _: int) -> None:
    for shard in nodes.shards(node):
        os.kill(shard, _KILL)


STRIKES: dict[str, Callable[[Nodes, str, int], None]] = {
    "worker killed": _first(1, _KILL),
    "worker stopped": _first(1, _STOP),
    "fork server killed": _first(0, _KILL),
    "fork server stopped": _first(0, _STOP),
    "actor killed": lambda nodes, node, shard: os.kill(shard, _KILL),
    "actor stopped": lambda nodes, node, shard: os.kill(shard, _STOP),
    "all actors of a node killed": _all_shards,
    "raylet killed": lambda nodes, node, shard: os.kill(nodes.raylet(node), _KILL),
    "raylet stopped": lambda nodes, node, shard: os.kill(nodes.raylet(node), _STOP),
    "node killed": lambda nodes, node, shard: nodes.signal(node, _KILL),
    "node stopped": lambda nodes, node, shard: nodes.signal(node, _STOP),
    "node taken away": _take_away,
}


def _differ(ours: Rollout, theirs: Rollout) -> bool:
    return bool(wrong_rows(ours, theirs).any()) or not same_batch(ours, theirs)


def _row(kind: str, tally: Tally) -> dict[str, Any]:
    return {
        "lost": kind,
        "times": tally.losses,
        "batches that differ": tally.different,
        "to the batch s": statistics.median(tally.took_s),
        "longest s": max(tally.took_s),
    }
