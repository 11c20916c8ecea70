"""Environments of sessions for tianshou, whose collectors step and reset some of them at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vecsess import tree
from vecsess.errors import extra
from vecsess.session.vector import VecCheckedSession
from vecsess.wire.values import Env, Given

with extra("bench", needed_by="vecsess.integrations.tianshou"):
    from tianshou.env import BaseVectorEnv
    from tianshou.env.worker.worker_base import EnvWorker


class SessionVectorEnv(BaseVectorEnv):
    """N environments, each in a session of its own, as tianshou's `SubprocVectorEnv` has them.

    tianshou steps fewer and fewer environments towards the end of a collect of whole episodes, and
    resets each when it likes, so there is no lockstep: every environment is a session of one, with
    its checks, deadlines and recovery. `collect_rollout` over one session of N is faster.

    Args:
        env_fns: what makes each environment.
        arguments: for each session: `contract`, `timeouts`, `restart_policy` and so on.

    Example:
        >>> import gymnasium
        >>> envs = SessionVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 2)
        >>> observations, infos = envs.reset(seed=0)
        >>> len(envs), envs.step(np.array([1]), id=[1])[0].shape
        (2, (1, 4))
        >>> envs.close()
    """

    def __init__(self, env_fns: Sequence[Callable[[], Env]], **arguments: Given) -> None:
        super().__init__(list(env_fns), lambda env_fn: SessionWorker(env_fn, **arguments))


class SessionWorker(EnvWorker):
    """One environment, in a session of one."""

    def __init__(self, env_fn: Callable[[], Env], **arguments: Given) -> None:
        given = {"autoreset_mode": "disabled", **arguments}
        self._session = VecCheckedSession(env_fn, 1, **given)
        self._resets = False
        super().__init__(env_fn)

    def send(self, action: Given, **kwargs: Given) -> None:
        """Begins a step, or with None a reset."""
        self._resets = action is None
        if self._resets:
            self._session.reset_async(**kwargs)
        else:
            self._session.step_async(tree.map_leaves(lambda leaf: np.asarray(leaf)[None], action))

    def recv(self) -> Any:
        """Waits for what was begun; returns what the environment itself would."""
        if self._resets:
            observations, infos = self._session.reset_wait()
            return tree.row(observations, 0), only(infos)
        observations, rewards, terminated, truncated, infos = self._session.step_wait()
        flags = bool(terminated[0]), bool(truncated[0])
        return tree.row(observations, 0), float(rewards[0]), *flags, only(infos)

    def reset(self, **kwargs: Given) -> tuple[Any, dict[str, Any]]:
        """Resets the environment."""
        self.send(None, **kwargs)
        observation, info = self.recv()
        return observation, info

    def seed(self, seed: int | None = None) -> list[int] | None:
        """Seeds the action space, and the environment by a reset."""
        super().seed(seed)
        self._session.reset(seed=seed)
        return None if seed is None else [seed]

    def get_env_attr(self, key: str) -> Any:
        """Returns an attribute of the environment; what is no plain data as the session has it."""
        if key in ("observation_space", "action_space"):
            return getattr(self._session, f"single_{key}")
        if key in ("spec", "metadata"):
            return getattr(self._session, key)
        return self._session.get_attr(key)[0]

    def set_env_attr(self, key: str, value: Any) -> None:
        """Sets an attribute of the environment."""
        self._session.set_attr(key, [value])

    def render(self, **kwargs: Given) -> Any:
        """Renders the environment."""
        return self._session.call("render", **kwargs)[0]

    def close_env(self) -> None:
        """Ends the environment and its process."""
        self._session.close()


def only(infos: dict[str, Any]) -> dict[str, Any]:
    """Returns the info of the one environment, from arrays `[1]` with `_key` masks.

    Example:
        >>> only({"lives": np.array([3]), "_lives": np.array([True])})
        {'lives': 3}
    """
    found = {}
    for key, value in infos.items():
        if f"_{key}" in infos and infos[f"_{key}"][0]:
            nested = only(value) if isinstance(value, dict) else value[0]
            found[key] = nested.item() if isinstance(nested, np.generic) else nested
    return found
