"""A worker that does not keep to the protocol is ended; the trainer takes no harm."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.envs import CountingEnv
from tests.hostility import HostileEnv
from tests.sessions import open_session, zeros
from vecsess import ContractViolation, EnvError, Timeouts, VecCheckedSession, WorkerDied
from vecsess.errors import ProtocolError, WorkerError

N = 3
BRIEF = Timeouts(step_s=2, reset_s=2, close_s=2)
pytestmark = pytest.mark.usefixtures("no_process_left")


def hostile(deed: str) -> VecCheckedSession:
    """Returns a session whose environment 1 is hostile, alone in worker 1."""
    makers: list[Any] = [partial(CountingEnv, 1000)] * N
    makers[1] = partial(HostileEnv, deed)
    vec = open_session(makers, N, timeouts=BRIEF)
    vec.reset(seed=0)
    vec.step(zeros(N))
    return vec


def step_often(vec: VecCheckedSession) -> None:
    for _ in range(5):
        vec.step(zeros(N))


def others_are_unharmed(vec: VecCheckedSession) -> None:
    observations, _ = vec.reset(seed=0)
    np.testing.assert_array_equal(observations[:, 1], 0)
    np.testing.assert_array_equal(vec.step(zeros(N))[0][:, 1], 1)


@pytest.mark.parametrize(
    ("deed", "message"),
    [
        ("garbage", "not valid msgpack"),
        ("no frame at all", "expected a frame of at most"),
        ("a frame that is too long", "expected a frame of at most"),
        ("a reply of the future", "expected the reply to command"),
        ("a reply of another kind", ""),
        ("a command", "expected one of"),
        ("a field of another type", "Done.seq: expected int, got str"),
        ("code", ""),
    ],
)
def test_a_breach_of_the_protocol_ends_the_worker(
    deed: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with hostile(deed) as vec:
        with pytest.raises(ProtocolError) as caught:
            vec.step(zeros(N))
        assert caught.value.worker == 1
        assert message in str(caught.value)
        others_are_unharmed(vec)
    assert not list(tmp_path.iterdir()), "nothing that a worker sent was executed"


def test_a_worker_that_hangs_up_is_lost() -> None:
    with hostile("hang up") as vec:
        with pytest.raises(WorkerDied) as caught:
            vec.step(zeros(N))
        assert caught.value.worker == 1
        others_are_unharmed(vec)


def test_the_slab_can_not_be_cut() -> None:
    with hostile("cut the slab") as vec, pytest.raises(EnvError, match="it was sealed"):
        vec.step(zeros(N))


def test_a_scribbled_slab_harms_its_own_rows_alone() -> None:
    """What was written is not finite; and a worker that confused itself by it is ended."""
    with hostile("scribble") as vec:
        with pytest.raises((ContractViolation, WorkerError)) as caught:
            step_often(vec)
        assert caught.value.worker == 1
        others_are_unharmed(vec)
