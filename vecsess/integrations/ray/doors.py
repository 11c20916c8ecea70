"""Whether the raylets of nodes still listen: a dead one is known at once, before Ray says so.

Ray itself waits one to two seconds for word of an actor's death, and lets actors outlive their
raylet as long. A port that refused a connection has nobody behind it any more.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterable
from errno import ECONNREFUSED

import ray

Door = tuple[str, int]
_KNOCK_S = 0.05  # for all of them together: who does not refuse by then is not gone for sure
_FIRST_S = 1.0


def door_of(node: str) -> Door | None:
    """Returns where a node's raylet listens; None where a connection from here gets nowhere."""
    for each in ray.nodes():
        if each["NodeID"] == node:
            door = str(each["NodeManagerAddress"]), int(each["NodeManagerPort"])
            try:
                socket.create_connection(door, timeout=_FIRST_S).close()
            except OSError:  # such as a firewall, whose refusal would mean nothing
                return None
            return door
    return None


def refusing(doors: Iterable[Door]) -> set[Door]:
    """Returns those that refuse a connection at once.

    Args:
        doors: where raylets listened.
    """
    asked: dict[int, tuple[socket.socket, Door]] = {}
    poll = select.poll()
    try:
        for door in set(doors):
            knock = socket.socket(socket.AF_INET6 if ":" in door[0] else socket.AF_INET)
            asked[knock.fileno()] = knock, door
            knock.setblocking(False)
            knock.connect_ex(door)
            poll.register(knock, select.POLLOUT)
        return _refused(asked, poll)
    finally:
        for knock, _ in asked.values():
            knock.close()


def _refused(asked: dict[int, tuple[socket.socket, Door]], poll: select.poll) -> set[Door]:
    shut: set[Door] = set()
    open_ = 0
    deadline = time.monotonic() + _KNOCK_S
    while len(shut) + open_ < len(asked):
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            break
        for number, _ in poll.poll(left_s * 1000):
            poll.unregister(number)
            knock, door = asked[number]
            if knock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == ECONNREFUSED:
                shut.add(door)
            else:
                open_ += 1
    return shut
