"""Frames that no honest worker sends, fed to all of the manager that reads what workers send.

They are mutated, or made from the protocol's messages with an odd value in a field, however deep
it lies; and they come to a session that steps, to a recovery, to a handshake, and from the fork
server. Runs in a process of its own: one that crashes or takes too much memory is a figure.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import resource
import subprocess
import sys
import time
import warnings
from collections import Counter
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space

from vecsess.bench.faults.lies import FrameOf, Liar
from vecsess.contract import Contract
from vecsess.errors import VecsessError
from vecsess.fleet.description import agree
from vecsess.fleet.lockstep import Lockstep
from vecsess.fleet.reports import check_description, failures_of, start_error, warn_once
from vecsess.fleet.worker import Timeouts, Worker
from vecsess.session.acting import Acting, Outcome
from vecsess.session.actions import ActionCheck
from vecsess.wire.channel import Announce, EndOfStreamError
from vecsess.wire.messages import (
    SERVER_REPLIES,
    Described,
    Done,
    Exited,
    Failed,
    Replay,
    Replayed,
    Reset,
    Step,
    decode,
)
from vecsess.wire.slab import Layout
from vecsess.wire.values import FrameError

SLOW_S = 1.0  # for one frame of at most some hundred KB
CAP_BYTES = 128 << 20  # of growth over the whole run
_LIMIT_BYTES = 4 << 30  # of address space, where a frame that asks for gigabytes fails
_TIMEOUT_S = 7200.0
_ROWS = 4
_SPACE = spaces.Dict({"array": spaces.Box(-1, 1, (2,), np.float32), "text": spaces.Text(5)})
_LAYOUT = Layout(_SPACE, spaces.Discrete(2), _ROWS)


@dataclass(frozen=True, kw_only=True)
class Fed:
    """What came of the frames; `crashes` holds the first few errors that are not ours."""

    frames: int
    accepted: int
    refused: int
    crashes: list[str]
    slow: int
    grown_bytes: int

    @property
    def failures(self) -> int:
        """How many frames did what none may do."""
        return len(self.crashes) + self.slow + (self.grown_bytes > CAP_BYTES)


def feed_elsewhere(count: int, seed: int, seconds: float | None = None) -> Fed:
    """Feeds `count` frames of each kind in another process, for at most so many seconds."""
    command = [sys.executable, "-m", __name__, "--count", str(count), "--seed", str(seed)]
    command += [] if seconds is None else ["--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    try:
        return Fed(**json.loads(done.stdout))
    except (ValueError, TypeError):
        crash = f"exit code {done.returncode}: {done.stderr[-500:]}"
        return Fed(frames=count, accepted=0, refused=0, crashes=[crash], slow=0, grown_bytes=0)


def feed(count: int, seed: int, seconds: float | None = None) -> Fed:
    """Feeds `count` frames of each kind in this process, one kind after the other."""
    liar, readers = Liar(random.Random(seed)), Readers()  # an experiment
    until = math.inf if seconds is None else time.monotonic() + seconds
    before, told = _peak_bytes(), Counter[str]()
    crashes: list[str] = []
    for turn in range(count * len(liar.kinds)):
        if time.monotonic() > until:
            break
        name, frame_of = liar.lie(liar.kinds[turn % len(liar.kinds)])
        began = time.process_time()  # others may have the core meanwhile
        try:
            readers.read(name, frame_of)
            told["accepted"] += 1
        except (FrameError, VecsessError):
            told["refused"] += 1
        except Exception as error:
            crashes.append(f"{error!r:.200} in {name} from {readers.frame[:200]!r}")
        told["slow"] += time.process_time() - began > SLOW_S
        told["frames"] += 1
    return Fed(
        frames=told["frames"],
        accepted=told["accepted"],
        refused=told["refused"],
        crashes=crashes[:10],
        slow=told["slow"],
        grown_bytes=_peak_bytes() - before,
    )


# --- who reads -----------------------------------------------------------------------------------


class _Line:
    """The channel to a worker that says one thing, and ends then."""

    read_fd = write_fd = -1

    def __init__(self) -> None:
        self.payload: bytes | None = None

    def send(self, data: bytes, deadline: float | None) -> None:
        del data, deadline

    def take_exactly(self, expected: bytes) -> bool:
        del expected  # what is plain is decoded as all else
        return False

    def receive_ready(self, max_bytes: int, announce: Announce | None = None) -> bytes:
        del announce  # it comes whole
        payload, self.payload = self.payload, None
        if payload is None:
            raise EndOfStreamError("it has said what it had to say")
        if len(payload) > max_bytes:
            raise FrameError("too long")
        return payload


class _Guard:
    """Stands for the supervisor: whoever is killed is gone."""

    def kill(self, worker: Worker, ask_ms: int = 0) -> None:
        del worker, ask_ms

    def reap(self, worker: Worker) -> Exited:
        return Exited(worker.index, worker.generation, 1, 9, "")


class Readers:
    """The parts of a manager that read, over one worker that is a fiction."""

    def __init__(self) -> None:
        self._line = _Line()
        stand_ins: tuple[Any, Any] = (self._line, _Guard())
        self._worker = Worker(0, 0, _ROWS, stand_ins[0], -1)
        views = _LAYOUT.views(bytearray(_LAYOUT.stride_bytes))
        views.observations[1].fill("seen")  # what goes by pipe was there before
        self._lockstep = Lockstep([self._worker], stand_ins[1], _LAYOUT, views, Timeouts(), 0)
        self._vector = VectorEnv()
        self._vector.num_envs = _ROWS
        engine: Any = SimpleNamespace(lockstep=self._lockstep)
        self._acting = Acting(engine)
        self.frame = b""

    def read(self, name: str, frame_of: FrameOf) -> None:
        """Has one of them read a frame, which is kept in case that it trips over it."""
        self._worker.generation += 1  # whoever was lost is replaced

        def frame(seq: int) -> bytes:
            self.frame = frame_of(seq)
            return self.frame

        getattr(self, name)(frame)

    def _gather(self, frame_of: FrameOf, infos: int) -> dict[int, Done]:
        """Returns what answers a command."""
        flight = self._lockstep.flight
        flight.retire(self._worker)
        flight.active.append(self._worker)
        flight.begin(lambda _, seq: Step(seq, infos), None)
        self._line.payload = frame_of(flight.seq)
        flight.gather()
        return flight.answers

    def rollout(self, frame_of: FrameOf) -> None:
        """Takes what is told of a rollout of two steps that a worker filled by itself."""
        (reply,) = self._gather(frame_of, 0).values()
        views: Any = None
        outcome = Outcome(self._worker, views)
        self._acting._horizon = 2
        self._acting._take(outcome, reply)
        if outcome.dtypes:
            log_probs, values = outcome.dtypes
            np.zeros(outcome.steps, log_probs), np.zeros(outcome.steps, values)
        if outcome.loss is not None:
            raise outcome.loss

    def session(self, frame_of: FrameOf) -> None:
        """Takes what answers a step, and gives out what it holds."""
        flight, workers = self._lockstep.flight, [self._worker]
        self._gather(frame_of, 2)
        with warnings.catch_warnings(action="ignore"):
            warn_once(flight.answers, workers, set())
        for error in failures_of(flight.answers, workers):
            str(error)
        flight.infos.merged(self._vector._add_info, flight.answers, None)

    def replay(self, frame_of: FrameOf) -> None:
        """Takes what answers a replay, and compares it with a log."""
        reply = self._lockstep.flight.exchange(
            self._worker, lambda seq: self._told(frame_of, Replay(seq, 0, [], 1)), None, Replayed
        )
        np.frombuffer(reply.checksums, np.uint64).tolist()
        str([failure[1:4] for failure in reply.failures])

    def reset(self, frame_of: FrameOf) -> None:
        """Takes what answers the reset of an episode that was cut off."""
        reply = self._lockstep.flight.exchange(
            self._worker, lambda seq: self._told(frame_of, Reset(seq, [0], [1], b"", 0)), None, Done
        )
        failures_of({0: reply}, [self._worker])

    def _told(self, frame_of: FrameOf, command: Any) -> Any:
        self._line.payload = frame_of(command.seq)
        return command

    def handshake(self, frame_of: FrameOf) -> None:
        """Takes what a worker tells of its environments, up to the layout of its memory."""
        told = decode(frame_of(0), (Described, Failed))
        if isinstance(told, Failed):
            str(start_error(told, 0, 0, _ROWS))
            return
        check_description(self._worker, told)  # type: ignore[arg-type]  # the only other kind
        agreed = agree([self._worker], [told], "same")  # type: ignore[list-item]
        Layout(agreed.observation_space, agreed.action_space, _ROWS)
        ActionCheck(agreed.action_space, _ROWS, Contract())
        batch_space(agreed.action_space, _ROWS)

    def server(self, frame_of: FrameOf) -> None:
        """Takes what the fork server says."""
        decode(frame_of(0), SERVER_REPLIES)


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> int:
    """Prints what came of it as JSON; 1 where a frame did what none may do."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1 << 40, help="frames of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, help="end after that long")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (_LIMIT_BYTES, _LIMIT_BYTES))
    fed = feed(options.count, options.seed, options.seconds)
    print(json.dumps(asdict(fed)))
    return int(fed.failures > 0)


if __name__ == "__main__":
    sys.exit(main())
