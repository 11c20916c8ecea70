"""Checkpoints by environment: parts joined to a whole, a whole divided into parts.

All of it is done to plain data; no session is needed, and none is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np

from vecsess.errors import StateError
from vecsess.session.checkpoint import state_of
from vecsess.wire.values import Given, Plain, pack_value


def join_checkpoints(parts: Sequence[Plain], noise: tuple[int, int] | None = None) -> Plain:
    """Returns the checkpoint of a session that has the environments of all parts.

    Args:
        parts: checkpoints after equally many locksteps, in the order of their environments.
        noise: seed and counter of the noise; None for the first part's.

    Raises:
        StateError: the parts do not belong together.
    """
    states = [state_of(part) for part in parts]
    engines = [state["engine"] for state in states]
    recoveries = [engine["recovery"] for engine in engines]
    times = [recovery["progress"]["t"] for recovery in recoveries]
    if len(set(times)) > 1:
        raise StateError(f"expected parts after equally many locksteps, got {times}")
    sizes = [len(state["lengths"]) for state in states]
    firsts = [sum(sizes[:index]) for index in range(len(sizes))]
    whole = {
        "noise": states[0]["noise"] if noise is None else list(noise),
        "returns": np.concatenate([state["returns"] for state in states]),
        "lengths": np.concatenate([state["lengths"] for state in states]),
        "engine": {
            **engines[0],
            "chain": _joined([engine["chain"] for engine in engines]),
            "piped": [
                list(chain.from_iterable(columns))
                for columns in zip(*(engine["piped"] for engine in engines), strict=True)
            ],
            "recovery": {
                **recoveries[0],
                "progress": _join_progress([recovery["progress"] for recovery in recoveries]),
                "journal": _join_journals([r["journal"] for r in recoveries], sizes),
                "unreplayable": [
                    env + first
                    for recovery, first in zip(recoveries, firsts, strict=True)
                    for env in recovery["unreplayable"]
                ],
            },
        },
    }
    return _repacked(parts[0], whole, sum(sizes))


def divide_checkpoint(data: Plain, groups: Sequence[tuple[int, int]]) -> list[Plain]:
    """Returns the checkpoints of sessions that have some of the environments each.

    Args:
        data: the checkpoint of a session.
        groups: first environment and number of each part.
    """
    state = state_of(data)
    parts = []
    for first, count in groups:
        own = slice(first, first + count)
        part = {**state, "returns": state["returns"][own], "lengths": state["lengths"][own]}
        part["engine"] = _part_of_engine(state["engine"], own)
        parts.append(_repacked(data, part, count))
    return parts


def _repacked(data: Plain, state: Plain, n: int) -> Plain:
    recipe = {**data["recipe"], "given": {**data["recipe"]["given"], "n": pack_value(n)}}
    # Without a signature: whoever trusts the parts signs what became of them.
    return {"format": data["format"], "recipe": recipe, "state": pack_value(state)}


def _part_of_engine(engine: Plain, own: slice) -> Plain:
    recovery, seeds = engine["recovery"], engine["chain"]
    progress, journal = recovery["progress"], recovery["journal"]
    chunks = [
        [index, [_columns(column, own) for column in actions], checksums[:, own]]
        for index, actions, checksums in journal["chunks"]
    ]
    named = {name: journal[name][own] for name in ("rng", "firsts", "events")}
    return {
        **engine,
        "chain": None if seeds is None else seeds[own],
        "piped": [column[own] for column in engine["piped"]],
        "recovery": {
            **recovery,
            "progress": {k: v if k == "t" else v[own] for k, v in progress.items()},
            "journal": {**journal, **named, "chunks": chunks},
            "unreplayable": [
                env - own.start for env in recovery["unreplayable"] if own.start <= env < own.stop
            ],
        },
    }


def _join_progress(parts: list[Plain]) -> Plain:
    joined = {name: _joined([part[name] for part in parts]) for name in ("begun", "episodes")}
    return {**parts[0], **joined, "ended": np.concatenate([part["ended"] for part in parts])}


def _join_journals(parts: list[Plain], sizes: list[int]) -> Plain:
    """Joins the logs; what one of them has forgotten is 0 there, and no checksum of anything."""
    own = [{chunk[0]: chunk[1:] for chunk in part["chunks"]} for part in parts]
    chunks = []
    for index in sorted(set().union(*own)):
        known = next(part[index] for part in own if index in part)
        pieces = [
            part.get(index) or _forgotten(known, size)
            for part, size in zip(own, sizes, strict=True)
        ]
        actions = map(_side_by_side, zip(*(piece[0] for piece in pieces), strict=True))
        chunks.append([index, list(actions), _side_by_side([piece[1] for piece in pieces])])
    return {
        **parts[0],
        "rng": np.concatenate([part["rng"] for part in parts]),
        "firsts": np.concatenate([part["firsts"] for part in parts]),
        "events": _joined([part["events"] for part in parts]),
        "chunks": chunks,
    }


def _joined(parts: list[list[Given] | None]) -> list[Given] | None:
    return None if parts[0] is None else [each for part in parts for each in part or []]


def _columns(column: Given, own: slice) -> Given:
    """Returns some environments of `[T, N, ...]`, an array or, for what goes by pipe, lists."""
    if isinstance(column, list):
        return [row[own] for row in column]
    return np.ascontiguousarray(column[:, own])


def _side_by_side(columns: Sequence[Given]) -> Given:
    if isinstance(columns[0], list):
        return [list(chain.from_iterable(rows)) for rows in zip(*columns, strict=True)]
    return np.concatenate(columns, axis=1)


def _forgotten(known: list[Given], size: int) -> list[Given]:
    def none(column: Given) -> Given:
        if isinstance(column, list):
            return [[b""] * size for _ in column]
        return np.zeros((len(column), size, *column.shape[2:]), column.dtype)

    actions, checksums = known
    return [[none(column) for column in actions], none(checksums)]
