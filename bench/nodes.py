"""Clusters of Ray on one machine, and what kills a part of them: for the bench and the tests."""

from __future__ import annotations

import secrets
import signal
from pathlib import Path
from typing import Any

import psutil

GONE = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD, psutil.STATUS_STOPPED)


def ray_surroundings(folder: Path) -> dict[str, str]:
    """Returns what keeps Ray's files and its token in a folder; set before Ray is imported."""
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    return {
        "RAY_TMPDIR": str(folder),
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_memory_monitor_refresh_ms": "0",
    }


class Nodes:
    """A head that holds no shards, and nodes that do, each at a loopback address of its own.

    Args:
        nodes: how many that do.
        cpus: of each.

    Attributes:
        cluster: Ray's own.
        by_id: its nodes, by id.
    """

    def __init__(self, nodes: int = 2, cpus: int = 4) -> None:
        """Starts them."""
        from ray.cluster_utils import Cluster

        self._addresses, self._cpus = 2, cpus
        self.cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "object_store_memory": 100 << 20,
                "include_dashboard": False,
                "include_log_monitor": False,
                "node_ip_address": "127.0.0.2",
            },
        )
        self.by_id: dict[str, Any] = {}
        for _ in range(nodes):
            self.add()

    def add(self) -> str:
        """Adds a node; returns its id."""
        self._addresses += 1
        node = self.cluster.add_node(
            num_cpus=self._cpus,
            object_store_memory=80 << 20,
            node_ip_address=f"127.0.0.{self._addresses}",
        )
        self.by_id[node.node_id] = node
        return str(node.node_id)

    def join(self) -> None:
        """Makes this process a driver."""
        import ray

        ray.init(address=self.cluster.address, _node_ip_address="127.0.0.2", log_to_driver=False)

    def end(self) -> None:
        """Ends all of it."""
        import ray

        for name in list(self.by_id):
            self.signal(name, signal.SIGCONT)
        ray.shutdown()
        self.cluster.shutdown()

    def raylet(self, node: str) -> int:
        """Returns the process that makes a node one."""
        return int(self.by_id[node].all_processes["raylet"][0].process.pid)

    def signal(self, node: str, number: int) -> None:
        """Sends a signal to all processes of a node."""
        try:
            raylet = psutil.Process(self.raylet(node))
            found = [raylet, *raylet.children(recursive=True)]
        except (psutil.Error, KeyError):
            return
        for process in found:
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                continue

    def shards(self, node: str) -> list[int]:
        """Returns the processes of a node's shards."""
        below = psutil.Process(self.raylet(node)).children()
        return [each.pid for each in below if "ray::Shard" in " ".join(each.cmdline())]

    def with_shards(self) -> str:
        """Returns a node that has some."""
        return next(node for node in self.by_id if self.shards(node))

    def mend(self) -> None:
        """Replaces nodes that are gone or stand still by new ones."""
        for node in list(self.by_id):
            if not self._works(node):
                self.signal(node, signal.SIGKILL)
                self.cluster.remove_node(self.by_id.pop(node), allow_graceful=False)
                self.add()

    def _works(self, node: str) -> bool:
        try:
            return psutil.Process(self.raylet(node)).status() not in GONE
        except (psutil.Error, KeyError):
            return False
