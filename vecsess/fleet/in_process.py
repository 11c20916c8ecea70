"""`workers=0`: the environments in the trainer's own process, behind the same commands and checks.

The one module of the trainer's side that knows `vecsess.workers`. No protection and no deadlines:
an environment that hangs or crashes takes the trainer with it, and a breakpoint in `step` works.
"""

from __future__ import annotations

import mmap

from vecsess.fleet.reports import start_error
from vecsess.wire.channel import CONTROL_BYTES, HEADER, Announce, Channel
from vecsess.wire.messages import (
    COMMANDS,
    Described,
    Failed,
    Replay,
    Replayed,
    decode,
)
from vecsess.wire.slab import Layout, Views
from vecsess.wire.values import Fields, Plain
from vecsess.workers.env_host import EnvHost
from vecsess.workers.env_source import BuildError, select
from vecsess.workers.outcomes import account_of
from vecsess.workers.serve import answer, describe_host, episodes_of, step

_NO_BUDGET_MS = 1 << 40


class LocalChannel(Channel):
    """Has the shape of a `Channel` to a worker; a command is carried out as it is sent.

    Args:
        host: the environments.
    """

    read_fd = -1
    write_fd = -1

    def __init__(self, host: EnvHost) -> None:
        self._host = host
        self._reply = b""
        self._written: memoryview | None = None

    def attach(self, views: Views) -> None:
        """Takes the views whose hint tells that a reply is there."""
        self._written = views.reply.data

    def send(self, data: bytes, deadline: float | None) -> None:
        """Carries out the command in the frame."""
        del deadline  # there is nobody to wait for
        command = decode(data[HEADER.size :], COMMANDS)
        self._reply = answer(self._host, command)
        assert self._written is not None, "attach comes before the first command"
        self._written[0] = command.seq

    def step(self, seq: int, infos: int) -> bool:
        """Steps all, without a frame; whether the reply is the plain one, which is not kept."""
        assert self._written is not None, "attach comes before the first command"
        self._reply = step(self._host, seq, infos)
        self._written[0] = seq
        return not self._reply

    def take_exactly(self, expected: bytes) -> bool:
        """Takes the reply if it is `expected`, header included."""
        if self._reply != expected:
            return False
        self._reply = b""
        return True

    def receive_ready(
        self, max_bytes: int = CONTROL_BYTES, announce: Announce | None = None
    ) -> bytes | None:
        """Takes the reply's payload, if there is one."""
        del max_bytes, announce  # nobody here lies about a length
        reply, self._reply = self._reply, b""
        return reply[HEADER.size :] or None

    def close(self) -> None:
        """Closes the environments."""
        self._host.close()


def replay_here(
    source: tuple[Plain, ...], env: int, settings: Fields, script: list[Plain]
) -> Replayed:
    """Replays one environment in this process, which may well end it.

    Args:
        source: as `env_source.makers` takes it, but not pickled.
        env: its index.
        settings: as in the message `Start`.
        script: as workers/replay.py runs it.
    """
    local = LocalHost(source, 1, settings, first_env=env)
    only = local.host.envs[0]
    local.attach(Layout(only.observation_space, only.action_space, 1))
    try:
        reply = answer(local.host, Replay(0, 0, script, _NO_BUDGET_MS))
    finally:
        local.channel.close()
    return decode(reply[HEADER.size :], (Replayed,))


class LocalHost:
    """The environments of a session with `workers=0`.

    Args:
        source: as `env_source.makers` takes it, but not pickled.
        n: how many environments.
        settings: as in the message `Start`.
        first_env: index of the first one.
    """

    def __init__(
        self, source: tuple[Plain, ...], n: int, settings: Fields, first_env: int = 0
    ) -> None:
        kind, *parts = source
        makers = select(kind, parts, first_env, n)
        mode = settings["autoreset_mode"]
        try:
            episodes = episodes_of(settings, first_env, n)
            self.host = EnvHost(makers, mode, keep_rng=settings["keep_rng"], episodes=episodes)
        except BuildError as error:
            failed = Failed(0, error.row, *account_of(error.reason))
            raise start_error(failed, 0, 0, n) from error.reason
        self.channel = LocalChannel(self.host)
        self._exact, self._lenient = settings["exact"], settings["lenient"]

    def describe(self) -> Described:
        """Returns what a worker would have told of itself."""
        return describe_host(self.host, 0, [])

    def attach(self, layout: Layout) -> Views:
        """Returns the views of a slab that only this process has."""
        views = layout.views(mmap.mmap(-1, layout.stride_bytes))
        self.host.attach(layout, views, exact=self._exact, lenient=self._lenient)
        self.channel.attach(views)
        return views

    @property
    def last_exception(self) -> BaseException | None:
        """The last exception of an environment, so that a debugger can look at its frames."""
        return self.host.last_exception
