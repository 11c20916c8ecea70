"""What a client raises: each failure of a worker or an environment is an error of its own type."""

from __future__ import annotations

import fcntl
import os
import stat
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.envs import CountingEnv, FaultyEnv
from tests.processes import processes_below
from vecsess import Client, Timeouts
from vecsess.errors import (
    BadEncoding,
    EnvError,
    MissingField,
    ProtocolError,
    StateError,
    WorkerDied,
    WorkerTimeout,
    WrongFieldType,
)
from vecsess.wire.channel import frame
from vecsess.wire.messages import Done
from vecsess.wire.values import pack_value

pytestmark = pytest.mark.usefixtures("no_process_left")


class LyingEnv(CountingEnv):
    """Writes into the worker's reply pipe, as a worker gone wild might."""

    def __init__(self, payload: bytes) -> None:
        super().__init__()
        self.payload = payload

    def step(self, action: Any) -> Any:
        if action == 1:
            os.write(reply_pipe(), self.payload)
        return super().step(action)


def reply_pipe() -> int:
    """Returns the one pipe beyond stderr that this process writes to."""
    for name in Path("/proc/self/fd").iterdir():
        fd = int(name.name)
        try:
            piped = stat.S_ISFIFO(os.fstat(fd).st_mode)
        except OSError:
            continue  # the descriptor that listed the folder
        if fd > 2 and piped and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
            return fd
    raise AssertionError("a worker has a reply pipe")


@pytest.mark.parametrize(
    ("payload", "kind", "message"),
    [
        (frame(b"\xc1"), BadEncoding, "not valid msgpack"),
        (frame(pack_value("hello")), ProtocolError, "expected an array"),
        (frame(pack_value([Done.KIND, 3, []])), MissingField, "failures"),
        (frame(pack_value([Done.KIND, "3", [], []])), WrongFieldType, "Done.seq: expected int"),
        (frame(pack_value([Done.KIND, 1000, [], []])), ProtocolError, "to 1000"),
        (b"\xff\xff\xff\xff", ProtocolError, "at most 134348800 bytes"),
    ],
)
def test_a_worker_that_breaks_the_protocol_is_ended(
    payload: bytes, kind: type[ProtocolError], message: str
) -> None:
    with Client.spawn(partial(LyingEnv, payload)) as client:
        client.reset(seed=0)
        with pytest.raises(kind) as caught:
            client.step_raw(1)
        assert type(caught.value) is kind
        assert message in str(caught.value)
        client.reset(seed=0)
        assert client.step_raw(0).reward == 1.0, "another worker serves now"


def test_end_of_stream_says_how_the_worker_ended() -> None:
    with Client.spawn(partial(FaultyEnv, "last words", at=1)) as client:
        client.reset(seed=0)
        client.step_raw(0)
        with pytest.raises(WorkerDied, match="exit code 7") as caught:
            client.step_raw(0)
        assert "these are my last words" in str(caught.value)
        assert (caught.value.worker, caught.value.env, caught.value.step) == (0, 0, 1)
        assert client.reset(seed=0)[1] == 0, "another worker serves now"


def test_a_deadline_ends_the_worker() -> None:
    timeouts = Timeouts(step_s=0.3)
    with Client.spawn(partial(FaultyEnv, "sleep"), timeouts=timeouts) as client:
        client.reset(seed=0)
        with pytest.raises(WorkerTimeout, match=r"0\.3 s"):
            client.step_raw(0)


def test_what_the_environment_raises_is_an_env_error_and_its_worker_lives() -> None:
    with Client.spawn(partial(FaultyEnv, "ZeroDivisionError")) as client:
        client.reset(seed=0)
        before = processes_below()
        with pytest.raises(EnvError, match="divided") as caught:
            client.step_raw(0)
        assert isinstance(caught.value, ZeroDivisionError)
        assert "tests/envs.py" in caught.value.remote_traceback
        with pytest.raises(StateError, match="its last call failed"):
            client.step_raw(0)
        assert client.reset(seed=0)[1] == 0
        assert processes_below() == before
