"""What an environment may do: break down in some way, or hand out what it should not."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

Step = tuple[Any, Any, Any, Any, Any]


class CustomError(LookupError):
    """An exception that only the environment's own code knows."""


class UnprintableError(Exception):
    """An exception that can't be told."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def _raise(error: BaseException) -> None:
    raise error


def _segfault() -> None:
    ctypes.string_at(0)


def _kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _stop_self() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _sleep() -> None:
    time.sleep(1000)  # ends with the process, which the test sees killed


def _spin() -> None:
    while True:
        pass


def _hold_gil() -> None:
    ctypes.PyDLL(None).sleep(1000)


def _write_much() -> None:
    for _ in range(1024):
        sys.stderr.write("x" * 1023 + "\n")
    sys.stderr.flush()


def _print() -> None:
    print("printed by an environment", flush=True)  # noqa: T201  # what environments do
    libc = ctypes.CDLL(None)
    libc.puts(b"put by an environment")
    libc.fflush(None)


def _last_words() -> None:
    sys.stderr.write("these are my last words\n")
    sys.stderr.flush()
    os._exit(7)


def _leave_child() -> None:
    subprocess.Popen(["sleep", "1000"])


def _leave_daemon() -> None:
    """Leaves a grandchild as daemons are made: two forks and a session of its own."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        if os.fork() == 0:
            os.execvp("sleep", ["sleep", "1000"])
        os._exit(0)
    os.waitpid(pid, 0)


def _leave_session() -> None:
    subprocess.Popen(["sleep", "1000"], start_new_session=True)


def _hang_with(leave: Callable[[], None]) -> None:
    leave()
    _sleep()


def _die_with(leave: Callable[[], None]) -> None:
    leave()
    _kill_self()


