"""The program that tries groupings of environments into processes, for the doctor."""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Literal

from vecsess.cli.failures import explain
from vecsess.collect.policies import RandomPolicy
from vecsess.collect.sources import collect_rollout
from vecsess.errors import VecsessError
from vecsess.session.vector import VecCheckedSession

ROUNDS, ROUND_S = 3, 0.2
GROUPINGS: dict[str, int | Literal["auto"] | None] = {"None": None, "'auto'": "auto", "0": 0}


def main() -> None:
    """Reads what to try from argv, writes steps/s by grouping as JSON into a file."""
    asked = json.loads(sys.argv[1])
    found: dict[str, Any] = {}
    try:
        found["rates"] = measure_rates(
            asked["env"], asked["n"], make_kwargs=asked["make_kwargs"], preload=asked["preload"]
        )
    except VecsessError as error:
        found["error"] = explain(error)
    Path(asked["result"]).write_text(json.dumps(found))


def measure_rates(env_id: str, n: int, **options: Any) -> dict[str, float]:
    """Returns steps/s for each grouping: medians of interleaved rounds, with random actions.

    Args:
        env_id: an id, also `module:EnvId`.
        n: how many environments.
        options: for `VecCheckedSession`.
    """
    with contextlib.ExitStack() as stack:
        trials = {
            name: Trial(
                stack.enter_context(VecCheckedSession(env_id, n, workers=workers, **options))
            )
            for name, workers in GROUPINGS.items()
        }
        rounds = [{name: trial.run() for name, trial in trials.items()} for _ in range(ROUNDS)]
    return {name: statistics.median(rates[name] for rates in rounds) for name in trials}


class Trial:
    """One grouping that is tried, for a while at a time.

    Args:
        vec: an open session.
    """

    def __init__(self, vec: VecCheckedSession) -> None:
        self._vec, self._horizon = vec, 1
        self._policy = RandomPolicy(vec.single_action_space)
        self.run()

    def run(self) -> float:
        """Collects for about `ROUND_S`; returns steps/s."""
        began_s = time.perf_counter()
        collect_rollout(self._vec, self._policy, self._horizon)
        rate = self._horizon / (time.perf_counter() - began_s)
        self._horizon = max(1, min(4096, int(rate * ROUND_S)))
        return rate * self._vec.num_envs


if __name__ == "__main__":
    main()
