"""Which layout to use: chosen by rules that are tested, from figures that are only measured."""

from __future__ import annotations

import dataclasses
import doctest
import os
import threading
import time
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest

import vecsess
from vecsess.collect.paced import Pace
from vecsess.collect.policies import RandomPolicy
from vecsess.collect.sources import collect_rollout
from vecsess.errors import EnvError
from vecsess.session.vector import VecCheckedSession
from vecsess.tuning import lanes, step_cost
from vecsess.tuning import layouts as tuned
from vecsess.tuning.lanes import LayoutFigures, TimedPolicy
from vecsess.tuning.layouts import Tuning, advise, autotune, choose, worker_counts
from vecsess.tuning.step_cost import StepCost, measure_step

pytestmark = pytest.mark.usefixtures("no_process_left")

BUSY = StepCost(mean_s=1e-4, p50_s=1e-4, p99_s=1.1e-4, cpu_share=1.0)
ASLEEP = dataclasses.replace(BUSY, cpu_share=0.02)
STRAGGLING = dataclasses.replace(BUSY, p99_s=9e-4)


def layout(workers: int, rate: float, pace: Pace = "lockstep", **shares: Any) -> LayoutFigures:
    """Returns figures that nobody measured; `inference` may be among the shares."""
    known = {"environments": 0.0, "waiting": 0.0, "copying": 0.0, "policy": 0.0, **shares}
    return LayoutFigures(
        workers=workers, pace=pace, steps_per_s=rate, rates=(rate,), cores_used=1.0, **known
    )


def said(*layouts: LayoutFigures, step: StepCost = BUSY) -> str:
    return "\n".join(advise(choose(layouts), layouts, step, cores=2))


def test_each_layout_is_measured_and_the_best_is_one_of_them() -> None:
    told: list[str] = []
    found = autotune("CartPole-v1", 4, slice_s=0.02, rounds=3, workers=(0, 1, 2), tell=told.append)
    assert acted(found) == 1
    assert [(each.workers, each.pace) for each in found.layouts if each.inference == "trainer"] == [
        (0, "lockstep"),
        (1, "lockstep"),
        (2, "lockstep"),
    ]
    assert found.best in found.layouts
    assert found.advice[0].startswith(found.best.name)
    assert told[0] == "one environment by itself"
    assert told[-1] == "round 3 of 3"
    for each in found.layouts:
        assert len(each.rates) == 3
        assert each.steps_per_s == sorted(each.rates)[1]
        shares = (each.environments, each.waiting, each.copying, each.policy)
        assert sum(shares) == pytest.approx(1, abs=0.02)
        assert min(shares) >= 0


def test_a_policy_that_takes_time_is_tried_at_every_pace_where_there_are_groups() -> None:
    found = autotune("CartPole-v1", 2, workers=(1, 2), policy_s=1e-3, slice_s=0.01, rounds=1)
    assert [(each.workers, each.pace) for each in found.layouts] == [
        (1, "lockstep"),
        (2, "lockstep"),
        (2, "pipelined"),
        (2, "free"),
    ]
    assert all(each.policy > 0 for each in found.layouts)


def test_a_policy_of_ones_own_is_what_decides() -> None:
    rows = []

    def predict_logits(observations: Any) -> Any:
        rows.append(len(observations))
        return np.zeros((len(observations), 2))

    policy = (predict_logits, lambda observations: np.zeros(len(observations)))
    found = autotune("CartPole-v1", 4, workers=(2,), policy=policy, slice_s=0.01, rounds=1)
    assert [each.pace for each in found.layouts] == ["lockstep", "pipelined", "free", "lockstep"]
    assert found.layouts[-1].name == "workers=2, inference='workers'"
    assert 4 in rows


def acted(found: Tuning) -> int:
    return sum(each.inference == "workers" for each in found.layouts)


def on_a_device(observations: Any, trainer: int) -> Any:
    if os.getpid() != trainer:
        raise OSError("no device")
    return np.zeros((len(observations), 2))


class Locked:
    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __call__(self, observations: Any) -> Any:
        return np.zeros((len(observations), 2))


