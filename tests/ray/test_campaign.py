"""The campaign of losses notices what differs, and strikes in the middle of a rollout."""

from __future__ import annotations

import pytest
from gymnasium import spaces

from vecsess import RandomPolicy, collect_rollout
from vecsess.bench.nodes import Nodes

pytest.importorskip("ray")
from vecsess.bench.ray_losses import STRIKES, Campaign, Tally, calm_session, struck_session


def test_it_strikes_and_compares(nodes: Nodes) -> None:
    tallies = {kind: Tally() for kind in STRIKES}
    try:
        with calm_session() as calm, struck_session() as vec:
            campaign = Campaign(nodes, vec, calm, 24, tallies)
            campaign.begin()
            first = campaign.strike_once()
            assert tallies[first].losses == 1
            assert not any(tally.different for tally in tallies.values())
            collect_rollout(calm, RandomPolicy(spaces.Discrete(2)), 1)  # ours is behind now
            second = campaign.strike_once()
            assert tallies[second].different == 1
    finally:
        nodes.mend()
