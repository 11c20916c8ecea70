"""A worker is lost: the batch comes out as if nothing had happened, or the row is marked."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.processes import all_gone
from tests.sessions import zeros
from vecsess import Timeouts, VecCheckedSession, WorkerDied, collect_rollout
from vecsess.bench.faults.faulty import CUE, CUE_OPTIONS, BreakingEnv
from vecsess.bench.faults.hanging import HANGS
from vecsess.bench.faults.ledger import LedgerEnv, Once
from vecsess.bench.faults.workloads import ledgers
from vecsess.errors import ContractViolation, EnvError, RestartLimitExceeded
from vecsess.policies import RandomPolicy
from vecsess.reactions import RestartPolicy
from vecsess.reproducer import read_reproducer

N, GUILTY = 6, 3
GROUPINGS = [pytest.param(None, id="a worker each"), pytest.param(2, id="2 workers")]
pytestmark = pytest.mark.usefixtures("no_process_left")


def open_session(env: Any = "CartPole-v1", n: int = N, **arguments: Any) -> VecCheckedSession:
    arguments.setdefault("restart_policy", RestartPolicy(max_restarts=None))
    return VecCheckedSession(env, n, **arguments)


def kill(vec: VecCheckedSession, env: int, *, wait: bool = False) -> int:
    """Kills the worker of an environment; returns its pid."""
    lockstep = vec._lockstep
    pid = lockstep.workers[int(lockstep.worker_of[env])].pid
    os.kill(pid, signal.SIGKILL)
    if wait:
        assert all_gone({pid}, 5.0)
    return pid


def breaking(fault: str, place: str = "step") -> list[Any]:
    makers: list[Any] = [BreakingEnv] * N
    makers[GUILTY] = partial(BreakingEnv, fault, place)
    return makers


def cue() -> Any:
    return np.full(N, CUE)


def outcomes(vec: VecCheckedSession) -> list[str]:
    return [text for incident in vec.incidents for text in incident.outcomes.values()]


# --- as if nothing had happened ------------------------------------------------------------------


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
        for worker in vec._lockstep.workers:
            os.kill(worker.pid, signal.SIGKILL)


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


# --- marked truncations --------------------------------------------------------------------------


@pytest.mark.parametrize("workers", GROUPINGS)
def test_on_crash_truncate_marks_the_rows_and_goes_on(workers: int | None) -> None:
    with (
        open_session(workers=workers, on_crash="truncate") as vec,
        open_session(workers=0) as oracle,
    ):
        lost = [GUILTY] if workers is None else [3, 4, 5]
        good = [env for env in range(N) if env not in lost]
        for session in (vec, oracle):
            session.reset(seed=0)
        before = vec.step(zeros(N))[0]
        oracle.step(zeros(N))
        for _ in range(2):  # a second time is no poison
            kill(vec, env=GUILTY)
            transition = vec.step_checked(zeros(N))
            expected = oracle.step_checked(zeros(N))
            assert np.flatnonzero(~transition.valid).tolist() == lost
            assert transition.truncated[lost].all()
            assert not transition.terminated[lost].any()
            assert not transition.reward[lost].any()
            assert np.array_equal(transition.next_observation[lost], before[lost])
            assert np.array_equal(
                transition.next_observation[good], expected.next_observation[good]
            )
            before = vec.observe()
        assert vec.step_checked(zeros(N)).valid.all()
        assert [incident.kind for incident in vec.incidents] == ["WorkerDied"] * 2


def test_the_seed_after_a_truncation_is_derived_from_the_root() -> None:
    def after() -> Any:
        with open_session(on_crash="truncate") as vec:
            vec.reset(seed=4)
            kill(vec, env=GUILTY, wait=True)
            return vec.step(zeros(N))[0]

    assert after().tobytes() == after().tobytes()


def test_on_crash_raise_tells_and_the_next_reset_revives() -> None:
    with open_session(on_crash="raise") as vec:
        first, _ = vec.reset(seed=0)
        pid = kill(vec, env=GUILTY)
        with pytest.raises(WorkerDied, match=f"worker {GUILTY}.*pid {pid}.*SIGKILL"):
            vec.step(zeros(N))
        again, _ = vec.reset(seed=0)
        assert again.tobytes() == first.tobytes()
        vec.step(zeros(N))


@pytest.mark.parametrize("workers", [*GROUPINGS, pytest.param(0, id="in the trainer")])
@pytest.mark.parametrize(
    ("fault", "reactions"),
    [
        ("raises ValueError", {"on_error": "truncate"}),
        ("NaN", {"on_violation": "truncate"}),
        ("another shape", {"on_violation": "truncate"}),
    ],
)
def test_one_environment_is_truncated_and_the_others_do_not_notice(
    fault: str, reactions: dict[str, Any], workers: int | None
) -> None:
    with (
        open_session(breaking(fault), workers=workers, **reactions) as vec,
        open_session([BreakingEnv] * N, workers=0) as oracle,
    ):
        for session in (vec, oracle):
            session.reset(seed=0)
            session.step(zeros(N))
        generations = [worker.generation for worker in vec._lockstep.workers]
        got, *_, truncated, infos = vec.step(cue())
        expected = oracle.step(cue())[0]
        others = np.arange(N) != GUILTY
        assert infos["invalid"].tolist() == (~others).tolist() == truncated.tolist()
        assert np.array_equal(got[others], expected[others])
        assert got[GUILTY, 0] == 0, "a new episode has begun"
        assert np.array_equal(vec.step(zeros(N))[0][others], oracle.step(zeros(N))[0][others])
        assert [worker.generation for worker in vec._lockstep.workers] == generations


@pytest.mark.parametrize("workers", GROUPINGS)
@pytest.mark.parametrize(
    ("fault", "reactions"),
    [("raises ValueError", {"on_error": "restart"}), ("NaN", {"on_violation": "restart"})],
)
def test_restart_also_replaces_the_process(
    fault: str, reactions: dict[str, Any], workers: int | None
) -> None:
    with (
        open_session(breaking(fault), workers=workers, **reactions) as vec,
        open_session([BreakingEnv] * N, workers=0) as oracle,
    ):
        for session in (vec, oracle):
            session.reset(seed=0)
            session.step(zeros(N))
        got, *_, infos = vec.step(cue())
        others = np.arange(N) != GUILTY
        assert infos["invalid"].tolist() == (~others).tolist()
        assert np.array_equal(got[others], oracle.step(cue())[0][others])
        generations = [worker.generation for worker in vec._lockstep.workers]
        assert sum(generations) == 1
        assert generations[int(vec._lockstep.worker_of[GUILTY])] == 1
        assert "invalid" not in vec.step(zeros(N))[-1]


def test_raise_is_the_default_for_errors_and_violations() -> None:
    for fault, error in (("raises ValueError", EnvError), ("NaN", ContractViolation)):
        with open_session(breaking(fault)) as vec:
            vec.reset(seed=0)
            with pytest.raises(error):
                vec.step(cue())
            vec.reset(seed=0)
            vec.step(zeros(N))


def test_a_reaction_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="on_crash: expected one of"):
        open_session(on_crash="ignore")


# --- invalid rows, to the end --------------------------------------------------------------------


class KillAt:
    """Acts at random, and kills the worker of an environment before the lockstep `t`."""

    def __init__(self, vec: VecCheckedSession, t: int) -> None:
        self._vec, self._t = vec, t
        self._random = RandomPolicy(vec.single_action_space)
        self.noise_size = self._random.noise_size

    def act(self, observations: Any, **where: Any) -> Any:
        self._t -= 1
        if self._t == -1:
            kill(self._vec, GUILTY, wait=True)
        actions, log_probs, _ = self._random.act(observations, **where)
        return actions, log_probs, self.value(observations)

    def value(self, observations: Any, **where: Any) -> Any:
        del where
        return observations[:, 1].astype(np.float32)  # not constant


def test_an_invalid_row_counts_for_nothing_and_cuts_the_trace() -> None:
    t, gamma, lam = 5, 0.9, 0.8
    with open_session([BreakingEnv] * N, on_crash="truncate") as vec:
        rollout = collect_rollout(vec, KillAt(vec, t), 10, seed=0)
    assert np.argwhere(~rollout.valid).tolist() == [[t, GUILTY]]
    assert rollout.rewards[t, GUILTY] == 0
    assert rollout.truncated[t, GUILTY]
    assert not rollout.episodes, "one cut short is none"
    last_good = rollout.observations[t, GUILTY]
    assert np.array_equal(rollout.final_observations, last_good[None])

    advantages = rollout.advantages(gamma, lam)
    before = rollout.rewards[t - 1, GUILTY] + gamma * last_good[1] - rollout.values[t - 1, GUILTY]
    assert advantages[t, GUILTY] == 0
    assert advantages[t - 1, GUILTY] == pytest.approx(before, rel=1e-5)

    batch = rollout.to_actor_critic_batch(gamma, lam)
    counted = batch.advantages[batch.valid]
    assert len(counted) == 10 * N - 1
    assert abs(counted.mean()) < 1e-5
    assert counted.std() == pytest.approx(1, abs=1e-3)
    sizes = [
        (len(part.valid), part.valid.all())
        for part in batch.minibatches(16, np.random.default_rng(0))
    ]
    assert sum(size for size, _ in sizes) <= 10 * N - 1
    assert all(valid for _, valid in sizes)


# --- what can't be replayed ----------------------------------------------------------------------


class RestlessEnv(LedgerEnv):
    """Its observations hold what no replay gives again."""

    def _observe(self) -> Any:
        row = super()._observe()
        row[-1] = int.from_bytes(os.urandom(7), "little")
        return row


def test_a_replay_that_gives_something_else_is_seen_and_not_tried_again() -> None:
    makers = [partial(RestlessEnv, index, longest=1000) for index in range(N)]
    with open_session(makers) as vec:
        vec.reset(seed=0)
        vec.step(zeros(N))
        kill(vec, env=GUILTY)
        with pytest.warns(UserWarning, match=f"env {GUILTY}: a replay did not reproduce") as told:
            *_, infos = vec.step(zeros(N))
        assert len(told) == 1
        assert np.flatnonzero(infos["invalid"]).tolist() == [GUILTY]
        kill(vec, env=GUILTY)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            *_, infos = vec.step(zeros(N))
        assert np.flatnonzero(infos["invalid"]).tolist() == [GUILTY]
        assert "its replays do not reproduce" in outcomes(vec)[-1]


def test_even_the_first_observation_of_an_episode_is_verified() -> None:
    makers = [partial(RestlessEnv, index, longest=1000) for index in range(N)]
    with open_session(makers) as vec:
        vec.reset(seed=0)
        kill(vec, env=GUILTY, wait=True)
        with pytest.warns(UserWarning, match="did not reproduce"):
            *_, infos = vec.step(zeros(N))
        assert infos["invalid"][GUILTY]


class SlowEnv(BreakingEnv):
    """Takes 10 ms a step."""

    def step(self, action: Any) -> Any:
        signal.sigtimedwait([], 0.01)
        return super().step(action)


def test_a_replay_over_its_budget_is_given_up() -> None:
    policy = RestartPolicy(max_restarts=None, replay_budget_s=0.05)
    with open_session([SlowEnv] * 2, 2, restart_policy=policy) as vec:
        vec.reset(seed=0)
        for _ in range(12):
            vec.step(zeros(2))
        kill(vec, env=1)
        *_, infos = vec.step(zeros(2))
        assert infos["invalid"].tolist() == [False, True]
        assert "over budget" in outcomes(vec)[-1]


def test_a_log_that_does_not_reach_back_leads_to_a_truncation() -> None:
    policy = RestartPolicy(max_restarts=None, log_bytes=1)
    makers = [partial(LedgerEnv, index, counted=True, longest=2000) for index in range(2)]
    with open_session(makers, 2, restart_policy=policy) as vec:
        vec.reset(seed=1)
        for _ in range(1000):
            vec.step(zeros(2))
        kill(vec, env=1)
        *_, infos = vec.step(zeros(2))
        assert infos["invalid"].tolist() == [False, True]
        assert "its log does not reach back" in outcomes(vec)[-1]


# --- limits --------------------------------------------------------------------------------------


def test_the_same_step_twice_is_poison_and_leaves_a_reproducer(tmp_path: Path) -> None:
    policy = RestartPolicy(reproducer_dir=str(tmp_path))
    with open_session(breaking("os._exit(0)"), restart_policy=policy) as vec:
        vec.reset(seed=0)
        for action in (1, 2, 3):
            vec.step(np.full(N, action))
        *_, infos = vec.step(cue())
        assert np.flatnonzero(infos["invalid"]).tolist() == [GUILTY]
        (path,) = tmp_path.iterdir()
        assert str(path) in outcomes(vec)[-1]
        content = read_reproducer(str(path))
        assert content["env"] == GUILTY
        assert content["script"][-1][2][0].tolist() == [CUE]
        assert len(vec.incidents) == 2
        assert "invalid" not in vec.step(zeros(N))[-1]


def test_the_innocent_of_a_group_survive_a_poison(tmp_path: Path) -> None:
    policy = RestartPolicy(reproducer_dir=str(tmp_path))
    with (
        open_session(breaking("segfault"), workers=1, restart_policy=policy) as vec,
        open_session([BreakingEnv] * N, workers=0) as oracle,
    ):
        for session in (vec, oracle):
            session.reset(seed=0)
            session.step(zeros(N))
        got, *_, infos = vec.step(cue())
        others = np.arange(N) != GUILTY
        assert infos["invalid"].tolist() == (~others).tolist()
        assert np.array_equal(got[others], oracle.step(cue())[0][others])


def test_past_the_limit_it_is_raised_and_a_reset_brings_all_back() -> None:
    policy = RestartPolicy(max_restarts=2, backoff_s=0.01)
    with open_session(breaking("abort", "reset"), restart_policy=policy) as vec:
        vec.reset(seed=0)
        with pytest.raises(RestartLimitExceeded, match="lost 3 times within 60"):
            vec.reset(options=CUE_OPTIONS)
        vec.reset(seed=0)
        assert "invalid" not in vec.step(zeros(N))[-1]


def test_in_quarantine_rows_stay_masked_and_the_others_go_on() -> None:
    policy = RestartPolicy(max_restarts=1, backoff_s=0.01)
    with open_session(restart_policy=policy, on_limit="quarantine") as vec:
        vec.reset(seed=0)
        for _ in range(2):
            vec.step(zeros(N))
            kill(vec, env=GUILTY)
        for _ in range(30):
            transition = vec.step_checked(zeros(N))
            assert np.flatnonzero(~transition.valid).tolist() == [GUILTY]
        assert outcomes(vec)[-1] == "quarantined"
        rollout = collect_rollout(vec, RandomPolicy(vec.single_action_space), 16, seed=0)
        assert (~rollout.valid).sum(0).tolist() == [16 * (env == GUILTY) for env in range(N)]


def test_a_constructor_that_fails_starts_no_loop(tmp_path: Path) -> None:
    class Counted(BreakingEnv):
        def __init__(self) -> None:
            (tmp_path / str(os.getpid())).touch()
            super().__init__("raises ValueError", "constructor")

    with pytest.raises(EnvError, match="bad"):
        open_session(Counted, 1)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("workers", GROUPINGS)
def test_a_fork_server_that_dies_is_replaced_and_all_are_recovered(workers: int | None) -> None:
    def kill_the_server(vec: VecCheckedSession, t: int) -> None:
        if t == 20:
            assert vec._supervisor is not None
            os.kill(vec._supervisor._owned.server.pid, signal.SIGKILL)  # type: ignore[union-attr]

    expected = batches("CartPole-v1", 0, undisturbed)
    assert batches("CartPole-v1", workers, kill_the_server) == expected
