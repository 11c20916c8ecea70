"""Clusters of a session's own, and drivers that are killed: nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgpack
import psutil
import pytest

from tests.processes import ROOT, is_running, wait_until
from vecsess import RandomPolicy, collect_rollout
from vecsess.bench.nodes import Nodes

pytest.importorskip("ray")
from tests.collect.test_paced import assert_same
from tests.ray.test_batches import PATIENT, on_one_machine
from vecsess.integrations.ray import RaySession

PROGRAM = """
import sys, time, psutil
from vecsess import RandomPolicy, collect_rollout
from vecsess.integrations.ray import RaySession

class Slow(__import__("gymnasium").Wrapper):
    def __init__(self):
        super().__init__(__import__("gymnasium").make("CartPole-v1"))
    def step(self, action):
        time.sleep(0.2)
        return super().step(action)

address = sys.argv[2] or None
env = Slow if sys.argv[1] == "wait" else "CartPole-v1"
with RaySession(env, 4, shards=2, workers=1, start_s=90, address=address) as vec:
    workers = [one.pid for shard in vec.health() for one in shard.workers]
    below = [each.pid for each in psutil.Process().children(recursive=True)]
    print("pids", *workers, *below, flush=True)
    rollout = collect_rollout(vec, RandomPolicy(vec.single_action_space), 64, seed=0)
if address is None:  # another one of its own, in the same process
    with RaySession(env, 4, shards=1, workers=0, start_s=90) as again:
        collect_rollout(again, RandomPolicy(vec.single_action_space), 8)
print(rollout.valid.all(), len(vec.incidents))
"""


def surroundings(folder: Path) -> dict[str, str]:
    """Returns an environment in which nothing is known of any other cluster."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**known, "TMPDIR": str(folder), "HOME": str(folder), "PYTHONPATH": str(ROOT)}


def start(folder: Path, how: str, address: str, env: dict[str, str]) -> subprocess.Popen[str]:
    """Starts the program; what it says comes through a pipe."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, how, address],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if address == "127.0.0.1:1" else subprocess.DEVNULL,
        text=True,
    )


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="d-") as short:  # for the paths of sockets
        yield Path(short)


def test_a_cluster_of_its_own_ends_with_the_session(folder: Path) -> None:
    done = start(folder, "end", "", surroundings(folder))
    said = done.communicate(timeout=110)[0]
    assert done.returncode == 0
    first, *_, last = said.splitlines()
    assert last == "True 0"
    pids = [int(pid) for pid in first.split()[1:]]
    assert len(pids) > 4
    assert wait_until(lambda: not any(map(is_running, pids)), 20.0)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("own", [True, False])
def test_a_killed_driver_leaves_nothing(folder: Path, nodes: Nodes, own: bool) -> None:
    env = surroundings(folder) if own else {**os.environ, "PYTHONPATH": str(ROOT)}
    address = "" if own else nodes.cluster.address
    program = start(folder, "wait", address, env)
    assert program.stdout is not None
    with program.stdout:
        pids = [int(pid) for pid in program.stdout.readline().split()[1:]]
    workers = [psutil.Process(pid) for pid in pids[:2]]
    actors = [process.parents()[1].pid for process in workers]
    assert len(pids) >= 2
    os.kill(program.pid, signal.SIGKILL)
    program.wait(10)
    assert wait_until(lambda: not any(map(is_running, [*pids, *actors])), 30.0)
    assert wait_until(lambda: list(folder.iterdir()) == [], 10.0)


def test_no_cluster_at_an_address_is_said(folder: Path) -> None:
    program = start(folder, "end", "127.0.0.1:1", surroundings(folder))
    said = program.communicate(timeout=60)[1]
    assert program.returncode == 1
    assert "expected a Ray cluster at '127.0.0.1:1'" in said
    assert "ray start --head" in said


HEADLESS = """
import os, signal, sys, psutil, msgpack
from pathlib import Path
from gymnasium import spaces
from vecsess import RandomPolicy
from vecsess.integrations.ray import RaySession

with RaySession("CartPole-v1", 6, shards=2, workers=0, start_s=90) as vec:
    policy = RandomPolicy(spaces.Discrete(2))
    vec.start(7)
    vec.collect(policy, 48, seed=5)
    Path(sys.argv[1]).write_bytes(msgpack.packb(vec.checkpoint()))
    for process in psutil.Process().children(recursive=True):
        if "gcs_server" in process.name():
            process.kill()
    print("fell", flush=True)
    while True:
        vec.collect(policy, 48)
"""


def test_a_checkpoint_outlives_the_head(folder: Path, nodes: Nodes, tmp_path: Path) -> None:
    kept = tmp_path / "run.ckpt"
    soon = {"RAY_gcs_rpc_server_reconnect_timeout_s": "2"}  # a minute by itself
    program = subprocess.run(
        [sys.executable, "-c", HEADLESS, str(kept)],
        cwd=folder,
        env={**surroundings(folder), "HOME": str(tmp_path), **soon},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=110,
        text=True,
        check=False,
    )
    assert "fell" in program.stdout
    assert program.returncode != 0
    data = msgpack.unpackb(kept.read_bytes())
    # The key that it was signed with lies in another home.
    with RaySession.restore(data, shards=3, workers=1, trusted=True, **PATIENT) as vec:
        policy = RandomPolicy(vec.single_action_space)
        got = [collect_rollout(vec, policy, 48) for _ in range(2)]
    assert_same(got, on_one_machine("CartPole-v1")[1:])
    assert wait_until(lambda: list(folder.iterdir()) == [], 20.0)
