"""Where recovery ends: what can't be replayed, poison, restarts without end."""

from __future__ import annotations

import os
import signal
import tracemalloc
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from gymnasium import spaces

from tests.losses import GUILTY, N, breaking, cue, kill, open_session, outcomes
from tests.processes import all_gone
from tests.sessions import zeros
from vecsess import collect_rollout
from vecsess.bench.faults.faulty import CUE, CUE_OPTIONS, BreakingEnv
from vecsess.bench.faults.ledger import LedgerEnv
from vecsess.collect.policies import RandomPolicy
from vecsess.errors import EnvError, RestartLimitExceeded
from vecsess.recovery.policy import RestartPolicy
from vecsess.recovery.reproducer import read_reproducer

pytestmark = pytest.mark.usefixtures("no_process_left")


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
        assert "RestartPolicy(replay_budget_s=" in outcomes(vec)[-1]


class CompilingEnv(BreakingEnv):
    """Its constructor, its reset and its first step take long, as where something is compiled."""

    def __init__(self) -> None:
        super().__init__()
        signal.sigtimedwait([], 0.3)
        self._compiled = False

    def reset(self, **arguments: Any) -> Any:
        signal.sigtimedwait([], 0.3)
        return super().reset(**arguments)

    def step(self, action: Any) -> Any:
        if not self._compiled:
            signal.sigtimedwait([], 0.3)
        self._compiled = True
        return super().step(action)


def test_the_budget_of_a_replay_is_for_steps_alone() -> None:
    policy = RestartPolicy(max_restarts=None, replay_budget_s=0.2)
    with open_session([CompilingEnv], 1, restart_policy=policy) as vec:
        vec.reset(seed=0)
        for _ in range(12):
            vec.step(zeros(1))
        kill(vec, env=0)
        assert vec.step_checked(zeros(1)).valid.all()
        assert outcomes(vec) == ["replayed episode"]


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


def test_the_log_is_bounded_in_events_too() -> None:
    policy = RestartPolicy(max_restarts=None, log_bytes=1 << 16)
    with open_session([BreakingEnv], 1, restart_policy=policy) as vec:
        vec.reset(seed=1)
        for value in range(600):
            vec.set_attr("extra", value)
            vec.reset(options={"reset_mask": np.ones(1, np.bool_)})
        vec.step(zeros(1))
        # As much as a checkpoint holds is as much as there is.
        assert len(vec.checkpoint()["state"]) < 200_000
        kill(vec, env=0)
        assert vec.step_checked(zeros(1)).valid.all()
        assert vec.get_attr("extra") == (599,)


class TextEnv(BreakingEnv):
    """Is told long texts."""

    def __init__(self, longest: int) -> None:
        super().__init__()
        self.action_space = spaces.Text(20_000, charset="ab")
        self._longest, self._taken = longest, 0

    def reset(self, **arguments: Any) -> Any:
        self._taken = 0
        return super().reset(**arguments)

    def step(self, action: Any) -> Any:
        self._taken += 1
        observation, *_ = super().step(len(action) % 2)
        return observation, 0.0, self._taken == self._longest, False, {}


@pytest.mark.parametrize("longest", [9, 1000])
def test_actions_by_pipe_count_as_what_they_are(longest: int) -> None:
    policy = RestartPolicy(max_restarts=None, log_bytes=1 << 20)
    with open_session([partial(TextEnv, longest)], 1, restart_policy=policy) as vec:
        vec.reset(seed=1)
        for _ in range(300):  # of 20 KB
            vec.step(("ab" * 10_000,))
        assert len(vec.checkpoint()["state"]) < 1 << 21
        kill(vec, env=0)
        assert vec.step_checked(("ab" * 10_000,)).valid.tolist() == [longest == 9]
        expected = "replayed episode" if longest == 9 else "its log does not reach back"
        assert expected in outcomes(vec)[-1]


