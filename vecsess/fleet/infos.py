"""Infos as Gymnasium has them: a dict of arrays with `_key` masks, merged env by env."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vecsess.contract import Finals
from vecsess.fleet.reports import values_of
from vecsess.fleet.worker import Worker
from vecsess.tree import leaves
from vecsess.wire.leaves import Space, all_leaves_of, assemble
from vecsess.wire.messages import Done

Infos = dict[str, Any]
AddInfo = Callable[[Infos, dict[str, Any], int], Infos]


def merge_infos(
    add: AddInfo,
    space: Space,
    answers: dict[int, Done],
    workers: list[Worker],
    finals: Finals | None,
) -> Infos:
    """Returns the infos of a step or a reset, equal to those of Gymnasium's `SyncVectorEnv`.

    Args:
        add: `VectorEnv._add_info`.
        space: of one environment's observations.
        answers: what came beside the slab, by worker.
        workers: all of them.
        finals: of the environments that were reset in the same step.
    """
    found: dict[int, dict[str, Any]] = {}
    for env, what, value in values_of(answers, workers):
        found.setdefault(env, {})[what] = value
    last = {} if finals is None else {int(env): k for k, env in enumerate(finals.envs)}
    infos: Infos = {}
    for env in sorted(found.keys() | last.keys()):
        own = found.get(env, {})
        if finals is not None and env in last:
            final = {
                "final_obs": _one_of(space, finals, last[env]),
                "final_info": own.get("final_info", {}),
            }
            infos = add(infos, final, env)
        if "info" in own:
            infos = add(infos, own["info"], env)
    return infos


def _one_of(space: Space, finals: Finals, k: int) -> Any:
    """Returns the k-th final observation as environments give it: what is discrete as an int."""
    parts = zip(all_leaves_of(space), leaves(finals.observations), strict=True)
    ones: list[Any] = [int(array[k]) if leaf.discrete else array[k] for leaf, array in parts]
    return assemble(space, iter(ones))
