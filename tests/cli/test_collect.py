"""`vecsess collect`: what a newcomer sees, and what they see when it goes wrong."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.documents import CHECKOUT
from tests.processes import processes_below, wait_until
from tests.programs import run
from vecsess import VecCheckedSession, collect_rollout
from vecsess.collect.policies import RandomPolicy

STRANGE = "tests.cli.strange_envs:"
SMALL = ("-n", "4", "--horizon", "16", "--rollouts", "3")

pytestmark = pytest.mark.usefixtures("no_process_left")


def collect(*arguments: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    return run("-m", "vecsess", "collect", *arguments, cwd=CHECKOUT, code=code, **environment)


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-m", "vecsess", "collect", *arguments]
    return subprocess.Popen(
        command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """Returns the error, which is one paragraph and no traceback."""
    assert "Traceback" not in done.stdout + done.stderr
    (paragraph,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(paragraph) < 900
    return paragraph


# --- what is shown -------------------------------------------------------------------------------


def test_it_tells_the_progress_in_lines_and_then_two_tables() -> None:
    said = collect(*SMALL, "--workers", "2").stdout
    assert re.search(
        r"^rollout 3/3, 192 steps, [\d,]+ steps/s, return .*, 2 workers ready$", said, re.MULTILINE
    )
    for word in ("steps/s", "episodes", "return", "length", "invalid rows"):
        assert re.search(rf"^ {word} ", said, re.MULTILINE)
    rows = re.findall(r"^ +([01]) +(\d+) +ready +0 ", said, re.MULTILINE)
    assert [index for index, _ in rows] == ["0", "1"]
    assert len({pid for _, pid in rows}) == 2


def test_quiet_is_only_the_tables() -> None:
    said = collect(*SMALL, "--quiet").stdout
    assert "rollout 3/3" not in said
    assert "collected" in said


@pytest.mark.parametrize(("workers", "rows"), [(None, 4), ("auto", None), ("0", 1), ("3", 3)])
def test_a_row_for_each_worker(workers: str | None, rows: int | None) -> None:
    grouping = () if workers is None else ("--workers", workers)
    said = collect(*SMALL, "--quiet", *grouping).stdout
    expected = rows or min(4, len(os.sched_getaffinity(0)))
    assert len(re.findall(r"^ +\d+ +\d+ +ready ", said, re.MULTILINE)) == expected


def on_terminal(width: int) -> str:
    """Returns what a small collection shows on a terminal of this width."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    command = [sys.executable, "-m", "vecsess", "collect", *SMALL, "--workers", "2"]
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    with subprocess.Popen(
        command,
        cwd=CHECKOUT,
        stdout=theirs,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        env=environment,
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while data := os.read(ours, 4096):
                shown += data
        except OSError:  # the other end was closed
            os.close(ours)
    assert process.returncode == 0
    return shown.decode()


def test_a_terminal_gets_a_bar() -> None:
    shown = on_terminal(100)
    assert "3/3" in shown
    assert "━" in shown


def test_a_narrow_terminal_gets_fewer_figures_and_none_that_is_cut() -> None:
    shown = on_terminal(40)
    assert re.search(r"3/3.* [\d,]+ steps/s, return", re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", shown))
    assert "…" not in shown


# --- what is kept --------------------------------------------------------------------------------


def test_out_keeps_the_batch_that_the_library_collects(tmp_path: Path) -> None:
    out = tmp_path / "last batch.npz"
    said = collect(*SMALL, "--seed", "5", "--quiet", "--out", str(out)).stdout
    assert "vecsess inspect" in said
    with VecCheckedSession("CartPole-v1", n=4, workers=0) as vec:
        policy = RandomPolicy(vec.single_action_space)
        rollouts = [collect_rollout(vec, policy, 16, seed=5)]
        rollouts += [collect_rollout(vec, policy, 16) for _ in range(2)]
    with np.load(out, allow_pickle=False) as kept:
        assert np.array_equal(kept["observations"], rollouts[-1].observations)
        assert np.array_equal(kept["actions"], rollouts[-1].actions)
        assert np.array_equal(kept["next_values"], rollouts[-1].next_values)
        lengths = [episode.length for episode in rollouts[-1].episodes]
        assert kept["episode_lengths"].tolist() == lengths
    assert list(tmp_path.iterdir()) == [out]


def test_plot_draws_a_picture(tmp_path: Path) -> None:
    plot = tmp_path / "returns.png"
    collect(*SMALL, "--quiet", "--plot", str(plot))
    data = plot.read_bytes()
    assert data.startswith(b"\x89PNG")
    assert int.from_bytes(data[16:20], "big") > 800  # pixels wide


def test_an_environment_beside_the_user_is_found(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text(
        "import gymnasium\n"
        "def make(**kwargs): return gymnasium.make('CartPole-v1', **kwargs)\n"
        "gymnasium.register('Beside-v0', make)\n"
    )
    arguments = ("--env", "beside:Beside-v0", "--make-kwargs", '{"max_episode_steps": 5}')
    said = run(
        "-m", "vecsess", "collect", *SMALL, *arguments, "--preload", "beside", cwd=tmp_path
    ).stdout
    assert re.search(r"^ length +mean 5, min 5, max 5", said, re.MULTILINE)


# --- what goes wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--env", "CartPol-v1"), "Did you mean: `CartPole`"),
        (("--env", "nowhere:Env-v0"), "nowhere"),
        (("--preload", "no.such.module"), "--preload no.such.module: no such module"),
        (("--make-kwargs", '{"no_such": 1}'), "no_such"),
        (("--out", "/no/such/folder/batch.npz"), "does not exist"),
        (("--plot", "picture.nonsense"), "ends in one of"),
        (("--env", STRANGE + "Lying-v0"), "field 'reward': expected a finite number, got nan"),
        (("--env", STRANGE + "Raising-v0"), "KeyError: 'no such place'"),
    ],
)
def test_an_error_is_one_paragraph_that_says_what_to_do(
    arguments: tuple[str, ...], expected: str
) -> None:
    assert expected in complaint(collect(*SMALL, *arguments, code=2))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--make-kwargs", "{frameskip: 4}"), "expected a JSON object"),
        (("--make-kwargs", "[1]"), "expected a JSON object"),
        (("-n", "0"), "expected a whole number of at least 1"),
        (("--workers", "many"), "expected a number, 0 or auto"),
        (("--step-timeout", "-1"), "expected seconds above 0"),
        (("--horizons", "3"), "unrecognized arguments"),
    ],
)
def test_a_wrong_argument_is_refused_before_anything_starts(
    arguments: tuple[str, ...], expected: str
) -> None:
    done = collect(*arguments, code=2)
    assert expected in done.stderr
    assert "--help" in done.stderr
    assert len(done.stderr.splitlines()) == 2


