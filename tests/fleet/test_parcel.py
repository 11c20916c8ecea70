"""Data in the maker: pickled once, in one memory for all workers, each one's own to write to."""

from __future__ import annotations

import os
import pickle
import time
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from tests.losses import kill
from vecsess import EnvError, VecCheckedSession
from vecsess.fleet.parcel import pack_parcel

pytestmark = pytest.mark.usefixtures("no_process_left")


def maker(data: Any) -> Any:
    def make() -> Any:
        env = gymnasium.make("CartPole-v1")
        plain: Any = env.unwrapped
        array = np.asarray(data if not isinstance(data, bytes) else bytearray(data))
        plain.told = [float(array.sum()), array.flags.writeable]
        if array.flags.writeable:
            array[:2] += 1
        plain.after = float(array.sum())
        return env

    return make


def broken(data: Any) -> Any:
    raise ValueError(len(data))


SHAPES = {
    "small": np.ones(10),
    "large": np.ones(1 << 20),
    "in columns": np.asfortranarray(np.ones((300, 400))),
    "not in one piece": np.ones((600, 600))[::2, ::3],
    "bytes": bytes(range(256)) * 1000,
    "read only": np.broadcast_to(np.ones(1), (100_000,)),
}


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("name", SHAPES)
def test_data_of_any_form_arrives_in_each_worker_and_its_successor(name: str, method: Any) -> None:
    data = SHAPES[name]
    make = maker(data)
    with VecCheckedSession(make, 2, start_method=method) as vec:
        vec.reset(seed=0)
        told, after = vec.get_attr("told"), vec.get_attr("after")
        vec.reset(seed=0)
        kill(vec, 0)
        vec.step([0, 1])
        assert vec.get_attr("told") == told
        assert vec.get_attr("after") == after
    expected = float(np.asarray(bytearray(data) if isinstance(data, bytes) else data).sum())
    assert told[0][0] == told[1][0] == expected


def test_the_memory_is_sealed_and_given_back() -> None:
    before = set(Path("/proc/self/fd").iterdir())
    parcel = pack_parcel(lambda keep: pickle.dumps(np.ones(1 << 16), 5, buffer_callback=keep))
    assert parcel.head == b""
    assert len(parcel.sizes) == 2
    with pytest.raises(PermissionError):
        os.pwrite(parcel.fd, b"x", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(parcel.fd, 0)
    os.close(parcel.fd)
    with VecCheckedSession(maker(SHAPES["large"]), 1) as vec:
        vec.reset(seed=0)
    with pytest.raises(EnvError):
        VecCheckedSession(partial(broken, SHAPES["large"]), 1)
    assert set(Path("/proc/self/fd").iterdir()) == before


def test_100_mb_for_16_workers_are_one_memory() -> None:
    data = np.ones(100 << 17)
    began = time.monotonic()
    with VecCheckedSession(maker(data), 16, workers=16) as vec:
        vec.reset(seed=0)
        own = [worker.unique_bytes or 0 for worker in vec.health()]
        assert vec.get_attr("after") == (float(len(data) + 2),) * 16
    assert max(own) < data.nbytes / 2  # each has written to one page
    assert time.monotonic() - began < 100  # once it took minutes
