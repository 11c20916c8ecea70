"""The product of lasting faults, reactions, limits, paces, groupings and modes, run for real.

What is specified stands in two tables of docs/faults.md, which this reads.
"""

from __future__ import annotations

import itertools
import random
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vecsess.bench.faults.lasting import FAULTS, LENGTH, SPANS, LastingEnv
from vecsess.bench.faults.overdue import within
from vecsess.collect.policies import RandomPolicy
from vecsess.collect.sources import collect_rollout
from vecsess.errors import VecsessError
from vecsess.fleet.worker import Timeouts
from vecsess.recovery.policy import RestartPolicy
from vecsess.session.vector import VecCheckedSession

TABLES = Path(__file__).resolve().parents[2] / "docs" / "faults.md"
N, GUILTY, STEPS = 3, 1, 24
WITHIN_S = 120  # a cell that takes longer hangs
REACTIONS = ("raise", "truncate", "restart", "replay")
AXES: dict[str, tuple[Any, ...]] = {
    "fault": FAULTS,
    "span": SPANS,
    "reaction": REACTIONS,
    "on_limit": ("raise", "quarantine"),
    "pace": ("lockstep", "pipelined", "free"),
    "workers": (0, 2, N),
    "mode": ("same_step", "next_step", "disabled"),
}
_OWN = ("raises", "violates", "NaN")  # an environment's own doing: no worker is lost
_SLOW = ("hangs", "reset too slow")
_AT_A_LOSS = ("constructor fails", "close raises", "reset too slow")
_LASTING = {"steps": "at every step", "resets": "at every reset", "replays": "in the replay too"}
_ROWS = ("reward", "terminated", "truncated", "observation")

Tables = dict[str, dict[str, str]]


@dataclass(frozen=True)
class Cell:
    """One combination."""

    fault: str
    span: str
    reaction: str
    on_limit: str
    pace: str
    workers: int
    mode: str

    def __str__(self) -> str:
        return ", ".join(str(getattr(self, one.name)) for one in fields(self))


def cells() -> list[Cell]:
    """Returns all combinations that there can be."""
    return [cell for one in itertools.product(*AXES.values()) if _possible(cell := Cell(*one))]


def _possible(cell: Cell) -> bool:
    if cell.workers == 0:
        if cell.fault not in _OWN or cell.on_limit == "quarantine" or cell.pace != "lockstep":
            return False
    elif cell.pace != "lockstep" and (cell.mode != "same_step" or cell.fault == "reply too large"):
        return False
    return cell.fault not in _AT_A_LOSS or cell.span in ("once", "resets")


def sample(count: int, seed: int) -> list[Cell]:
    """Returns some of them, each value of each axis in its turn."""
    chance, left = random.Random(seed), cells()
    chance.shuffle(left)
    seen: dict[tuple[str, Any], int] = {}
    found = []
    for _ in range(min(count, len(left))):
        cell = min(left, key=lambda one: sum(seen.get(value, 0) for value in _values(one)))
        left.remove(cell)
        found.append(cell)
        for value in _values(cell):
            seen[value] = seen.get(value, 0) + len(AXES[value[0]])
    return found


def _values(cell: Cell) -> list[tuple[str, Any]]:
    return [(name, getattr(cell, name)) for name in AXES]


# --- what is specified ---------------------------------------------------------------------------


def read_tables(text: str) -> Tables:
    """Returns the tables of "Faults that last", by row and column."""
    found: Tables = {}
    columns: list[str] = []
    for line in text.split("## Faults that last")[1].split("\n## ")[0].splitlines():
        values = [value.strip() for value in line.strip("|").split("|")]
        if not line.startswith("|"):
            columns = []
        elif not columns:
            columns = values
        elif not line.startswith("|---"):
            found[values[0]] = dict(zip(columns[1:], values[1:], strict=True))
    return found


def expected(cell: Cell, tables: Tables) -> str:
    """Returns what is to come of a combination."""
    outcome = tables[cell.fault][cell.reaction]
    if cell.mode == "disabled" and cell.span == "resets" and cell.fault in _OWN:
        outcome = tables[cell.fault]["raise"]
    if cell.mode == "disabled" and cell.fault == "reset too slow" and cell.reaction == "truncate":
        outcome = tables[cell.fault]["replay"]  # no row is under way that could be cut off
    if cell.workers == 0:
        outcome = outcome.removesuffix(", restarted")
    if cell.span != "once":
        outcome = tables.get(outcome, {}).get(_LASTING[cell.span], outcome)
    if outcome == "limit":
        return "quarantined" if cell.on_limit == "quarantine" else "RestartLimitExceeded"
    return outcome.removesuffix(", restarted")


# --- what comes of it ----------------------------------------------------------------------------


def outcome(cell: Cell) -> str:
    """Runs a combination; returns what came of it."""
    late = AssertionError(f"hangs: {cell}")
    with tempfile.TemporaryDirectory() as name, within(WITHIN_S, late), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of environments that did not close in order
        folder = Path(name)
        with _open(cell, folder) as vec:
            try:
                _run(cell, vec)
            except VecsessError as error:
                what = type(error).__name__.partition("[")[0]  # an EnvError has the env's own too
            else:
                what = _told(vec)
            assert (folder / "armed").exists(), "the fault never happened"
            (folder / "armed").unlink()
            # Up to the step in which it would happen again.
            _step(vec, cell.mode, 2, seed=1)
        return what


