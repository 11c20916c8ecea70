"""What is to run, and where: the source of the environments, their groups, cores and niceness."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import gymnasium

from vecsess.errors import SpawnError
from vecsess.fleet.quota import own_limits, usable_cores
from vecsess.wire.code import dumps
from vecsess.wire.values import Env, Fields, Plain, pack_value

EnvSpec = gymnasium.envs.registration.EnvSpec
EnvLike = str | EnvSpec | Callable[[], Env] | Sequence[Callable[[], Env]]


def cores() -> int:
    """Returns how many cores this process may use, by affinity and by the quota of a container."""
    return max(1, int(usable_cores(own_limits())))


def group(n: int, workers: int | str | None) -> list[tuple[int, int]]:
    """Returns `(first_env, rows)` for each worker; the first ones hold one more where n % workers.

    Args:
        n: how many environments.
        workers: a number, None for one worker per environment, "auto" for one per core.

    Raises:
        ValueError: not a number from 0 on, None or "auto".
    """
    if workers is None:
        workers = n
    elif workers == "auto":
        workers = min(n, cores())
    if type(workers) is not int or workers < 0:
        raise ValueError(f"workers: expected None, 'auto' or a number from 0 on, got {workers!r}")
    workers = min(workers, n)
    if workers == 0:
        return []
    rows, larger = divmod(n, workers)
    counts = [rows + (index < larger) for index in range(workers)]
    return [(sum(counts[:index]), count) for index, count in enumerate(counts)]


@dataclass(frozen=True, slots=True)
class Source:
    """Where environments come from, and what of the trainer's the workers need for them."""

    parts: tuple[Plain, ...]
    modules: tuple[str, ...]

    @classmethod
    def of(cls, env: EnvLike, make_kwargs: Fields | None, n: int) -> Source:
        """Returns the source for an id or a spec, a callable, or a sequence of n callables."""
        if isinstance(env, EnvSpec):
            return cls(("id", env.id, env, make_kwargs or {}), _modules_of_id(env.id, env))
        if isinstance(env, str):
            spec = gymnasium.registry.get(env)
            return cls(("id", env, spec, make_kwargs or {}), _modules_of_id(env, spec))
        if make_kwargs:
            raise TypeError("make_kwargs go with an id; bind a callable's with functools.partial")
        given: Plain = env  # whatever a caller passes
        makers = [given] if callable(given) else list(given) if _is_sequence(given) else []
        if len(makers) not in (1, n) or not all(callable(maker) for maker in makers):
            got = f"{len(makers)} of them" if makers and all(map(callable, makers)) else f"{env!r}"
            raise TypeError(
                f"env: expected an id, a callable, or a sequence of {n} callables, got {got}"
            )
        functions = [getattr(maker, "func", maker) for maker in makers]  # of a functools.partial
        modules = {getattr(function, "__module__", None) or "__main__" for function in functions}
        return cls(("callables", makers), ("cloudpickle", *sorted(modules - {"__main__"})))

    def pickled(self, keep: Callable[[pickle.PickleBuffer], bool] | None = None) -> bytes:
        """Returns the source as the workers get it.

        Args:
            keep: called with each buffer; what it returns false for is not in the pickle.

        Raises:
            SpawnError: it holds something that can't be pickled, such as a lock or an open file.
        """
        parts = ("registered", registrations(), *self.parts)
        try:
            return dumps(parts, keep)
        except Exception as error:
            raise SpawnError(
                f"expected a callable that can be pickled, got {error!r}. Make what it needs "
                "inside of the callable, or use workers=0"
            ) from error


def registrations() -> tuple[bytes, list[tuple[Plain, ...]]]:
    """Returns what Gymnasium's registry holds here, for workers, which have not seen it filled.

    Returns:
        A pickle of the specs that are plain data; and for each other one its plain fields, a
        pickle of it or None, and why it can't be pickled.
    """
    plain: list[EnvSpec] = []
    others: list[tuple[Plain, ...]] = []
    for spec in gymnasium.registry.values():
        if _is_plain(spec):
            plain.append(spec)
            continue
        packed, why = None, "it has additional wrappers whose arguments are no plain data"
        if not spec.additional_wrappers:
            try:
                packed, why = dumps(spec), ""
            except Exception as error:  # whatever pickling what the user registered raises
                why = repr(error)
        others.append(({name: getattr(spec, name) for name in _SPEC_FIELDS}, packed, why))
    return pickle.dumps(plain), others


_SPEC_FIELDS = (
    "id",
    "reward_threshold",
    "nondeterministic",
    "max_episode_steps",
    "order_enforce",
    "disable_env_checker",
)


