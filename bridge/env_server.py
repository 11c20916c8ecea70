"""One environment behind the commands of the plain protocols; it knows no stream and no encoding.

A request is an object with the key `cmd`, a reply an object with the key `ok`. The commands and
the replies are those of TorchLean's server, so that its client can be pointed here unchanged.
"""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import numpy as np

from vecsess.wire.spaces import Leaf, coerce, leaves_of
from vecsess.workers.env_source import build, select
from vecsess.workers.outcomes import flag_of, reward_of

Reply = dict[str, Any]


class EnvServer:
    """Answers requests to one environment; nothing is reset but on request.

    Args:
        env_id: as for `gymnasium.make`; `ALE/...` ids are registered on demand.
        make_kwargs: passed on to `gymnasium.make`.

    Raises:
        TypeError: actions that are no plain index, or observations that are no plain array.

    Example:
        >>> server = EnvServer("CartPole-v1", {})
        >>> server.answer({"cmd": "describe"})
        {'ok': True, 'n_actions': 2, 'obs_shape': [4], 'obs_dtype': 'float32'}
        >>> server.close()
    """

    def __init__(self, env_id: str, make_kwargs: dict[str, Any]) -> None:
        (maker,) = select("id", [env_id, None, make_kwargs], 0, 1)
        self._env = build(maker)
        self._actions, self._leaf = _plain_spaces(self._env)
        self.closed = False

    def close(self) -> None:
        """Closes the environment."""
        self._env.close()

    def answer(self, request: Any) -> Reply:
        """Carries out one request.

        Raises:
            Exception: whatever is wrong with the request, or what the environment raised.
        """
        if not isinstance(request, dict):
            raise TypeError("request must be a JSON object")
        match request.get("cmd"):
            case "describe":
                return self._describe()
            case "reset":
                seed = request.get("seed")
                seed = None if seed is None else _whole(seed, "seed")
                observation, _ = self._env.reset(seed=seed)
                return {"ok": True, "obs": self._plain_observation(observation)}
            case "step":
                return self._step(request["action"])
            case "close":
                self.closed = True
                return {"ok": True}
            case _:
                raise KeyError("unknown cmd")

    def _describe(self) -> Reply:
        return {
            "ok": True,
            "n_actions": int(self._actions.n),
            "obs_shape": list(self._leaf.shape),
            "obs_dtype": str(self._leaf.dtype),
        }

    def _step(self, action: Any) -> Reply:
        index = _action_index(action, int(self._actions.n))
        observation, reward, terminated, truncated, _ = self._env.step(
            index + int(self._actions.start)
        )
        return {
            "ok": True,
            "obs": self._plain_observation(observation),
            "reward": _finite(reward_of(reward), "reward"),
            "terminated": flag_of(terminated, "terminated"),
            "truncated": flag_of(truncated, "truncated"),
        }

    def _plain_observation(self, observation: Any) -> Any:
        """Returns an observation as nested lists of numbers, in its space's form."""
        array = coerce(observation, self._leaf, "obs", exact=False, warn=_warn)
        return _finite(np.asarray(array), "obs").tolist()


def _plain_spaces(env: gymnasium.Env[Any, Any]) -> tuple[gymnasium.spaces.Discrete, Leaf]:
    """Returns what of an environment's spaces these protocols can say."""
    if not isinstance(env.action_space, gymnasium.spaces.Discrete):
        raise TypeError(
            f"expected a Discrete action space, got {env.action_space}; these protocols send an "
            "action as one index. Register a wrapped environment, for instance with "
            "gymnasium.wrappers.TransformAction"
        )
    leaves = list(leaves_of(env.observation_space))
    if len(leaves) != 1 or leaves[0].path:
        raise TypeError(
            f"expected an observation space of one array, got {env.observation_space}; register "
            "a wrapped environment, for instance with gymnasium.wrappers.FlattenObservation"
        )
    return env.action_space, leaves[0]


def _whole(value: Any, field: str) -> int:
    """Returns a whole number; some languages write each as a float, so 1.0 is one, true is none."""
    if type(value) is int or (type(value) is float and value.is_integer()):
        return int(value)
    raise TypeError(f"{field}: expected an integer, got {value!r}")


def _action_index(action: Any, n: int) -> int:
    index = _whole(action, "action")
    if not 0 <= index < n:
        # Worded as Gymnasium's own environments do; not all of them look, and -1 is an index too.
        raise AssertionError(f"{index} ({int}) invalid")
    return index


def _finite(value: Any, field: str) -> Any:
    """Returns a number or an array that JSON can hold; it has neither NaN nor infinity."""
    if not np.isfinite(value).all():
        raise ValueError(f"{field}: expected finite numbers, got {value}")
    return value


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=2)  # once for each text, on stderr
