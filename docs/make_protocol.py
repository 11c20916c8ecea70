"""Writes the generated parts of docs/protocol.md: `python docs/make_protocol.py [--check]`.

The tables and the diagram come from the messages' own classes. The conversation is held with a real
worker process, over real pipes: what it is told stands below, what it answers is written down.
"""

from __future__ import annotations

import mmap
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium

import vecsess.bridge.gym_server
from vecsess.session.gate import RULES, Phase
from vecsess.wire.channel import CONTROL_BYTES, VALUE_BYTES, Channel, frame
from vecsess.wire.messages import (
    COMMANDS,
    REPLIES,
    SERVER_COMMANDS,
    SERVER_REPLIES,
    Attach,
    Close,
    Done,
    Message,
    Reset,
    Start,
    Step,
    decode,
    encode,
)
from vecsess.wire.slab import Layout, Views, create_memfd, seal

PAGE = Path(__file__).parent / "protocol.md"
TIMEOUT_S = 30.0


# --- tables and diagrams -------------------------------------------------------------------------


def promise(kind: type[Message]) -> str:
    """Returns the first line of a message's docstring, without the reply that it names."""
    line = (kind.__doc__ or "").splitlines()[0]
    return re.sub(r"; answered (by )?`\w+`", "", line)


def answer_to(kind: type[Message]) -> str:
    """Returns the name of the reply that a message's docstring promises, "" without one."""
    found = re.search(r"answered (?:by )?`(\w+)`", kind.__doc__ or "")
    return found[1] if found else ""


def table(kinds: tuple[type[Message], ...], *, answered: bool = False) -> str:
    """Returns a Markdown table of messages: number, name, fields, what it says."""
    last = " | answered by |" if answered else " |"
    lines = [f"| kind | message | fields | says{last}", "|---" * (4 + answered) + "|"]
    for kind in sorted(kinds, key=lambda kind: kind.KIND):
        parts = ", ".join(f"`{field.name}: {field.type}`" for field in fields(kind))
        row = f"| {kind.KIND} | **{kind.__name__}** | {parts.replace('|', chr(92) + '|')} "
        row += f"| {promise(kind)} |"
        lines.append(row + (f" {answer_to(kind)} |" if answered else ""))
    return "\n".join(lines)


def diagram() -> str:
    """Returns who sends what to whom, a command above its reply."""
    width = 30
    lines = ["```text", f"manager{'':>{width - 5}}worker"]
    for kind in COMMANDS:
        lines += [_arrow(kind.__name__, width), _back(answer_to(kind), width)]
        if kind is Start:
            lines.append(_back("or Failed", width))
    lines += ["", f"manager{'':>{width - 5}}fork server"]
    lines += [_arrow(kind.__name__, width) for kind in SERVER_COMMANDS]
    lines += [_back(kind.__name__, width) for kind in SERVER_REPLIES]
    return "\n".join([*lines, "```"])


def _arrow(name: str, width: int) -> str:
    return f"  │{f' {name} ':─^{width - 1}}►│"


def _back(name: str, width: int) -> str:
    return f"  │◄{f' {name} ':─^{width - 1}}│"


def limits() -> str:
    """Returns the caps on frames."""
    return (
        f"A frame is refused, before memory is set aside for it, where it is longer than "
        f"{CONTROL_BYTES:,} bytes, or {VALUE_BYTES:,} where the reply may carry values of an "
        "environment (infos, results of calls)."
    )


def phases() -> str:
    """Returns the table of the session's verbs: where each is taken, and where it leads."""
    lines = ["| verb | taken when | meanwhile | then | where it failed |", "|---|---|---|---|---|"]
    for verb, rule in RULES.items():
        others = [phase for phase in Phase if phase not in rule.allowed]
        named, lead = (rule.allowed, "") if len(others) > 4 else (others, "all but ")
        allowed = lead + ", ".join(sorted(phase.name.lower() for phase in named))
        cells = [rule.meanwhile or "-", rule.then, rule.failed]
        words = [cell.name.lower() if isinstance(cell, Phase) else cell for cell in cells]
        lines.append(f"| `{verb}` | {allowed} | {' | '.join(words)} |")
    return "\n".join(lines)


# --- a conversation ------------------------------------------------------------------------------


