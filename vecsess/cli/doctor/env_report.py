"""What the doctor says of an environment: the probe's figures, judged as a strict user would."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from vecsess.cli.doctor.findings import FAIL, NOTE, OK, WARN, Finding
from vecsess.cli.doctor.trials import ACTING
from vecsess.cli.failures import CommandError
from vecsess.cli.figures import seconds, short, size
from vecsess.errors import hint_at_envs
from vecsess.fleet.reports import printable
from vecsess.fleet.worker import describe_exit
from vecsess.wire.values import Fields

CALL_S = 20.0  # for one call of the environment, making it too
PROBE_TIMEOUT_S = 120.0  # whatever its calls take
LEAK_BYTES = 2 * 2**20
WAITING_SHARE = 0.5  # below it an environment mostly waits for something else
TIE = 0.9  # rates this close are equal, and then the stronger isolation wins
_PACKAGE = f"{Path(__file__).absolute().parents[2]}/"  # not by its name: a clone has the same

Found = Fields


def examine_env(
    env_id: str, make_kwargs: Fields, preload: list[str], n: int, call_s: float = CALL_S
) -> list[Finding]:
    """Runs the environment in a process of its own, then in small sessions.

    Args:
        env_id: an id, also `module:EnvId`.
        make_kwargs: for `gymnasium.make`.
        preload: modules to import before.
        n: how many environments the recommendation is for.
        call_s: how long one call of it may take.

    Raises:
        CommandError: it could not be made.
    """
    found = probe(env_id, make_kwargs, preload, call_s=call_s)
    if "error" in found and "spaces" not in found:
        raise CommandError(_could_not(env_id, found["error"]))
    findings = judge(found)
    if not any(finding.level == FAIL for finding in findings):
        asked = {"env": env_id, "make_kwargs": make_kwargs, "preload": preload, "n": n}
        tried = _run_apart("trials", asked)
        if "rates" in tried:
            findings.append(recommend(tried["rates"], found["cpu_share"], n))
            findings += inference(tried["rates"])
        else:
            why = tried.get("error") or tried["ended"]
            findings.append(Finding(FAIL, "workers", f"in a session: {why}"))
    return findings


def probe(
    env_id: str,
    make_kwargs: Fields,
    preload: list[str],
    budget_s: float = 3.0,
    call_s: float = CALL_S,
) -> Found:
    """Returns what the probe found.

    Args:
        env_id: an id, also `module:EnvId`.
        make_kwargs: for `gymnasium.make`.
        preload: modules to import before.
        budget_s: for how long steps are timed.
        call_s: how long one call of the environment may take.
    """
    asked = {"env": env_id, "make_kwargs": make_kwargs, "preload": preload}
    return _run_apart("env_probe", {**asked, "budget_s": budget_s, "call_s": call_s})


def _run_apart(program: str, asked: Fields) -> Found:
    """Runs a program of this package that runs the environment; its output is kept from ours."""
    with tempfile.TemporaryDirectory() as folder:
        result, output = Path(folder) / "result.json", Path(folder) / "output"
        arguments = json.dumps({**asked, "result": str(result)})
        with output.open("wb") as stdout, (Path(folder) / "errors").open("w+b") as stderr:
            command = [sys.executable, "-m", f"vecsess.cli.doctor.{program}", arguments]
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr
            )
            try:
                how = describe_exit(process.wait(PROBE_TIMEOUT_S))
            except subprocess.TimeoutExpired:
                how = f"no end within {PROBE_TIMEOUT_S:.0f} s"
            finally:
                process.kill()
                process.wait()
            stderr.seek(0)
            said = _plain(stderr.read().decode(errors="replace"))
        found: Found = json.loads(result.read_text()) if result.exists() else {}
        if process.returncode or how.startswith("no end"):
            found["ended"] = _ended(how, said)
        found["printed_text"] = _plain(output.read_text(errors="replace")).strip()[:40]
        return found


def _plain(text: str) -> str:
    """Returns text without the colours that Gymnasium writes into warnings and errors."""
    return printable(re.sub(r"\x1b\[[0-9;]*m", "", text))


def _ended(how: str, said: str) -> str:
    if said.startswith("Timeout (") or "\nTimeout (" in said:
        frames = re.findall(r'File "(.+)", line (\d+) in (\w+)', said)
        others = (frame for frame in frames if not frame[0].startswith(_PACKAGE))
        own = next(others, frames[0] if frames else None)
        place = f": it is in {own[2]}, {own[0]}:{own[1]}" if own else ""
        return f"a call does not return{place}"
    lines = said.strip().splitlines()
    last = f"; the last it said was: {lines[-1]}" if lines else ""
    if how.startswith("no end"):
        return f"its trial came to {how}: it is slow, or the machine is busy{last}"
    return f"it ended its process with {how}{last or '; it said nothing'}"


def _could_not(env_id: str, error: dict[str, str]) -> str:
    message = _plain(error["message"])
    hint = hint_at_envs(error["type"], message)
    text = f"{env_id} raised {error['type']}: {message.rstrip('.')}{hint}"
    if hint:
        return text
    if "gymnasium" in error["place"] and "registration" in error["place"]:
        return f"{text}. An id of a module of yours is written module:EnvId"
    return f"{text} (in {error['place']}). Correct it, then ask again"


def judge(found: Found) -> list[Finding]:
    """Returns a finding for each thing that was looked at."""
    checks = {
        "spaces": _spaces,
        "warnings": _contract,
        "differs_elsewhere": _determinism,
        "pickle_env": _pickles,
        "printed": _prints,
        "unplain_info": _infos,
        "step_s": _steps,
        "rss_bytes": _memory,
        "threads": _threads,
    }
    findings = [check(found) for known, check in checks.items() if known in found]
    error = found.get("error")
    if error is not None and not found.get("violation"):
        text = f"raised {error['type']}: {_plain(error['message'])} (in {error['place']})"
        findings.append(Finding(FAIL, "running", text, "correct it, then ask again"))
    if "ended" in found:
        findings.append(Finding(FAIL, "running", found["ended"], _APART))
    return findings


_APART = (
    "in a session the others go on, each in a process of its own, with deadlines; "
    "--call-timeout gives a slow one more time here"
)


def _spaces(found: Found) -> Finding:
    observations, actions = found["spaces"]
    return Finding(OK, "spaces", f"observations {observations}, actions {actions}")


def _contract(found: Found) -> Finding:
    if found["violation"]:
        violation = _plain(found["violation"])
        return Finding(FAIL, "contract", violation, "a session refuses this; correct it")
    if found["warnings"]:
        casts = [text for text in found["warnings"] if ": cast from " in text]
        more = len(found["warnings"]) - 1
        text = _plain((casts or found["warnings"])[0]) + (f" (and {more} more)" if more else "")
        advice = "say the true dtype in the space, or cast in step"
        return Finding(WARN, "contract", text, advice if casts else "read it; a session goes on")
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


def inference(rates: dict[str, float]) -> list[Finding]:
    """Says whether it pays that the workers act; nothing where they can't."""
    if ACTING not in rates:
        return []
    best = max(rate for name, rate in rates.items() if name != ACTING)
    text = (
        f"a random policy at the workers gives {rates[ACTING] / best:.2f} times the best of these"
    )
    if rates[ACTING] < best / TIE:
        return [Finding(OK, "inference", f"{text}: no reason to send one there")]
    advice = f"workers={ACTING} for a small one that can be pickled: docs/inference.md"
    return [Finding(OK, "inference", text, advice)]
