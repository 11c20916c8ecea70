"""The worker's loop: a command comes by pipe, is carried out, its reply goes back by pipe."""

from __future__ import annotations

import mmap
import os
import random
import sys
from time import perf_counter_ns
from typing import NoReturn

import numpy as np

from vecsess.wire.channel import COMMAND_BYTES, Channel, EndOfStreamError, Patience, frame
from vecsess.wire.generators import space_generators
from vecsess.wire.messages import (
    COMMANDS,
    Attach,
    Call,
    Close,
    Command,
    Described,
    Done,
    Failed,
    Replay,
    Reset,
    Rollout,
    Start,
    Step,
    StepSome,
    StepWith,
    acknowledgement,
    decode,
    encode,
    step_numbers,
)
from vecsess.wire.slab import Layout
from vecsess.wire.spaces import describe
from vecsess.wire.values import Fields, Given
from vecsess.workers.acting import Acting
from vecsess.workers.env_host import NO_INFOS, EnvHost, Failures, Values
from vecsess.workers.env_source import BuildError, makers, unpacked
from vecsess.workers.episodes import Episodes
from vecsess.workers.outcomes import account_of, brief
from vecsess.workers.particulars import plain_metadata, render_mode, spec_json
from vecsess.workers.process import ask, dismiss_group, flush_output
from vecsess.workers.replay import replay
from vecsess.workers.sources import note


def serve(channel: Channel, slab_fd: int, broadcast_fd: int) -> None:
    """Serves until `Close`, or until the manager is gone.

    Args:
        channel: blocking pipes from and to the manager.
        slab_fd: the memfd of this worker, of size 0 until the manager knows the spaces.
        broadcast_fd: what the manager writes for all workers.
    """
    start = _next(channel)
    assert isinstance(start, Start), "the protocol begins with Start"
    host = _build(channel, start)
    if host is None:
        return
    attach = _next(channel)
    assert isinstance(attach, Attach), "a worker that has described itself gets its slab next"
    layout = _attach(host, attach, slab_fd, start.settings)
    acting = Acting(host, layout, start.first_env, slab_fd, broadcast_fd)
    channel.send(acknowledgement(attach.seq), None)
    host.views.reply[0] = attach.seq
    try:
        _loop(channel, host, acting, Patience(start.settings["spin_ns"]))
    except EndOfStreamError:
        host.close()


