"""Which of Gymnasium's conventions a session follows, and how its episodes begin."""

from __future__ import annotations

import operator
import secrets
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode

from vecsess.errors import SpawnError
from vecsess.fleet.description import ObservationMode, check_observation_mode
from vecsess.wire.code import dumps
from vecsess.wire.episode_seeds import EpisodeSeed, episode_seed, of_part
from vecsess.wire.values import Fields

EpisodeSeeds = Literal["continue", "per_episode"] | EpisodeSeed
EpisodeOptions = Fields | Callable[[int, int], Fields | None] | None
InfoLevel = Literal["none", "final", "all"]
AutoresetName = Literal["next_step", "same_step", "disabled", "NextStep", "SameStep", "Disabled"]

NO_INFOS, FINAL_INFOS, ALL_INFOS = 0, 1, 2
_LEVELS = {"none": NO_INFOS, "final": FINAL_INFOS, "all": ALL_INFOS}


def level_of(infos: InfoLevel) -> int:
    """Returns what workers are told of how much of infos is wanted.

    Raises:
        ValueError: no level.
    """
    if infos not in _LEVELS:
        raise ValueError(f"infos: expected one of {list(_LEVELS)}, got {infos!r}")
    return _LEVELS[infos]


@dataclass(frozen=True, kw_only=True, slots=True)
class Conventions:
    """What a session promises of resets, infos and arrays; see `VecCheckedSession`."""

    autoreset_mode: AutoresetMode
    observation_mode: ObservationMode
    copy: bool
    infos: InfoLevel
    episode_seeds: EpisodeSeeds
    episode_options: EpisodeOptions
    first_env: int = 0

    def __post_init__(self) -> None:
        check_observation_mode(self.observation_mode)
        if type(self.first_env) is not int or self.first_env < 0:
            raise ValueError(f"first_env: expected an index from 0 on, got {self.first_env!r}")
        level_of(self.infos)
        seeds, options = self.episode_seeds, self.episode_options
        if seeds not in ("continue", "per_episode") and not callable(seeds):
            raise ValueError(
                "episode_seeds: expected 'continue', 'per_episode' or a callable "
                f"(seed, env, episode), got {seeds!r}"
            )
        if options is not None and not isinstance(options, dict) and not callable(options):
            raise ValueError(
                f"episode_options: expected a dict or a callable (env, episode), got {options!r}"
            )

    @property
    def info_level(self) -> int:
        """`infos` as the workers are told it."""
        return level_of(self.infos)

    @property
    def seed_of(self) -> EpisodeSeed | None:
        """The function that derives an episode's seed; None where streams go on."""
        if self.episode_seeds == "continue":
            return None
        seed_of = self.episode_seeds if callable(self.episode_seeds) else episode_seed
        return partial(of_part, seed_of, self.first_env) if self.first_env else seed_of

    def for_workers(self) -> Fields:
        """Returns what workers must know of them, as plain data and pickles.

        Raises:
            SpawnError: a callable can't be pickled.
        """
        seeds, options = self.episode_seeds, self.episode_options
        if self.first_env:
            seeds = self.seed_of or "continue"
            options = partial(of_part, options, self.first_env) if callable(options) else options
        try:
            return {
                "autoreset_mode": self.autoreset_mode.name.lower(),
                "episode_seeds": dumps(seeds) if callable(seeds) else seeds,
                "episode_options": b"" if options is None else dumps(options),
            }
        except Exception as error:
            raise SpawnError(
                f"expected episode_seeds and episode_options that can be pickled, got {error!r}"
            ) from error


def autoreset_mode_of(given: AutoresetMode | AutoresetName) -> AutoresetMode:
    """Returns the mode that is meant by Gymnasium's enum, its value, or its name.

    Example:
        >>> autoreset_mode_of("next_step") is autoreset_mode_of("NextStep")
        True
    """
    for mode in AutoresetMode:
        if given in (mode, mode.value, mode.name.lower()):
            return mode
    names = [mode.name.lower() for mode in AutoresetMode]
    raise ValueError(f"autoreset_mode: expected one of {names}, got {given!r}")


