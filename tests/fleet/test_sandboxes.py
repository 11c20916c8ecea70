"""What a sandbox or a container refuses is done without, and its quota is counted."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from tests.processes import run_script
from vecsess.fleet.plan import group

# Number of the call on x86-64. A filter holds for this process and all that it starts.
EPERM, ENOSYS = 1, 38
REFUSED = {
    "setpgid": 109,
    "setpriority": 141,
    "sched_setscheduler": 144,
    "sched_setaffinity": 203,
    "mlock": 149,
    "prctl": 157,
}
PREAMBLE = """
import ctypes, struct, sys

def refuse(numbers, errno):
    load, same, done = 0x20, 0x15, 0x06
    rules = [(load, 0, 0, 0)]
    for place, number in enumerate(numbers):
        rules.append((same, len(numbers) - place, 0, number))
    rules += [(done, 0, 0, 0x7FFF0000), (done, 0, 0, 0x00050000 | errno)]
    code = b"".join(struct.pack("HBBI", *rule) for rule in rules)
    buffer = ctypes.create_string_buffer(code)
    program = struct.pack("HxxxxxxP", len(rules), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, program, 0, 0):
        sys.exit(77)
"""
RUN = """
from vecsess import VecCheckedSession

refuse([int(number) for number in sys.argv[2].split(",")], int(sys.argv[3]))
options = dict(start_method=sys.argv[1], affinity="spread", niceness=3)
with VecCheckedSession("CartPole-v1", n=2, **options) as vec:
    vec.reset(seed=0)
    print(vec.step([0, 1])[1].tolist(), len(vec.health()))
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers of calls are x86-64's")
@pytest.mark.parametrize(
    ("refused", "errno", "method"),
    [(name, EPERM, "fork") for name in REFUSED]
    + [("all of them", errno, method) for errno in (EPERM, ENOSYS) for method in ("fork", "spawn")],
)
def test_what_is_refused_is_done_without(
    refused: str, errno: int, method: str, tmp_path: Path
) -> None:
    numbers = list(REFUSED.values()) if refused == "all of them" else [REFUSED[refused]]
    text = ",".join(map(str, numbers))
    done = run_script(PREAMBLE + RUN, tmp_path, method, text, str(errno))
    if done.returncode == 77:
        pytest.skip("this system allows no filter of system calls")
    assert done.stdout == "[1.0, 1.0] 2\n", done.stderr
    assert done.stderr == ""


def test_the_filter_refuses(tmp_path: Path) -> None:
    if platform.machine() != "x86_64":
        pytest.skip("the numbers of calls are x86-64's")
    text = PREAMBLE + "import os\nrefuse([109], 1)\nos.setpgid(0, 0)\n"
    done = run_script(text, tmp_path)
    if done.returncode == 77:
        pytest.skip("this system allows no filter of system calls")
    assert "PermissionError" in done.stderr
    assert os.getpgid(0) > 0


@pytest.mark.parametrize(("quota", "expected"), [("150000", 1), ("20000", 1), ("max", None)])
def test_auto_counts_the_quota_of_a_container(
    quota: str, expected: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text(f"{quota} 100000\n")
    monkeypatch.setattr("vecsess.fleet.quota._CGROUPS", tmp_path)
    affine = len(os.sched_getaffinity(0))
    assert len(group(64, "auto")) == min(64, affine, expected or affine)
