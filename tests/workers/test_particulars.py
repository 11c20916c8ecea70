"""Whatever an environment shows beyond what it must, it can be run and brought back."""

from __future__ import annotations

from functools import partial

import pytest

from tests.losses import kill
from tests.workers.odd_envs import ODD, OddEnv
from vecsess import VecCheckedSession


def run(name: str, workers: int, *, lost: bool = False) -> list[list[float]]:
    with VecCheckedSession(partial(OddEnv, *ODD[name]), 2, workers=workers) as vec:
        seen = [vec.reset(seed=5)[0]]
        for step in range(8):
            if lost and step == 5:
                kill(vec, 0)
            seen.append(vec.step([0, 1])[0])
        outcomes = [outcome for each in vec.incidents for outcome in each.outcomes.values()]
        assert all(outcome.startswith("replayed") for outcome in outcomes)
        assert len(outcomes) == (1 if lost else 0)
    return [array.tolist() for array in seen]


@pytest.mark.parametrize("name", ODD)
def test_it_runs_the_same_everywhere(name: str) -> None:
    here = run(name, 0)
    assert run(name, 2, lost=True) == here
    assert len(here) == 9
