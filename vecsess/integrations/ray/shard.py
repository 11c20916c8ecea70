"""What runs on a node: a session of consecutive environments, in an actor.

Whatever is asked of it, it answers with data: an exception of ours would look like Ray's own, and
a constructor that raises like an actor that was lost.
"""

from __future__ import annotations

import os
import pickle
import platform
import sys
import time
import traceback
from collections.abc import Callable

import cloudpickle
import numpy as np
import ray

from vecsess import tree
from vecsess._version import __version__
from vecsess.collect.packing import unpack
from vecsess.collect.sources import collect_rollout
from vecsess.errors import SpawnError, VecsessError
from vecsess.integrations.ray.pieces import cut
from vecsess.session.checkpoint import state_of
from vecsess.session.vector import VecCheckedSession
from vecsess.tree import Tree
from vecsess.wire.values import Fields, Given
from vecsess.workers.env_source import register

# The fields of a rollout that are arrays `[T, n, ...]`, or trees of such.
ARRAYS = (
    "observations",
    "actions",
    "log_probs",
    "rewards",
    "terminated",
    "truncated",
    "values",
    "next_values",
    "valid",
    "episode_start",
)
Answer = Fields


def versions() -> dict[str, str]:
    """Returns what must be the same on all nodes."""
    return {"Python": ".".join(platform.python_version_tuple()[:2]), "vecsess": __version__}


