"""Errors keep their type and say where they happened; what can't be placed is said in time."""

from __future__ import annotations

import re
import sys
import threading
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from tests.envs import CountingEnv
from vecsess import ContractViolation, EnvError, RandomPolicy, collect_rollout
from vecsess.bench.nodes import Nodes
from vecsess.errors import PolicyError, SpawnError

pytest.importorskip("ray")

from tests.ray.test_batches import PATIENT
from vecsess.integrations.ray import RaySession

POLICY = RandomPolicy(spaces.Discrete(2))


class Doomed(CountingEnv):
    """Raises, or observes NaN, in its third step."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    def step(self, action: Any) -> Any:
        result = super().step(action)
        if self.steps == 3 and self.fault == "raise":
            raise KeyError("no such room")
        if self.steps == 3:
            self.buffer[:] = np.nan
        return result


@pytest.mark.parametrize(("fault", "kind"), [("raise", KeyError), ("nan", ContractViolation)])
def test_an_environments_error_names_it_in_the_whole_session(
    nodes: Nodes, fault: str, kind: type[Exception]
) -> None:
    makers = [CountingEnv] * 4 + [partial(Doomed, fault)] + [CountingEnv]
    with RaySession(makers, 6, shards=2, workers=3, **PATIENT) as vec:
        vec.start(0)
        before = vec.observe()
        with pytest.raises(kind) as caught:
            collect_rollout(vec, POLICY, 8, seed=1)
        error: Any = caught.value
        assert (error.shard, error.worker, error.env, error.step) == (1, 1, 4, 2)
        assert re.match(r"shard 1, node '127\.0\.0\.\d+', worker 1, env 4", str(error))
        assert isinstance(error, EnvError) == (fault == "raise")
        if fault == "raise":
            assert "no such room" in error.remote_traceback
        # As if the rollout had never begun.
        np.testing.assert_array_equal(vec.observe(), before)
        assert collect_rollout(vec, POLICY, 2, seed=1).valid.all()


class Careless(RandomPolicy):
    def act(self, observations: Any, **how: Any) -> Any:
        raise ZeroDivisionError("by nothing")


def test_a_policys_error_keeps_its_type_and_says_where(nodes: Nodes) -> None:
    with RaySession("CartPole-v1", 4, shards=2, workers=0, **PATIENT) as vec:
        with pytest.raises(ZeroDivisionError, match="by nothing") as caught:
            collect_rollout(vec, Careless(spaces.Discrete(2)), 8)
        notes = "\n".join(caught.value.__notes__)
        assert re.search(r"shard [01] on node 127\.0\.0\.\d", notes)
        assert "in act" in notes
        stuck = RandomPolicy(spaces.Discrete(2))
        stuck.lock = threading.Lock()  # type: ignore[attr-defined]
        with pytest.raises(PolicyError, match=r"policy\.lock"):
            collect_rollout(vec, stuck, 8)
        assert collect_rollout(vec, POLICY, 8).valid.all()


def test_too_few_cpus_are_said_in_time(nodes: Nodes) -> None:
    with pytest.raises(
        SpawnError, match=r"2 shards need 200 CPUs, 100 each; the cluster has \d+ on"
    ):
        RaySession("CartPole-v1", 4, options={"num_cpus": 100}, answer_s=60, start_s=3)


def test_a_module_that_is_missing_on_a_node_is_named(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_here = ModuleType("only_here")
    exec("import gymnasium\nclass Env(gymnasium.Env): pass", only_here.__dict__)
    monkeypatch.setitem(sys.modules, "only_here", only_here)
    with pytest.raises(SpawnError, match=r"shard \d.*No module named 'only_here'.*runtime_env"):
        RaySession(only_here.Env, 4, **PATIENT)


def test_another_version_on_a_node_is_named(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    import vecsess.integrations.ray.slots as slots

    monkeypatch.setattr(slots, "versions", lambda: {"Python": "3.99", "vecsess": "7"})
    with pytest.raises(SpawnError, match=r"expected .*'3\.99'.* on every node.*install the same"):
        RaySession("CartPole-v1", 4, **PATIENT)


@pytest.mark.skipif(
    " " in sys.executable,
    reason="with a runtime_env Ray itself starts no process whose Python has a space in its path",
)
def test_a_node_without_vecsess_is_named(nodes: Nodes, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['vecsess'] = None\n")
    options = {"runtime_env": {"env_vars": {"PYTHONPATH": str(tmp_path)}}}
    with pytest.raises(SpawnError, match=r"its node can't run it; install the driver's vecsess"):
        RaySession("CartPole-v1", 4, options=options, **PATIENT)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shards": 0}, "shards: expected a number from 1 to n=4"),
        ({"shards": 5}, "shards: expected a number from 1 to n=4"),
        ({"on_crash": "raise"}, "expected on_crash='replay'"),
        ({"first_env": 3}, "no first_env"),
    ],
)
def test_wrong_arguments_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RaySession("CartPole-v1", 4, **settings)
