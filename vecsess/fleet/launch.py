"""From the arguments of a session to workers that are ready: grouping, handshake, slab."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import cloudpickle
import gymnasium

from vecsess.errors import ProtocolError, SpaceError, SpawnError, WorkerDied
from vecsess.fleet.description import Description, ObservationMode, agree
from vecsess.fleet.lockstep import Lockstep
from vecsess.fleet.reports import breach_type, check_description, start_error
from vecsess.fleet.supervisor import Supervisor
from vecsess.fleet.worker import Timeouts, Worker, describe_exit
from vecsess.wire.channel import (
    MANAGER_SPIN_NS,
    VALUE_BYTES,
    DeadlineError,
    EndOfStreamError,
    frame,
)
from vecsess.wire.messages import Attach, Described, Failed, Start, decode, encode
from vecsess.wire.slab import Layout, Slab, seal
from vecsess.wire.spaces import UnsupportedSpaceError
from vecsess.wire.values import FrameError, pack_value

Env = gymnasium.Env[Any, Any]
EnvSpec = gymnasium.envs.registration.EnvSpec
EnvLike = str | EnvSpec | Callable[[], Env] | Sequence[Callable[[], Env]]


def cores() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def group(n: int, workers: int | str | None) -> list[tuple[int, int]]:
    """Returns `(first_env, rows)` for each worker; the first ones hold one more where n % workers.

    Args:
        n: how many environments.
        workers: a number, None for one worker per environment, "auto" for one per core.

    Raises:
        ValueError: not a number from 0 to n, None or "auto".
    """
    if workers is None:
        workers = n
    elif workers == "auto":
        workers = min(n, cores())
    if type(workers) is not int or not 0 <= workers <= n:
        raise ValueError(f"workers: expected None, 'auto' or 0 <= workers <= {n}, got {workers!r}")
    if workers == 0:
        return []
    rows, larger = divmod(n, workers)
    counts = [rows + (index < larger) for index in range(workers)]
    return [(sum(counts[:index]), count) for index, count in enumerate(counts)]


@dataclass(frozen=True, slots=True)
class Source:
    """Where environments come from, and what of the trainer's the workers need for them."""

    parts: tuple[Any, ...]
    modules: tuple[str, ...]

    @classmethod
    def of(cls, env: EnvLike, make_kwargs: dict[str, Any] | None, n: int) -> Source:
        """Returns the source for an id or a spec, a callable, or a sequence of n callables."""
        if isinstance(env, EnvSpec):
            return cls(("id", env.id, env, make_kwargs or {}), _modules_of_id(env.id, env))
        if isinstance(env, str):
            spec = gymnasium.registry.get(env)
            return cls(("id", env, spec, make_kwargs or {}), _modules_of_id(env, spec))
        if make_kwargs:
            raise TypeError("make_kwargs go with an id; bind a callable's with functools.partial")
        given: Any = env  # whatever a caller passes
        makers = [given] if callable(given) else list(given) if _is_sequence(given) else []
        if len(makers) not in (1, n) or not all(callable(maker) for maker in makers):
            raise TypeError(
                f"env: expected an id, a callable, or a sequence of {n} callables, got {env!r}"
            )
        functions = [getattr(maker, "func", maker) for maker in makers]  # of a functools.partial
        modules = {getattr(function, "__module__", None) or "__main__" for function in functions}
        return cls(("callables", makers), ("cloudpickle", *sorted(modules - {"__main__"})))

    def pickled(self) -> bytes:
        """Returns the source as the workers get it.

        Raises:
            SpawnError: it holds something that can't be pickled, such as a lock or an open file.
        """
        try:
            pickled: bytes = cloudpickle.dumps(self.parts)
        except Exception as error:
            raise SpawnError(
                f"expected a callable that can be pickled, got {error!r}. Make what it needs "
                "inside of the callable, or use workers=0"
            ) from error
        return pickled


def _is_sequence(given: Any) -> bool:
    return isinstance(given, Sequence)


def _modules_of_id(env_id: str, spec: Any) -> tuple[str, ...]:
    module, _, rest = env_id.rpartition(":")
    if module:
        return (module,)
    entry_point = getattr(spec, "entry_point", None)
    names = [entry_point.partition(":")[0]] if isinstance(entry_point, str) else []
    return (*names, "ale_py") if rest.startswith("ALE/") else tuple(names)


@dataclass(frozen=True, slots=True)
class Launched:
    """Workers that are ready for their first reset."""

    lockstep: Lockstep
    supervisor: Supervisor | None
    description: Description
    pickled: bytes = b""  # the source, as the workers got it
    renew: Callable[[Worker | None], None] | None = None  # starts successors
    local: Any = None  # LocalHost where workers=0
    settings: dict[str, Any] | None = None  # as the workers got them

    def abandon(self) -> None:
        """Ends everything, where there will be no session to close it."""
        if self.supervisor is not None:
            self.supervisor.close(0.5)
        else:
            self.local.channel.close()


