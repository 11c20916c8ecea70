"""A worker is lost, and the batch comes out as if nothing had happened."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.losses import GUILTY, N, kill, open_session, outcomes
from tests.sessions import zeros
from vecsess import Timeouts, VecCheckedSession, collect_rollout
from vecsess.bench.faults.hanging import HANGS
from vecsess.bench.faults.ledger import LedgerEnv, Once
from vecsess.bench.faults.workloads import ledgers
from vecsess.collect.policies import RandomPolicy

GROUPINGS = [pytest.param(None, id="a worker each"), pytest.param(2, id="2 workers")]
pytestmark = pytest.mark.usefixtures("no_process_left")


def batches(
    env: Any, workers: int | None, before: Callable[[VecCheckedSession, int], None]
) -> list[tuple[Any, ...]]:
    """Returns what 60 locksteps give, `before` each of which something may be done."""
    found = []
    with open_session(env, workers=workers) as vec:
        vec.action_space.seed(5)
        vec.reset(seed=11)
        for t in range(60):
            before(vec, t)
            observations, rewards, terminated, truncated, infos = vec.step(
                vec.action_space.sample()
            )
            assert "invalid" not in infos
            finals = [row.tobytes() for row in infos.get("final_obs", []) if row is not None]
            arrays = (observations, rewards, terminated, truncated)
            found.append((*(array.tobytes() for array in arrays), *finals))
    return found


def undisturbed(vec: VecCheckedSession, t: int) -> None:
    del vec, t


def every_seventh(vec: VecCheckedSession, t: int) -> None:
    if t % 7 == 3:
        kill(vec, env=t % N)


def after_their_replies(vec: VecCheckedSession, t: int) -> None:
    if t % 11 == 5:
        kill(vec, env=t % N, wait=True)


def all_at_once(vec: VecCheckedSession, t: int) -> None:
    if t in (0, 30):
        for pid in set(vec.pids):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("workers", GROUPINGS)
@pytest.mark.parametrize("disturbance", [every_seventh, after_their_replies, all_at_once])
@pytest.mark.parametrize(
    "env",
    ["CartPole-v1", ledgers(N), ledgers(N, counted=True)],
    ids=["CartPole", "ledger", "counting ledger"],
)
def test_kills_do_not_change_one_bit(env: Any, disturbance: Any, workers: int | None) -> None:
    expected = batches(env, 0, undisturbed)
    assert batches(env, workers, disturbance) == expected


def test_state_that_outlives_an_episode_is_replayed_from_the_seeded_reset() -> None:
    with open_session(ledgers(2, counted=True, longest=3), 2) as vec:
        vec.reset(seed=0)
        for _ in range(20):
            vec.step(zeros(2))
        kill(vec, env=0)
        *_, infos = vec.step(zeros(2))
        assert "invalid" not in infos
        assert outcomes(vec) == ["replayed seeded reset"]


def test_rollouts_do_not_notice_either() -> None:
    def collect(*, killed: bool) -> Any:
        with open_session("CartPole-v1", workers=3) as vec:
            policy = RandomPolicy(vec.single_action_space)
            first = collect_rollout(vec, policy, 32, seed=1)
            if killed:
                kill(vec, env=1)
                kill(vec, env=5)
            second = collect_rollout(vec, policy, 32)
            assert len(vec.incidents) == 2 * killed
            return first, second

    for one, other in zip(collect(killed=True), collect(killed=False), strict=True):
        for name in ("observations", "actions", "rewards", "terminated", "truncated", "valid"):
            assert getattr(one, name).tobytes() == getattr(other, name).tobytes(), name
        assert one.episodes == other.episodes


def test_a_worker_that_dies_before_the_first_reset_is_replaced() -> None:
    with open_session() as vec:
        kill(vec, env=GUILTY, wait=True)
        expected, _ = vec.reset(seed=3)
    with open_session(workers=0) as oracle:
        assert oracle.reset(seed=3)[0].tobytes() == expected.tobytes()


@pytest.mark.parametrize("hang", HANGS)
def test_a_hang_costs_no_row(hang: str, tmp_path: Path) -> None:
    makers: list[Any] = [partial(LedgerEnv, index) for index in range(N)]
    makers[GUILTY] = partial(LedgerEnv, GUILTY, on_step=Once(7, HANGS[hang], tmp_path / "hung"))
    with (
        open_session(makers, timeouts=Timeouts(step_s=0.3)) as vec,
        open_session(ledgers(N), workers=0) as oracle,
    ):
        vec.reset(seed=0)
        oracle.reset(seed=0)
        for action in (1, 2, 7, 3):
            observations, *_, infos = vec.step(np.full(N, action))
            assert observations.tobytes() == oracle.step(np.full(N, action))[0].tobytes()
            assert "invalid" not in infos
        (incident,) = vec.incidents
        assert (incident.kind, incident.env) == ("WorkerTimeout", GUILTY)
        assert incident.outcomes == {GUILTY: "replayed episode"}
        if hang == "sleep":
            assert "hanging.py" in incident.what
            assert "_sleep" in incident.what


def test_a_reset_without_a_seed_goes_on_from_the_same_stream() -> None:
    with open_session(workers=2) as vec, open_session(workers=0) as oracle:
        for session in (vec, oracle):
            session.reset(seed=0)
            for _ in range(25):
                session.step(zeros(N))
        kill(vec, env=GUILTY, wait=True)
        assert vec.reset()[0].tobytes() == oracle.reset()[0].tobytes()
        assert vec.step(zeros(N))[0].tobytes() == oracle.step(zeros(N))[0].tobytes()


@pytest.mark.parametrize("seed", [None, 4])
def test_attributes_that_were_set_outlive_their_worker(seed: int | None) -> None:
    with open_session(workers=2) as vec, open_session(workers=0) as oracle:
        for session in (vec, oracle):
            session.reset(seed=0)
            session.set_attr("force_mag", 3.0)
            session.step(zeros(N))
        kill(vec, env=0, wait=True)
        for _ in range(3):
            assert vec.step(zeros(N))[0].tobytes() == oracle.step(zeros(N))[0].tobytes()
        kill(vec, env=0, wait=True)
        assert vec.reset(seed=seed)[0].tobytes() == oracle.reset(seed=seed)[0].tobytes()
        assert vec.step(zeros(N))[0].tobytes() == oracle.step(zeros(N))[0].tobytes()


@pytest.mark.parametrize("workers", GROUPINGS)
def test_a_fork_server_that_dies_is_replaced_and_all_are_recovered(workers: int | None) -> None:
    def kill_the_server(vec: VecCheckedSession, t: int) -> None:
        if t == 20:
            assert vec.engine.fleet.supervisor is not None
            os.kill(vec.engine.fleet.supervisor._owned.server.pid, signal.SIGKILL)  # type: ignore[union-attr]

    expected = batches("CartPole-v1", 0, undisturbed)
    assert batches("CartPole-v1", workers, kill_the_server) == expected
