"""What is shown while the parts of a rollout come."""

from __future__ import annotations

import io

import pytest

from vecsess import RandomPolicy
from vecsess.bench.nodes import Nodes

pytest.importorskip("ray")

from tests.ray.test_batches import PATIENT

pytest.importorskip("rich")
from rich.console import Console

import vecsess.integrations.ray.progress as progress
from vecsess.integrations.ray import RaySession


@pytest.mark.parametrize("terminal", [True, False])
def test_parts_are_shown_as_they_come(
    nodes: Nodes, terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_LINE_EVERY_S", 0.0)
    said = io.StringIO()
    console = Console(file=said, force_terminal=terminal, width=100)
    with (
        RaySession("CartPole-v1", 5, shards=2, workers=0, **PATIENT) as vec,
        progress.ShardsBar(vec, console) as bar,
    ):
        policy = RandomPolicy(vec.single_action_space)
        for _ in range(2):
            vec.collect(policy, 8, on_part=bar)
    assert "rollout 2" in said.getvalue()
    assert "steps/s, nothing lost" in said.getvalue()
    assert terminal or len(said.getvalue().splitlines()) == 2
    assert terminal == ("━" in said.getvalue())
