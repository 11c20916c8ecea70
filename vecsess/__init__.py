"""PPO batches from Gymnasium environments in worker processes, every transition checked."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vecsess._version import __version__
from vecsess.registration import register_vector_envs as _register_vector_envs

if TYPE_CHECKING:
    from vecsess.client import Client as Client
    from vecsess.collect import collect_rollout as collect_rollout
    from vecsess.contract import Contract as Contract
    from vecsess.contract import Transition as Transition
    from vecsess.episodes import episode_path as episode_path
    from vecsess.episodes import episode_return as episode_return
    from vecsess.episodes import evaluate as evaluate
    from vecsess.episodes import greedy_action as greedy_action
    from vecsess.episodes import mean_episode_return as mean_episode_return
    from vecsess.errors import ContractViolation as ContractViolation
    from vecsess.errors import EnvError as EnvError
    from vecsess.errors import VecsessError as VecsessError
    from vecsess.errors import WorkerDied as WorkerDied
    from vecsess.errors import WorkerTimeout as WorkerTimeout
    from vecsess.reactions import RestartPolicy as RestartPolicy
    from vecsess.rollout import Rollout as Rollout
    from vecsess.session import CheckedSession as CheckedSession
    from vecsess.session import Session as Session
    from vecsess.tuning import autotune as autotune
    from vecsess.vector import VecCheckedSession as VecCheckedSession
    from vecsess.worker import Timeouts as Timeouts

# Imported when first asked for: a worker imports `vecsess.wire` and must not pay for the rest.
_HOME = {
    "CheckedSession": "session",
    "Client": "client",
    "Contract": "contract",
    "ContractViolation": "errors",
    "EnvError": "errors",
    "RestartPolicy": "reactions",
    "Rollout": "rollout",
    "Session": "session",
    "Timeouts": "worker",
    "Transition": "contract",
    "VecCheckedSession": "vector",
    "VecsessError": "errors",
    "WorkerDied": "errors",
    "WorkerTimeout": "errors",
    "autotune": "tuning",
    "collect_rollout": "collect",
    "episode_path": "episodes",
    "episode_return": "episodes",
    "evaluate": "episodes",
    "greedy_action": "episodes",
    "mean_episode_return": "episodes",
}

# So that `gymnasium.make_vec("vecsess/CartPole-v1")` finds a session; takes 2 ms.
_register_vector_envs()

__all__ = ["__version__", *_HOME]  # noqa: PLE0604  # the keys are names


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'vecsess' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"vecsess.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
