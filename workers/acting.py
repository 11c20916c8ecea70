"""A whole rollout by one command: the policy acts here, for the environments of this worker.

What decides comes from the manager as a pickle: the policy, its noise, and the checks of what it
returns. This module steps, and writes down what came of it; see `vecsess.wire.rollouts`.
"""

from __future__ import annotations

import mmap
import pickle
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from vecsess.wire.broadcast import parts_of
from vecsess.wire.messages import Collected, Rollout
from vecsess.wire.rollouts import RolloutLayout, RolloutViews
from vecsess.wire.slab import REWARD_WORD, Checksum, Layout, Views
from vecsess.wire.values import Array, Given, Space
from vecsess.workers.env_host import NO_INFOS, EnvHost, Failures
from vecsess.workers.outcomes import account_of, brief

_GATHERED_BYTES = 1 << 16  # what stays in a core's cache


class Decider(Protocol):
    """What the manager sends: whatever it is, it comes as a pickle, and brings its own code."""

    def begin(self, rows: slice, observation_space: Space, action_space: Space) -> Array:
        """Prepares for this worker's environments; returns where an episode starts, `[n]` bool."""
        ...

    def decide(
        self, t: int, observations: list[Array], starts: Array
    ) -> tuple[list[Array], Sequence[Array]]:
        """Returns checked actions, one array a leaf; and what to note: actions, log-probs, values.

        Args:
            t: the step.
            observations: `[n, *leaf]` per leaf.
            starts: `[n]` bool, which of them are a reset's.
        """
        ...

    @property
    def keeps_state(self) -> bool:
        """Whether it is asked for `value` in the step in which an episode ends."""
        ...

    def value(self, rows: Array, observations: list[Array]) -> Array:
        """Returns the values `[k]` of the final observations of some rows."""
        ...

    def state_after(self) -> list[Array]:
        """Returns the policy's state of these environments, `[n, ...]` per array."""
        ...


class Acting:
    """The rollouts of one worker.

    Args:
        host: its environments.
        layout: of its range of the slab, behind which a rollout's memory lies.
        first_env: the index of its first environment.
        slab_fd: its memfd.
        broadcast_fd: where the policy comes from.
    """

    def __init__(
        self, host: EnvHost, layout: Layout, first_env: int, slab_fd: int, broadcast_fd: int
    ) -> None:
        self._host, self._layout = host, layout
        self._own = slice(first_env, first_env + len(host.envs))
        self._slab_fd, self._broadcast_fd = slab_fd, broadcast_fd
        self._mapped: tuple[Given, RolloutViews] | None = None  # of which form
        self._checksum = Checksum(host.views)
        self._rows = len(host.envs)

    def roll(self, command: Rollout) -> Collected:
        """Fills this worker's part; what fails ends it, and is told with the step it was at."""
        memory, slab = self._map(command), self._host.views
        run = _Run(memory, slab, self._checksum, self._rows)
        # The policy's turn, and no environment's: first it arrives, with what it imports.
        slab.running[0] = 2 * self._layout.rows + 1
        slab.replayed[0] = 0
        failures: Failures = []
        trouble: list[str] = []
        try:
            space = self._host.envs[0]
            head, *buffers = parts_of(self._broadcast_fd, command.sizes)
            decider: Decider = pickle.loads(head, buffers=buffers)  # noqa: S301  # from the manager
            starts = decider.begin(self._own, space.observation_space, space.action_space)
            run.begin(starts)
            while run.t < command.horizon and not failures:
                failures = self._step(decider, run)
            if not failures:
                self._finish(decider, run)
        except Exception as error:  # the policy's: environments' are among the failures
            trouble = account_of(error)
            env = getattr(error, "env", None)
            trouble.append("" if type(env) is not int else str(env))
        run.write()
        slab.running[0] = -1
        if len(failures) > 1:
            failures = [failures[0], *map(brief, failures[1:])]
        return Collected(
            command.seq, self._host.take_asides(), failures, run.t, run.dtypes, trouble
        )

    def _step(self, decider: Decider, run: _Run) -> Failures:
        """Decides and steps once; returns what the environments raised."""
        run.turn[0] = 2 * self._layout.rows
        sent, noted = decider.decide(run.t, run.observations(), run.starts)
        for field, array in zip(run.actions, sent, strict=True):
            field[...] = array
        _, failures = self._host.step(NO_INFOS)
        if not failures:
            ended = run.note(noted)
            if ended and decider.keeps_state:
                run.turn[0] = 2 * self._layout.rows
                run.note_values(decider.value(*run.last_ends(ended)))
                run.turn[0] = -1
            run.done[0] = run.t
        return failures

    def _finish(self, decider: Decider, run: _Run) -> None:
        """Asks for what is known only after the last step: values, and the policy's state."""
        run.turn[0] = 2 * self._layout.rows
        if run.ended and not decider.keeps_state:
            run.note_values(decider.value(*run.all_ends()))
        run.memory.last_values[...] = decider.value(np.arange(self._rows), run.observations())
        for target, array in zip(run.memory.state, decider.state_after(), strict=True):
            _put_state(target, array)

    def _map(self, command: Rollout) -> RolloutViews:
        """Maps the memory behind the slab, anew for a rollout of another form."""
        form = (command.horizon, command.state)
        if self._mapped is None or self._mapped[0] != form:
            state = [(tuple(shape), np.dtype(dtype)) for shape, dtype in command.state]
            layout = RolloutLayout(self._layout, self._rows, command.horizon, state)
            offset = self._layout.stride_bytes
            memory = mmap.mmap(self._slab_fd, layout.size_bytes, offset=offset)
            self._mapped = form, layout.views(memory)
        return self._mapped[1]