class Shard:
    """The environments `first_env .. first_env + n` of a session."""

    def __init__(self) -> None:
        self._vec: VecCheckedSession | None = None
        self._index, self._first_env = 0, 0
        self._told = 0  # how many of the session's incidents the driver knows
        self._since = 0  # up to which lockstep it knows the log
        self._unopened: Answer | None = None

    # --- what the driver asks --------------------------------------------------------------------

    def open(self, index: int, place: tuple[int, int], made: bytes, path: list[str]) -> Answer:
        """Makes the session; not in the constructor, which runs in another thread."""
        self._index, self._first_env = index, place[0]
        return self._answer(lambda: self._open(place[1], made, path))

    def start(self, seed: Given) -> Answer:
        """Resets every environment."""
        return self._answer(lambda: {"seen": self.vec.start(seed), **self._kept()})

    def collect(
        self, policy: tuple[bytes, list[Given]], state: Given, arguments: Fields, pieces: int
    ) -> Given:
        """Collects this shard's part of a rollout; answers in so many pieces."""
        return cut(self._answer(lambda: self._collect(policy, state, arguments)), pieces)

    def step(self, actions: Tree) -> Answer:
        """Steps every environment once."""
        return self._answer(
            lambda: {
                "transition": self.vec.step_checked(actions),
                "seen": self.vec.observe(),
                **self._kept(),
            }
        )

    def observe(self) -> Answer:
        """Returns what there is to act on."""
        return self._answer(lambda: {"seen": self.vec.observe(), **self._kept()})

    def ping(self) -> None:
        """Is answered while the process lives, whatever the session does."""

    def health(self) -> Given:
        """Returns how the workers are."""
        return [] if self._vec is None else self._vec.health()

    def close(self) -> None:
        """Ends the workers."""
        if self._vec is not None:
            self._vec.close()

    # --- how it is done --------------------------------------------------------------------------

    @property
    def vec(self) -> VecCheckedSession:
        """The session."""
        assert self._vec is not None, "opened before anything else is asked"
        return self._vec

    def _open(self, n: int, made: bytes, path: list[str]) -> Answer:
        sys.path += [folder for folder in path if folder not in sys.path]
        theirs, made = pickle.loads(made)  # noqa: S301  # from the driver, as all that follows
        if theirs != versions():
            raise SpawnError(
                f"expected {theirs} on every node, as the driver has, got {versions()} here; "
                "install the same there"
            )
        try:
            registered, env, settings, kept, seen = pickle.loads(made)  # noqa: S301
        except ImportError as error:
            raise SpawnError(
                f"{type(error).__name__}: {error}: it is not on this node; install it there, or "
                "ship it with options={'runtime_env': {'py_modules': [...]}}"
            ) from error
        register(*registered)
        settings = {**settings, "first_env": self._first_env}
        if kept is None:
            self._vec = VecCheckedSession(env, n, **settings)
        else:
            self._vec = VecCheckedSession.restore(kept, env, trusted=True, **settings)
            self._since = self._vec.engine.progress.t
            if seen is not None and self._vec.unrestored:
                _cut_off(self._vec, kept, seen)
        vec = self._vec
        return {
            "spaces": (vec.single_observation_space, vec.single_action_space),
            "node": ray.get_runtime_context().get_node_id(),
            "unrestored": vec.unrestored,
        }

    def _collect(
        self, policy: tuple[bytes, list[Given]], state: Given, arguments: Fields
    ) -> Answer:
        head, buffers = policy
        # Copied: what lies in the object store is read-only, and a policy may write to itself.
        actor = unpack(head, [bytearray(buffer) for buffer in buffers])
        envs = np.arange(self._first_env, self._first_env + self.vec.num_envs)
        if state is not None:
            actor.set_state(envs, state)
        began = time.perf_counter()
        out = collect_rollout(self.vec, actor, **arguments)
        return {
            "took_s": time.perf_counter() - began,
            **{name: getattr(out, name) for name in ARRAYS},
            "seen": out.last_observations,
            "finals": (out.final_steps, out.final_envs, out.final_observations),
            "episodes": [tuple(episode) for episode in out.episodes],
            "books": (self.vec.episode_returns, self.vec.episode_lengths),
            "state": None if state is None else actor.get_state(envs),
            **self._kept(),
        }

    def _kept(self) -> Answer:
        """Returns what brings this shard back elsewhere, and what went wrong in it lately."""
        incidents = self.vec.incidents[self._told :]
        self._told += len(incidents)
        since, self._since = self._since, self.vec.engine.progress.t
        return {"kept": self.vec.checkpoint(since=since), "incidents": incidents}

    def _answer(self, call: Callable[[], Answer]) -> Answer:
        if self._unopened is not None:
            return self._unopened
        try:
            return call()
        except Exception as error:  # whatever an environment or a policy raises
            told = {"error": _packed(self._located(error))}
            if self._vec is None:
                self._unopened = told
            return told

    def _located(self, error: Exception) -> Exception:
        """Says of an error where it happened, counted in the whole session."""
        node = ray.util.get_node_ip_address()
        if isinstance(error, VecsessError):
            error.shard, error.node = self._index, node
            if error.env is not None:
                error.env += self._first_env
        else:
            error.add_note(
                f"It was raised in shard {self._index} on node {node} (pid {os.getpid()})"
            )
        if not getattr(error, "remote_traceback", ""):
            error.add_note("Traceback in the shard:\n" + "".join(traceback.format_exception(error)))
        return error


def _cut_off(vec: VecCheckedSession, kept: Fields, seen: Tree) -> None:
    """Has the next row say of what could not be brought back that it was cut off.

    Args:
        vec: was restored just now.
        kept: from which.
        seen: the last observations before, `[n, *obs]`.
    """
    cut = sorted(vec.unrestored)
    state = state_of(kept)
    vec.episode_returns[cut], vec.episode_lengths[cut] = (
        state["returns"][cut],
        state["lengths"][cut],
    )
    vec.engine.recovery.lost.update(vec.unrestored)
    for last, before in zip(vec.engine.lockstep.last, tree.leaves(seen), strict=True):
        last[cut] = before[cut]


def _packed(error: Exception) -> bytes:
    """Pickles an error, or its text where it can't be pickled."""
    try:
        packed: bytes = cloudpickle.dumps(error)
        pickle.loads(packed)  # noqa: S301  # our own: a class that can't be made again would fail there
    except Exception:  # whatever its __reduce__ or its constructor raises
        stand_in = VecsessError(f"{type(error).__name__}: {error}")
        for note in getattr(error, "__notes__", []):
            stand_in.add_note(note)
        packed = cloudpickle.dumps(stand_in)
    return packed
