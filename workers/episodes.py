"""With which seed and options an episode begins that nobody asked for: an auto-reset's."""

from __future__ import annotations

import pickle
from typing import Any

from vecsess.wire.episode_seeds import EpisodeSeed, episode_seed

Options = dict[str, Any] | None


class Episodes:
    """Counts the episodes of a worker's environments, and says how each begins.

    All of it follows from the last reset that was asked for, so that a replay gets the same.

    Args:
        rows: how many environments.
        first_env: index of the first row's environment.
        seeds: "continue", "per_episode", or a pickle of a function `(seed, env, episode)`.
        options: a pickle of a function `(env, episode)`, of a dict, or empty for none.
    """

    def __init__(
        self,
        rows: int,
        first_env: int = 0,
        seeds: str | bytes = "continue",
        options: bytes = b"",
    ) -> None:
        self._first_env = first_env
        self._seed_of: EpisodeSeed | None = None
        if isinstance(seeds, bytes):
            self._seed_of = pickle.loads(seeds)  # noqa: S301  # from the manager
        elif seeds == "per_episode":
            self._seed_of = episode_seed
        self._options: Any = pickle.loads(options) if options else None  # noqa: S301
        self._seeds: list[int | None] = [None] * rows
        self._numbers = [0] * rows

    def asked(self, row: int, seed: int | None, options: bytes) -> tuple[int | None, Options]:
        """Begins an episode that was asked for; returns its seed and options.

        Args:
            row: which environment.
            seed: what the manager says; the seeds of the next episodes follow from it.
            options: a pickle, empty where none were given: then those of the session count.
        """
        self._seeds[row], self._numbers[row] = seed, 0
        return seed, pickle.loads(options) if options else self._options_of(row)  # noqa: S301

    def next(self, row: int) -> tuple[int | None, Options]:
        """Begins an episode that nobody asked for; returns its seed and options."""
        self._numbers[row] += 1
        seed = self._seeds[row]
        if self._seed_of is not None and seed is not None:
            seed = self._seed_of(seed, self._first_env + row, self._numbers[row])
        else:
            seed = None
        return seed, self._options_of(row)

    def go_to(self, row: int, number: int, seed: int | None) -> None:
        """Sets the count so that `next` begins episode `number` after a reset with `seed`."""
        self._seeds[row], self._numbers[row] = seed, number - 1

    def _options_of(self, row: int) -> Options:
        if callable(self._options):
            return self._options(self._first_env + row, self._numbers[row])  # type: ignore[no-any-return]
        return None if self._options is None else dict(self._options)
