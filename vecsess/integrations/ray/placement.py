"""Where shards go: the cluster that is joined or started, its nodes, and which of them to avoid."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vecsess.errors import SpawnError
from vecsess.fleet.plan import cores
from vecsess.wire.values import Given

_SUSPECT_S = 60.0  # Ray itself takes up to half of that to notice that a node is gone
_END_S = 10.0
_TOKEN = secrets.token_hex(32)  # one for this process: Ray keeps the first that it reads
# Nodes where something was lost, and when. Of the process, not of a session: the next one, too,
# had better avoid what this one has met.
_suspects: dict[str, float] = {}


def suspect(node: str) -> None:
    """Notes that something was lost on a node."""
    if node:
        _suspects[node] = time.monotonic()


def lost_since(since_s: float) -> set[str]:
    """Returns the nodes where something was lost since then."""
    return {node for node, lost_s in _suspects.items() if lost_s >= since_s}


def strategy_for(cpus: float, used: list[str]) -> Given:
    """Returns how Ray is to place a shard: spread, or away from where something was lost lately.

    Args:
        cpus: what a shard needs.
        used: the nodes of the other shards, one entry each.
    """
    now = time.monotonic()
    avoided = {node: since for node, since in _suspects.items() if now - since < _SUSPECT_S}
    fit = [
        str(node["NodeID"])
        for node in (ray.nodes() if avoided else [])
        if node["Alive"] and node["Resources"].get("CPU", 0) >= cpus
    ]
    if not fit:
        return "SPREAD"
    # Where nothing was lost, else where that is longest ago.
    best = min(fit, key=lambda node: (avoided.get(node, 0.0), used.count(node)))
    # Soft: should it have no room, or die just now, any other will do.
    return NodeAffinitySchedulingStrategy(best, soft=True)


def address_of(node: str) -> str:
    """Returns the address of a node, "" where it is not known."""
    found = (each["NodeManagerAddress"] for each in ray.nodes() if each["NodeID"] == node)
    return next(found, "")


def explain_room(cpus: float, shards: int) -> str:
    """Returns what the cluster has, beside what the shards need, as a sentence."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    total = sum(node["Resources"].get("CPU", 0) for node in alive)
    free = ray.available_resources().get("CPU", 0)
    return (
        f"{shards} shards need {shards * cpus:g} CPUs, {cpus:g} each; the cluster has {total:g} "
        f"on {len(alive)} nodes, of which {free:g} are free. Start more nodes, make fewer shards, "
        "or ask for less with options={'num_cpus': ...}"
    )


class Cluster:
    """The cluster that a session runs on: one that is there, or one of its own.

    Args:
        address: of a cluster to join; None for the one that this process has joined already, or
            else for a local one, which ends with the session.
        cpus: how many CPUs a local one is to offer at least.
        start_s: how long to wait for an answer at the address.

    Raises:
        SpawnError: there is no cluster at that address.
    """

    def __init__(self, address: str | None, cpus: float, start_s: float) -> None:
        self._guard: subprocess.Popen[bytes] | None = None
        self._joined = not ray.is_initialized()
        if not self._joined:
            return
        if address is None:
            self._start(cpus)
            return
        try:
            _knock(address, start_s)
            ray.init(address=address, log_to_driver=False)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise SpawnError(
                f"expected a Ray cluster at {address!r}, got {type(error).__name__}: {error}. "
                "Start one with `ray start --head`, or leave out address for a local one"
            ) from error

    def _start(self, cpus: float) -> None:
        """Starts a cluster of one node, in a folder that a guard removes whatever happens to us."""
        folder = tempfile.mkdtemp(prefix="vecsess-ray-", dir=tempfile.gettempdir())
        self._guard = subprocess.Popen(
            [sys.executable, "-I", str(Path(__file__).with_name("guard.py")), folder],
            stdin=subprocess.PIPE,
            start_new_session=True,  # who kills our process group does not kill it
        )
        try:
            with _surroundings(Path(folder)):
                ray.init(
                    address="local",
                    num_cpus=max(cores(), int(-(-cpus // 1))),
                    include_dashboard=False,
                    log_to_driver=False,
                    _temp_dir=folder,
                )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Leaves the cluster; ends it, if it is our own."""
        if not self._joined:
            return
        self._joined = False
        ray.shutdown()
        guard, self._guard = self._guard, None
        if guard is not None and guard.stdin is not None:
            guard.stdin.close()
            guard.wait(_END_S)


def _knock(address: str, start_s: float) -> None:
    """Raises OSError where nobody listens: Ray itself would try for a minute."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=start_s).close()


@contextmanager
def _surroundings(folder: Path) -> Iterator[None]:
    """Keeps Ray's authentication on, and its files out of the home folder."""
    wanted = {"RAY_TMPDIR": str(folder), "RAY_USAGE_STATS_ENABLED": "0"}
    # Not RAY_AUTH_MODE=token: Ray itself leaves that behind when the first cluster starts.
    named = any(f"RAY_AUTH_{name}" in os.environ for name in ("TOKEN", "TOKEN_PATH"))
    named = named or os.environ.get("RAY_AUTH_MODE") == "disabled"
    if not named and not (Path.home() / ".ray" / "auth_token").exists():
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text(_TOKEN)
        wanted["RAY_AUTH_TOKEN_PATH"] = str(token)
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