def test_one_value_for_all_is_kept_once() -> None:
    with open_session([BreakingEnv] * 8, 8, workers=1) as vec:
        vec.reset(seed=1)
        tracemalloc.start()
        try:
            vec.set_attr("kept", bytes(1 << 20))
            assert tracemalloc.get_traced_memory()[0] < 3 << 20
        finally:
            tracemalloc.stop()
        kill(vec, env=0)
        assert vec.step_checked(zeros(8)).valid.all()
        assert [len(kept) for kept in vec.get_attr("kept")] == [1 << 20] * 8


@pytest.mark.parametrize("deed", ["set", "reset"])
def test_large_values_and_options_count_as_what_they_are(deed: str) -> None:
    policy = RestartPolicy(max_restarts=None, log_bytes=1 << 20)
    with open_session([BreakingEnv], 1, restart_policy=policy) as vec:
        vec.reset(seed=1)
        vec.set_attr("kept", bytes(1 << 21))  # what it is set to is no past
        for value in range(100):
            if deed == "set":
                vec.set_attr("extra", bytes(50_000 + value))
            else:
                vec.reset(options={"extra": bytes(50_000)})
        vec.step(zeros(1))
        assert len(vec.checkpoint()["state"]) < 5 << 20
        kill(vec, env=0)
        assert vec.step_checked(zeros(1)).valid.all() == (deed == "reset")
        assert len(vec.get_attr("kept")[0]) == 1 << 21
        if deed == "set":
            assert len(vec.get_attr("extra")[0]) == 50_099


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


class DoomedEnv(BreakingEnv):
    """Ends its process at a step that a file says, one line for each of its lives.

    Args:
        folder: of the file; None for one that lives on.
    """

    def __init__(self, folder: Path | None) -> None:
        super().__init__()
        self._fates = folder and folder / "fates"

    def step(self, action: Any) -> Any:
        result = super().step(action)
        if self._fates is not None:
            fate, _, later = self._fates.read_text().partition(",")
            if fate == str(self._count):
                self._fates.write_text(later)
                os._exit(9)
        return result


def outcome_of_deaths(
    folder: Path, steps: str, *, without_server: bool = False
) -> tuple[Any, list[str]]:
    """Returns the infos of the step in which a worker died, and what was done each time.

    Args:
        folder: a temporary one.
        steps: at which the environment ends its process, its replays' among them: "5,2".
        without_server: the fork server has died before.
    """
    fates = folder / "fates"
    fates.write_text("")
    makers = [partial(DoomedEnv, folder if env == GUILTY else None) for env in range(N)]
    policy = RestartPolicy(reproducer_dir=str(folder), backoff_s=0.0)
    with open_session(makers, workers=2, restart_policy=policy) as vec:
        vec.reset(seed=0)
        for _ in range(4):
            vec.step(zeros(N))
        fates.write_text(steps)
        if without_server:
            server = psutil.Process(vec.health()[0].pid).parent()
            workers = {worker.pid for worker in vec.health()}
            assert server is not None
            server.kill()
            assert all_gone(workers, 5.0), "they end with it"
        *_, infos = vec.step(zeros(N))
        done = [outcome for one in vec.incidents for outcome in one.outcomes.values()]
        return infos, done


@pytest.mark.parametrize("steps", ["5,2", "5,2,4"])
def test_deaths_at_different_steps_of_a_replay_may_be_chance(tmp_path: Path, steps: str) -> None:
    infos, done = outcome_of_deaths(tmp_path, steps)
    assert "invalid" not in infos
    assert not any(what.startswith("truncated") for what in done)


@pytest.mark.parametrize("steps", ["5,2,2", "5,2,3,4"])
def test_the_same_step_of_a_replay_twice_or_any_three_are_poison(
    tmp_path: Path, steps: str
) -> None:
    infos, done = outcome_of_deaths(tmp_path, steps)
    assert np.flatnonzero(infos["invalid"]).tolist() == [GUILTY]
    assert sum(what.startswith("truncated: the same step") for what in done) == 1


def test_poison_is_found_where_the_fork_server_has_died_too(tmp_path: Path) -> None:
    infos, done = outcome_of_deaths(tmp_path, "2,2", without_server=True)
    assert np.flatnonzero(infos["invalid"]).tolist() == [GUILTY]
    assert sum(what.startswith("truncated: the same step") for what in done) == 1


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