def _loop(channel: Channel, host: EnvHost, acting: Acting, patience: Patience) -> None:
    """One command after the other, in the order of their numbers."""
    views = host.views
    expected, written = views.command.data, views.reply.data
    histogram = views.histogram[0].data
    counts = [0] * len(histogram)  # here too, for an environment may scribble over the slab
    seq, rows, pid = written[0], len(host.envs), os.getpid()
    while True:
        if patience.spin_ns:
            patience.spin(expected, seq)  # the manager writes to the pipe first, then the hint
        payload = channel.receive(None, COMMAND_BYTES)
        began = patience.over() if patience.spin_ns else perf_counter_ns()
        numbers = step_numbers(payload)
        if numbers is None:
            command = decode(payload, COMMANDS)
            seq = command.seq
            if isinstance(command, Rollout):
                answered = frame(encode(acting.roll(command)))
            else:
                answered = answer(host, command)
            if os.getpid() != pid:
                _end_copy(pid)
            channel.send(answered, None)
            written[0] = seq
            if type(command) is Close:
                return
            continue
        seq, infos = numbers
        answered = step(host, seq, infos) or acknowledgement(seq)
        if os.getpid() != pid:
            _end_copy(pid)
        channel.send(answered, None)
        written[0] = seq
        bucket = ((perf_counter_ns() - began) // rows).bit_length()
        counts[bucket] += 1
        histogram[bucket] = counts[bucket]


def _end_copy(worker_pid: int) -> NoReturn:
    """Ends a process that an environment forked and that came back: only one may serve a pipe."""
    sys.stderr.write(
        f"vecsess: process {os.getpid()}, forked by an environment in worker process {worker_pid}, "
        "came back from the environment's code and was ended; let it end itself with os._exit()\n"
    )
    sys.stderr.flush()
    os._exit(1)


def step(host: EnvHost, seq: int, infos: int) -> bytes:
    """Steps all environments; returns the frame of the reply, nothing where it is the plain one."""
    values, failures = host.step(infos)
    if infos and host.infos.wrote:
        host.views.told[0] = seq
    if values or failures or host.asides:
        return report(host, seq, values, failures)
    return b""


def answer(host: EnvHost, command: Command) -> bytes:
    """Carries out a command; returns the frame of its reply."""
    match command:
        case Step():
            return step(host, command.seq, command.infos) or acknowledgement(command.seq)
        case StepSome():
            values, failures = host.step(command.infos, command.rows)
        case StepWith():
            host.place_actions(command.rows, command.actions)
            values, failures = host.step(command.infos, command.rows)
        case Reset():
            values, failures = host.reset(
                command.rows, command.seeds, command.options, command.infos
            )
        case Call():
            values, failures = host.call(
                command.rows, command.verb, command.name, command.arguments
            )
        case Replay():
            return frame(encode(replay(host, command)))
        case Close():
            host.close()
            dismiss_group()
            flush_output()  # whoever has its answer may end this process
            values, failures = [], []
        case _:
            raise AssertionError(f"{type(command).__name__} comes only once, at the start")
    if getattr(command, "infos", NO_INFOS) and host.infos.wrote:
        host.views.told[0] = command.seq
    return report(host, command.seq, values, failures)


def report(host: EnvHost, seq: int, values: Values, failures: Failures) -> bytes:
    """Returns the frame of the reply to a command that was carried out."""
    if host.asides:
        values += host.take_asides()
    if len(failures) > 1:
        failures = [failures[0], *map(brief, failures[1:])]
    if values or failures:
        return frame(encode(Done(seq, values, failures)))
    return acknowledgement(seq)


def _next(channel: Channel) -> Command:
    return decode(channel.receive(None, COMMAND_BYTES), COMMANDS)


def _build(channel: Channel, start: Start) -> EnvHost | None:
    """Builds the environments and describes them; None where that failed, which is said too."""
    random.seed(start.first_env)
    np.random.seed(start.first_env)  # for environments that use the global one
    settings = start.settings
    if settings.get("cpu", -1) >= 0:
        ask("a core of its own", os.sched_setaffinity, 0, {settings["cpu"]})
    if niceness := settings.get("niceness", 0):
        ask("being nice", os.nice, niceness)
    # Whoever the manager wakes must not interrupt it for that, or others wait for the commands that
    # it has yet to write.
    ask("batch scheduling", os.sched_setscheduler, 0, os.SCHED_BATCH, os.sched_param(0))
    try:
        source = unpacked(start.source, settings.get("parcel", -1), settings.get("sizes", []))
        host = EnvHost(
            makers(source, start.first_env, start.rows),
            settings["autoreset_mode"],
            keep_rng=settings["keep_rng"],
            episodes=episodes_of(settings, start.first_env, start.rows),
        )
        channel.send(frame(encode(describe_host(host, start.seq, note()))), None)
    except BuildError as error:
        failed = Failed(start.seq, error.row, *account_of(error.reason))
    except Exception as error:
        failed = Failed(start.seq, 0, *account_of(error))
    else:
        return host
    channel.send(frame(encode(failed)), None)
    return None


def episodes_of(settings: Fields, first_env: int, rows: int) -> Episodes:
    """Returns how episodes begin that nobody asked for, as the message `Start` says."""
    seeds, options = settings.get("episode_seeds", "continue"), settings.get("episode_options", b"")
    return Episodes(rows, first_env, seeds, options)


def describe_host(host: EnvHost, seq: int, sources: list[Given]) -> Described:
    """Returns what the manager must know of these environments before the first reset."""
    spaces: list[Given] = []
    first = host.envs[0]
    for env in host.envs:
        same = env.observation_space == first.observation_space
        same = same and env.action_space == first.action_space
        if spaces and same:
            spaces.append(None)  # as the first row's
        else:
            spaces.append([describe(env.observation_space), describe(env.action_space)])
    generators = [space_generators(first.observation_space), space_generators(first.action_space)]
    about = spec_json(first), plain_metadata(first), render_mode(first)
    return Described(seq, spaces, *about, generators, sources)


def _attach(host: EnvHost, attach: Attach, slab_fd: int, settings: Fields) -> Layout:
    """Maps the slab and lets the environments write into it."""
    first = host.envs[0]
    layout = Layout(first.observation_space, first.action_space, attach.rows)
    assert layout.stride_bytes == attach.stride_bytes, "both sides compute the same layout"
    views = layout.views(mmap.mmap(slab_fd, layout.stride_bytes))
    host.attach(layout, views, exact=settings["exact"], lenient=settings["lenient"])
    return layout
