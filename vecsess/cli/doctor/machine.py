"""What a machine gives to worker processes: cores, memory, descriptors, Linux's own calls."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
from dataclasses import dataclass
from pathlib import Path

import psutil

from vecsess.cli.doctor.findings import FAIL, NOTE, OK, WARN, Finding
from vecsess.cli.figures import short, size

_CGROUPS = Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 60  # cgroup v1 writes a number near 2**63 where there is no limit
_PACKAGES = ("vecsess", "gymnasium", "numpy", "msgpack", "cloudpickle", "psutil")
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_DESCRIPTORS = 8  # that the trainer needs while a worker starts


@dataclass(frozen=True, slots=True)
class Limits:
    """What the control group of this process allows; None where it says nothing."""

    cores: float | None
    memory_bytes: int | None


def examine_machine() -> list[Finding]:
    """Returns what matters to worker processes, in the order in which one would ask."""
    limits = read_limits(_CGROUPS, Path("/proc/self/cgroup"))
    return [
        _linux(),
        _cores(limits),
        _memory(limits),
        _descriptors(),
        _load(),
        _threads(),
        _packages(),
    ]


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


def _linux() -> Finding:
    missing = [name for name in ("memfd_create", "pidfd_open") if not hasattr(os, name)]
    for name in ("memfd_create", "pidfd_open"):
        if name not in missing and not _works(name):
            missing.append(name)
    text = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    if missing:
        advice = f"no {' and no '.join(missing)}: only workers=0 works here"
        return Finding(FAIL, "system", text, advice)
    return Finding(OK, "system", f"{text}, memfd and pidfd work")


def _works(name: str) -> bool:
    try:
        fd = os.memfd_create("vecsess") if name == "memfd_create" else os.pidfd_open(os.getpid())
    except OSError:  # an old kernel, or a sandbox that forbids it
        return False
    os.close(fd)
    return True


def _cores(limits: Limits) -> Finding:
    usable, online = usable_cores(limits), os.cpu_count() or 1
    affine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    quota = "no quota" if limits.cores is None else f"quota {short(limits.cores)}"
    text = f"{short(usable)} usable (affinity {affine} of {online}, control group: {quota})"
    if usable < affine:
        return Finding(
            WARN,
            "cores",
            text,
            f"'auto' counts {affine}; say workers={max(1, int(usable))} to stay within the quota",
        )
    return Finding(OK, "cores", text)


def _memory(limits: Limits) -> Finding:
    memory = psutil.virtual_memory()
    limit = min(memory.total, limits.memory_bytes or memory.total)
    free = min(memory.available, limit)
    origin = "control group" if limit < memory.total else "machine"
    text = f"{size(free)} free of {size(limit)} ({origin})"
    if free < 2**30:
        return Finding(WARN, "memory", text, "group environments: workers='auto'")
    return Finding(OK, "memory", text)


def _descriptors() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return Finding(OK, "open files", "no limit")
    room = max(0, (soft - 64) // _DESCRIPTORS)
    text = f"{soft:,} allowed, enough for about {room:,} workers"
    if room < 64:
        return Finding(WARN, "open files", text, f"raise the limit: ulimit -n {max(hard, soft)}")
    return Finding(OK, "open files", text)


def _load() -> Finding:
    load, _, _ = os.getloadavg()
    cores = os.cpu_count() or 1
    text = f"{load:.1f} in the last minute, on {cores} cores"
    if load > 0.5 * cores:
        return Finding(NOTE, "load", text, "others use these cores; measurements will vary")
    return Finding(OK, "load", text)


def _threads() -> Finding:
    said = [f"{name}={os.environ[name]}" for name in _THREADS if name in os.environ]
    if not said:
        return Finding(OK, "threads", "not set here; workers get 1 each")
    text = f"{', '.join(said)}, workers get the same"
    if all(part.endswith("=1") for part in said):
        return Finding(OK, "threads", text)
    return Finding(NOTE, "threads", text, "more than 1 makes workers compete; unset them")


def _packages() -> Finding:
    versions = []
    for name in _PACKAGES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} from a checkout")
    return Finding(OK, "packages", ", ".join(versions))
