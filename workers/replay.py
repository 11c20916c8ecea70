"""Brings one environment back: the logged commands again, with a checksum of what each gave."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np

from vecsess.wire.checksum import Checksum
from vecsess.wire.messages import Replay, Replayed
from vecsess.workers.env_host import NO_INFOS, EnvHost, Values
from vecsess.workers.rng_state import load_rng


def replay(host: EnvHost, command: Replay) -> Replayed:
    """Runs a script on one row through the very code that ran it first.

    The script's entries are `["reset", seed, options, rng words]`, `["steps", count, arrays]`
    with one `[count, *action]` array per leaf, and `["set", name, pickled value]`. It stops at the
    first entry that raises; the checksums tell how far it came.

    Returns:
        8 bytes of checksum for every reset and every step.
    """
    row, checksums, values = command.row, [], []
    failures: list[Any] = []
    checksum = Checksum(host.views)
    for verb, *arguments in command.script:
        if verb == "reset":
            seed, options, rng = arguments
            if rng is not None:
                load_rng(host.envs[row], rng)
            values, failures = host.reset([row], [seed], options, NO_INFOS)
            checksums.append(checksum.of_row(0, row, ended=False))
        elif verb == "set":
            name, value = arguments
            host.envs[row].set_wrapper_attr(name, pickle.loads(value))  # noqa: S301  # from the manager
        else:
            failures = _steps(host, row, arguments[1], checksum, checksums)
        if failures:
            break
    return Replayed(
        command.seq, np.array(checksums, np.uint64).tobytes(), values, failures
    )


def _steps(
    host: EnvHost, row: int, actions: list[Any], checksum: Checksum, checksums: list[int]
) -> list[Any]:
    """Steps a row once for each action; returns the failures of the first step that raises."""
    views = host.views
    for step in range(len(actions[0])):
        for array, column in zip(views.actions, actions, strict=True):
            array[0, row] = column[step]
        _, failures = host.step(NO_INFOS, row)
        if failures:
            return failures
        ended = bool(views.terminated[0, row] or views.truncated[0, row])
        checksums.append(checksum.of_row(0, row, ended=ended))
    return []
