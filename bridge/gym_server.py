"""The program that is spawned: a fork server for vecsess, or a plain server for any language."""

from __future__ import annotations

import argparse
import socket
import sys
from pathlib import Path


def _find_package() -> None:
    """Makes `vecsess` importable from a bare checkout, where this file is run by its path."""
    for folder in Path(__file__).absolute().parents:
        if (folder / "vecsess" / "__init__.py").is_file():
            sys.path.insert(0, str(folder))
            return


def main(arguments: list[str] | None = None) -> int:
    """Runs the server that the arguments ask for; returns the exit code."""
    parser = argparse.ArgumentParser(prog="gym_server", description=__doc__)
    parser.add_argument("--fork-server", type=int, metavar="FD", help="a socket to the manager")
    parser.add_argument("--manager", type=int, metavar="PID", help="end with this process")
    parser.add_argument("--worker", metavar="FDS", help="command pipe, reply pipe and slab")
    options = parser.parse_args(arguments)
    from vecsess.workers.fork_server import ForkServer, run_worker

    if options.worker:
        return run_worker([int(fd) for fd in options.worker.split(",")])
    if options.fork_server is not None:
        connection = socket.socket(fileno=options.fork_server)
        ForkServer(connection, options.manager).run()
        return 0
    parser.error("expected --fork-server")
    return 2


if __name__ == "__main__":
    _find_package()
    sys.exit(main())
