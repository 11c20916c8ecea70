"""Contenders that collect at a pace, or wait for a slow policy: what they do, not how fast."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest

from vecsess.bench.cases import Case, StepTime, find_case
from vecsess.bench.collecting import HORIZON
from vecsess.bench.contenders import Contender
from vecsess.bench.measure import cores_available
from vecsess.bench.paces import (
    FREE,
    OVERLAPS,
    SLOW,
    OverlapAdapter,
    PacedAdapter,
    PolicyTime,
    sleep_lateness_s,
)

pytestmark = pytest.mark.usefixtures("no_process_left")
BUSY = StepTime(mean_us=100.0)
ASLEEP = StepTime(mean_us=100.0, sleeping=True)


def test_a_policy_takes_as_long_as_the_environments_do_together() -> None:
    call_s, row_s = PolicyTime(all_rows=1.0).of_lockstep(BUSY, 16, 4)
    assert call_s == 0
    assert 16 * row_s == pytest.approx(16 * 100e-6 / min(4, cores_available()))
    call_s, row_s = PolicyTime(call=0.5).of_lockstep(ASLEEP, 16, 4)
    assert call_s == pytest.approx(0.5 * 4 * 100e-6)
    assert row_s == 0


@pytest.mark.parametrize("pace", ["lockstep", "free"])
def test_the_ideal_is_what_the_slowest_environment_was_drawn_to_take(pace: str) -> None:
    case = find_case("heavy", step_us=1.0)
    with closing(PacedAdapter(case, 2, workers=None, pace=pace)) as adapter:
        adapter.reset()
        adapter.step(None)
        figures = adapter.take_figures()
        assert adapter.steps_per_call == 2 * HORIZON
    drawn_s = []
    for seed in (0, 1):  # as a session seeds its environments
        env = case.make()
        env.reset(seed=seed)
        drawn_s.append(sum(float(env.step(0)[1]) for _ in range(HORIZON)))
        env.close()
    assert figures["ideal_s"] == pytest.approx(max(drawn_s), rel=1e-3)
    assert figures["slept_s"] > figures["ideal_s"]


def test_figures_are_handed_out_once() -> None:
    with closing(PacedAdapter(find_case("steady", step_us=1.0), 1, workers=1, pace="free")) as one:
        one.reset()
        one.step(None)
        first, second = one.take_figures(), one.take_figures()
    assert first["ideal_s"] == first["slept_s"] > 0, "nobody sleeps here"
    assert second == {"ideal_s": 0.0, "slept_s": 0.0}


def test_an_overlap_needs_a_step_time_to_overlap_with() -> None:
    with pytest.raises(ValueError, match="expected a case whose step time is known"):
        OverlapAdapter(find_case("cartpole"), 2, pace="free", policy_time=PolicyTime(call=1.0))


def test_a_sleep_is_never_early() -> None:
    assert sleep_lateness_s() >= 0


@pytest.mark.parametrize(
    ("contender", "case"),
    [
        *((contender, find_case("heavy", step_us=1.0)) for contender in FREE),
        *(
            (contender, find_case("steady", step_us=1.0))
            for pair in OVERLAPS.values()
            for contender in pair
        ),
        *((contender, find_case("cartpole")) for contender in SLOW),
    ],
    ids=lambda each: getattr(each, "key", getattr(each, "name", None)),
)
def test_all_of_them_step(
    contender: Contender, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vecsess.session.arguments.SPIN_NS", 0)  # which a slow one changes for good
    with closing(contender.open(case, 2)) as adapter:
        adapter.reset()
        (actions, *_) = adapter.prepare([np.zeros(2, np.int64)])
        adapter.step(actions)
