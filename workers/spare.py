"""A worker that is forked before it is needed, and knows its part by then.

Most of what a successor's start takes are page faults: a forked process gets its own copy of
whatever it touches. A spare one has touched it: it has gone through a worker's life with an
environment of its own before anyone waits for it.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import socket

import gymnasium
import numpy as np

from vecsess.wire.channel import Channel, frame
from vecsess.wire.messages import (
    Attach,
    Close,
    Command,
    Replay,
    Reset,
    Start,
    encode,
    step_command,
)
from vecsess.wire.slab import Layout, create_memfd, seal
from vecsess.workers.serve import serve

_ENV_ID = "CartPole-v1"  # comes with gymnasium, needs numpy and no more, takes microseconds
_STEPS = 16
_SETTINGS = {
    "autoreset_mode": "same_step",
    "keep_rng": True,
    "spin_ns": 1,
    "exact": False,
    "lenient": False,
}


def stand_by(call: socket.socket) -> list[int]:
    """Rehearses, then waits to be needed; returns the worker's descriptors, none at the end."""
    rehearse()
    with call:
        while True:
            said, fds, _, _ = socket.recv_fds(call, 1, 4)
            if fds or not said:
                return fds
            call.send(said)  # whether it is there, was asked


def rehearse() -> None:
    """Serves a manager that has said everything beforehand, and reads nothing."""
    with contextlib.ExitStack() as stack:
        commands, told = os.pipe()
        unread, replies = os.pipe()
        slab_fd = create_memfd("vecsess-rehearsal")
        broadcast_fd = create_memfd("vecsess-rehearsal")
        for fd in (commands, told, unread, replies, slab_fd, broadcast_fd):
            stack.callback(os.close, fd)
        env = stack.enter_context(contextlib.closing(gymnasium.make(_ENV_ID)))
        layout = Layout(env.observation_space, env.action_space, 1)
        seal(slab_fd, layout.stride_bytes)
        os.write(told, _part(layout.stride_bytes))  # less than a pipe holds
        serve(Channel(commands, replies), slab_fd, broadcast_fd)
    gc.collect()  # an environment is full of cycles, and the last one keeps the slab mapped


def _part(stride_bytes: int) -> bytes:
    """Returns the frames of one worker's whole life, a replay with it."""
    again = [["reset", 0, b"", None], ["steps", _STEPS, [np.zeros(_STEPS, np.int64)]]]
    source = pickle.dumps(("id", _ENV_ID, None, {}))
    before: list[Command] = [
        Start(0, 0, 1, source, _SETTINGS),
        Attach(1, 1, stride_bytes),
        Reset(2, [0], [0], b"", 2),
        Replay(3, 0, again, 1000),
    ]
    steps = [step_command(seq, 2) for seq in range(4, 4 + _STEPS)]
    frames = [*map(_frame, before), *steps, _frame(Close(4 + _STEPS))]
    return b"".join(frames)


def _frame(command: Command) -> bytes:
    return frame(encode(command))
