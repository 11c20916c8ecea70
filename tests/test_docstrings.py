"""The examples in the docstrings say what really happens."""

import doctest
import importlib

import pytest

MODULES = (
    "bridge.env_server",
    "collect.batch",
    "collect.evaluate",
    "collect.policies",
    "collect.rollout",
    "collect.sampling",
    "collect.sources",
    "contract",
    "fleet.placement",
    "integrations.transitions",
    "session.checked",
    "session.client",
    "session.compliance",
    "session.native",
    "session.vector",
    "tree",
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    failed, attempted = doctest.testmod(importlib.import_module(f"vecsess.{name}"))
    assert attempted > 0
    assert failed == 0
