"""What a machine gives to worker processes: cores, memory, descriptors, Linux's own calls."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource

import psutil

from vecsess.cli.doctor.findings import FAIL, NOTE, OK, WARN, Finding
from vecsess.cli.figures import plural, short, size
from vecsess.fleet.quota import Limits, own_limits, usable_cores

_PACKAGES = ("vecsess", "gymnasium", "numpy", "msgpack", "cloudpickle", "psutil")
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_DESCRIPTORS = 8  # that the trainer needs while a worker starts


def examine_machine() -> list[Finding]:
    """Returns what matters to worker processes, in the order in which one would ask."""
    limits = own_limits()
    return [
        _linux(),
        _cores(limits),
        _memory(limits),
        _descriptors(),
        _load(),
        _threads(),
        _packages(),
    ]


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
    enough = f"enough for about {plural(room, 'worker')}" if room else "too few for a worker"
    text = f"{soft:,} allowed, {enough}"
    if room < 64:
        higher = 64 + 64 * _DESCRIPTORS
        if hard != resource.RLIM_INFINITY and hard <= soft:
            advice = "the limit can't be raised from here: workers='auto' or 0 needs fewer"
        else:
            most = higher if hard == resource.RLIM_INFINITY else min(hard, higher)
            advice = f"raise the limit: ulimit -n {most}"
        return Finding(WARN, "open files", text, advice)
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
