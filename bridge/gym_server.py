"""The program that is spawned: a fork server for vecsess, or a plain server for any language."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import pickle
import socket
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any


def _find_package() -> None:
    """Makes `vecsess` importable from a bare checkout, where this file is run by its path."""
    here = Path(__file__).absolute().parent
    if sys.path and Path(sys.path[0]) == here:
        del sys.path[0]  # Python put it there: our modules would hide others of the same names
    for folder in here.parents:
        if (folder / "vecsess" / "__init__.py").is_file():
            sys.path.insert(0, str(folder))
            return


class _FilesOffThePath:
    """Finds what the trainer had loaded by path; each file by the name that it has there."""

    def __init__(self, files: dict[str, str]) -> None:
        self._files = files

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Returns where a module is, None for those that any `import` finds."""
        del path, target
        if name not in self._files:
            return None
        return importlib.util.spec_from_file_location(name, self._files[name])


def _take_on(surroundings_fd: int) -> None:
    """Makes this interpreter look like the trainer's; nothing else may be imported before."""
    data = os.pread(surroundings_fd, os.fstat(surroundings_fd).st_size, 0)
    surroundings = pickle.loads(data)  # noqa: S301  # from the manager: code goes this way only
    own = [entry for entry in sys.path if entry not in surroundings["path"]]
    sys.path[:] = [*surroundings["path"], *own]
    sys.argv[:] = surroundings["arguments"]
    sys.meta_path.insert(0, _FilesOffThePath(surroundings["files"]))
    if surroundings["directory"] is not None:
        with contextlib.suppress(OSError):
            os.chdir(surroundings["directory"])


def main(arguments: list[str] | None = None) -> int:
    """Runs the server that the arguments ask for; returns the exit code."""
    parser = argparse.ArgumentParser(prog="gym_server", description=__doc__)
    parser.add_argument("--fork-server", type=int, metavar="FD", help="a socket to the manager")
    parser.add_argument("--manager", type=int, metavar="PID", help="end with this process")
    parser.add_argument("--worker", metavar="FDS", help="command pipe, reply pipe, slab, broadcast")
    parser.add_argument("--surroundings", type=int, metavar="FD", help="those of the trainer")
    parser.add_argument("--env-id", default="CartPole-v1", help="as for gymnasium.make")
    parser.add_argument(
        "--make-kwargs", type=_json_object, default={}, metavar="JSON", help="its arguments"
    )
    parser.add_argument("--protocol", choices=("jsonl", "msgpack"), default="jsonl")
    parser.add_argument("--debug", action="store_true", help="show where a start has failed")
    options = parser.parse_args(arguments)
    if options.worker is None and options.fork_server is None:
        return _serve_env(options)
    if options.surroundings is not None:
        _take_on(options.surroundings)
    from vecsess.workers.fork_server import ForkServer
    from vecsess.workers.process import run_worker

    if options.worker:
        if options.surroundings is not None:
            os.close(options.surroundings)
        return run_worker(lambda: [int(fd) for fd in options.worker.split(",")])
    with socket.socket(fileno=options.fork_server) as connection:
        connection.set_inheritable(False)  # a worker that held it could speak for the server
        ForkServer(connection, options.manager, options.surroundings).run()
    return 0


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"expected a JSON object, got {text!r}: {error}"
        ) from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"expected a JSON object, got {text!r}")
    return value


def _serve_env(options: argparse.Namespace) -> int:
    """Serves one environment on stdin and stdout, to a client in any language."""
    from vecsess.bridge.transports import take_streams

    read_fd, write_fd = take_streams()
    # Not earlier: gymnasium imports plugins, and they may print.
    from vecsess.bridge.env_server import EnvServer
    from vecsess.bridge.transports import PROTOCOLS, converse

    try:
        server = EnvServer(options.env_id, options.make_kwargs)
    except Exception as error:
        if options.debug:
            raise
        told = " ".join(f"{type(error).__name__}: {error}".split())
        sys.stderr.write(f"gym_server: {told} (--debug shows where)\n")
        return 1
    try:
        converse(server, PROTOCOLS[options.protocol](read_fd, write_fd))
    except KeyboardInterrupt:
        return 130
    finally:
        server.close()
    return 0


if __name__ == "__main__":
    _find_package()
    sys.exit(main())