def test_an_unknown_command_is_refused() -> None:
    assert "invalid choice: 'colect'" in run("-m", "vecsess", "colect", cwd=CHECKOUT, code=2).stderr


def test_debug_shows_the_traceback() -> None:
    done = collect(*SMALL, "--env", STRANGE + "Raising-v0", "--workers", "0", "--debug", code=1)
    assert "in raise_error" in done.stderr


def test_a_full_disk_costs_the_file_and_not_the_figures() -> None:
    done = collect(*SMALL, "--out", "/dev/full", code=2)
    assert "No space left on device" in complaint(done)
    assert "collected" in done.stdout


def test_no_room_for_what_is_printed_is_said() -> None:
    command = [sys.executable, "-m", "vecsess", "collect", *SMALL]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command, check=False, stdout=full, stderr=subprocess.PIPE, text=True, cwd=CHECKOUT
        )
    assert done.returncode == 2
    assert done.stderr == (
        "error: no space is left where the output goes, or in /dev/shm or /tmp: make room there\n"
    )


@pytest.mark.parametrize(("module", "extra"), [("rich", "cli"), ("matplotlib", "plot")])
def test_a_missing_extra_is_named(module: str, extra: str) -> None:
    code = f"import sys; sys.modules[{module!r}] = None; from vecsess.__main__ import main; "
    code += "sys.exit(main(['collect', '--plot', 'x.png']))"
    assert f"'vecsess[{extra}]'" in complaint(run("-c", code, cwd=CHECKOUT, code=2))