@pytest.mark.parametrize(
    "logits", [partial(on_a_device, trainer=os.getpid()), Locked()], ids=["raises", "unpicklable"]
)
def test_a_policy_that_acts_only_here_is_tried_only_here(logits: Any) -> None:
    policy = (logits, lambda observations: np.zeros(len(observations)))
    found = autotune("CartPole-v1", 2, workers=(2,), policy=policy, slice_s=0.01, rounds=1)
    assert acted(found) == 0
    assert [each.pace for each in found.layouts] == ["lockstep", "pipelined", "free"]


@pytest.mark.parametrize(("rate", "said_of_it"), [(200.0, "pays here: 2.00"), (90.0, "not pay")])
def test_whether_acting_at_the_workers_pays_is_said(rate: float, said_of_it: str) -> None:
    assert said_of_it in said(layout(2, 100.0), layout(2, rate, inference="workers"))


def test_of_equal_layouts_the_one_where_the_trainer_decides_is_chosen() -> None:
    here, there = layout(4, 100.0), layout(2, 101.0, inference="workers")
    assert choose([there, here]) is here


def test_environments_come_from_callables_and_sequences_too() -> None:
    make = lambda: gymnasium.make("Pendulum-v1")  # noqa: E731  # what a user would write
    for env in (make, [make, make]):
        found = autotune(env, 2, workers=(2,), slice_s=0.01, rounds=1)
        assert found.best.steps_per_s > 0