class Countdown(gymnasium.Env[Any, Any]):
    """Counts from 2 down to 0; action 1 counts, action 0 waits."""

    observation_space = gymnasium.spaces.Discrete(3)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        """Begins at 2."""
        super().reset(seed=seed)
        self.left = 2
        return self.left, {}

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Counts, or waits."""
        if action not in (0, 1):
            raise ValueError(f"expected 0 or 1, got {action}")
        self.left -= int(action)
        return self.left, float(action), self.left == 0, False, {}


SETTINGS = {
    "autoreset_mode": "same_step",
    "exact": False,
    "lenient": False,
    "keep_rng": False,
    "spin_ns": 0,
}
SOURCE = cloudpickle.dumps(("callables", [Countdown]))
LAYOUT = Layout(Countdown.observation_space, Countdown.action_space, rows=1)

# What the manager does, in order: a message to send, or a number to write as the action.
MANAGER: list[Message | int] = [
    Start(0, first_env=0, rows=1, source=SOURCE, settings=SETTINGS),
    Attach(1, rows=1, stride_bytes=LAYOUT.stride_bytes),
    Reset(2, rows=[0], seeds=[7], options=b"", infos=0),
    1,
    Step(3, infos=0),
    1,
    Step(4, infos=0),
    5,
    Step(5, infos=0),
    Close(6),
]


def conversation() -> str:
    """Holds the conversation with a worker; returns it as Markdown."""
    lines = ["```text"]
    with _Worker() as worker:
        for move in MANAGER:
            lines += worker.write(move) if isinstance(move, int) else worker.tell(move)
    return "\n".join([*lines, "```"])


class _Worker:
    """A worker process, its pipes and its slab."""

    def __init__(self) -> None:
        command_read, command_write = os.pipe()
        reply_read, reply_write = os.pipe()
        self._slab = create_memfd("conversation")
        self._broadcast = create_memfd("broadcast")  # nothing is sent that way here
        theirs = (command_read, reply_write, self._slab, self._broadcast)
        program = str(vecsess.bridge.gym_server.__file__)
        self._process = subprocess.Popen(
            [sys.executable, "-P", program, "--worker", ",".join(map(str, theirs))],
            pass_fds=theirs,
        )
        os.close(command_read)
        os.close(reply_write)
        os.set_blocking(reply_read, False)  # so that its deadline holds
        self._channel = Channel(reply_read, command_write)
        self._views: Views | None = None

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()
        self._process.wait(TIMEOUT_S)
        os.close(self._slab)
        os.close(self._broadcast)

    def tell(self, message: Message) -> Iterator[str]:
        """Sends a command; yields it, the reply, and the row that the reply speaks for."""
        if isinstance(message, Attach):
            seal(self._slab, message.stride_bytes)
            self._views = LAYOUT.views(mmap.mmap(self._slab, message.stride_bytes))
        deadline = time.monotonic() + TIMEOUT_S
        self._channel.send(frame(encode(message)), deadline)
        reply = decode(self._channel.receive(deadline, VALUE_BYTES), REPLIES)
        yield f"-> {_told(message)}"
        yield f"<- {_told(reply)}"
        if isinstance(message, Reset | Step):
            yield f"   slab: {self._row()}"

    def write(self, action: int) -> Iterator[str]:
        """Writes an action into the slab."""
        self._need().actions[0][0, 0] = action
        yield f"   slab: action {action}"

    def _row(self) -> str:
        views = self._need()
        text = (
            f"observation {views.observations[0][0, 0]}, reward {views.rewards[0, 0]}, "
            f"terminated {views.terminated[0, 0]}, truncated {views.truncated[0, 0]}"
        )
        return f"{text}, final observation {views.finals[0][0, 0]}"

    def _need(self) -> Views:
        assert self._views is not None, "Attach comes first"
        return self._views


def _told(message: Message) -> str:
    """Returns a message as Python would build it, long fields shortened."""
    parts = []
    for field in fields(message):
        value = getattr(message, field.name)
        if value is SOURCE:
            text = "<cloudpickle of Countdown>"
        elif isinstance(message, Done) and field.name == "failures" and value:
            text = repr([[*failure[:4], "<traceback>"] for failure in value])
        else:
            text = repr(value)
        parts.append(f"{field.name}={text}")
    return f"{type(message).__name__}({', '.join(parts)})"


# --- the page ------------------------------------------------------------------------------------

PARTS: dict[str, Callable[[], str]] = {
    "commands": lambda: table(COMMANDS, answered=True),
    "replies": lambda: table(REPLIES),
    "fork server": lambda: table((*SERVER_COMMANDS, *SERVER_REPLIES)),
    "diagram": diagram,
    "limits": limits,
    "phases": phases,
    "conversation": conversation,
}


def generate(page: str) -> str:
    """Returns the page with each of its parts, between its two marks, written anew."""
    for name, part in PARTS.items():
        begin, end = f"<!-- {name}: generated -->\n", f"\n<!-- end of {name} -->"
        head, found, rest = page.partition(begin)
        _, closed, tail = rest.partition(end)
        if not found or not closed:
            sys.exit(f"{PAGE.name} has no marks for {name!r}")
        page = f"{head}{begin}{part()}{end}{tail}"
    return page


def main() -> None:
    """Writes the page, or with `--check` says whether it is what would be written."""
    page = PAGE.read_text()
    fresh = generate(page)
    if "--check" in sys.argv[1:]:
        if fresh != page:
            sys.exit("docs/protocol.md is stale: run `python docs/make_protocol.py`")
        return
    PAGE.write_text(fresh)


if __name__ == "__main__":
    main()
