"""The program that is spawned: a fork server for vecsess, or a plain server for any language."""

from __future__ import annotations

import argparse
import json
import socket
import sys
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


def main(arguments: list[str] | None = None) -> int:
    """Runs the server that the arguments ask for; returns the exit code."""
    parser = argparse.ArgumentParser(prog="gym_server", description=__doc__)
    parser.add_argument("--fork-server", type=int, metavar="FD", help="a socket to the manager")
    parser.add_argument("--manager", type=int, metavar="PID", help="end with this process")
    parser.add_argument("--worker", metavar="FDS", help="command pipe, reply pipe and slab")
    parser.add_argument("--env-id", default="CartPole-v1", help="as for gymnasium.make")
    parser.add_argument(
        "--make-kwargs", type=_json_object, default={}, metavar="JSON", help="its arguments"
    )
    parser.add_argument("--protocol", choices=("jsonl", "msgpack"), default="jsonl")
    options = parser.parse_args(arguments)
    if options.worker is None and options.fork_server is None:
        return _serve_env(options.env_id, options.make_kwargs, options.protocol)
    from vecsess.workers.fork_server import ForkServer
    from vecsess.workers.process import run_worker

    if options.worker:
        return run_worker(lambda: [int(fd) for fd in options.worker.split(",")])
    with socket.socket(fileno=options.fork_server) as connection:
        ForkServer(connection, options.manager).run()
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


def _serve_env(env_id: str, make_kwargs: dict[str, Any], protocol: str) -> int:
    """Serves one environment on stdin and stdout, to a client in any language."""
    from vecsess.bridge.transports import take_streams

    read_fd, write_fd = take_streams()
    # Not earlier: gymnasium imports plugins, and they may print.
    from vecsess.bridge.env_server import EnvServer
    from vecsess.bridge.transports import PROTOCOLS, converse

    server = EnvServer(env_id, make_kwargs)
    try:
        converse(server, PROTOCOLS[protocol](read_fd, write_fd))
    except KeyboardInterrupt:
        return 130
    finally:
        server.close()
    return 0


if __name__ == "__main__":
    _find_package()
    sys.exit(main())
