"""The fleet: workers that are started, introduced to their environments, renewed, and ended."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vecsess.errors import ProtocolError, SpaceError, SpawnError, VecsessError, WorkerDied
from vecsess.fleet.description import Description, ObservationMode, agree
from vecsess.fleet.lockstep import Lockstep
from vecsess.fleet.parcel import pack_parcel
from vecsess.fleet.plan import Source, Variables, WorkerEnv, WorkerSettings
from vecsess.fleet.reports import breach_type, check_description, printable, start_error
from vecsess.fleet.sources import compare_sources, note_sources
from vecsess.fleet.supervisor import Supervisor
from vecsess.fleet.surroundings import fill_standard_descriptors
from vecsess.fleet.worker import OutOfTimeError, Timeouts, Worker, describe_exit
from vecsess.wire.channel import (
    MANAGER_SPIN_NS,
    VALUE_BYTES,
    DeadlineError,
    EndOfStreamError,
    frame,
)
from vecsess.wire.messages import Attach, Close, Described, Done, Failed, Start, decode, encode
from vecsess.wire.slab import Layout, Slab, seal
from vecsess.wire.spaces import UnsupportedSpaceError
from vecsess.wire.values import FrameError, pack_value

if TYPE_CHECKING:
    from vecsess.fleet.in_process import LocalHost


class Fleet:
    """The processes of a session, ready for their first reset.

    Args:
        source: where the environments come from.
        groups: `(first_env, rows)` of each worker; empty for this process.
        n: how many environments.
        settings: how the workers are to treat them.
        timeouts: how long each call of an environment may take.
        preload: modules that are imported before the workers are forked.
        start_method: "fork" or "spawn".
        observation_mode: as Gymnasium's.
        worker_env: environment variables, for all workers or by index.
        pass_env: those that are handed on although they look like secrets.

    Attributes:
        lockstep: of all workers.
        workers: in the order of their environments; one that is none where n lives here.
        description: what the environments are.
        local: the host of environments in this process, None where there are workers.
        began_ns: when it was made, on the clock that files are dated by.

    Raises:
        ValueError: an unknown start method.
        EnvError: an environment could not be made; also the builtin exception that it raised.
        SpaceError: a space that can't be carried, or spaces that do not agree.
        SpawnError: a worker could not be started, or not in time.
    """

    def __init__(
        self,
        source: Source,
        groups: list[tuple[int, int]],
        n: int,
        settings: WorkerSettings,
        timeouts: Timeouts,
        preload: Sequence[str],
        start_method: str,
        observation_mode: ObservationMode = "same",
        worker_env: WorkerEnv = None,
        pass_env: Sequence[str] = (),
    ) -> None:
        if start_method not in ("fork", "spawn"):
            raise ValueError(f"start_method: expected 'fork' or 'spawn', got {start_method!r}")
        self.settings, self._timeouts = settings, timeouts
        self._observation_mode = observation_mode
        self.supervisor: Supervisor | None = None
        self.local: LocalHost | None = None
        self._source, self.began_ns = source, time.time_ns()
        variables = Variables.of(worker_env, len(groups), pass_env)
        if not groups:
            self._host(source, n)
            return
        fill_standard_descriptors()
        self._parcel = pack_parcel(source.pickled)
        # Where each worker has variables of its own, its modules are imported with those.
        modules = preload if any(variables.own) else (*source.modules, *preload)
        try:
            self.supervisor = Supervisor(
                groups, modules, start_method, variables, timeouts.start_s, self._parcel.fd
            )
        except BaseException:
            if self._parcel.fd >= 0:
                os.close(self._parcel.fd)
            raise
        try:
            self._start(self.supervisor)
        except BaseException:
            self.supervisor.close(0.5)
            raise

    @property
    def pickled(self) -> bytes:
        """The source in one piece, b"" where the environments live here."""
        return b"" if self.supervisor is None else self._source.pickled()

    @property
    def workers(self) -> list[Worker]:
        """All workers, in the order of their environments."""
        return self.lockstep.workers

    @property
    def renewable(self) -> bool:
        """Whether there are processes, which can be replaced."""
        return self.supervisor is not None

    # --- start -----------------------------------------------------------------------------------

    def _start(self, supervisor: Supervisor) -> None:
        """Starts every worker and agrees with them on spaces and memory."""
        deadline, workers = self._deadline(), supervisor.workers
        supervisor.start(deadline)
        for worker in workers:
            self._introduce(worker)
        described = [self._hear(supervisor, worker, deadline) for worker in workers]
        self._spaces = [pack_value(one.spaces[0]) for one in described]
        for worker, one in zip(workers, described, strict=True):
            note_sources(worker, one.sources)
        self.description = agree(workers, described, self._observation_mode)
        layout = _layout(self.description, workers[0].rows)
        self._slab = Slab(layout, len(workers))
        spin_ns = min(self.settings.spin_ns, MANAGER_SPIN_NS)
        self.lockstep = Lockstep(
            workers, supervisor, layout, self._slab.views, self._timeouts, spin_ns
        )
        for worker in workers:
            self._map(worker)
        self.lockstep.flight.command(lambda _, seq: self._attach(seq), self._timeouts.start_s)

    def _host(self, source: Source, n: int) -> None:
        """Makes the environments in this process."""
        # Not earlier: only workers=0 may have the worker's side in the trainer's process.
        from vecsess.fleet.in_process import LocalHost

        self.local = local = LocalHost(source.parts, n, self.settings.for_worker(0))
        channel = local.channel
        worker = Worker(0, 0, n, channel, -1, pid=os.getpid(), step_here=channel.step)
        try:
            self.description = agree([worker], [local.describe()], self._observation_mode)
            layout = _layout(self.description, n)
        except BaseException:
            local.channel.close()
            raise
        views = local.attach(layout)
        self.lockstep = Lockstep([worker], None, layout, views, self._timeouts, MANAGER_SPIN_NS)

    @property
    def serving(self) -> bool:
        """Whether there is a fork server; one that has ended takes all workers with it."""
        return self.supervisor is not None and self.supervisor.serving

    def renew(self, lost: list[Worker]) -> None:
        """Starts the successors of the dead among these workers, with a new fork server if need be.

        Where that fails, those that could not be brought to where they can be told are dead still.

        Raises:
            WorkerError, SpawnError, EnvError: it failed.
            SpaceError: environments have other spaces than their predecessors.
            OutOfTimeError: the caller's time is up; called once more, this goes on where it was.
        """
        supervisor, until = self.supervisor, self.lockstep.flight.until
        assert supervisor is not None, "only processes can be replaced"
        if not supervisor.serving:
            supervisor.restart_server()
        fresh = [worker for worker in lost if worker.dead]
        for one in fresh:
            if not one.stage:
                supervisor.restart(one, self._deadline())
        for one in fresh:
            if one.stage == "asked":
                supervisor.await_spawned(one, until)
                self._introduce(one)
        for one in fresh:
            described = self._hear_successor(supervisor, one)
            if pack_value(described.spaces[0]) != self._spaces[one.index]:
                raise SpaceError("expected the spaces of its predecessor", worker=one.index)
            compare_sources(one, described.sources)
            self._map(one)
            self.lockstep.flight.exchange(one, self._attach, self._timeouts.start_s, Done)
            one.dead = False

    def blank(self, worker: Worker, value: float) -> None:
        """Ends a worker for good; its rows are the manager's own from now on, and don't change.

        Args:
            worker: it need not be alive.
            value: of all numbers in its observations.
        """
        supervisor = self.supervisor
        assert supervisor is not None, "only processes can be done without"
        if supervisor.serving and worker.exit is None:
            supervisor.kill(worker)
        worker.dead = True
        self._slab.attach(worker.index, -1)
        for field in self.lockstep.views.observations:
            if field.dtype != object:
                field[worker.index] = value

    def _introduce(self, worker: Worker) -> None:
        """Tells a worker which environments to build."""
        assert self.supervisor is not None, "only processes are told"
        settings = self.settings.for_worker(worker.index)
        parcel = self._parcel
        settings |= {"parcel": parcel.fd, "sizes": parcel.sizes}
        start = Start(0, worker.first_env, worker.rows, parcel.head, settings)
        try:
            worker.channel.send(frame(encode(start)), worker.due)
        except EndOfStreamError as error:
            raise _died(self.supervisor, worker) from error
        except DeadlineError as error:
            raise self._late(worker) from error
        worker.stage = "building"

    def _hear(self, supervisor: Supervisor, worker: Worker, deadline: float | None) -> Described:
        """Returns what a worker says of the environments that it built."""
        worker.stage = ""
        try:
            while (payload := worker.channel.receive_ready(VALUE_BYTES)) is None:
                supervisor.wait_for(worker, deadline)
            reply = decode(payload, (Described, Failed))
        except EndOfStreamError as error:
            raise _died(supervisor, worker) from error
        except DeadlineError as error:
            raise self._late(worker) from error
        except FrameError as error:
            raise breach_type(error)(str(error), worker=worker.index) from error
        if isinstance(reply, Failed):
            raise start_error(reply, worker.index, worker.first_env, worker.rows)
        assert isinstance(reply, Described), "the only other kind that is allowed here"
        check_description(worker, reply)
        return reply

    def _hear_successor(self, supervisor: Supervisor, worker: Worker) -> Described:
        """Does what `_hear` does, until the caller's time is up."""
        until = self.lockstep.flight.until
        if until is None or (worker.due is not None and worker.due <= until):
            return self._hear(supervisor, worker, worker.due)
        try:
            return self._hear(supervisor, worker, until)
        except SpawnError as error:
            if not isinstance(error.__cause__, DeadlineError):
                raise
            worker.stage = "building"
            raise OutOfTimeError(f"worker {worker.index} is being replaced") from error

    def _late(self, worker: Worker) -> SpawnError:
        return SpawnError(
            f"expected the environments to be built within {self._timeouts.start_s} s; raise "
            "Timeouts(start_s=...) if they need longer",
            worker=worker.index,
        )

    def _map(self, worker: Worker) -> None:
        """Gives a worker's memfd its size and maps it."""
        try:
            seal(worker.slab_fd, self.lockstep.layout.stride_bytes)
        except ValueError as error:
            raise ProtocolError(str(error), worker=worker.index) from error
        self._slab.attach(worker.index, worker.slab_fd)

    def _attach(self, seq: int) -> Attach:
        layout = self.lockstep.layout
        return Attach(seq, layout.rows, layout.stride_bytes)

    def _deadline(self) -> float | None:
        start_s = self._timeouts.start_s
        return None if start_s is None else time.monotonic() + start_s

    # --- end -------------------------------------------------------------------------------------

    def close(self, close_s: float, *, in_order: bool) -> None:
        """Lets the environments close where that is in order, and ends what is left.

        Args:
            close_s: for all of it, in seconds.
            in_order: whether the environments are told.
        """
        if self.supervisor is None:
            if self.local is not None:
                self.local.channel.close()
            return
        supervisor, flight = self.supervisor, self.lockstep.flight
        flight.unwatch()  # whoever is lost now need not come back
        until = time.monotonic() + close_s
        try:
            if in_order and close_s > 0 and supervisor.serving:
                flight.begin(_close_message, close_s)
                flight.gather(max(0.0, until - time.monotonic()))  # for all of them
        except TimeoutError:  # what it was writing, such as a video, is lost: shown by default
            warnings.warn(
                f"a worker did not close in order: within {close_s:g} s its environments had not "
                "closed and were cut off: raise Timeouts(close_s=...)",
                UserWarning,
                stacklevel=2,
            )
        except (VecsessError, OSError) as error:
            warnings.warn(
                f"a worker did not close in order: {error}", ResourceWarning, stacklevel=2
            )
        finally:
            supervisor.close(max(until - time.monotonic() if in_order else 0.0, min(close_s, 1.0)))

    def abandon(self) -> None:
        """Lets go of everything in a forked copy of the trainer: it is the parent's."""
        if self.supervisor is not None:
            self.supervisor.abandon()


def _close_message(worker: Worker, seq: int) -> Close | None:
    return None if worker.dead else Close(seq)


def _died(supervisor: Supervisor, worker: Worker) -> WorkerDied:
    supervisor.kill(worker)
    ended = supervisor.reap(worker)
    how = describe_exit(os.waitstatus_to_exitcode(ended.status))
    return WorkerDied(
        f"the worker ended with {how} while it built its environments; "
        f"its last output:\n{printable(ended.stderr)}",
        worker=worker.index,
    )


def _layout(description: Description, rows: int) -> Layout:
    try:
        return Layout(description.observation_space, description.action_space, rows)
    except UnsupportedSpaceError as error:
        raise SpaceError(str(error)) from error
