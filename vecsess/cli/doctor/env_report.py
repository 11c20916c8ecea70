"""What the doctor says of an environment: the probe's figures, judged as a strict user would."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from vecsess.cli.doctor.findings import FAIL, NOTE, OK, WARN, Finding
from vecsess.cli.failures import CommandError
from vecsess.cli.figures import seconds, short, size
from vecsess.fleet.worker import describe_exit

PROBE_TIMEOUT_S = 120.0
LEAK_BYTES = 2 * 2**20
WAITING_SHARE = 0.5  # below it an environment mostly waits for something else
TIE = 0.9  # rates this close are equal, and then the stronger isolation wins

Found = dict[str, Any]


def examine_env(
    env_id: str, make_kwargs: dict[str, Any], preload: list[str], n: int
) -> list[Finding]:
    """Runs the environment in a process of its own, then in small sessions.

    Args:
        env_id: an id, also `module:EnvId`.
        make_kwargs: for `gymnasium.make`.
        preload: modules to import before.
        n: how many environments the recommendation is for.

    Raises:
        CommandError: it could not be made, or its process died or hung.
    """
    found = probe(env_id, make_kwargs, preload)
    if "error" in found and "step_s" not in found:
        raise CommandError(_could_not(env_id, found["error"]))
    findings = judge(found)
    if not any(finding.level == FAIL for finding in findings):
        asked = {"env": env_id, "make_kwargs": make_kwargs, "preload": preload, "n": n}
        tried = _run_apart("trials", asked)
        if "error" in tried:
            raise CommandError(f"{env_id} in a session: {tried['error']}")
        findings.append(recommend(tried["rates"], found["cpu_share"], n))
    return findings


def probe(
    env_id: str, make_kwargs: dict[str, Any], preload: list[str], budget_s: float = 3.0
) -> Found:
    """Returns what the probe found.

    Args:
        env_id: an id, also `module:EnvId`.
        make_kwargs: for `gymnasium.make`.
        preload: modules to import before.
        budget_s: for how long steps are timed.

    Raises:
        CommandError: the process died or hung.
    """
    asked = {"env": env_id, "make_kwargs": make_kwargs, "preload": preload, "budget_s": budget_s}
    return _run_apart("env_probe", asked)


def _run_apart(program: str, asked: dict[str, Any]) -> Found:
    """Runs a program of this package that runs the environment; its output is kept from ours."""
    with tempfile.TemporaryDirectory() as folder:
        result, output = Path(folder) / "result.json", Path(folder) / "output"
        arguments = json.dumps({**asked, "result": str(result)})
        with output.open("wb") as stdout, (Path(folder) / "errors").open("w+b") as stderr:
            try:
                done = subprocess.run(
                    [sys.executable, "-m", f"vecsess.cli.doctor.{program}", arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=stderr,
                    timeout=PROBE_TIMEOUT_S,
                    check=False,
                )
            except subprocess.TimeoutExpired as error:
                raise CommandError(_took_too_long(asked["env"])) from error
            stderr.seek(0)
            said = stderr.read().decode(errors="replace").strip().splitlines()
        if not result.exists():
            raise CommandError(_died(asked["env"], done.returncode, said))
        found: Found = json.loads(result.read_text())
        found["printed_text"] = output.read_text(errors="replace").strip()[:40]
        return found


def _took_too_long(env_id: str) -> str:
    return (
        f"{env_id} was not through with its checks after {PROBE_TIMEOUT_S:.0f} s: a call of it "
        "hangs, or takes seconds; `vecsess collect --step-timeout 5` tells"
    )


def _died(env_id: str, code: int, said: list[str]) -> str:
    last = said[-1] if said else "nothing"
    return (
        f"{env_id} ended its process with {describe_exit(code)}; the last it said was: {last}. "
        "In a session each environment has a process of its own, and the batch survives"
    )


def _could_not(env_id: str, error: dict[str, str]) -> str:
    text = f"{env_id} raised {error['type']}: {error['message'].rstrip('.')}"
    if "gymnasium" in error["place"] and "registration" in error["place"]:
        return f"{text}. An id of a module of yours is written module:EnvId"
    return f"{text} (in {error['place']}). Correct it, then ask again"


def judge(found: Found) -> list[Finding]:
    """Returns a finding for each thing that was looked at."""
    checks = (
        _spaces,
        _contract,
        _determinism,
        _pickles,
        _prints,
        _infos,
        _steps,
        _memory,
        _threads,
    )
    return [check(found) for check in checks]


def _spaces(found: Found) -> Finding:
    observations, actions = found["spaces"]
    return Finding(OK, "spaces", f"observations {observations}, actions {actions}")


def _contract(found: Found) -> Finding:
    if found["violation"]:
        return Finding(FAIL, "contract", found["violation"], "a session refuses this; correct it")
    if found["warnings"]:
        more = len(found["warnings"]) - 1
        text = found["warnings"][0] + (f" (and {more} more)" if more else "")
        return Finding(WARN, "contract", text, "say the true dtype in the space, or cast in step")
    return Finding(OK, "contract", "shapes, dtypes, flags and finite values as its spaces say")


def _determinism(found: Found) -> Finding:
    again, elsewhere = found["differs_again"], found["differs_elsewhere"]
    if again is None and elsewhere is None:
        return Finding(OK, "determinism", "same seed, same actions, same episode: replay works")
    where = "in the same environment" if again is not None else "in another one"
    step = again if again is not None else elsewhere
    at = "at its reset" if step == 0 else f"from step {step} on"
    return Finding(
        WARN,
        "determinism",
        f"the same seed and actions give another episode {where}, {at}",
        "use self.np_random for all randomness, and set all state in reset; else a lost worker "
        "costs a marked truncation",
    )


def _pickles(found: Found) -> Finding:
    if found["pickle_spec"]:
        return Finding(
            FAIL,
            "pickling",
            f"its arguments can't be pickled: {found['pickle_spec']}",
            "make them inside of the environment, or pass a callable",
        )
    env = "so can it" if not found["pickle_env"] else "it can't, and need not"
    return Finding(OK, "pickling", f"its spec can be pickled; {env}")


def _prints(found: Found) -> Finding:
    if not found["printed"]:
        return Finding(OK, "stdout", "nothing printed")
    text = f"it prints to stdout ({size(found['printed'])}): {found['printed_text']!r}"
    return Finding(NOTE, "stdout", text, "harmless here: a worker's stdout goes to its stderr")


def _infos(found: Found) -> Finding:
    if found["unplain_info"]:
        keys = ", ".join(found["unplain_info"])
        return Finding(
            NOTE, "infos", f"no plain data: {keys}", "left out: only plain data leaves a worker"
        )
    return Finding(OK, "infos", "plain data")


def _steps(found: Found) -> Finding:
    times = found["step_s"]
    quantiles = f"p50 {seconds(times['0.5'])}, p99 {seconds(times['0.99'])}"
    text = f"{quantiles}, max {seconds(times['1.0'])}; reset {seconds(found['reset_p50_s'])}"
    length = found["episode_length"]
    ending = f"episodes of {short(length)} steps" if length else "no episode ended"
    text += f"; made in {seconds(found['make_s'])}; {ending} in {found['steps']:,} steps"
    if times["0.99"] > 20 * times["0.5"] and times["0.99"] > 1e-3:
        return Finding(NOTE, "steps", text, "rare slow steps hold up the others of a lockstep")
    return Finding(OK, "steps", text)


def _memory(found: Found) -> Finding:
    slope, growth = found["growth_bytes_per_step"], found["growth_bytes"]
    text = f"{size(found['rss_bytes'])} with its libraries"
    if growth > LEAK_BYTES and slope > 0:
        million = size(slope * 1e6)
        return Finding(
            WARN,
            "memory",
            f"{text}; grew by {size(growth)}, which is {million} in a million steps",
            "something is kept from step to step; find it before a long run",
        )
    return Finding(OK, "memory", f"{text}; does not grow")


def _threads(found: Found) -> Finding:
    if found["threads"] > 0:
        text = f"it started {found['threads']} that stay"
        return Finding(NOTE, "threads", text, "with a worker per core they compete for cores")
    return Finding(OK, "threads", "it starts none that stay")


# --- which workers -------------------------------------------------------------------------------


def recommend(rates: dict[str, float], cpu_share: float, n: int) -> Finding:
    """Names the fastest grouping into processes, or the one of better isolation where they tie.

    Args:
        rates: steps/s by `workers`: "None", "'auto'" and "0".
        cpu_share: CPU time of a step by its time; low where it waits for something else.
        n: how many environments were tried.
    """
    measured = ", ".join(f"{name}: {short(rate)}" for name, rate in rates.items())
    chosen, why = "'auto'", "the faster one"
    if rates["None"] >= TIE * rates["'auto'"]:
        chosen, why = "None", "the fastest or nearly, and each environment is on its own"
        if cpu_share < WAITING_SHARE:
            why = "it mostly waits, so more processes than cores help"
    if rates["0"] > rates[chosen] / TIE:
        share = rates[chosen] / rates["0"]
        why = (
            f"a step is cheaper than a message to another process; {chosen} gives {share:.0%} of "
            "it, and protects the trainer from a crash or a hang"
        )
        chosen = "0"
    advice = f"workers={chosen}: {why}"
    text = f"steps/s of {n} environments by workers: {measured}"
    return Finding(OK, "workers", text, advice)
