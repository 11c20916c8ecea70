"""What can't be brought back is marked, and counts for nothing from there on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.losses import GUILTY, N, breaking, cue, kill, open_session
from tests.sessions import zeros
from vecsess import VecCheckedSession, WorkerDied, collect_rollout
from vecsess.bench.faults.faulty import BreakingEnv
from vecsess.collect.policies import RandomPolicy
from vecsess.errors import ContractViolation, EnvError, RestartLimitExceeded
from vecsess.recovery.policy import RestartPolicy

GROUPINGS = [pytest.param(None, id="a worker each"), pytest.param(2, id="2 workers")]
pytestmark = pytest.mark.usefixtures("no_process_left")


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
        generations = [worker.generation for worker in vec.health()]
        got, *_, truncated, infos = vec.step(cue())
        expected = oracle.step(cue())[0]
        others = np.arange(N) != GUILTY
        assert infos["invalid"].tolist() == (~others).tolist() == truncated.tolist()
        assert np.array_equal(got[others], expected[others])
        assert got[GUILTY, 0] == 0, "a new episode has begun"
        assert np.array_equal(vec.step(zeros(N))[0][others], oracle.step(zeros(N))[0][others])
        assert [worker.generation for worker in vec.health()] == generations


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
        before = vec.pids
        got, *_, infos = vec.step(cue())
        others = np.arange(N) != GUILTY
        assert infos["invalid"].tolist() == (~others).tolist()
        assert np.array_equal(got[others], oracle.step(cue())[0][others])
        generations = [worker.generation for worker in vec.health()]
        assert sum(generations) == 1
        (renewed,) = {pid for pid, old in zip(vec.pids, before, strict=True) if pid != old}
        assert vec.pids[GUILTY] == renewed
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


# --- what is cut off between two steps -----------------------------------------------------------


def lose_in_a_call(vec: VecCheckedSession) -> list[int]:
    vec.call("has_wrapper_attr", "x")
    return [0, 1]


def lose_in_a_masked_reset(vec: VecCheckedSession) -> list[int]:
    vec.reset(options={"reset_mask": np.arange(4) == 0})
    return [1]


@pytest.mark.parametrize("mode", ["same_step", "next_step", "disabled"])
@pytest.mark.parametrize("verb", [lose_in_a_call, lose_in_a_masked_reset])
def test_what_is_cut_off_between_two_steps_the_next_row_tells(verb: Any, mode: Any) -> None:
    makers = [BreakingEnv] * 4
    with open_session(makers, 4, workers=2, on_crash="truncate", autoreset_mode=mode) as vec:
        vec.reset(seed=0)
        before = [vec.step(zeros(4))[0] for _ in range(3)][-1]
        kill(vec, env=0)
        cut = verb(vec)
        _, rewards, _, truncated, infos = vec.step(zeros(4))
        assert np.flatnonzero(infos["invalid"]).tolist() == cut
        assert np.flatnonzero(truncated).tolist() == cut
        assert not rewards[cut].any()
        if mode == "same_step":
            finals = np.stack(infos["final_obs"][cut])
            np.testing.assert_array_equal(finals, before[cut])
        if mode == "disabled":
            vec.reset(options={"reset_mask": truncated})
        _, rewards, _, truncated, infos = vec.step(zeros(4))
        assert "invalid" not in infos
        assert not truncated.any()
        assert rewards.all()


@pytest.mark.parametrize("how", [{}, {"pace": "free"}, {"inference": "workers"}])
def test_a_rollout_s_first_row_tells_what_was_cut_off_before(how: Any) -> None:
    with VecCheckedSession([BreakingEnv] * 4, workers=2) as vec:
        policy = RandomPolicy(vec.single_action_space)
        policy.act = lambda observations, **_: (  # type: ignore[method-assign]
            np.zeros(len(observations), np.int64),
            np.zeros(len(observations)),
            np.zeros(len(observations)),
        )
        policy.value = lambda observations, **_: np.zeros(len(observations))  # type: ignore[method-assign,assignment]
        vec.reset(seed=0)
        vec.call("has_wrapper_attr", "x")  # not pure, so what follows can't be replayed
        kill(vec, env=0)
        vec.call("has_wrapper_attr", "x")
        valid = collect_rollout(vec, policy, 4, **how).valid
        assert valid.tolist() == [[False, False, True, True], *[[True] * 4] * 3]


def test_a_masked_reset_does_not_begin_the_count_of_failures_anew() -> None:
    how: Any = {"workers": 2, "on_error": "truncate", "autoreset_mode": "disabled"}
    limits = RestartPolicy(max_restarts=5)
    with open_session(breaking("raises ValueError"), restart_policy=limits, **how) as vec:
        vec.reset(seed=0)
        actions = cue()
        for _ in range(5):
            truncated = vec.step(actions)[3]
            vec.reset(options={"reset_mask": truncated})
        with pytest.raises(RestartLimitExceeded, match="without a step in between"):
            vec.step(actions)