def launch(
    source: Source,
    groups: list[tuple[int, int]],
    n: int,
    settings: dict[str, Any],
    timeouts: Timeouts,
    preload: Sequence[str],
    start_method: str,
    observation_mode: ObservationMode = "same",
) -> Launched:
    """Starts everything; on any error nothing is left behind.

    Raises:
        ValueError: an unknown start method.
        EnvError: an environment could not be made; also the builtin exception that it raised.
        SpaceError: a space that can't be carried, or spaces that do not agree.
        SpawnError: a worker could not be started, or not in time.
    """
    if start_method not in ("fork", "spawn"):
        raise ValueError(f"start_method: expected 'fork' or 'spawn', got {start_method!r}")
    if not groups:
        return _launch_local(source, n, settings, timeouts, observation_mode)
    deadline = None if timeouts.start_s is None else time.monotonic() + timeouts.start_s
    pickled = source.pickled()
    supervisor = Supervisor(groups, (*source.modules, *preload), start_method)
    try:
        supervisor.start(deadline)
        for worker in supervisor.workers:
            introduce(supervisor, worker, pickled, settings, deadline)
        described = [_hear(supervisor, worker, deadline) for worker in supervisor.workers]
        description = agree(supervisor.workers, described, observation_mode)
        layout = _layout(description, groups[0][1])
        slab = Slab(layout, len(groups))
        spin_ns = min(settings["spin_ns"], MANAGER_SPIN_NS)
        lockstep = Lockstep(supervisor.workers, supervisor, layout, slab.views, timeouts, spin_ns)
        for worker in supervisor.workers:
            attach(slab, layout, worker)
        lockstep.command(
            lambda _, seq: Attach(seq, layout.rows, layout.stride_bytes), timeouts.start_s
        )
    except BaseException:
        supervisor.close(0.5)
        raise
    shape = ([one.spaces[0] for one in described], layout, slab)
    renew = partial(_renew, supervisor, lockstep, pickled, settings, timeouts, shape)
    return Launched(lockstep, supervisor, description, pickled, renew, settings=settings)


def _renew(
    supervisor: Supervisor,
    lockstep: Lockstep,
    pickled: bytes,
    settings: dict[str, Any],
    timeouts: Timeouts,
    shape: tuple[Any, Layout, Slab],
    worker: Worker | None,
) -> None:
    """Starts the successor of a reaped worker, or of all of them with a new fork server."""
    spaces, layout, slab = shape
    deadline = None if timeouts.start_s is None else time.monotonic() + timeouts.start_s
    if worker is None:
        supervisor.restart_server(deadline)
    else:
        supervisor.restart(worker, deadline)
    renewed = lockstep.active if worker is None else [worker]
    for one in renewed:
        introduce(supervisor, one, pickled, settings, deadline)
    for one in renewed:
        described = _hear(supervisor, one, deadline)
        if pack_value(described.spaces[0]) != pack_value(spaces[one.index]):
            raise SpaceError("expected the spaces of its predecessor", worker=one.index)
        attach(slab, layout, one)
        lockstep.exchange(
            one, lambda seq: Attach(seq, layout.rows, layout.stride_bytes), timeouts.start_s
        )


def _launch_local(
    source: Source,
    n: int,
    settings: dict[str, Any],
    timeouts: Timeouts,
    observation_mode: ObservationMode,
) -> Launched:
    # Not earlier: only workers=0 may have the worker's side in the trainer's process.
    from vecsess.fleet.in_process import LocalHost

    local = LocalHost(source.parts, n, settings)
    worker = Worker(0, 0, n, local.channel, -1, pid=os.getpid())
    try:
        description = agree([worker], [local.describe()], observation_mode)
        layout = _layout(description, n)
    except UnsupportedSpaceError as error:
        local.channel.close()
        raise SpaceError(str(error)) from error
    except BaseException:
        local.channel.close()
        raise
    lockstep = Lockstep([worker], None, layout, local.attach(layout), timeouts, MANAGER_SPIN_NS)
    return Launched(lockstep, None, description, local=local)


def introduce(
    supervisor: Supervisor,
    worker: Worker,
    pickled: bytes,
    settings: dict[str, Any],
    deadline: float | None,
) -> None:
    """Tells a worker which environments to build."""
    cpus = settings["cpus"]
    place = cpus[worker.index % len(cpus)] if cpus else -1
    start = Start(0, worker.first_env, worker.rows, pickled, {**settings, "cpu": place})
    try:
        worker.channel.send(frame(encode(start)), deadline)
    except EndOfStreamError as error:
        raise _died(supervisor, worker) from error
    except DeadlineError as error:
        raise _late(worker) from error


def _hear(supervisor: Supervisor, worker: Worker, deadline: float | None) -> Described:
    """Returns what a worker says of the environments that it built."""
    try:
        while (payload := worker.channel.receive_ready(VALUE_BYTES)) is None:
            supervisor.wait_for(worker, deadline)
        reply = decode(payload, (Described, Failed))
    except EndOfStreamError as error:
        raise _died(supervisor, worker) from error
    except DeadlineError as error:
        raise _late(worker) from error
    except FrameError as error:
        raise breach_type(error)(str(error), worker=worker.index) from error
    if isinstance(reply, Failed):
        raise start_error(reply, worker.index, worker.first_env)
    assert isinstance(reply, Described), "the only other kind that is allowed here"
    check_description(worker, reply)
    return reply


def _died(supervisor: Supervisor, worker: Worker) -> WorkerDied:
    ended = supervisor.reap(worker, time.monotonic() + 10.0)
    how = describe_exit(os.waitstatus_to_exitcode(ended.status))
    return WorkerDied(
        f"the worker ended with {how} while it built its environments; "
        f"its last output:\n{ended.stderr}",
        worker=worker.index,
    )


def _late(worker: Worker) -> SpawnError:
    return SpawnError(
        "the environments were not built in time; raise Timeouts(start_s=...) if they need longer",
        worker=worker.index,
    )


def attach(slab: Slab, layout: Layout, worker: Worker) -> None:
    """Gives a worker's memfd its size and maps it."""
    try:
        seal(worker.slab_fd, layout.stride_bytes)
    except ValueError as error:
        raise ProtocolError(str(error), worker=worker.index) from error
    slab.attach(worker.index, worker.slab_fd)


def _layout(description: Description, rows: int) -> Layout:
    try:
        return Layout(description.observation_space, description.action_space, rows)
    except UnsupportedSpaceError as error:
        raise SpaceError(str(error)) from error