def test_a_worker_that_hangs_is_replaced_and_told_of(tmp_path: Path) -> None:
    arguments = ("--env", STRANGE + "Hanging-v0", "-n", "1", "--horizon", "3", "--rollouts", "1")
    done = collect(*arguments, "--step-timeout", "0.3", TMPDIR=str(tmp_path))
    assert "WorkerTimeout" in done.stdout
    assert re.search(r"^ invalid rows +1 ", done.stdout, re.MULTILINE)
    assert "Traceback" not in done.stderr


def test_a_killed_worker_costs_nothing() -> None:
    arguments = ("--env", STRANGE + "Dawdling-v0", "-n", "2", "--horizon", "100", "--rollouts", "3")
    process = start(*arguments, "--quiet")
    workers = workers_of(process.pid, 2)
    os.kill(workers.pop(), signal.SIGKILL)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert re.search(r"^ invalid rows +0 ", said, re.MULTILINE)
    assert re.search(r"^ WorkerDied +1 +replayed episode", said, re.MULTILINE)


def test_ctrl_c_shows_what_was_collected_so_far(tmp_path: Path) -> None:
    out = tmp_path / "never.npz"
    arguments = ("--env", STRANGE + "Dawdling-v0", "-n", "2", "--horizon", "100000")
    process = start(*arguments, "--out", str(out))
    assert process.stdout is not None
    first = process.stdout.readline()
    assert first.startswith("rollout 0/50")
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "interrupted" in said
    assert re.search(r"^ episodes +[1-9]", said, re.MULTILINE)
    assert "no rollout was whole yet" in said
    assert not errors
    assert not out.exists()


@pytest.mark.parametrize("imports", [0, 40, 400, 1500])
def test_ctrl_c_while_it_is_imported_shows_no_traceback(imports: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-v", "-m", "vecsess", "collect"],  # -v tells of each import
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        cwd=CHECKOUT,
    ) as process:
        assert process.stderr is not None
        while "vecsess/integrations/make_vec" not in process.stderr.readline():
            assert process.poll() is None
        for _ in range(imports):
            process.stderr.readline()
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait(30) in (-signal.SIGINT, 130)
    assert "Traceback" not in said


def test_a_reader_that_goes_away_ends_it_quietly() -> None:
    with start("--workers", "0", "-n", "2", "--rollouts", "100000") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 141
        assert process.stderr.read() == ""


def workers_of(pid: int, count: int) -> list[int]:
    """Waits until the workers of a command are at work; returns their pids."""

    def workers() -> list[int]:
        below = [psutil.Process(child) for child in processes_below(pid)]
        return [process.pid for process in below if process.ppid() != pid]

    def busy() -> bool:
        found = [psutil.Process(worker) for worker in workers()]
        return len(found) == count and all(p.num_ctx_switches().voluntary > 50 for p in found)

    assert wait_until(busy, 30.0)
    return workers()


def test_the_reproducers_of_a_run_are_named_at_its_end(tmp_path: Path) -> None:
    env = "tests.cli.strange_envs:Dying-v0"
    command = ["-m", "vecsess", "collect", "--env", env, "-n", "1", "--horizon", "4"]
    said = run(*command, "--rollouts", "1", cwd=CHECKOUT, TMPDIR=str(tmp_path)).stdout
    named = re.findall(r"^reproducer: (.+)$", said, re.MULTILINE)
    assert named
    assert all(Path(path).is_relative_to(tmp_path) for path in named)
