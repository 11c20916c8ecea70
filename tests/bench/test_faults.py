"""The fault campaign in short: what it finds, and that it would find what is broken."""

from __future__ import annotations

import copy
import json
import logging
import random
import warnings
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vecsess import VecCheckedSession, collect_rollout
from vecsess.bench.__main__ import main
from vecsess.bench.faults import command
from vecsess.bench.faults.broken import WITHOUT_GROUP_KILL, acknowledgement_ignored
from vecsess.bench.faults.campaign import Figure, Scale, kill_figures
from vecsess.bench.faults.deciding import Looking
from vecsess.bench.faults.faulty import DIES, HANGING, HARMLESS, RAISES, cells
from vecsess.bench.faults.frames import Readers, feed, feed_elsewhere
from vecsess.bench.faults.hanging import HANGS
from vecsess.bench.faults.hangs import overshoot_s
from vecsess.bench.faults.kills import run_kills
from vecsess.bench.faults.ledger import LedgerEnv, Verdict, judge
from vecsess.bench.faults.lies import Liar
from vecsess.bench.faults.matrix import expected, outcome
from vecsess.bench.faults.oracle import Oracle
from vecsess.bench.faults.orphans import orphans
from vecsess.bench.faults.peers import stands
from vecsess.bench.faults.rollouts import same_batch, wrong_rows
from vecsess.bench.faults.steady import throughput_kept
from vecsess.bench.faults.tally import Tally
from vecsess.bench.faults.workloads import Workload, ledgers, modes_of, workloads
from vecsess.fleet import reports

pytestmark = pytest.mark.usefixtures("no_process_left")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("vecsess")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


# --- kills ---------------------------------------------------------------------------------------

SHORT = [w for w in workloads(modes_of(VecCheckedSession)) if "Pong" not in w.name]


@pytest.mark.parametrize("workload", SHORT, ids=lambda workload: workload.label)
def test_no_kill_changes_a_batch(workload: Workload) -> None:
    tally = run_kills(workload, 8, seed=1)
    assert tally.kills >= 8
    assert len(tally.latencies_s) == tally.kills
    assert tally.growth == {"descriptors": 0, "threads": 0, "zombies": 0}
    assert tally.sound, tally


def test_workers_that_do_not_act_are_reported() -> None:
    workload = Workload(name="ledger", makers=ledgers(2), workers=1, horizon=8)
    assert "can't act" in run_kills(workload, 1, seed=0, on_crash="truncate").stopped


@pytest.mark.parametrize("field", ["rewards", "observations", "final_observations"])
def test_a_bit_of_a_rollout_that_differs_is_reported(field: str) -> None:
    with VecCheckedSession(ledgers(2), n=2, workers=0) as vec:
        one = collect_rollout(vec, Looking(vec.single_action_space), 64, seed=0)
    assert not wrong_rows(one, one).any()
    assert same_batch(one, one)
    other = copy.deepcopy(one)
    getattr(other, field).reshape(-1).view(np.uint8)[-1] ^= 1
    assert wrong_rows(one, other).any() == (field != "final_observations")
    assert same_batch(one, other) == (field != "final_observations")


def test_every_mode_and_grouping_is_there() -> None:
    found = {(workload.mode, workload.workers) for workload in SHORT if "ledger" in workload.name}
    assert found == {
        (mode, workers)
        for mode in ("same_step", "next_step", "disabled")
        for workers in (None, 1, 2, 3)
    }


def test_an_ignored_acknowledgement_is_reported() -> None:
    workload = Workload(name="ledger", makers=ledgers(4), workers=None)
    with acknowledgement_ignored():
        tally = run_kills(workload, 3, seed=0)
    assert not tally.sound


def test_rows_that_are_marked_without_need_are_reported() -> None:
    workload = Workload(name="ledger", makers=ledgers(4), workers=None)
    tally = run_kills(workload, 5, seed=0, on_crash="truncate")
    assert tally.marked >= 5
    assert not tally.sound
    rows, batches, *_ = kill_figures([tally], 5)
    assert not batches.reached
    assert rows.name.startswith("random SIGKILLs")


def test_a_campaign_that_killed_nobody_has_shown_nothing() -> None:
    assert not any(figure.reached for figure in kill_figures([Tally(label="none")], 100))


# --- the ledger and the oracle -------------------------------------------------------------------


def rows(count: int) -> list[Any]:
    env = LedgerEnv(1, longest=1000)
    env.reset(seed=0)
    return [env.step(np.int64(action))[0].copy() for action in range(count)]


def test_the_ledger_tells_what_is_wrong_with_a_row() -> None:
    first, second, third = rows(3)
    torn = second.copy()
    torn[30:] = third[30:]
    other = LedgerEnv(2, longest=1000)
    other.reset(seed=0)
    another_action = LedgerEnv(1, longest=1000)
    another_action.reset(seed=0)
    assert judge(third, second) is Verdict.LOST
    assert judge(first, second) is Verdict.REPEATED
    assert judge(torn, second) is Verdict.TORN
    assert judge(other.step(np.int64(0))[0], first) is Verdict.MIXED_UP
    assert judge(another_action.step(np.int64(7))[0], first) is Verdict.MIXED_UP


