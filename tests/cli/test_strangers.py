"""Files and memory of strangers: a clear error within bounds; nothing drives the terminal."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import stat
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from tests.envs import CountingEnv
from vecsess.__main__ import main
from vecsess.bench.faults.lies import mutated
from vecsess.cli import top
from vecsess.cli.archive import load
from vecsess.cli.failures import CommandError
from vecsess.fleet.health import WorkerHealth, read_health
from vecsess.recovery.reproducer import MAX_FILES, read_reproducer, write_reproducer
from vecsess.wire.values import pack_value

GOOD: dict[str, Any] = {
    "observations": np.zeros((3, 2, 4)),
    "rewards": np.zeros((3, 2)),
    "valid": np.ones((3, 2), np.bool_),
    "episode_returns": np.zeros(1),
    "episode_lengths": np.ones(1, np.int64),
    "about": np.array("{}"),
}


def test_a_good_archive_is_one(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **GOOD)
    assert load(tmp_path / "a.npz").arrays["rewards"].shape == (3, 2)


@pytest.mark.parametrize(
    "odd",
    [
        {"rewards": np.zeros(3)},
        {"rewards": np.array([["a", "b"]])},
        {"valid": np.ones((3, 2))},
        {"valid": np.ones((2, 2), np.bool_)},
        {"episode_returns": np.zeros((1, 1))},
        {"episode_lengths": np.zeros(5)},
        {"about": np.array("5")},
        {"about": np.array("[" * 100_000)},
        {"about": np.array("\x1b[31m")},
    ],
    ids=lambda odd: f"{next(iter(odd))} {next(iter(odd.values())).shape}",
)
def test_an_archive_of_odd_arrays_is_refused(odd: dict[str, Any], tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **{**GOOD, **odd})
    with pytest.raises(CommandError, match="got something else") as caught:
        load(tmp_path / "a.npz")
    assert "\x1b" not in str(caught.value)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", **{**GOOD, "observations": np.zeros(1 << 24)})
    with pytest.raises(CommandError, match="larger than the file"):
        load(tmp_path / "a.npz")


def test_an_array_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **GOOD)
    text = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }\n"
    header = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("large.npy", header)
    with pytest.raises(CommandError, match="no room for an array"):
        load(tmp_path / "a.npz")


@pytest.mark.parametrize("name", ["rewards", "episode_returns", "valid"])
def test_what_is_no_number_is_shown_as_such(name: str, tmp_path: Path) -> None:
    odd = GOOD[name] if name == "valid" else np.full_like(GOOD[name], np.nan)
    np.savez(tmp_path / "a.npz", **{**GOOD, name: odd})
    assert main(["inspect", str(tmp_path / "a.npz")]) == 0


# --- transitions ---------------------------------------------------------------------------------

NUMBERS = ["--obs-shape", "2", "--n-actions", "2"]


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"transitions": ' + "[" * 100_000,
        '{"transitions": 5}',
        '{"transitions": [{"obs": ' + "9" * 5000 + "}]}",
        '{"transitions": [\x1b[31m]}',
        '{"transitions": ["\x1b[31m"]}',
        '{"transitions": [{"\\u001b[31m": 0}]}',
        '{"transitions": [{"obs": [1e999, 0], "action": 1e999}]}',
        '{"transitions": [' + ",".join(['{"obs": "\\u001b[2J"}'] * 50) + "]}",
        "\x00\xff",
        "",
    ],
    ids=lambda text: text[:24],
)
def test_transitions_of_a_stranger_are_checked_within_bounds(
    text: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.json").write_text(text)
    assert main(["check", str(tmp_path / "a.json"), *NUMBERS]) != 0
    printed = "".join(capfd.readouterr())
    assert printed.strip()
    assert "Traceback" not in printed
    assert "\x1b" not in printed
    assert len(printed) < 5000


# --- reproducers ---------------------------------------------------------------------------------


def test_a_reproducer_is_its_owners_alone_and_replaces_nothing(tmp_path: Path) -> None:
    paths = [write_reproducer(str(tmp_path), b"", {}, 1, []) for _ in range(3)]
    assert len(set(paths)) == 3
    assert all(stat.S_IMODE(Path(path).stat().st_mode) == 0o600 for path in paths)
    assert read_reproducer(paths[0])["env"] == 1


def test_by_default_it_lies_in_a_folder_of_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    own = Path(write_reproducer(None, b"", {}, 1, [])).parent
    assert own == tmp_path / f"vecsess-{os.getuid()}"
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    own.rename(tmp_path / "elsewhere")
    own.symlink_to(tmp_path / "elsewhere")  # as another user may, who was there first
    assert Path(write_reproducer(None, b"", {}, 1, [])).parent != own


def test_of_the_folder_of_ones_own_the_newest_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    paths = [Path(write_reproducer(None, b"", {}, env, [])) for env in range(MAX_FILES + 5)]
    for age, path in enumerate(reversed(paths)):
        if path.exists():
            os.utime(path, ns=(10**18 - age, 10**18 - age))
    last = Path(write_reproducer(None, b"", {}, 99, []))
    assert sorted(last.parent.iterdir()) == sorted([*paths[6:], last])


def test_a_folder_that_was_named_loses_nothing(tmp_path: Path) -> None:
    for env in range(MAX_FILES + 5):
        write_reproducer(str(tmp_path), b"", {}, env, [])
    assert len(list(tmp_path.iterdir())) == MAX_FILES + 5


def test_where_none_can_be_written_the_reason_takes_its_place(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    told = write_reproducer(str(tmp_path / "file" / "below"), b"", {}, 1, [])
    assert told.startswith("none, for it could not be written")


@pytest.mark.parametrize(
    "odd",
    [
        {"env": -1},
        {"env": "1"},
        {"script": 5},
        {"script": [5]},
        {"script": [["steps"]]},
        {"script": [["steps", "many", []]]},
        {"source": "text"},
        {"format": 2},
    ],
    ids=repr,
)
def test_a_reproducer_of_another_form_is_refused(odd: dict[str, Any], tmp_path: Path) -> None:
    good = {"format": 1, "source": b"", "settings": {}, "env": 0, "script": []}
    (tmp_path / "file").write_bytes(pack_value({**good, **odd}))
    with pytest.raises(ValueError, match="expected a reproducer"):
        read_reproducer(str(tmp_path / "file"))


SETTINGS: dict[str, Any] = {
    "autoreset_mode": "same_step",
    "episode_seeds": "continue",
    "episode_options": b"",
    "exact": False,
    "lenient": False,
    "keep_rng": True,
}
SCRIPT: list[Any] = [["reset", 1, b"", None], ["steps", 1, [np.zeros(1, np.int64)]]]
SOURCE = pickle.dumps(("callables", [CountingEnv]))
REPRODUCER: dict[str, Any] = {"format": 1, "source": SOURCE, "settings": SETTINGS, "env": 0}
REPRODUCER["script"] = SCRIPT


@pytest.mark.parametrize(
    "odd",
    [
        {"source": b""},
        {"source": b"\x80garbage"},
        {"source": pickle.dumps(5)},
        {"source": pickle.dumps(("nobody", 5))},
        {"settings": {}},
        {"settings": {**SETTINGS, "episode_options": 5}},
        {"settings": {**SETTINGS, "episode_options": np.zeros(3)}},
        {"settings": {**SETTINGS, "episode_seeds": b"\x80garbage"}},
    ],
    ids=repr,
)
def test_a_reproducer_of_which_nothing_can_be_made_is_told_of(
    odd: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_bytes(pack_value(REPRODUCER))
    assert main(["replay", str(tmp_path / "file")]) == 1
    (tmp_path / "file").write_bytes(pack_value({**REPRODUCER, **odd}))
    assert main(["replay", str(tmp_path / "file")]) == 2
    assert "no environment can be made of what it holds" in capsys.readouterr().err


# --- whatever happened to a file -----------------------------------------------------------------


def archive_bytes() -> bytes:
    file = io.BytesIO()
    np.savez(file, **GOOD)
    return file.getvalue()


TRANSITION = {"obs": [0.5, 1], "action": 1, "reward": 1.0, "terminated": False}
TRANSITION |= {"truncated": False, "next_obs": [0, 1]}
FILES: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "inspect": (archive_bytes(), ()),
    "check": (json.dumps({"meta": {}, "transitions": [TRANSITION] * 3}).encode(), (*NUMBERS,)),
    "replay": (pack_value(REPRODUCER), ()),
}


@pytest.mark.filterwarnings("ignore")  # of NumPy's, of what it computes of odd numbers
@pytest.mark.parametrize("command", list(FILES))
def test_a_damaged_file_is_read_or_refused(
    command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rng, path = random.Random(0), tmp_path / "file"  # an experiment
    good, options = FILES[command]
    codes = set()
    for _ in range(150):
        data = mutated(good, rng, [each for each, _ in FILES.values()])
        if command == "replay" and SOURCE not in data:
            continue  # a pickle is a program: what it does when it is damaged is anybody's guess
        path.write_bytes(data)
        codes.add(main([command, str(path), *options]))
    assert 2 in codes <= {0, 1, 2}
    said = "".join(capfd.readouterr())
    assert "\x1b" not in said
    assert len(said) < 150 * 2500


@pytest.mark.parametrize("seed", range(3))
def test_damaged_memory_is_shown_or_not(seed: int) -> None:
    rng, good = random.Random(seed), pack_value(CONTENT)
    for _ in range(300):
        content = published_bytes(mutated(good, rng, [good]))
        if content is not None:
            console = Console(width=200, force_terminal=False)
            with console.capture() as captured:
                console.print(top.session_table(console, content))
            assert "\x1b" not in captured.get()


# --- memory that is called as a session's --------------------------------------------------------

WORKER: dict[str, Any] = dict.fromkeys(WorkerHealth.__dataclass_fields__, 0)
WORKER["state"] = "ready"
CONTENT: dict[str, Any] = {"env": "X-v0", "n": 1, "pid": os.getpid(), "time_s": 1.0}
CONTENT |= {"locksteps": 5, "workers": [WORKER]}


def published(content: Any) -> Any:
    """Returns what is read of memory that holds this."""
    return published_bytes(pack_value(content))


def published_bytes(payload: bytes) -> Any:
    fd = os.memfd_create("a-stranger's")
    try:
        os.write(fd, struct.pack("<II", len(payload), zlib.crc32(payload)) + payload)
        return read_health(fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    "odd",
    [
        5,
        {},
        {**CONTENT, "pid": "1"},
        {**CONTENT, "n": None},
        {**CONTENT, "time_s": float("nan")},
        {**CONTENT, "locksteps": 1 << 900},
        {**CONTENT, "workers": 5},
        {**CONTENT, "workers": [5]},
        {**CONTENT, "workers": [{}]},
        {**CONTENT, "workers": [{**WORKER, "state": 5}]},
        {**CONTENT, "workers": [{**WORKER, "rss_bytes": "x"}]},
    ],
    ids=lambda odd: repr(odd)[-40:],
)
def test_what_no_session_publishes_is_not_shown(odd: Any) -> None:
    assert published(CONTENT) == CONTENT
    assert published(odd) is None


def test_what_is_shown_drives_no_terminal() -> None:
    worker = {**WORKER, "state": "\x1b[2J[red]"}
    content = {**CONTENT, "env": "\x1b]0;owned\x07[bold]", "workers": [worker]}
    console = Console(width=200, force_terminal=False)
    with console.capture() as captured:
        console.print(top.session_table(console, content))
    assert "\x1b" not in captured.get()
    assert "[bold]" in captured.get()
