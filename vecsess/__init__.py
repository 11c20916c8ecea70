"""PPO batches from Gymnasium environments in worker processes, every transition checked."""

from __future__ import annotations

import importlib
import signal
import sys
from typing import TYPE_CHECKING, Any

# Ctrl-C while a command is still being imported ends it as it ends any program, without a
# traceback; `__main__` takes it from there. Nothing of this holds where vecsess is a library.
if (
    (
        (
            sys.argv[:1] == ["-m"] and sys.orig_argv[-len(sys.argv)] == "vecsess"
        )  # then its own arguments follow
        or (sys.argv[:1] and sys.argv[0].endswith("/vecsess"))
    )
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from vecsess._version import __version__
from vecsess.integrations.make_vec import register_vector_envs as _register_vector_envs

if TYPE_CHECKING:
    from vecsess.collect.evaluate import episode_path as episode_path
    from vecsess.collect.evaluate import episode_return as episode_return
    from vecsess.collect.evaluate import evaluate as evaluate
    from vecsess.collect.evaluate import greedy_action as greedy_action
    from vecsess.collect.evaluate import mean_episode_return as mean_episode_return
    from vecsess.collect.policies import Policy as Policy
    from vecsess.collect.policies import RandomPolicy as RandomPolicy
    from vecsess.collect.rollout import Rollout as Rollout
    from vecsess.collect.sources import collect_rollout as collect_rollout
    from vecsess.contract import Contract as Contract
    from vecsess.contract import Transition as Transition
    from vecsess.errors import ContractViolation as ContractViolation
    from vecsess.errors import EnvError as EnvError
    from vecsess.errors import VecsessError as VecsessError
    from vecsess.errors import WorkerDied as WorkerDied
    from vecsess.errors import WorkerTimeout as WorkerTimeout
    from vecsess.fleet.worker import Timeouts as Timeouts
    from vecsess.recovery.policy import Incident as Incident
    from vecsess.recovery.policy import RestartPolicy as RestartPolicy
    from vecsess.session.checked import CheckedSession as CheckedSession
    from vecsess.session.checked import Session as Session
    from vecsess.session.client import Client as Client
    from vecsess.session.soundness import check_env as check_env
    from vecsess.session.vector import VecCheckedSession as VecCheckedSession
    from vecsess.tuning.layouts import autotune as autotune

# Imported when first asked for: a worker imports `vecsess.wire` and must not pay for the rest.
_HOME = {
    "CheckedSession": "session.checked",
    "Client": "session.client",
    "Contract": "contract",
    "ContractViolation": "errors",
    "EnvError": "errors",
    "Incident": "recovery.policy",
    "Policy": "collect.policies",
    "RandomPolicy": "collect.policies",
    "RestartPolicy": "recovery.policy",
    "Rollout": "collect.rollout",
    "Session": "session.checked",
    "Timeouts": "fleet.worker",
    "Transition": "contract",
    "VecCheckedSession": "session.vector",
    "VecsessError": "errors",
    "WorkerDied": "errors",
    "WorkerTimeout": "errors",
    "autotune": "tuning.layouts",
    "check_env": "session.soundness",
    "collect_rollout": "collect.sources",
    "episode_path": "collect.evaluate",
    "episode_return": "collect.evaluate",
    "evaluate": "collect.evaluate",
    "greedy_action": "collect.evaluate",
    "mean_episode_return": "collect.evaluate",
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
