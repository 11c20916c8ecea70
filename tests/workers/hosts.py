"""An `EnvHost` without a worker around it: the slab is ordinary memory."""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from typing import Any

from vecsess.wire.slab import Layout
from vecsess.workers.env_host import EnvHost


def host_of(makers: Iterable[Any], mode: str = "same_step", *, exact: bool = False) -> EnvHost:
    """Returns a host of these environments, attached to a slab of its own."""
    host = EnvHost(makers, mode, keep_rng=False)
    observation_space, action_space = host.spaces()[0]
    layout = Layout(observation_space, action_space, len(host.envs))
    host.attach(layout, layout.views(mmap.mmap(-1, layout.stride_bytes)), exact=exact)
    return host


def reset(host: EnvHost, seed: int = 0) -> Any:
    """Resets every row; returns what the host says of it."""
    rows = list(range(len(host.envs)))
    return host.reset(rows, [seed + row for row in rows], b"", 2)
