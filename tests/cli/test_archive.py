"""Batches in files: whole, readable without us, and never half-written over an older one."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces

from tests.documents import CHECKOUT
from tests.programs import run
from vecsess.cli import archive
from vecsess.cli.failures import CommandError
from vecsess.collect.rollout import Episode, Rollout


def nested_rollout() -> Rollout:
    observation_space = spaces.Dict(
        {"speed": spaces.Box(-1, 1, (2,)), "seen": spaces.Tuple([spaces.Discrete(3)])}
    )
    rollout = Rollout.empty(4, 2, observation_space, spaces.Discrete(2))
    rollout.observations["speed"][1, 0] = np.nan
    rollout.rewards[:] = 1.5
    rollout.episodes = [Episode(6.0, 4, 1, 3)]
    return rollout


def test_nested_observations_come_back_by_name(tmp_path: Path) -> None:
    path = tmp_path / "batch.npz"
    rollout = nested_rollout()
    archive.save(path, rollout, {"env": "Nested-v0", "seed": 3})
    loaded = archive.load(path)
    assert loaded.about["env"] == "Nested-v0"
    assert loaded.arrays["observations.speed"].shape == (4, 2, 2)
    assert loaded.arrays["observations.seen.0"].dtype == np.int64
    assert np.array_equal(loaded.arrays["rewards"], rollout.rewards)
    assert loaded.arrays["episode_returns"].tolist() == [6.0]
    assert loaded.arrays["episode_end_steps"].tolist() == [3]


def test_the_name_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "batch"
    archive.save(path, nested_rollout(), {})
    assert list(tmp_path.iterdir()) == [path]


def test_texts_need_no_pickle(tmp_path: Path) -> None:
    path = tmp_path / "batch.npz"
    rollout = Rollout.empty(2, 1, spaces.Text(5), spaces.Discrete(2))
    rollout.observations[...] = [["go"], ["stop"]]
    rollout.last_observations[...] = ["go"]
    archive.save(path, rollout, {})
    assert archive.load(path).arrays["observations"].tolist() == [["go"], ["stop"]]
    rollout.last_observations[...] = [["no", "text"]]
    with pytest.raises(CommandError, match="last_observations: expected arrays or texts"):
        archive.save(path, rollout, {})


@pytest.mark.parametrize("suffix", [".npz", ".json"])
def test_a_batch_that_the_file_can_not_hold_is_refused_before(suffix: str) -> None:
    space = spaces.Dict({"x": spaces.Sequence(spaces.Discrete(2))})
    with pytest.raises(CommandError, match=r"--out .*space\['x'\]: expected arrays"):
        archive.require_savable(Path(f"batch{suffix}"), space, spaces.Discrete(2))


def test_a_file_that_can_not_be_written_whole_leaves_the_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "batch.npz"
    archive.save(path, nested_rollout(), {"env": "older"})

    def fill_disk(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", fill_disk)
    with pytest.raises(CommandError, match="No space left"):
        archive.save(path, nested_rollout(), {"env": "newer"})
    assert archive.load(path).about["env"] == "older"
    assert list(tmp_path.iterdir()) == [path]


def test_inspect_shows_shapes_ranges_and_nans(tmp_path: Path) -> None:
    path = tmp_path / "batch.npz"
    archive.save(path, nested_rollout(), {"env": "Nested-v0", "seed": 3})
    said = run("-m", "vecsess", "inspect", path, cwd=CHECKOUT).stdout
    rows = {line.split()[0]: line for line in said.splitlines() if line.strip()}
    assert rows["4"].startswith("4 steps of 2 environments, Nested-v0, seed 3")
    assert "[4, 2, 2]" in rows["observations.speed"]
    assert rows["observations.speed"].rstrip().endswith(" 2")  # both numbers of that row
    assert rows["rewards"].split()[1:3] == ["[4,", "2]"] or "sum 12" in rows["rewards"]
    assert "mean 6, min 6, max 6" in rows["return"]
    assert rows["invalid"].split() == ["invalid", "rows", "8"]


@pytest.mark.parametrize("width", ["40", "60", "100"])
def test_inspect_leaves_columns_out_instead_of_cutting_them(width: str, tmp_path: Path) -> None:
    path = tmp_path / "batch.npz"
    archive.save(path, nested_rollout(), {"env": "Nested-v0", "seed": 3})
    said = run("-m", "vecsess", "inspect", path, cwd=CHECKOUT, COLUMNS=width).stdout
    assert "…" not in said
    (speed,) = [line for line in said.splitlines() if line.startswith(" observations.speed")]
    assert speed.split()[-1] == "2", "how many are NaN"


@pytest.mark.parametrize("content", [None, b"", b"no zip file", b"PK\x03\x04 broken"])
def test_inspect_refuses_what_is_no_batch(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "batch.npz"
    if content is not None:
        path.write_bytes(content)
    done = run("-m", "vecsess", "inspect", path, cwd=CHECKOUT, code=2)
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


def test_inspect_refuses_an_archive_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "other.npz"
    with path.open("wb") as file:
        np.savez(file, about=np.array("{}"), weights=np.zeros(3))
    done = run("-m", "vecsess", "inspect", path, cwd=CHECKOUT, code=2)
    assert "it has no " in done.stderr
