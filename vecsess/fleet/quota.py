"""What the control groups of this process allow: cores and memory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 60  # cgroup v1 writes a number near 2**63 where there is no limit


@dataclass(frozen=True, slots=True)
class Limits:
    """What the control group of this process allows; None where it says nothing."""

    cores: float | None
    memory_bytes: int | None


def own_limits() -> Limits:
    """Returns what holds for this process."""
    return read_limits(_CGROUPS, Path("/proc/self/cgroup"))


def usable_cores(limits: Limits) -> float:
    """Returns how many cores this process can really use."""
    affine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    return min(affine, limits.cores or affine)


def read_limits(root: Path, membership: Path) -> Limits:
    """Reads the limits of a control group and of those above it, version 1 or 2.

    Args:
        root: where control groups are mounted.
        membership: the list of groups of a process.
    """
    cores: list[float] = []
    memory: list[int] = []
    for folder in _group_folders(root, membership):
        quota = _words(folder / "cpu.max") or [
            *_words(folder / "cpu.cfs_quota_us"),
            *_words(folder / "cpu.cfs_period_us"),
        ]
        if len(quota) == 2 and quota[0].isdecimal() and quota[1].isdecimal():
            cores.append(int(quota[0]) / int(quota[1]))
        for name in ("memory.max", "memory.limit_in_bytes"):
            words = _words(folder / name)
            if words and words[0].isdecimal() and int(words[0]) < _UNLIMITED:
                memory.append(int(words[0]))
    return Limits(min(cores, default=None), min(memory, default=None))


def _group_folders(root: Path, membership: Path) -> list[Path]:
    """Returns the folder of each group of the process, and those of its parents."""
    folders: dict[Path, None] = {}
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        for name in {controllers, *controllers.split(",")} if controllers else {""}:
            top = root / name
            below = top / group.strip("/")
            for folder in (below, *below.parents):
                folders[folder] = None
                if folder in (top, root):
                    break
            folders[top] = None  # inside of a container the group's path may not exist
    return list(folders)


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
