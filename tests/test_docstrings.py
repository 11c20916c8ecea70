"""The examples in the docstrings say what really happens."""

import doctest
import importlib

import pytest

MODULES = (
    "advantages",
    "batch",
    "bridge.env_server",
    "client",
    "collect",
    "compliance",
    "episodes",
    "evaluation",
    "gridworld",
    "policies",
    "rollout",
    "sampling",
    "session",
    "single",
    "transitions",
    "tree",
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    failed, attempted = doctest.testmod(importlib.import_module(f"vecsess.{name}"))
    assert attempted > 0
    assert failed == 0