def _is_plain(spec: EnvSpec) -> bool:
    """Whether unpickling a spec can't run, or import, anything of the user's."""
    entry_points = (spec.entry_point, spec.vector_entry_point)
    if not all(point is None or type(point) is str for point in entry_points):
        return False
    wrappers = spec.additional_wrappers
    if not spec.kwargs and not wrappers:
        return True
    try:
        pack_value([spec.kwargs, [wrapper.kwargs for wrapper in wrappers]])
    except (TypeError, ValueError):
        return False
    return True


def _is_sequence(given: Plain) -> bool:
    return isinstance(given, Sequence)


def _modules_of_id(env_id: str, spec: Plain) -> tuple[str, ...]:
    module, _, rest = env_id.rpartition(":")
    if module:
        return (module,)
    entry_point = getattr(spec, "entry_point", None)
    names = [entry_point.partition(":")[0]] if isinstance(entry_point, str) else []
    return (*names, "ale_py") if rest.startswith("ALE/") else tuple(names)


WorkerEnv = Mapping[str, str] | Callable[[int], Mapping[str, str]] | None


@dataclass(frozen=True, slots=True)
class Variables:
    """What is set in the environment of worker processes, beside what the trainer has.

    Attributes:
        shared: set before anything is imported.
        own: of each worker, set before the modules of its environments are imported.
    """

    shared: dict[str, str]
    own: list[dict[str, str]]

    @classmethod
    def of(cls, worker_env: WorkerEnv, workers: int, pass_env: Sequence[str] = ()) -> Variables:
        """Returns them for so many workers.

        Raises:
            ValueError: there are no workers.
            TypeError: names or values are no texts.
        """
        if worker_env is not None and not workers:
            raise ValueError(
                "worker_env: expected workers, got workers=0; set os.environ for this process"
            )
        if isinstance(pass_env, str):
            raise TypeError(f"pass_env: expected a sequence of names, got {pass_env!r}")
        passed = {name: os.environ[name] for name in pass_env if name in os.environ}
        if not callable(worker_env):
            return cls({**passed, **_texts(worker_env or {})}, [{}] * workers)
        return cls(passed, [_texts(worker_env(index)) for index in range(workers)])


def _texts(given: Mapping[str, str]) -> dict[str, str]:
    each: Plain = given  # whatever a caller passes
    if not isinstance(each, Mapping) or not all(
        isinstance(part, str) for pair in each.items() for part in pair
    ):
        raise TypeError(f"worker_env: expected a dict of texts, got {given!r}")
    return dict(each)


Affinity = Literal["spread"] | Sequence[int] | None


def cpus_in_turn(affinity: Affinity) -> list[int]:
    """Returns the cores that workers take in turn, worker `i` the one at `i % len`; [] for any.

    Args:
        affinity: None for any; "spread" for those that this process may use; or core numbers.

    Raises:
        ValueError: a core that this process may not use.

    Example:
        >>> cpus_in_turn(None)
        []
    """
    if affinity is None:
        return []
    allowed = sorted(os.sched_getaffinity(0))
    if affinity == "spread":
        return allowed
    if isinstance(affinity, str):
        raise ValueError(f"affinity: expected 'spread' or cores out of {allowed}, got {affinity!r}")
    cpus = [int(cpu) for cpu in affinity]
    if not cpus or not set(cpus) <= set(allowed):
        raise ValueError(f"affinity: expected 'spread' or cores out of {allowed}, got {affinity!r}")
    return cpus


def check_niceness(niceness: int) -> int:
    """Returns how much nicer workers are than the trainer, 0 to 19.

    Raises:
        ValueError: below 0, which needs a privilege, or above 19.
    """
    if type(niceness) is not int or not 0 <= niceness <= 19:
        raise ValueError(f"niceness: expected 0 (as the trainer) to 19, got {niceness!r}")
    return niceness


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerSettings:
    """How workers are to treat their environments; see `VecCheckedSession`.

    Attributes:
        autoreset_mode: "same_step", "next_step" or "disabled".
        episode_seeds: "continue", "per_episode", or a pickled callable.
        episode_options: a pickle, empty for none.
        exact: whether an observation of another dtype is refused.
        lenient: whether what is common is taken though of another form.
        cpus: the cores that workers take in turn; empty for any.
        niceness: how much nicer than the trainer they are.
        spin_ns: how long a wait may spin.
    """

    autoreset_mode: str
    episode_seeds: str | bytes
    episode_options: bytes
    exact: bool
    lenient: bool
    cpus: list[int]
    niceness: int
    spin_ns: int

    def for_worker(self, index: int) -> Fields:
        """Returns them as plain data, for one worker."""
        names = (
            *("autoreset_mode", "episode_seeds", "episode_options"),
            *("exact", "lenient", "niceness", "spin_ns"),
        )
        cpu = self.cpus[index % len(self.cpus)] if self.cpus else -1
        told = {name: getattr(self, name) for name in names}
        return {**told, "keep_rng": True, "cpu": cpu}