FAULTS: dict[str, Callable[[], None]] = {
    "ValueError": lambda: _raise(ValueError("a bad value")),
    "KeyError": lambda: _raise(KeyError("a missing key")),
    "OSError": lambda: _raise(OSError(2, "no such thing", "name")),
    "UnicodeDecodeError": lambda: _raise(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad byte")),
    "ZeroDivisionError": lambda: _raise(ZeroDivisionError("divided")),
    "RecursionError": lambda: _raise(RecursionError("too deep")),
    "MemoryError": lambda: _raise(MemoryError()),
    "StopIteration": lambda: _raise(StopIteration(3)),
    "AssertionError": lambda: _raise(AssertionError("not so")),
    "SyntaxError": lambda: _raise(SyntaxError("bad", ("file", 1, 1, "text"))),
    "ExceptionGroup": lambda: _raise(ExceptionGroup("several", [ValueError("one")])),
    "CustomError": lambda: _raise(CustomError("of my own")),
    "UnprintableError": lambda: _raise(UnprintableError()),
    "surrogates": lambda: _raise(ValueError("not text: \udcff \x1b[31m")),
    "exit 0": lambda: os._exit(0),
    "exit 3": lambda: os._exit(3),
    "sys.exit": lambda: sys.exit(),
    "sys.exit 5": lambda: sys.exit(5),
    "segfault": _segfault,
    "abort": os.abort,
    "SIGKILL": _kill_self,
    "last words": _last_words,
    "sleep": _sleep,
    "spin": _spin,
    "SIGSTOP": _stop_self,
    "hold the GIL": _hold_gil,
    "write much": _write_much,
    "print": _print,
    "leave a child and hang": partial(_hang_with, _leave_child),
    "leave a session and hang": partial(_hang_with, _leave_session),
    "leave a daemon and hang": partial(_hang_with, _leave_daemon),
    "leave a child and die": partial(_die_with, _leave_child),
    "leave a session and die": partial(_die_with, _leave_session),
    "leave a daemon and die": partial(_die_with, _leave_daemon),
}


def _with(index: int, make: Callable[[Any], Any]) -> Callable[[Step], Any]:
    """Returns the lie that changes one part of what `step` returns."""

    def lie(result: Step) -> Any:
        parts = list(result)
        parts[index] = make(parts[index])
        return tuple(parts)

    return lie


def _poison(value: float) -> Callable[[Any], Any]:
    def poison(observation: Any) -> Any:
        poisoned = observation.copy()
        poisoned[2] = value
        return poisoned

    return poison


OBSERVATION, REWARD, TERMINATED, TRUNCATED, INFO = range(5)

LIES: dict[str, Callable[[Step], Any]] = {
    # Observations
    "observation of shape [3]": _with(OBSERVATION, lambda obs: obs[:3].copy()),
    "observation of shape [1, 4]": _with(OBSERVATION, lambda obs: obs[None].copy()),
    "observation of shape []": _with(OBSERVATION, lambda _: np.float32(0.5)),
    "observation as a list": _with(OBSERVATION, lambda obs: obs.tolist()),
    "observation None": _with(OBSERVATION, lambda _: None),
    "observation as a dict": _with(OBSERVATION, lambda obs: {"obs": obs}),
    "observation of float64": _with(OBSERVATION, lambda obs: obs.astype(np.float64)),
    "observation of int64": _with(OBSERVATION, lambda obs: obs.astype(np.int64)),
    "observation of bool": _with(OBSERVATION, lambda obs: obs.astype(np.bool_)),
    "observation of objects": _with(OBSERVATION, lambda obs: obs.astype(object)),
    "observation of text": _with(OBSERVATION, lambda obs: obs.astype("U8")),
    "observation of complex": _with(OBSERVATION, lambda obs: obs.astype(np.complex64)),
    "observation with NaN": _with(OBSERVATION, _poison(np.nan)),
    "observation with inf": _with(OBSERVATION, _poison(-np.inf)),
    "observation with 1e300": _with(
        OBSERVATION, lambda obs: np.array([0.0, 0.0, 1e300, 0.0], np.float64)
    ),
    "observation with 99": _with(OBSERVATION, _poison(99.0)),
    "observation as a view": _with(OBSERVATION, lambda obs: np.repeat(obs, 2)[::2]),
    "observation of big-endian": _with(OBSERVATION, lambda obs: obs.astype(">f4")),
    # Rewards
    "reward None": _with(REWARD, lambda _: None),
    "reward as text": _with(REWARD, lambda _: "1.0"),
    "reward as bytes": _with(REWARD, lambda _: b"1.0"),
    "reward of 1 element": _with(REWARD, lambda _: np.array([1.0])),
    "reward as a list": _with(REWARD, lambda _: [1.0]),
    "reward True": _with(REWARD, lambda _: True),
    "reward np.True_": _with(REWARD, lambda _: np.True_),
    "reward complex": _with(REWARD, lambda _: 1 + 0j),
    "reward beyond float64": _with(REWARD, lambda _: 10**400),
    "reward NaN": _with(REWARD, lambda _: float("nan")),
    "reward inf": _with(REWARD, lambda _: float("inf")),
    "reward float32 NaN": _with(REWARD, lambda _: np.float32("nan")),
    "reward 99": _with(REWARD, lambda _: 99.0),
    "reward int": _with(REWARD, lambda _: 2),
    "reward np.float32": _with(REWARD, lambda _: np.float32(2)),
    "reward np.float64": _with(REWARD, lambda _: np.float64(2)),
    "reward np.int64": _with(REWARD, lambda _: np.int64(2)),
    "reward 0-d": _with(REWARD, lambda _: np.array(2.0)),
    # Flags
    "terminated 1": _with(TERMINATED, lambda _: 1),
    "terminated None": _with(TERMINATED, lambda _: None),
    "terminated as text": _with(TERMINATED, lambda _: "False"),
    "terminated of 1 element": _with(TERMINATED, lambda _: np.array([False])),
    "terminated 0.0": _with(TERMINATED, lambda _: 0.0),
    "terminated np.int8": _with(TERMINATED, lambda _: np.int8(0)),
    "truncated 0": _with(TRUNCATED, lambda _: 0),
    "truncated None": _with(TRUNCATED, lambda _: None),
    "terminated np.bool_": _with(TERMINATED, np.bool_),
    "terminated 0-d": _with(TERMINATED, lambda flag: np.array(flag)),
    "truncated np.bool_": _with(TRUNCATED, np.bool_),
    "both flags": lambda result: (*result[:2], True, True, result[4]),
    # Infos
    "info None": _with(INFO, lambda _: None),
    "info as a list": _with(INFO, lambda _: [("key", 1)]),
    "info as text": _with(INFO, lambda _: "info"),
    # The whole
    "four parts": lambda result: result[:4],
}
