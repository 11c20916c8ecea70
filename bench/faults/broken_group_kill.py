"""Imported into a fork server, it leaves out what ends a worker's process group and its orphans."""

from __future__ import annotations

import sys

from vecsess.bench.faults.broken import kill_alone
from vecsess.workers import fork_server, remains

if "--fork-server" in sys.orig_argv:  # nowhere else
    vars(fork_server)["kill_group"] = kill_alone  # to break it is the purpose
    remains.Remains.sweep = lambda *_: None  # type: ignore[method-assign]
    remains.Remains.end = lambda *_: None  # type: ignore[method-assign]
