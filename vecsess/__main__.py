"""The command line: `python -m vecsess <command> [options]`, also installed as `vecsess`."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, TextIO

from vecsess._version import __version__

COMMANDS = {
    "collect": "fill rollouts with random actions: how fast, and is every transition sound?",
    "inspect": "say what is in a file that collect --out wrote",
    "check": "hold a JSON rollout against a contract: how many transitions are good?",
    "top": "show the workers of a running session, live",
    "replay": "run a reproducer in this process, up to the step that ended a worker",
    "doctor": "say whether this machine, and an environment, are fit",
}
# What each optional module belongs to; a command that needs one says which extra to install.
EXTRAS = {"rich": "cli", "matplotlib": "plot"}

FAILED, INTERRUPTED, NOBODY_READS = 2, 130, 141


class _Parser(argparse.ArgumentParser):
    """Answers a mistake in one paragraph instead of a page of usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(FAILED, f"{self.prog}: {message}\n`{self.prog} --help` lists what it takes.\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: the arguments, `sys.argv[1:]` by default.

    Returns:
        The exit code: 0, 1 for what a command found bad, 2 for an error, 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = _parser().parse_args(arguments[:1]).command
    try:
        return _run(command, arguments[1:])
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # that is how rich tells of it
            return NOBODY_READS
        raise
    except BrokenPipeError:  # `vecsess collect | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOBODY_READS


def _run(command: str, arguments: list[str]) -> int:
    """Imports the command, parses its arguments and runs it; its errors become a paragraph."""
    _see_current_directory()
    try:
        module = importlib.import_module(f"vecsess.cli.{command}")
        from vecsess.cli.failures import EXPECTED, explain
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in EXTRAS:
            raise
        extra = EXTRAS[missing]
        return _complain(
            f"vecsess {command} needs {missing}, which is not installed. "
            f"Install it with: {sys.executable} -m pip install 'vecsess[{extra}]'"
        )
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # since vecsess/__init__.py
        signal.signal(signal.SIGINT, signal.default_int_handler)
    parser = _Parser(prog=f"vecsess {command}", description=COMMANDS[command])
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    module.add_arguments(parser)
    options = parser.parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _say_warning
            return int(module.run(options))
    except BrokenPipeError:
        raise
    except EXPECTED as error:
        if options.debug:
            raise
        return _complain(explain(error))


def _say_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    del category, filename, lineno, file, line  # a line for the user, who can't change ours
    print(f"warning: {message}", file=sys.stderr)


def _complain(text: str) -> int:
    sys.stdout.flush()
    print(f"error: {text}", file=sys.stderr)
    return FAILED


def _see_current_directory() -> None:
    """Lets `module:EnvId` name a module here, as `python -m` does and a console script does not."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)


def _parser() -> argparse.ArgumentParser:
    lines = "\n".join(f"  {name:<10}{about}" for name, about in COMMANDS.items())
    parser = _Parser(
        prog="vecsess",
        description="PPO batches from Gymnasium environments in worker processes.",
        epilog=f"commands:\n{lines}\n\n`vecsess <command> --help` lists a command's options.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"vecsess {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="command", help="see below")
    return parser


if __name__ == "__main__":
    sys.exit(main())
