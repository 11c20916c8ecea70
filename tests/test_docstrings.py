"""The examples in the docstrings say what really happens, in whichever module they stand."""

import doctest
import importlib
import os
from pathlib import Path

import pytest

from tests.documents import CHECKOUT

NEEDS = {
    "collect.pytorch": "torch",
    "integrations.ray.pieces": "ray",
    "integrations.sb3": "stable_baselines3",
    "integrations.tianshou": "tianshou",
}


def modules_with_examples() -> list[str]:
    found = []
    for folder, _, names in os.walk(CHECKOUT / "vecsess", followlinks=True):
        for path in (Path(folder) / name for name in names if name.endswith(".py")):
            if ">>> " in path.read_text():
                parts = path.relative_to(CHECKOUT / "vecsess").with_suffix("").parts
                found.append(".".join(parts))
    return sorted(found)


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples(name: str) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    failed, attempted = doctest.testmod(importlib.import_module(f"vecsess.{name}"))
    assert attempted > 0
    assert failed == 0
