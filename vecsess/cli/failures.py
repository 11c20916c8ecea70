"""What a command says when it fails: one paragraph, with what to do next."""

from __future__ import annotations

import errno
import re

import gymnasium

from vecsess.errors import (
    ContractViolation,
    EnvError,
    VecsessError,
    WorkerDied,
    WorkerTimeout,
)


class CommandError(Exception):
    """A command can't go on; the message is the paragraph that the user reads."""


# Anything else is a mistake of ours, whose traceback is wanted.
EXPECTED = (CommandError, VecsessError, gymnasium.error.Error, OSError)

_ADVICE = {
    "NameNotFound": "Gymnasium's ids are listed by `python -c 'import gymnasium; "
    "gymnasium.pprint_registry()'`; an id of another package is written module:EnvId.",
    "NamespaceNotFound": "Name the module that registers it: module:EnvId.",
    "VersionNotFound": "Gymnasium's ids are listed by `python -c 'import gymnasium; "
    "gymnasium.pprint_registry()'`.",
    "ModuleNotFoundError": "Install that package in this Python, or run where the module lies.",
    "DependencyNotInstalled": "",  # says so itself
}


def explain(error: BaseException) -> str:
    """Returns what happened and what to do next, without a traceback.

    Args:
        error: one of `EXPECTED`.

    Example:
        >>> explain(CommandError("--out: the folder does not exist; make it first"))
        '--out: the folder does not exist; make it first'
    """
    if isinstance(error, EnvError):
        return _sentences(str(error), _raised_at(error), _advice_for(error))
    if isinstance(error, VecsessError):
        return _sentences(brief(str(error)), _advice_for(error))
    if isinstance(error, OSError) and error.errno == errno.ENOSPC and not error.filename:
        return "no space is left where the output goes, or in /dev/shm or /tmp: make room there"
    return str(error) or type(error).__name__


def brief(message: str) -> str:
    r"""Returns a message with one line of the worker's last output, the one that tells most.

    Example:
        >>> brief("killed; its last output:\n-- its stack\n  File 'a', line 3 in step\n  File 'b'")
        "killed; its last output: File 'a', line 3 in step"
    """
    head, found, output = message.partition("its last output:\n")
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if not found or not lines:
        return message
    frames = [line for line in lines if line.startswith("File ")]
    stack_first = frames[0] if "-- its stack" in output and frames else lines[-1]
    return f"{head}its last output: {stack_first}"


def _sentences(*parts: str) -> str:
    """Joins what is there to one paragraph, each part ending in a full stop."""
    texts = [re.sub(r"\s*\n\s*", " ", part.strip()) for part in parts if part.strip()]
    return " ".join(text if text.endswith((".", "!", "?", "`")) else f"{text}." for text in texts)


def _raised_at(error: EnvError) -> str:
    """Returns file and line of the frame that raised, the last of the worker's traceback."""
    frames = re.findall(
        r'^  File "(.+)", line (\d+), in (\S+)', error.remote_traceback, re.MULTILINE
    )
    if not frames or "/gymnasium/envs/registration.py" in frames[-1][0]:
        return ""
    file, line, function = frames[-1]
    return f"It was raised in {function}, {file}:{line}"


def _advice_for(error: VecsessError) -> str:
    if isinstance(error, EnvError):
        return _ADVICE.get(
            error.remote_type,
            "--workers 0 --debug runs it in this process and shows the whole traceback.",
        )
    if isinstance(error, ContractViolation):
        return "Correct the environment; `vecsess doctor --env ...` shows how it behaves."
    if isinstance(error, WorkerDied):
        return "--workers 0 runs it in this process, where a debugger can look at it."
    if isinstance(error, WorkerTimeout):
        return "--step-timeout sets the limit here."
    return ""