class _Run:
    """One rollout under way: the steps so far, and where the next one is written.

    What only the manager reads is gathered, and written for many steps at once.
    """

    def __init__(self, memory: RolloutViews, slab: Views, checksum: Checksum, rows: int) -> None:
        self.memory, self._checksum, self._rows = memory, checksum, rows
        self._seen = [field[0, :rows] for field in slab.observations]
        self._finals = [field[0] for field in slab.finals]
        self._flags, self._words = slab.flags[0, :rows], slab.words[0, :rows]
        # Memoryviews are the quickest for single numbers. What is done is progress, and for who
        # asks at which step this worker died.
        self.turn: Given = slab.running.data
        self.done: Given = slab.replayed.data
        self.actions = [field[0, :rows] for field in slab.actions]
        steps = max(_GATHERED_BYTES // self._words.nbytes, 1)
        self._gathered = np.empty((min(steps, len(memory.rewards)), *self._words.shape), np.uint64)
        self._no_flags = bytes(2 * rows)
        self.starts = self._no_starts = np.zeros(rows, np.bool_)
        self.dtypes: list[str] = []
        self.t = self._written = 0
        self.ended: list[int] = []  # the row of each end

    def begin(self, starts: Array) -> None:
        """Notes what is acted on first."""
        self.starts = starts
        self.memory.flags.fill(0)
        for target, seen in zip(self.memory.observations, self._seen, strict=True):
            target[0] = seen

    def observations(self) -> list[Array]:
        """Returns what to act on now, `[n, *leaf]` per leaf."""
        return [field[self.t] for field in self.memory.observations]

    def note(self, decision: Sequence[Array]) -> int:
        """Writes down a decision, and the step that came of it; returns how many ended."""
        memory, t = self.memory, self.t
        *actions, log_probs, values = decision
        for target, array in zip(memory.actions, actions, strict=True):
            target[t] = array
        memory.log_probs[t], memory.values[t] = log_probs, values
        if not self.dtypes:
            self.dtypes = [log_probs.dtype.char, values.dtype.char]
        self.t = t + 1
        for target, seen in zip(memory.observations, self._seen, strict=True):
            target[self.t] = seen
        self._gathered[t - self._written] = self._words
        before, self.starts = len(self.ended), self._no_starts
        if self._flags.tobytes() != self._no_flags:
            self._note_ends(t)
        if self.t - self._written == len(self._gathered):
            self.write()
        return len(self.ended) - before

    def last_ends(self, count: int) -> tuple[Array, list[Array]]:
        """Returns the rows that ended last, `[count]`, and their final observations."""
        own = slice(len(self.ended) - count, len(self.ended))
        return np.array(self.ended[own]), [field[own] for field in self.memory.finals]

    def all_ends(self) -> tuple[Array, list[Array]]:
        """Returns the rows of all ends, and their final observations."""
        return self.last_ends(len(self.ended))

    def note_values(self, values: Array) -> None:
        """Writes down the values of the final observations that came last."""
        ended = len(self.ended)
        self.memory.final_values[ended - len(values) : ended] = values

    def _note_ends(self, t: int) -> None:
        self.memory.flags[t] = self._flags
        self.starts = self._flags != 0
        for row in self.starts.nonzero()[0].tolist():
            for target, final in zip(self.memory.finals, self._finals, strict=True):
                target[len(self.ended)] = final[row]
            self.memory.firsts[row] = self._words[row]
            self.ended.append(row)

    def write(self) -> None:
        """Writes the rewards and the checksums of the steps that were gathered."""
        begin, self._written = self._written, self.t
        words = self._gathered[: self.t - begin]
        self.memory.rewards[begin : self.t] = words[..., REWARD_WORD].view(np.float64)
        self._checksum.of_steps(words, self.memory.checksums[begin : self.t])


def _put_state(target: Array, array: Array) -> None:
    if array.shape != target.shape or array.dtype != target.dtype:
        raise ValueError(
            f"expected get_state to return {list(target.shape)} of {target.dtype}, as in the "
            f"trainer, got {list(array.shape)} of {array.dtype}"
        )
    target[...] = array
