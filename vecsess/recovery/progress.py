"""Where each environment stands: the one table of episodes and steps."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from vecsess.wire.values import Array, Fields


class Progress:
    """How far the environments have come; filled by the engine, read by log, errors and ladder.

    Args:
        counts: how many environments each worker holds.
        autoreset_mode: "same_step", "next_step" or "disabled".

    Attributes:
        t: how many locksteps all have completed.
        begun: `[N]`, the lockstep at which each environment's episode began.
        episodes: `[N]`, how many auto-resets each has had since its last reset.
        ended: `[N]` bool, whose episode waits for a reset; nowhere with "same_step".
    """

    def __init__(self, counts: list[int], autoreset_mode: str) -> None:
        self.t = 0
        self._mode = autoreset_mode
        self._ahead: dict[int, int] = {}  # by worker at its own pace: how many more than `t`
        self._worker_of = [worker for worker, rows in enumerate(counts) for _ in range(rows)]
        n = len(self._worker_of)
        # Lists where single environments are written all the time: a tenth of an array's cost.
        self.begun, self.episodes = [0] * n, [0] * n
        self.ended = np.zeros(n, np.bool_)

    def time_of(self, worker: int) -> int:
        """Returns how many locksteps a worker has completed."""
        return self.t + self._ahead.get(worker, 0) if self._ahead else self.t

    def step_of(self, env: int) -> int:
        """Returns how many steps of its episode an environment has completed."""
        return self.time_of(self._worker_of[env]) - self.begun[env]

    def just_reset(self, envs: Iterable[int]) -> bool:
        """Whether the last step has reset all of these by itself."""
        return all(self.episodes[env] and not self.step_of(env) for env in envs)

    def complete(self, ended: Array | None) -> Array | None:
        """Counts a lockstep of all; `ended [K]` are the environments whose episode did.

        Returns:
            Those whose next episode began with it.
        """
        self.t += 1
        if self._mode == "same_step":
            return self._begin(ended, self.t)
        # There an episode begins with the step after the one that ended the last.
        began = np.flatnonzero(self.ended) if self._mode == "next_step" else None
        if self._mode == "next_step":
            self.ended.fill(False)
        if ended is not None:
            self.ended[ended] = True
        return self._begin(began, self.t)

    def complete_part(self, ended: Array | None, own: slice) -> Array | None:
        """Does what `complete` does for workers that go at their own pace; same-step auto-reset."""
        at = self.time_of(own.start) + 1
        for worker in range(own.start, own.stop):
            self._ahead[worker] = at - self.t
        return self._begin(ended, at)

    def complete_rollout(self, worker: int, first_env: int, done: Array) -> None:
        """Counts many steps of one worker at once; same-step auto-reset.

        Args:
            worker: which one.
            first_env: its first environment.
            done: `[T, n]` bool, where episodes ended.
        """
        at = self.time_of(worker)
        self._ahead[worker] = at + len(done) - self.t
        for row in np.flatnonzero(done.any(axis=0)).tolist():
            ends = np.flatnonzero(done[:, row])
            self.begun[first_env + row] = at + int(ends[-1]) + 1
            self.episodes[first_env + row] += len(ends)

    def meet(self) -> None:
        """All workers have come to the same lockstep again."""
        self.t += max(self._ahead.values(), default=0)
        self._ahead.clear()

    def wait(self, envs: Array) -> None:
        """Environments were cut off: they wait for a reset, where none comes by itself."""
        if self._mode == "disabled":
            self.ended[envs] = True

    def reset(self, envs: Iterable[int], ahead: int = 0) -> None:
        """Environments are reset.

        Args:
            envs: which ones.
            ahead: 1 where that takes the place of the lockstep under way.
        """
        for env in envs:
            self.begun[env] = self.time_of(self._worker_of[env]) + ahead
            self.episodes[env] = 0
            self.ended[env] = False

    def _begin(self, envs: Array | None, at: int) -> Array | None:
        if envs is not None:
            for env in envs.tolist():
                self.begun[env] = at
                self.episodes[env] += 1
        return envs

    def dump(self) -> Fields:
        """Returns the table as plain data."""
        names = ("t", "begun", "episodes", "ended")
        return {name: getattr(self, name) for name in names}

    def load(self, plain: Fields) -> None:
        """Takes what `dump` returned as its own.

        Raises:
            ValueError: it is of another form.
        """
        t, begun, episodes = plain["t"], plain["begun"], plain["episodes"]
        whole = all(isinstance(count, int) for count in (t, *begun, *episodes))
        if not whole or not len(begun) == len(episodes) == len(self.begun):
            raise ValueError(f"expected whole numbers for {len(self.begun)} environments")
        self.t, self.begun, self.episodes = t, [*begun], [*episodes]
        self.ended[:] = plain["ended"]