def _open(cell: Cell, folder: Path) -> VecCheckedSession:
    makers: list[Any] = [partial(LastingEnv, index) for index in range(N)]
    makers[GUILTY] = partial(LastingEnv, GUILTY, folder, cell.fault, cell.span)
    limit_s = 1.0 if cell.fault in _SLOW else 30.0
    reactions = {
        name: cell.reaction
        for name in ("on_crash", "on_error", "on_violation")
        if cell.reaction != ("restart" if name == "on_crash" else "replay")
    }
    return VecCheckedSession(
        makers,
        N,
        workers=cell.workers,
        autoreset_mode=cell.mode,  # type: ignore[arg-type]  # one of its axis
        timeouts=Timeouts(start_s=60, reset_s=limit_s, step_s=limit_s, close_s=3),
        restart_policy=RestartPolicy(
            max_restarts=2, backoff_s=0.01, within_s=600, reproducer_dir=str(folder)
        ),
        on_limit=cell.on_limit,  # type: ignore[arg-type]  # one of its axis
        **reactions,  # type: ignore[arg-type]  # likewise
    )


def _run(cell: Cell, vec: VecCheckedSession) -> None:
    if cell.pace == "lockstep":
        _step(vec, cell.mode, STEPS, seed=0)
        return
    vec.reset(seed=0)
    ledger = _Ledger(vec, "same_step")
    policy = RandomPolicy(vec.single_action_space)
    for _ in range(2):
        rollout = collect_rollout(
            vec,
            policy,
            STEPS // 2,
            seed=0,
            pace=cell.pace,  # type: ignore[arg-type]  # one of its axis
        )
        following = [*rollout.observations[1:], rollout.last_observations]
        for t, observations in enumerate(following):
            row = (rollout.rewards[t], rollout.terminated[t], rollout.truncated[t])
            ledger.check(rollout.actions[t], (observations, *row), ~rollout.valid[t])


def _step(vec: VecCheckedSession, mode: str, steps: int, seed: int) -> None:
    """Resets, and steps; says where a row is wrong."""
    vec.reset(seed=seed)
    ledger, chance = _Ledger(vec, mode), np.random.default_rng(seed)
    for _ in range(steps):
        actions = chance.integers(0, 8, N)
        *row, infos = vec.step(actions)
        ledger.check(actions, tuple(row), infos.get("invalid", np.zeros(N, np.bool_)))
        if mode == "disabled" and ledger.over.any():
            observations, _ = vec.reset(options={"reset_mask": ledger.over.copy()})
            ledger.begin(observations)


def _told(vec: VecCheckedSession) -> str:
    """Returns the outcome of a run that raised nothing."""
    outcomes = [what for one in vec.incidents for what in one.outcomes.values()]
    if "quarantined" in outcomes:
        return "quarantined"
    if any(what.startswith("truncated") for what in outcomes):
        return "truncated"
    return "replayed" if outcomes else "goes on"


class _Ledger:
    """Counts along with the environments."""

    def __init__(self, vec: VecCheckedSession, mode: str) -> None:
        self._vec, self._mode = vec, mode
        self._count, self._sum = np.zeros(N), np.zeros(N)
        self.over = np.zeros(N, np.bool_)  # those that have yet to be reset

    def begin(self, observations: Any) -> None:
        """Takes a reset of those that were over."""
        self._count[self.over] = self._sum[self.over] = 0
        self._compare("observation", observations, self._state(), self._kept())
        self.over[:] = False

    def check(self, actions: Any, row: tuple[Any, ...], invalid: Any) -> None:
        """Takes a step: whatever is not marked has to be right."""
        observations, rewards, terminated, truncated = row
        own = np.array(self._vec.pids) == self._vec.pids[GUILTY]
        if invalid[~own].any():
            raise AssertionError(f"rows of others are marked: {invalid}")
        resets = self.over & ~invalid
        self._count, self._sum = self._count + 1, self._sum + actions
        ended = (self._count == LENGTH) & ~resets
        begun = resets | invalid | (ended & (self._mode == "same_step"))
        self._count[begun] = self._sum[begun] = 0
        kept = ~invalid
        self._compare("observation", observations, self._state(), kept)
        self._compare("reward", rewards, np.where(invalid | resets, 0.0, 1.0))
        self._compare("terminated", terminated, ended & ~invalid)
        self._compare("truncated", truncated, invalid)
        if self._mode == "next_step":
            self.over = ended & ~invalid  # what was cut off has begun anew
        elif self._mode == "disabled":
            self.over = ended | invalid

    def _kept(self) -> Any:
        quarantined = self._vec.engine.recovery.quarantined
        return np.array([env not in quarantined for env in range(N)])

    def _state(self) -> Any:
        return np.stack([np.arange(N), self._count, self._sum], axis=1)

    def _compare(self, what: str, got: Any, right: Any, where: Any = slice(None)) -> None:
        if not np.array_equal(got[where], right[where]):
            raise AssertionError(f"a wrong {what}: {got.tolist()}, expected {right.tolist()}")


def run_product(todo: list[Cell]) -> Iterator[str]:
    """Runs combinations; yields what is wrong, one a line."""
    tables = read_tables(TABLES.read_text())
    for cell in todo:
        try:
            got = outcome(cell)
        except Exception as error:
            got = f"{type(error).__name__}: {error}"
        if got != (right := expected(cell, tables)):
            yield f"{cell}: expected {right}, got {got}"


def main(count: int) -> int:
    """Runs some combinations, or all for 0; prints those that are wrong."""
    todo, wrong = sample(count, seed=0) if count else cells(), 0
    for wrong, line in enumerate(run_product(todo), 1):  # noqa: B007  # the last one
        print(line, flush=True)
    print(f"{wrong} of {len(todo)} are wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 0))