def test_the_names_of_an_id_are_passed_on() -> None:
    found = autotune(
        "FrozenLake-v1", 1, make_kwargs={"map_name": "8x8"}, workers=(1,), slice_s=0.01, rounds=1
    )
    assert found.n == 1
    with pytest.raises(EnvError):
        autotune("FrozenLake-v1", 1, make_kwargs={"map_name": "none"}, workers=(1,))


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"policy_s": -1.0}, "policy_s: expected seconds from 0"),
        ({"policy_row_s": float("nan")}, "policy_row_s: expected seconds from 0"),
        ({"slice_s": 0.0}, "slice_s above 0"),
        ({"rounds": 0}, "rounds from 1"),
        ({"workers": ()}, "numbers from 0 to 16"),
        ({"workers": (17,)}, "numbers from 0 to 16"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        autotune("CartPole-v1", **arguments)


@pytest.mark.parametrize(
    ("n", "cores", "step", "counts"),
    [
        (16, 2, BUSY, [0, 1, 2, 4, 16]),
        (1, 2, BUSY, [0, 1]),
        (256, 2, BUSY, [0, 1, 2, 4, 64]),
        (256, 2, ASLEEP, [0, 1, 2, 4, 64, 256]),
        (256, 64, BUSY, [0, 1, 64, 128]),
    ],
)
def test_layouts_for_a_machine(n: int, cores: int, step: StepCost, counts: list[int]) -> None:
    assert worker_counts(n, cores, step) == counts


def test_the_fastest_is_chosen_unless_a_safer_or_simpler_one_is_as_fast() -> None:
    slow, fast, near = layout(2, 50.0), layout(0, 100.0), layout(4, 99.0)
    assert choose([slow, fast]) is fast
    assert choose([slow, fast, near]) is near
    paced = layout(2, 100.0, "pipelined")
    assert choose([paced, layout(4, 98.0)]).pace == "lockstep"
    assert choose([paced, layout(4, 90.0)]) is paced


def test_advice_says_why() -> None:
    assert "the only layout that was tried" in said(layout(2, 10.0))
    assert "2.00 times the next, workers=4" in said(layout(2, 100.0), layout(4, 50.0))
    assert "but it protects the trainer" in said(layout(0, 100.0), layout(2, 98.0))
    assert "but it is simpler" in said(layout(2, 100.0, "free"), layout(2, 98.0))


@pytest.mark.parametrize(
    ("shares", "step", "expected"),
    [
        ({"environments": 0.9}, BUSY, "more cores than 2, would help, and nothing else"),
        ({"environments": 0.9}, ASLEEP, "more workers than cores help"),
        ({"waiting": 0.9}, STRAGGLING, 'pace="free" does not; give policy'),
        ({"waiting": 0.9}, BUSY, "workers wait for a core"),
        ({"copying": 0.5}, BUSY, "more environments a lockstep would share it"),
        ({"policy": 0.9}, BUSY, "the policy takes most of the time"),
    ],
)
def test_advice_says_what_would_help(shares: dict[str, Any], step: StepCost, expected: str) -> None:
    text = said(layout(2, 100.0, **shares), step=step)
    assert expected in text
    assert "the manager's time: environments " in text


def test_advice_is_silent_where_nothing_sticks_out() -> None:
    even: dict[str, Any] = {"environments": 0.4, "waiting": 0.2, "copying": 0.2, "policy": 0.2}
    layouts = [layout(2, 100.0, **even)]
    assert len(advise(layouts[0], layouts, BUSY, cores=2)) == 2


class _Sleeper(gymnasium.Env[Any, Any]):
    observation_space = gymnasium.spaces.Box(0, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        time.sleep(5e-3)  # what it is: nothing waits for it
        return np.zeros(1, np.float32), 0.0, False, False, {}


def test_a_step_that_sleeps_is_told_from_one_that_computes() -> None:
    cost = measure_step(_Sleeper, None, {})
    assert cost.mean_s >= 5e-3
    assert cost.p50_s <= cost.p99_s
    assert cost.sleeps
    assert not dataclasses.replace(cost, cpu_share=1.0).sleeps


def test_some_steps_may_straggle() -> None:
    assert STRAGGLING.straggles
    assert not BUSY.straggles


def test_a_policy_is_timed_and_its_answers_are_its_own() -> None:
    space = gymnasium.spaces.Discrete(3)
    timed = TimedPolicy(None, space, 1e-3, 1e-3)
    noise, start, envs = np.full((2, 1), 0.5), np.zeros(2, bool), np.arange(2)
    observations = np.zeros((2, 4))
    given = timed.act(observations, noise=noise, episode_start=start, envs=envs)
    own = RandomPolicy(space).act(observations, noise=noise, episode_start=start, envs=envs)
    for one, other in zip(given, own, strict=True):
        np.testing.assert_array_equal(one, other)
    assert timed.spent_s >= 3e-3  # a call and two rows
    timed.value(observations, envs=envs)
    assert timed.spent_s >= 6e-3


def test_a_timed_policy_gets_the_noise_that_its_own_asks_for() -> None:
    space = gymnasium.spaces.Box(-1, 1, (2,))
    policy = RandomPolicy(space)
    policy.noise_kind = "normal"  # type: ignore[attr-defined]  # optional in the protocol
    timed = TimedPolicy(policy, space, 0.0, 0.0)
    assert (timed.noise_size, timed.noise_kind) == (2, "normal")
    assert TimedPolicy(None, space, 0.0, 0.0).noise_kind == "uniform"


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("pace", ["lockstep", "free"])
def test_what_the_manager_waits_is_counted_at_every_pace(workers: int, pace: Pace) -> None:
    with VecCheckedSession(_Sleeper, 2, workers=workers) as vec:
        vec.start(seed=0)
        waits = vec.engine.lockstep.flight.waits
        before_ns, began_s = waits.ns, time.perf_counter()
        policy = RandomPolicy(vec.single_action_space)
        collect_rollout(vec, policy, 4, seed=0, pace=pace if workers else "lockstep")
        waited_s, took_s = (waits.ns - before_ns) * 1e-9, time.perf_counter() - began_s
    # Four steps of 5 ms, or eight where one process takes all; it waits for nearly all of it.
    least_s = 4 * 5e-3 * (1 if workers == 2 else 2) * 0.5
    assert least_s < waited_s <= took_s


def test_the_public_name_is_the_function_whatever_was_imported_before() -> None:
    assert vecsess.autotune is tuned.autotune


@pytest.mark.parametrize("module", [tuned, lanes, step_cost])
def test_the_examples_are_right(module: Any) -> None:
    assert doctest.testmod(module).failed == 0
