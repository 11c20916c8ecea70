"""An environment that ends, in the middle of a rollout, what it runs on."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import psutil

from tests.envs import CountingEnv

# A worker is the fork server's child, that the actor's, and that the raylet's.
ANCESTORS = {"worker": 0, "server": 1, "actor": 2, "raylet": 3, "node": 3}


class Disaster(CountingEnv):
    """Strikes when it has taken enough steps, as often as it is to in all processes together.

    Args:
        folder: where it is noted that it has struck; by shard, so that each is struck once.
        victim: a name in `ANCESTORS`.
        number: the signal.
        times: how many shards are struck.
        at: after how many steps.
    """

    def __init__(
        self, folder: str, victim: str, number: int, times: int = 1, at: int = 60, **how: Any
    ) -> None:
        super().__init__(**how)
        self.folder, self.victim, self.number, self.times = Path(folder), victim, number, times
        self.left = at

    def step(self, action: Any) -> Any:
        self.left -= 1
        if not self.left:
            self.strike()
        return super().step(action)

    def strike(self) -> None:
        line = [psutil.Process(), *psutil.Process().parents()]
        if len(line) <= ANCESTORS[self.victim] or "raylet" not in line[3].name():
            return  # on one machine
        if not self.claim(line[2].pid):
            return
        victims = [line[ANCESTORS[self.victim]]]
        if self.victim == "node":
            victims += victims[0].children(recursive=True)
        for process in sorted(victims, key=lambda each: each.pid == os.getpid()):
            try:
                process.send_signal(self.number)
            except psutil.NoSuchProcess:
                continue
        if self.number == signal.SIGKILL:
            signal.pause()  # until what fell takes this process along

    def claim(self, actor: int) -> bool:
        """Whether this one is to strike: not if its shard was struck, or enough were."""
        for count in range(self.times):
            try:
                with (self.folder / f"struck-{count}").open("x") as file:
                    file.write(str(actor))
                    return True
            except FileExistsError:
                if (self.folder / f"struck-{count}").read_text() == str(actor):
                    return False
        return False
