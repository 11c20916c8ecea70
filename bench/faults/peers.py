"""The same kills, done to other libraries: each in a process of its own, with a hard deadline."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import psutil

from vecsess import VecCheckedSession
from vecsess.bench.cases import CASES, Case
from vecsess.bench.contenders import Contender, IntoAdapter
from vecsess.bench.registry import ASYNC, OURS, PEERS
from vecsess.recovery.policy import RestartPolicy

N = 4
DEADLINE_S = 30.0
_GO_ON_STEPS = 200
_KILLS = 20
_IN_C = "envpool"  # its environments run in the trainer's process: there is no worker to kill


@dataclass(frozen=True, kw_only=True)
class Stand:
    """Where a library stands after kills.

    Attributes:
        survived: how many kills it went on after, of `kills`.
        how: what it said or did at the first that it did not survive.
    """

    label: str
    survived: int
    kills: int
    how: str


def stands(keys: list[str] | None = None) -> list[Stand]:
    """Returns where each that is installed stands; ours is the last.

    Args:
        keys: of the only ones to look at; None for all.
    """
    ours = next(each for each in OURS if each.key == "ours-n")
    known = [each for each in (ASYNC, *PEERS) if each.installed and each.key != _IN_C]
    chosen = [each for each in known if keys is None or each.key in keys]
    return [_stand(contender) for contender in (*chosen, ours)]


def _stand(contender: Contender) -> Stand:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", __name__, contender.key, folder]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        ) as process:
            try:
                output, _ = process.communicate(timeout=DEADLINE_S)
                lines = output.splitlines()
            except subprocess.TimeoutExpired:
                lines = []
            finally:
                _end_tree(process)
        said = _told(folder)
    if lines and "how" in (last := json.loads(lines[-1])):
        return Stand(label=contender.label, kills=_KILLS, **last)
    return Stand(label=contender.label, kills=_KILLS, survived=said, how="hangs")


def _told(folder: str) -> int:
    """Returns how many kills were survived when it was last heard of."""
    path = Path(folder, "survived")
    return int(path.read_text()) if path.exists() else 0


def _end_tree(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and all below it, helpers included."""
    try:
        below = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        below = []
    for one in (process, *below):
        try:
            one.kill()
        except (psutil.NoSuchProcess, ProcessLookupError):
            continue


# --- in the other process ------------------------------------------------------------------------


def make_marked(case: Case, folder: str) -> gymnasium.Env[Any, Any]:
    """Makes an environment, and leaves the pid of the process that it lives in."""
    Path(folder, f"{os.getpid()}.pid").touch()
    return case.make()


def main(key: str, folder: str) -> None:
    """Kills workers of one library until it does not go on; prints what happened."""
    contender = next(each for each in (ASYNC, *PEERS, *OURS) if each.key == key)
    case = CASES["cartpole"]
    marked = Case(name="marked", about="", build=partial(make_marked, case, folder))
    contender.load()
    adapter = _open_ours(marked) if contender in OURS else contender.open(marked, N)
    adapter.reset()
    actions = adapter.prepare([np.zeros(N, np.int64), np.ones(N, np.int64)])
    rng = random.Random(0)  # an experiment
    survived = 0
    try:
        for _ in range(_GO_ON_STEPS):
            adapter.step(actions[0])
        for _ in range(_KILLS):
            _kill_soon(folder, rng)
            _go_on(adapter.step, actions)
            survived += 1
            Path(folder, "survived").write_text(str(survived))
        result = {"survived": survived, "how": "went on"}
    except Exception as error:
        result = {"survived": survived, "how": f"raises {type(error).__name__}"}
    print(json.dumps(result), flush=True)
    os._exit(0)  # closing may hang, which is another figure


def _open_ours(case: Case) -> IntoAdapter:
    """Opens ours without its limit: ten losses of a worker in a minute are no accident."""
    unlimited = RestartPolicy(max_restarts=None)
    return IntoAdapter(VecCheckedSession(case.make, N, restart_policy=unlimited))


def _kill_soon(folder: str, rng: random.Random) -> None:
    """Kills one worker at a random moment of the next few locksteps."""
    pids = [int(path.stem) for path in Path(folder).glob("*.pid")]
    alive = [pid for pid in pids if pid != os.getpid() and _is_running(pid)]
    if not alive:
        raise RuntimeError("there is no worker left")
    timer = threading.Timer(rng.uniform(0, 0.005), os.kill, (rng.choice(alive), signal.SIGKILL))
    timer.start()


def _is_running(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _go_on(step: Callable[[Any], None], actions: Any) -> None:
    """Steps on; a call that never returns is ended from outside."""
    until = time.monotonic() + 0.05
    count = 0
    while count < _GO_ON_STEPS or time.monotonic() < until:
        step(actions[count % 2])
        count += 1


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