@pytest.mark.parametrize("mode", ["same_step", "next_step", "disabled"])
def test_the_oracle_does_what_gymnasium_does(mode: str) -> None:
    from gymnasium.vector import AutoresetMode, SyncVectorEnv

    modes = {each.name.lower(): each for each in AutoresetMode}
    makers = [partial(LedgerEnv, index, longest=5) for index in range(3)]
    vec, oracle = SyncVectorEnv(makers, autoreset_mode=modes[mode]), Oracle(makers, mode)
    assert np.array_equal(vec.reset(seed=[4, 5, 6])[0], oracle.reset(4))
    for action in range(40):
        actions = np.full(3, action)
        observations, rewards, terminated, truncated, _ = vec.step(actions)
        batch = oracle.step(actions)
        assert np.array_equal(observations, batch.observations)
        assert np.array_equal(rewards, batch.rewards)
        assert np.array_equal(terminated, batch.terminated)
        assert np.array_equal(truncated, batch.truncated)
        mask = terminated | truncated
        if mode == "disabled" and mask.any():
            again = vec.reset(options={"reset_mask": mask})[0][mask]
            assert np.array_equal(again, oracle.reset_some(mask))
    vec.close()


# --- the fault matrix ----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore:a worker did not close")
@pytest.mark.parametrize(("fault", "place"), cells())
def test_a_fault_has_the_outcome_that_is_specified(fault: str, place: str) -> None:
    assert outcome(fault, place) == expected(fault, place)


def test_the_matrix_holds_every_fault_in_every_place() -> None:
    for fault in (*RAISES, *DIES, *HANGING, *HARMLESS):
        places = {place for each, place in cells() if each == fault}
        assert places == {"constructor", "reset", "step", "close"}


# --- everything else -----------------------------------------------------------------------------


@pytest.mark.parametrize("hang", HANGS)
def test_a_hang_is_over_soon_after_its_deadline(hang: str) -> None:
    late_s = overshoot_s(hang)
    assert -0.05 < late_s < 5.0  # the campaign's target is 0.3; this machine may be busy


def test_nothing_outlives_its_manager() -> None:
    assert orphans(2, seed=0) == 0


def test_a_group_kill_left_out_is_reported() -> None:
    assert orphans(1, seed=0, preload=[WITHOUT_GROUP_KILL]) > 0


def test_what_the_frames_are_made_of_is_taken() -> None:
    """Else hardly any of them would get far."""
    readers = Readers()
    for reader, frame_of in Liar(random.Random(0)).truths():
        readers.read(reader, frame_of)


def test_mutated_frames_do_nothing_but_be_refused() -> None:
    fed = feed_elsewhere(1 << 40, seed=3, seconds=20.0)
    assert fed.failures == 0, fed
    assert fed.accepted + fed.refused == fed.frames
    assert fed.refused > fed.accepted > 0


@pytest.mark.parametrize("check", ["_failures", "_checked"])
def test_a_check_left_out_is_reported(check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, check, lambda _, told: told)
    assert feed(400, seed=1).crashes


def test_throughput_is_measured_with_and_without_kills() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert 0.05 < throughput_kept(1, 0.5, seed=0) < 5


def test_the_scale_of_2000_kills_is_the_published_one() -> None:
    scale = Scale.of(2000)
    assert (scale.kills, scale.managers, scale.frames) == (2000, 200, 1_000_000)


def test_the_broken_builds_are_used_by_nothing_else() -> None:
    package = Path(__file__).parents[2] / "vecsess"
    users = [p.name for p in package.glob("*.py") if "faults.broken" in p.read_text()]
    assert users == []


# --- the command ---------------------------------------------------------------------------------


@pytest.mark.parametrize("reached", [True, False])
def test_the_command_ends_with_1_where_a_target_is_missed(
    reached: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    figure = Figure(name="kills", target="0", result="1", reached=reached, details=["which"])
    tally = Tally(label="ledger", kills=1, latencies_s=[0.5], wrong=Counter(torn=1))
    asked: list[Any] = []

    def run_campaign(scale: Scale, seed: int, tell: Any) -> Any:
        asked.append((scale.kills, seed))
        tell("at work")
        return [figure], [tally]

    monkeypatch.setattr(command, "run_campaign", run_campaign)
    options = ["--kills", "40", "--seed", "9", "--peers", "none"]
    code = main(["faults", *options, "--json", str(tmp_path / "out.json")])
    assert code == int(not reached)
    assert asked == [(40, 9)]
    printed = capsys.readouterr().out
    assert ("reached" in printed, "MISSED" in printed) == (reached, not reached)
    (table,) = json.loads((tmp_path / "out.json").read_text())["tables"]
    assert table["figures"][0]["details"] == ["which"]
    assert table["workloads"][0]["wrong"] == {"torn": 1}


def test_others_stop_where_ours_goes_on() -> None:
    other, ours = stands(["async"])
    assert (other.label, other.survived) == ("Gymnasium AsyncVectorEnv", 0)
    assert other.how.startswith("raises") or other.how == "hangs"
    assert (ours.survived, ours.how) == (ours.kills, "went on")
