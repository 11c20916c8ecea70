"""The program that tries groupings of environments into processes, for the doctor."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Literal

from vecsess.cli.failures import explain
from vecsess.errors import VecsessError
from vecsess.session.vector import VecCheckedSession
from vecsess.tuning.lanes import Lane, TimedPolicy, acting_lanes, open_lanes, run_lanes
from vecsess.wire.values import Fields, Given

ROUNDS, ROUND_S = 3, 0.2
ACTING = "'auto', inference='workers'"
GROUPINGS: dict[str, int | Literal["auto"] | None] = {"None": None, "'auto'": "auto", "0": 0}


def main() -> None:
    """Reads what to try from argv, writes steps/s by grouping as JSON into a file."""
    asked = json.loads(sys.argv[1])
    found: Fields = {}
    try:
        found["rates"] = measure_rates(
            asked["env"], asked["n"], make_kwargs=asked["make_kwargs"], preload=asked["preload"]
        )
    except VecsessError as error:
        found["error"] = explain(error)
    Path(asked["result"]).write_text(json.dumps(found))


def measure_rates(env_id: str, n: int, **options: Given) -> dict[str, float]:
    """Returns steps/s for each grouping: medians of interleaved rounds, with random actions.

    Args:
        env_id: an id, also `module:EnvId`.
        n: how many environments.
        options: for `VecCheckedSession`.
    """
    with contextlib.ExitStack() as stack:
        lanes: dict[str, Lane] = {}
        for name, workers in GROUPINGS.items():
            vec = stack.enter_context(VecCheckedSession(env_id, n, workers=workers, **options))
            policy = TimedPolicy(None, vec.single_action_space, 0.0, 0.0)
            (lanes[name],) = open_lanes(vec, ["lockstep"], policy)
            if workers == "auto":
                lanes |= zip([ACTING], acting_lanes(vec, policy), strict=False)
        run_lanes(list(lanes.values()), ROUND_S, ROUNDS, lambda line: None)
        return {name: lane.rate for name, lane in lanes.items()}


if __name__ == "__main__":
    main()
