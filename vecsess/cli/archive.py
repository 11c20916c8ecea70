"""A rollout in a file: `.npz`, plain arrays that `numpy.load` reads alone, or `.json`."""

from __future__ import annotations

import contextlib
import json
import math
import os
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from vecsess._version import __version__
from vecsess.cli.failures import CommandError
from vecsess.collect.rollout import Rollout
from vecsess.errors import SpaceError
from vecsess.fleet.reports import printable
from vecsess.integrations.json_values import require_plain
from vecsess.integrations.transitions import save_transitions, transitions_of
from vecsess.tree import Tree
from vecsess.wire.values import Array, Fields, Given, Space

SUFFIXES = (".npz", ".json")
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    AttributeError,  # a lone array, from an .npy file
    TypeError,
    RecursionError,  # brackets in brackets
    MemoryError,
    NotImplementedError,  # an unknown way to compress
    RuntimeError,  # a member with a password
    zipfile.BadZipFile,
)
_NEEDED = {"observations", "rewards", "valid", "episode_returns", "episode_lengths"}


@dataclass(frozen=True, slots=True)
class Archive:
    """What a file holds.

    Attributes:
        arrays: by name; a Dict observation's parts are named `observations.<key>`.
        about: which environment, which seed, which version of vecsess.
    """

    arrays: dict[str, Array]
    about: Fields


def save(path: Path, rollout: Rollout, about: Fields) -> None:
    """Writes a rollout; a regular file is replaced only once the new one is whole.

    Args:
        path: taken as it is, no suffix is added; one that ends in `.json` gets the transitions,
            with `meta` as the reference system's exporter writes it.
        rollout: the batch.
        about: plain data to keep with it.

    Raises:
        CommandError: the file can't be written; what was there before stays.
    """
    special = path.exists() and not path.is_file()
    target = path if special else path.with_name(f".{path.name}.{os.getpid()}")
    try:
        (_save_json if path.suffix == ".json" else _save_arrays)(target, rollout, about)
        if not special:
            target.replace(path)
    except OSError as error:
        if not special:
            with contextlib.suppress(OSError):
                target.unlink(missing_ok=True)
        raise CommandError(
            f"--out {path}: the batch was not written: {error.strerror or error}. The figures "
            "above stand; give --out a file on a disk with room"
        ) from error


def _save_arrays(target: Path, rollout: Rollout, about: Fields) -> None:
    named = arrays_of(rollout)
    named["about"] = np.array(json.dumps({"vecsess": __version__, **about}))
    with target.open("wb") as file:
        np.savez(file, **named)  # type: ignore[arg-type]  # its stub takes allow_pickle for one


def _save_json(target: Path, rollout: Rollout, about: Fields) -> None:
    meta = {
        "env_id": about.get("env"),
        "seed": about.get("seed"),
        "steps": int(np.count_nonzero(rollout.valid)),
        "num_envs": rollout.num_envs,
        "vecsess": __version__,
    }
    save_transitions(target, transitions_of(rollout), meta)


def arrays_of(rollout: Rollout) -> dict[str, Array]:
    """Returns every array of a rollout by name; episodes as an array for each of their fields."""
    named: dict[str, Array] = {}
    for field in fields(Rollout):
        if field.name not in ("episodes", "counter", "action_space"):
            _add(named, field.name, getattr(rollout, field.name))
    named["counter"] = np.array(rollout.counter)
    named["episode_returns"] = np.array([e.return_ for e in rollout.episodes], np.float64)
    for name in ("length", "env", "end_step"):
        values = [getattr(episode, name) for episode in rollout.episodes]
        named[f"episode_{name}s"] = np.array(values, np.int64)
    return named


def _add(named: dict[str, Array], name: str, tree: Tree) -> None:
    parts: Given = ()
    if isinstance(tree, dict):
        parts = tree.items()
    elif isinstance(tree, tuple):
        parts = enumerate(tree)
    else:
        named[name] = _texts(name, tree) if tree.dtype == object else tree
    for key, part in parts:
        _add(named, f"{name}.{key}", part)


def _texts(name: str, values: Array) -> Array:
    """Returns texts as NumPy's own: as the objects that they are, only a pickle could hold them."""
    if not all(isinstance(value, str) for value in values.flat):
        raise CommandError(f"--out: {name}: expected arrays or texts, got other objects")
    return values.astype(np.str_)


def load(path: Path) -> Archive:
    """Reads what `save` wrote.

    Raises:
        CommandError: no such file, or not one of ours.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            _require_honest(archive.zip, path)
            arrays = {name: archive[name] for name in archive.files}
        about = json.loads(str(arrays.pop("about")))
        missing = _NEEDED - {name.partition(".")[0] for name in arrays}
        if not missing:
            _require_form(arrays, about)
    except FileNotFoundError as error:
        raise CommandError(f"{path}: no such file; `vecsess collect --out` writes one") from error
    except _UNREADABLE as error:
        # NumPy takes any bytes that it does not know for a pickle.
        why = "it is no .npz file" if "pickle" in str(error) else printable(str(error), 200)
        raise CommandError(_no_archive(path, why)) from error
    if missing:
        raise CommandError(_no_archive(path, f"it has no {', '.join(sorted(missing))}"))
    return Archive(arrays, about)


def _require_honest(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuses a file whose arrays are larger than the file itself: ours are not compressed."""
    members = archive.infolist()
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise ValueError("its arrays are larger than the file")
    for member in members:
        with archive.open(member) as file:
            version = np.lib.format.read_magic(file)
            form = np.lib.format
            read = form.read_array_header_1_0 if version == (1, 0) else form.read_array_header_2_0
            shape, _, dtype = read(file)
        if math.prod(shape) * dtype.itemsize > member.file_size:
            raise ValueError(f"it has no room for an array of {shape}")


def _require_form(arrays: dict[str, Array], about: Given) -> None:
    """Refuses arrays that do not go together."""
    steps = arrays["rewards"].shape
    numbers = ("rewards", "valid", "episode_returns", "episode_lengths")
    fits = type(about) is dict and len(steps) == 2 and arrays["valid"].dtype == np.bool_
    fits = fits and all(arrays[name].dtype.kind in "biuf" for name in numbers)
    fits = fits and arrays["valid"].shape == steps and arrays["episode_returns"].ndim == 1
    if not fits or arrays["episode_lengths"].shape != arrays["episode_returns"].shape:
        raise ValueError("its arrays do not go together")


def _no_archive(path: Path, why: str) -> str:
    return f"{path}: expected a batch that `vecsess collect --out` wrote, got something else: {why}"


def require_savable(path: Path, observation_space: Space, action_space: Space) -> None:
    """Refuses a batch that the file can't hold, before anything is collected."""
    try:
        require_plain(observation_space)
        require_plain(action_space)
    except SpaceError as error:
        raise CommandError(f"--out {path}: {error}; collect without --out") from error


def require_known(path: Path) -> None:
    """Refuses a name that promises another format."""
    if path.suffix not in SUFFIXES and (path.is_file() or not path.exists()):
        raise CommandError(f"--out {path}: expected a name that ends in {' or '.join(SUFFIXES)}")


def require_writable(path: Path) -> None:
    """Refuses a file that can't be written, before anything is collected."""
    folder = path.parent
    if path.is_dir() or not folder.is_dir():
        what = "is a folder" if path.is_dir() else f"lies in {folder}, which does not exist"
        raise CommandError(f"{path}: {what}; name a file in a folder that exists")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise CommandError(f"{path}: no permission to write there; name another file")
