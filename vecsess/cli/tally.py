"""What a collection has brought so far: counts, episodes, and how the rate went."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from vecsess.collect.rollout import Rollout

RECENT = 100  # episodes in the running mean
RATED_EVERY_S = 0.1  # over less a rate is mostly chance


@dataclass(slots=True)
class Tally:
    """Sums over rollouts; the clock runs from the first one's begin, without the start.

    Attributes:
        num_envs: `N`.
        steps: of environments, `N` a lockstep, of whole rollouts and of one under way.
        rollouts: whole ones.
        invalid: rows that are marked truncations.
        returns: of each episode, in the order in which they ended.
        lengths: of each episode.
        ended_at: how many steps all environments together had taken then.
        rates: `(seconds, steps/s)` for the plot, each over a stretch that ends there.
    """

    num_envs: int
    steps: int = 0
    rollouts: int = 0
    invalid: int = 0
    returns: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    ended_at: list[int] = field(default_factory=list)
    rates: list[tuple[float, float]] = field(default_factory=list)
    elapsed_s: float = 0.0
    _began_s: float = field(default_factory=time.perf_counter)
    _whole: int = 0
    _rated: tuple[float, int] = (0.0, 0)  # seconds and steps at the last of the rates

    def reach(self, locksteps: int) -> None:
        """Notes that the rollout under way has this many whole locksteps."""
        now_s = time.perf_counter() - self._began_s
        steps = self._whole + locksteps * self.num_envs
        rated_s, rated_steps = self._rated
        if now_s - rated_s >= RATED_EVERY_S:
            self.rates.append((now_s, (steps - rated_steps) / (now_s - rated_s)))
            self._rated = now_s, steps
        self.steps, self.elapsed_s = steps, now_s

    def add(self, rollout: Rollout) -> None:
        """Adds a whole rollout."""
        self.reach(rollout.horizon)
        for episode in rollout.episodes:
            self._end(episode.return_, episode.length, episode.end_step)
        self.invalid += int(np.count_nonzero(~rollout.valid))
        self.rollouts += 1
        self._whole += rollout.rewards.size

    def add_part(
        self,
        rollout: Rollout,
        locksteps: int,
        returns: npt.NDArray[np.float64],
        lengths: npt.NDArray[np.int64],
    ) -> None:
        """Adds the first locksteps of a rollout that was interrupted.

        Args:
            rollout: as far as it was filled.
            locksteps: how far that is.
            returns: `[N]`, of the episodes that were under way when it began; changed.
            lengths: `[N]`, likewise.
        """
        self.reach(locksteps)
        self.invalid += int(np.count_nonzero(~rollout.valid[:locksteps]))
        for t in range(locksteps):
            returns += rollout.rewards[t]
            lengths += 1
            done = rollout.terminated[t] | rollout.truncated[t]
            for env in np.flatnonzero(done & rollout.valid[t]):
                self._end(float(returns[env]), int(lengths[env]), t)
            returns[done], lengths[done] = 0.0, 0

    def _end(self, total: float, length: int, end_step: int) -> None:
        self.returns.append(total)
        self.lengths.append(length)
        self.ended_at.append(self._whole + (end_step + 1) * self.num_envs)

    @property
    def steps_per_s(self) -> float:
        """Over all of it."""
        return self.steps / self.elapsed_s if self.elapsed_s else 0.0

    @property
    def recent_return(self) -> float | None:
        """Mean over the last episodes; None before the first one ended."""
        recent = self.returns[-RECENT:]
        return sum(recent) / len(recent) if recent else None
