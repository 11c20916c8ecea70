"""`vecsess collect`: fills rollouts with random actions and says how it went."""

from __future__ import annotations

import argparse
import logging
import shlex
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich.console import Console

from vecsess.cli import archive, charts
from vecsess.cli.progress import Show, watch
from vecsess.cli.session_options import add_session_options, open_session, positive
from vecsess.cli.tables import incidents_table, reproducers, summary_table, workers_table
from vecsess.cli.tally import Tally
from vecsess.collect.policies import Decision, RandomPolicy
from vecsess.collect.rollout import Rollout
from vecsess.collect.sources import collect_rollout
from vecsess.session.vector import VecCheckedSession
from vecsess.wire.values import Given

INTERRUPTED = 130
LOOK_EVERY_S = 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    add_session_options(parser)
    add = parser.add_argument
    add("--horizon", type=positive, default=128, metavar="T", help="steps of a rollout (128)")
    add("--rollouts", type=positive, default=50, metavar="K", help="how many (50)")
    add("--out", type=Path, metavar="FILE", help="save the last batch: .npz or .json")
    add("--plot", type=Path, metavar="FILE.png", help="draw returns and steps/s")
    add("--quiet", action="store_true", help="only the tables at the end")


def run(options: argparse.Namespace) -> int:
    """Collects; returns the exit code."""
    if options.out is not None:
        archive.require_known(options.out)
        archive.require_writable(options.out)
    if options.plot is not None:
        charts.require_drawable(options.plot)
    # Incidents have a table of their own; as log lines they would break up the bar.
    logging.getLogger("vecsess").addHandler(logging.NullHandler())
    console = Console()
    with open_session(options) as vec:
        if options.out is not None:
            spaces = vec.single_observation_space, vec.single_action_space
            archive.require_savable(options.out, *spaces)
        collection = _Collection(vec, options)
        try:
            with watch(console, options.rollouts, options.horizon, quiet=options.quiet) as show:
                collection.run(show)
        except KeyboardInterrupt:
            collection.interrupted = True
        finally:
            collection.report(console)
    collection.save(console)
    return INTERRUPTED if collection.interrupted else 0


class _Collection:
    """One run of the command: the session, the tally, and the last whole batch."""

    def __init__(self, vec: VecCheckedSession, options: argparse.Namespace) -> None:
        self._vec, self._options = vec, options
        self._last: Rollout | None = None
        self.tally = Tally(vec.num_envs)
        self.interrupted = False

    def run(self, show: Show) -> None:
        """Collects all rollouts, or what there is when Ctrl-C is pressed."""
        vec = self._vec
        policy = _Watched(RandomPolicy(vec.single_action_space), self._look, show)
        vec.start(self._options.seed)
        self.tally = Tally(vec.num_envs)
        rollout, seed = self._allocate(), self._options.seed
        returns, lengths = np.zeros(vec.num_envs), np.zeros(vec.num_envs, np.int64)
        for _ in range(self._options.rollouts):
            policy.asked = 0
            try:
                collect_rollout(vec, policy, self._options.horizon, seed=seed, out=rollout)
            except KeyboardInterrupt:
                self.interrupted = True
                self.tally.add_part(rollout, max(0, policy.asked - 1), returns, lengths)
                return
            seed = None  # the stream goes on
            returns, lengths = vec.episode_returns.copy(), vec.episode_lengths.copy()
            self.tally.add(rollout)
            show(self.tally, self._vec.worker_states())
            rollout = self._keep(rollout)

    def _allocate(self) -> Rollout:
        vec = self._vec
        return Rollout.empty(
            self._options.horizon,
            vec.num_envs,
            vec.single_observation_space,
            vec.single_action_space,
        )

    def _keep(self, rollout: Rollout) -> Rollout:
        """Keeps a whole rollout where it is to be saved; returns the memory for the next."""
        if self._options.out is None:
            return rollout
        free = self._last or self._allocate()
        self._last = rollout
        return free

    def _look(self, locksteps: int, show: Show) -> None:
        self.tally.reach(locksteps)
        show(self.tally, self._vec.worker_states())

    def report(self, console: Console) -> None:
        """Prints the tables; the workers still live."""
        if self.interrupted:
            console.print("interrupted; what was collected so far:")
        if self.tally.steps:
            console.print(summary_table(self.tally))
            console.print(workers_table(console, map(asdict, self._vec.health())))
        if self._vec.incidents:
            console.print(incidents_table(self._vec.incidents))
            for path in reproducers(self._vec.incidents):
                console.print(f"reproducer: {path}", soft_wrap=True, markup=False)

    def save(self, console: Console) -> None:
        """Writes the files that were asked for."""
        out, plot = self._options.out, self._options.plot
        if out is not None:
            self._save_batch(out, console)
        if plot is not None:
            charts.draw(plot, self.tally, self._options.env)
            console.print(f"the plot is in {plot}")

    def _save_batch(self, out: Path, console: Console) -> None:
        if self._last is None:
            console.print(f"{out} was not written: no rollout was whole yet")
            return
        archive.save(out, self._last, {"env": self._options.env, "seed": self._options.seed})
        name = shlex.quote(str(out))
        shown_by = f"inspect {name}"
        if out.suffix == ".json":
            shown_by = f"check {name} --env {self._options.env}"
        console.print(
            f"the last batch is in {out}; `vecsess {shown_by}` looks at it", soft_wrap=True
        )


class _Watched:
    """A policy that lets somebody look now and then how far the rollout is."""

    def __init__(self, policy: RandomPolicy, look: Given, show: Show) -> None:
        self.noise_size = policy.noise_size
        self._policy, self._look, self._show = policy, look, show
        self.asked, self._looked_s = 0, 0.0

    def act(self, observations: Given, **where: Given) -> Decision:
        """See `Policy.act`."""
        now_s = time.monotonic()
        if now_s - self._looked_s > LOOK_EVERY_S:
            self._looked_s = now_s
            self._look(self.asked, self._show)
        self.asked += 1
        return self._policy.act(observations, **where)

    def value(self, observations: Given, *, envs: Given) -> Given:
        """See `Policy.value`."""
        return self._policy.value(observations, envs=envs)
