"""Collects on a cluster of Ray, kills one of its nodes in the middle, and compares the batch.

The cluster is on this machine: a head and two nodes, each at a loopback address of its own. On
real machines only the first lines differ: `ray start` on each, and `RaySession(address=...)`.
"""

import argparse
import os
import secrets
import shutil
import signal
import tempfile
import time
from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
import psutil
from gymnasium import spaces

from vecsess import RandomPolicy, VecCheckedSession, collect_rollout

# Ray's files and its token go into a folder of ours, not into the home folder.
folder = Path(tempfile.mkdtemp(prefix="vr-"))
(folder / "token").write_text(secrets.token_hex(32))
os.environ.update(
    RAY_TMPDIR=str(folder),
    RAY_AUTH_TOKEN_PATH=str(folder / "token"),
    RAY_USAGE_STATS_ENABLED="0",
)

import ray  # noqa: E402  # it reads the environment when it is imported
from ray.cluster_utils import Cluster  # noqa: E402

from vecsess.integrations.ray import RaySession  # noqa: E402


class Slow(gymnasium.Wrapper):
    """A step takes a while, so that there is a middle of a rollout."""

    def __init__(self, step_s: float) -> None:
        super().__init__(gymnasium.make("CartPole-v1"))
        self.step_s = step_s

    def step(self, action):
        time.sleep(self.step_s)
        return super().step(action)


def start_cluster(nodes: int, cpus: int):
    """Returns a cluster on this machine, which this process has joined, and its nodes by id."""
    small = {"object_store_memory": 80 << 20, "include_dashboard": False}
    head = {**small, "num_cpus": 0, "node_ip_address": "127.0.0.2"}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    made = {}
    for index in range(nodes):
        address = f"127.0.0.{3 + index}"
        node = cluster.add_node(
            num_cpus=cpus, object_store_memory=80 << 20, node_ip_address=address
        )
        made[node.node_id] = (address, node)
    ray.init(address=cluster.address, _node_ip_address="127.0.0.2", log_to_driver=False)
    return cluster, made


def kill(node) -> None:
    """Ends a node as a power cut would."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    for process in [raylet, *raylet.children(recursive=True)]:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=16, help="environments (default: 16)")
    parser.add_argument("--shards", type=int, default=4, help="default: 4")
    parser.add_argument("--horizon", type=int, default=128, help="default: 128")
    parser.add_argument("--rollouts", type=int, default=4, help="default: 4")
    parser.add_argument("--step-ms", type=float, default=2.0, help="of a step (default: 2)")
    arguments = parser.parse_args()
    make_env = partial(Slow, arguments.step_ms / 1000)
    policy = RandomPolicy(spaces.Discrete(2))

    cluster, nodes = start_cluster(nodes=2, cpus=arguments.shards)
    try:
        batches = collect(arguments, make_env, policy, nodes)
    finally:
        ray.shutdown()
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)

    with VecCheckedSession(partial(Slow, 0.0), arguments.n, workers=0) as vec:
        vec.start(0)
        for index, batch in enumerate(batches):
            alone = collect_rollout(vec, policy, arguments.horizon, seed=0 if index == 0 else None)
            assert np.array_equal(alone.observations, batch.observations)
            assert alone.episodes == batch.episodes
    print(f"all {len(batches)} batches are those of one machine, bit for bit")


def collect(arguments, make_env, policy, nodes):
    """Returns the rollouts; a node falls after the first part of the third has come."""
    batches = []
    with RaySession(make_env, arguments.n, shards=arguments.shards, workers=1) as vec:
        vec.start(0)
        for shard in vec.health():
            envs = shard.envs
            print(f"shard {shard.shard} on {shard.node}: environments {envs[0]} to {envs[-1]}")
        for index in range(arguments.rollouts):
            began = time.monotonic()
            parts = 0

            def on_part(envs, _, index=index):
                nonlocal parts
                parts += 1
                print(f"  {'#' * parts}{'.' * (arguments.shards - parts)} from {envs[0]} on")
                if index == 2 and parts == 1 and nodes:
                    address, node = nodes.popitem()[1]
                    print(f"  killing the node at {address}")
                    kill(node)

            seed = 0 if index == 0 else None
            batch = vec.collect(policy, arguments.horizon, seed=seed, on_part=on_part)
            seconds = time.monotonic() - began
            print(f"rollout {index}: {batch.rewards.size} steps in {seconds:.1f} s")
            batches.append(batch)
        for each in vec.incidents:
            what = each.incident.what.partition("\n")[0]
            print(f"shard {each.shard} was lost, and made anew: {what}")
    return batches


if __name__ == "__main__":
    main()
