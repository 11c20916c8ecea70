"""The program that runs an environment for the doctor, in a process of its own.

It may crash, hang or print as it likes; what it finds goes to a file, never to stdout.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import pickle
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium
import numpy as np
import psutil

from vecsess.errors import VecsessError
from vecsess.fleet.plan import Source
from vecsess.session.soundness import check_contract, episode, first_difference
from vecsess.wire.values import Env, Fields, Given, Space, pack_value

MIN_STEPS, MAX_STEPS = 50, 20_000
SAME_STEPS = 300  # that two runs must agree on
CHECKED_STEPS = 300


def main() -> None:
    """Reads what to examine from argv, writes what was found as JSON into a file."""
    asked = json.loads(sys.argv[1])
    result = Path(asked["result"])
    found: Fields = {}
    try:
        source = Source.of(asked["env"], asked["make_kwargs"], 1)
        for module in (*source.modules, *asked["preload"]):
            importlib.import_module(module)
        watch = Watch(asked["call_s"])
        probe = Probe(asked["env"], asked["make_kwargs"], found, watch)
        for _ in probe.run(asked["budget_s"]):
            result.write_text(json.dumps(found))  # kept whatever comes then
        faulthandler.cancel_dump_traceback_later()
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        found["error"] = {
            "type": type(error).__name__,
            "message": str(error),
            "place": f"{last.name}, {last.filename}:{last.lineno}",
        }
    result.write_text(json.dumps(found))


class Watch:
    """Ends this process, with its stack on stderr, where one call takes too long.

    Args:
        call_s: how long one may take.
    """

    def __init__(self, call_s: float) -> None:
        self._call_s, self._armed_s = call_s, 0.0

    def going_on(self) -> None:
        """A call returned, and the next one begins."""
        if time.monotonic() - self._armed_s > self._call_s / 10:  # it starts a thread each time
            faulthandler.dump_traceback_later(self._call_s, exit=True)
            self._armed_s = time.monotonic()


class Probe:
    """Runs one environment and notes what it sees.

    Args:
        env_id: an id, also `module:EnvId`.
        make_kwargs: for `gymnasium.make`.
        found: where to note it, so that what was seen before an error is kept.
        watch: what to tell before each call.
    """

    def __init__(self, env_id: str, make_kwargs: Fields, found: Fields, watch: Watch) -> None:
        self._id, self._kwargs, self.found, self._watch = env_id, make_kwargs, found, watch

    def run(self, budget_s: float) -> Iterator[None]:
        """Does all of it, the cheap and the telling first; times steps for this long.

        Yields:
            Nothing, after each part.
        """
        began_s = time.perf_counter()
        env = self._make()
        self.found["make_s"] = time.perf_counter() - began_s
        self.found["spaces"] = [outline(env.observation_space), outline(env.action_space)]
        self._check_pickles(env)
        yield
        self._check_contract()
        yield
        self._check_determinism(env)
        yield
        self._time_steps(env, budget_s)
        self.found["threads"] = psutil.Process().num_threads() - self._own_threads
        env.close()
        self.found["printed"] = os.fstat(1).st_size
        yield

    def _make(self) -> Env:
        self._watch.going_on()
        self._own_threads = psutil.Process().num_threads()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return gymnasium.make(self._id, **self._kwargs)

    def _check_pickles(self, env: Env) -> None:
        for name, thing, dumps in (
            ("spec", env.spec, cloudpickle.dumps),
            ("env", env, pickle.dumps),
        ):
            try:
                dumps(thing)
                self.found[f"pickle_{name}"] = ""
            except Exception as error:
                self.found[f"pickle_{name}"] = f"{type(error).__name__}: {error}"

    def _check_contract(self) -> None:
        """Steps through a session, so that the rules are the very ones of a training run."""
        self.found["violation"] = ""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                check_contract(
                    lambda: gymnasium.make(self._id, **self._kwargs),
                    CHECKED_STEPS,
                    self._watch.going_on,
                )
            except VecsessError as error:
                self.found["violation"] = str(error)
        self.found["warnings"] = sorted({str(warning.message) for warning in caught})

    def _check_determinism(self, env: Env) -> None:
        """Runs the same seed and actions twice here, and once in another environment."""
        other = self._make()
        runs = [episode(each, SAME_STEPS, self._watch.going_on) for each in (env, env, other)]
        other.close()
        self.found["differs_again"] = first_difference(runs[0], runs[1])
        self.found["differs_elsewhere"] = first_difference(runs[0], runs[2])

    def _time_steps(self, env: Env, budget_s: float) -> None:
        """Times single steps, and watches memory and CPU time meanwhile."""
        env.action_space.seed(1)
        step_s: list[float] = []
        reset_s: list[float] = []
        lengths: list[int] = []
        memory: list[tuple[int, int]] = []
        process, ended, length = psutil.Process(), True, 0
        began_s, began_cpu_s, queued_s = time.perf_counter(), time.process_time(), _queued_s()
        unplain: set[str] = set()
        while len(step_s) < MIN_STEPS or time.perf_counter() - began_s < budget_s:
            self._watch.going_on()
            if ended:
                lengths.append(length)
                reset_s.append(_timed(env.reset)[0])
                length = 0
            action = env.action_space.sample()
            took_s, (_, _, terminated, truncated, info) = _timed(lambda a=action: env.step(a))
            step_s.append(took_s)
            length += 1
            ended = bool(terminated or truncated)
            if not _is_plain(info):
                unplain |= {str(key) for key, value in info.items() if not _is_plain(value)}
            if len(step_s) % 100 == 0:
                memory.append((len(step_s), process.memory_info().rss))
            if len(step_s) >= MAX_STEPS:
                break
        wall_s = time.perf_counter() - began_s
        self.found |= {
            "steps": len(step_s),
            "step_s": {str(q): float(np.quantile(step_s, q)) for q in (0.5, 0.9, 0.99, 1.0)},
            "reset_p50_s": float(np.median(reset_s)),
            "episode_length": float(np.mean(lengths[1:])) if len(lengths) > 1 else None,
            # Of the time in which it did not queue for a core: a busy machine is no waiting.
            "cpu_share": (time.process_time() - began_cpu_s)
            / max(1e-9, wall_s - (_queued_s() - queued_s)),
            "growth_bytes_per_step": _slope(memory),
            "growth_bytes": memory[-1][1] - memory[len(memory) // 3][1] if memory else 0,
            "rss_bytes": process.memory_info().rss,
            "unplain_info": sorted(unplain),
        }


def outline(space: Space) -> str:
    """Returns kind, shape and dtype of a space, without its bounds.

    Example:
        >>> outline(gymnasium.spaces.Box(0, 255, (84, 84, 4), np.uint8))
        'Box[84, 84, 4] uint8'
    """
    if isinstance(space, gymnasium.spaces.Box):
        return f"Box{list(space.shape)} {space.dtype}"
    if isinstance(space, gymnasium.spaces.Dict):
        return "Dict(" + ", ".join(f"{k}: {outline(v)}" for k, v in space.spaces.items()) + ")"
    return str(space)


def _timed(action: Given) -> tuple[float, Any]:
    began_s = time.perf_counter()
    result = action()
    return time.perf_counter() - began_s, result


def _queued_s() -> float:
    """Returns for how long this thread waited for a core; 0.0 where nobody counts."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def _is_plain(value: Given) -> bool:
    try:
        pack_value(value)
    except (TypeError, ValueError):
        return False
    return True


def _slope(memory: list[tuple[int, int]]) -> float:
    """Returns bytes per step, over the last two thirds: caches fill at first."""
    late = memory[len(memory) // 3 :]
    if len(late) < 3:
        return 0.0
    steps, sizes = np.array(late, float).T
    return float(np.polyfit(steps, sizes, 1)[0])


if __name__ == "__main__":
    main()
