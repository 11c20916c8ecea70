"""What is lost in the middle of a rollout leaves no trace in the batch."""

from __future__ import annotations

import os
import signal
import socket
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.collect.test_paced import assert_same
from tests.processes import wait_until
from tests.ray.disasters import Disaster
from vecsess import Timeouts
from vecsess.bench.nodes import Nodes

pytest.importorskip("ray")

from tests.ray.test_batches import PATIENT, collect, on_one_machine
from vecsess.integrations.ray import RaySession
from vecsess.integrations.ray.doors import door_of, refusing

KILL, STOP = signal.SIGKILL, signal.SIGSTOP
# They are needed for a start, not for a rollout.
UNFELT = [("server", STOP), ("raylet", STOP)]


@pytest.fixture
def whole(nodes: Nodes) -> Any:
    """The cluster, with all of its nodes again afterwards."""
    yield nodes
    nodes.mend()


@pytest.mark.parametrize(
    ("victim", "number", "times"),
    [
        ("worker", KILL, 1),
        ("server", KILL, 1),
        ("actor", KILL, 1),
        ("actor", KILL, 3),
        ("raylet", KILL, 1),
        ("node", KILL, 1),
        ("worker", STOP, 1),
        ("server", STOP, 1),
        ("actor", STOP, 1),
        ("raylet", STOP, 1),
        ("node", STOP, 1),
    ],
)
def test_a_loss_leaves_no_trace(
    whole: Nodes, tmp_path: Path, victim: str, number: int, times: int
) -> None:
    env = partial(Disaster, str(tmp_path), victim, number, times, length=9, duration_s=0.002)
    waits = {**PATIENT, "answer_s": 4.0 if number == STOP and victim in ("actor", "node") else 60.0}
    timeouts = Timeouts(step_s=3.0)
    with RaySession(env, 6, shards=3, workers=1, timeouts=timeouts, **waits) as vec:
        assert_same(collect(vec), on_one_machine(env))
        assert len(list(tmp_path.iterdir())) == times
        if (victim, number) not in UNFELT:
            assert len(vec.incidents) >= times  # Ray may take a node's workers along
        lost = [each for each in vec.incidents if each.incident.worker == -1]
        assert victim == "worker" or (victim, number) in UNFELT or lost


def test_workers_that_act_for_themselves_lose_nothing_either(whole: Nodes, tmp_path: Path) -> None:
    env = partial(Disaster, str(tmp_path), "actor", KILL, 2, length=9)
    with RaySession(env, 6, shards=2, workers=1, **PATIENT) as vec:
        assert_same(collect(vec, inference="workers"), on_one_machine(env))
        assert [each.incident.worker for each in vec.incidents] == [-1, -1]


def test_a_raylet_that_is_gone_is_known_by_its_door() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        door = listening.getsockname()
        assert refusing([door]) == set()
    assert refusing([door]) == {door}
    assert refusing([]) == set()


def test_a_nodes_door_is_open_while_it_lives(whole: Nodes) -> None:
    node = next(iter(whole.by_id))
    door = door_of(node)
    assert door is not None
    assert refusing([door]) == set()
    assert door_of("no such node") is None
    os.kill(whole.raylet(node), KILL)
    assert wait_until(lambda: refusing([door]) == {door}, 10.0)