class ChangelingEnv(BreakingEnv):
    """Has other spaces, or no constructor, in some of its lives.

    Args:
        lives: a folder with a file for each of them.
        change: what is wrong in the odd ones: "space" or "constructor".
        odd: how many lives after the first are.
    """

    def __init__(self, lives: Path, change: str, odd: int) -> None:
        super().__init__()
        before = len(list(lives.iterdir()))
        (lives / str(before)).touch()
        if 0 < before <= odd and change == "constructor":
            raise ValueError("no constructor")
        if 0 < before <= odd:
            self.observation_space = spaces.Box(0, 1, (17,), np.float32)


@pytest.mark.parametrize("change", ["space", "constructor"])
@pytest.mark.parametrize("odd", [1, 9])
def test_an_odd_successor_is_a_loss_within_the_policy(
    change: str, odd: int, tmp_path: Path
) -> None:
    policy = RestartPolicy(max_restarts=3, backoff_s=0.01)
    makers: list[Any] = [BreakingEnv, partial(ChangelingEnv, tmp_path, change, odd)]
    with open_session(makers, 2, restart_policy=policy) as vec:
        vec.reset(seed=0)
        vec.step(zeros(2))
        kill(vec, env=1, wait=True)
        if odd == 1:
            assert vec.step_checked(zeros(2)).valid.all()
            kind = "SpaceError" if change == "space" else "EnvError[ValueError]"
            assert [one.kind for one in vec.incidents][1:] == [kind]
        else:
            with pytest.raises(RestartLimitExceeded, match="worker 1"):
                vec.step(zeros(2))


class LoudEnv(BreakingEnv):
    """Has much to tell."""

    def tell(self, size: int = 600_000) -> bytes:
        return bytes(size)


def test_what_one_environment_may_send_each_may_whatever_the_grouping(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vecsess.fleet.flight.VALUE_BYTES", 1_000_000)
    with open_session([LoudEnv] * 4, 4, workers=1) as vec:
        vec.reset(seed=0)
        assert [len(told) for told in vec.call("tell")] == [600_000] * 4
        assert not vec.incidents


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_what_is_legal_in_one_grouping_is_legal_in_all(workers: int) -> None:
    with open_session([LoudEnv] * 2, 2, workers=workers) as vec:
        vec.reset(seed=0)
        assert [len(told) for told in vec.call("tell", 40 << 20)] == [40 << 20] * 2
        with pytest.raises(EnvError, match="expected at most 67108864 bytes"):
            vec.call("tell", (64 << 20) + 1)
        vec.step(zeros(2))
        assert not vec.incidents


class WideEnv(BreakingEnv):
    """Takes actions of 800 kB."""

    def __init__(self) -> None:
        super().__init__()
        self.action_space = spaces.Box(-1, 1, (100_000,), np.float64)

    def step(self, action: Any) -> Any:
        return super().step(float(action[-1]))


def test_a_replay_may_take_more_than_a_reply_may() -> None:
    actions = np.zeros((1, 100_000))
    with open_session([WideEnv], 1, workers=1) as vec:
        vec.reset(seed=0)
        for step in range(90):
            actions[0, -1] = step / 100
            vec.step(actions)
        kill(vec, 0)
        assert "invalid" not in vec.step(actions)[4]
        assert vec.incidents[0].outcomes == {0: "replayed episode"}


def test_a_replay_that_no_frame_holds_is_named_and_kills_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with open_session([WideEnv], 1, workers=1) as vec:
        vec.reset(seed=0)
        vec.step(np.zeros((1, 100_000)))
        monkeypatch.setattr("vecsess.wire.channel.COMMAND_BYTES", 500_000)
        kill(vec, 0)
        assert vec.step(np.zeros((1, 100_000)))[4]["invalid"].tolist() == [True]
        (incident,) = vec.incidents
        assert "lower RestartPolicy(log_bytes=...)" in incident.outcomes[0]