def warn_of_second_reset(envs: list[int], warned: set[str]) -> None:
    """Says, unless `warned` holds it, that a trainer resets what the last step has reset."""
    text = "a trainer's reset after the end of an episode"
    if text not in warned:
        warned.add(text)
        warnings.warn(
            f"environments {envs[:10]} are reset again: the step that ended their episodes has "
            "reset them, and what it returned is already the next episode's observation. A trainer "
            "that resets by itself expects autoreset_mode='disabled'; for options or seeds of each "
            "episode pass episode_options, episode_seeds",
            UserWarning,
            stacklevel=4,
        )


def split_options(
    options: Fields | None, n: int
) -> tuple[npt.NDArray[np.bool_] | None, Fields | None]:
    """Returns the mask of `reset_mask`, `[N]` bool, and the options for the environments.

    The caller's dict stays as it is. The errors are those of Gymnasium's `SyncVectorEnv`.

    Raises:
        TypeError: no dict, or the mask is not an array of bool.
        ValueError: it is of another shape, or nowhere True.
    """
    if options is not None and not isinstance(options, dict):
        raise TypeError(f"options: expected a dict or None, got {type(options).__name__}")
    if options is None or "reset_mask" not in options:
        return None, options
    mask = options["reset_mask"]
    name = "`options['reset_mask']`"
    if not isinstance(mask, np.ndarray):
        raise TypeError(f"{name} must be a numpy array, got {type(mask)}")
    if mask.shape != (n,):
        raise ValueError(f"{name} must have shape `({n},)`, got {mask.shape}")
    if mask.dtype != np.bool_:
        raise TypeError(f"{name} must have `dtype=np.bool_`, got {mask.dtype}")
    if not mask.any():
        raise ValueError(
            f"{name} must contain a boolean array with at least one True value, "
            f"got reset_mask={mask}"
        )
    return mask, {key: value for key, value in options.items() if key != "reset_mask"}


Seed = int | Sequence[int | None] | None


def spread(seed: Seed, n: int, first_env: int = 0) -> list[int | None]:
    """Returns a seed for each environment, as Gymnasium's vector environments do.

    Args:
        seed: an int gives environment i the seed `seed + i`; a sequence one each; None none.
        n: how many environments.
        first_env: index of the first.

    Raises:
        ValueError: too few, or too many.
        TypeError: not integers.

    Example:
        >>> spread(7, 3)
        [7, 8, 9]
    """
    if seed is None:
        return [None] * n
    if isinstance(seed, int | np.integer):
        return [int(seed) + env for env in range(first_env, first_env + n)]
    if len(seed) != n:
        raise ValueError(
            f"If seeds are passed as a list the length must match num_envs={n} but got "
            f"length={len(seed)}."
        )
    return [None if part is None else operator.index(part) for part in seed]


class SeedChain:
    """The seeds of resets, where each episode has one of its own.

    A reset with a seed begins a chain, from which the workers derive the seeds of the episodes
    that follow; a reset without one takes the seed that the next episode would have had.

    Args:
        seed_of: derives an episode's seed.
        n: how many environments.
    """

    def __init__(self, seed_of: EpisodeSeed, n: int) -> None:
        self._seed_of = seed_of
        self._seeds: list[int | None] = [None] * n

    def asked(
        self, envs: list[int], seeds: list[int | None], episodes: list[int]
    ) -> list[int | None]:
        """Returns the seeds to reset with.

        Args:
            envs: which environments are reset.
            seeds: what the trainer said, for every environment.
            episodes: `[N]`, how many each has finished since its last reset.
        """
        chosen = seeds.copy()
        for env in envs:
            last = self._seeds[env]
            if chosen[env] is None:
                chosen[env] = (
                    secrets.randbits(32)
                    if last is None
                    else self._seed_of(last, env, episodes[env] + 1)
                )
            self._seeds[env] = chosen[env]
        return chosen

    def dump(self) -> list[int | None]:
        """Returns the seeds that the chains have begun with."""
        return self._seeds

    def load(self, seeds: list[int | None]) -> None:
        """Goes on with such chains."""
        self._seeds = seeds
