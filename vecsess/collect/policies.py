"""What a policy is to the collector, and the adapters to it; free of any framework."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from vecsess.collect.drawing import drawing
from vecsess.collect.sampling import (
    categorical_log_prob,
    normal_noise,
    sample_with_log_prob,
    uniform_noise,
)
from vecsess.collect.splitmix import sample_first_above, splitmix_noise
from vecsess.collect.tiles import Tiled
from vecsess.tree import Tree, object_array
from vecsess.wire.values import Array, Given, Space

Predictor: TypeAlias = Callable[[Tree], Any]
Decision: TypeAlias = tuple[Any, Any, Any]
Dtypes: TypeAlias = tuple[np.dtype[Any], np.dtype[Any]]

_NOISE_BLOCK = 2**17  # numbers that are made at once: 1 MiB stays in a cache
NOISE_KINDS = ("uniform", "normal", "splitmix64")


@runtime_checkable
class Policy(Protocol):
    """What the collector asks of a policy; derive from it or only look like it.

    Attributes:
        noise_size: how many columns of noise `act` wants for each row.
        noise_kind: "uniform", in [0, 1), as where this is missing; or "normal", of mean 0 and
            variance 1, made for many locksteps at once, which costs less than within `act`; or
            "splitmix64", uniform as the reference system draws it.
        act_rows: where it is there, `act` and `value` are always called with this many rows, and
            environment e always lies at place `e % act_rows`, which makes matrix products the
            same bits in every grouping. Places that nobody wants are filled with some row, under
            the number of the environment that belongs there (up to the next multiple of
            `act_rows`); what is answered for those is dropped.
        get_state, set_state: of a policy that keeps something from step to step, such as the
            cells of an LSTM: `get_state(envs)` returns a tree of arrays `[rows, ...]`, with the
            same shapes and dtypes at any time, and `set_state(envs, state)` takes such a tree
            back. So its state can go with the environments, wherever the policy acts, and it is
            asked for the value of an episode's last observation at once, before its next `act`.

    What acts elsewhere than in the trainer's process travels as a pickle of protocol 5, its arrays
    out of band (see `packing.pack`): it must be picklable by cloudpickle. `envs` are the indices in
    the whole session, also where one process acts for only some of them.

    Example:
        >>> isinstance(RandomPolicy(spaces.Discrete(2)), Policy)
        True
    """

    noise_size: int

    def act(
        self,
        observations: Tree,
        *,
        noise: NDArray[np.float64],
        episode_start: NDArray[np.bool_],
        envs: NDArray[np.int64],
    ) -> Decision:
        """Decides for `rows` environments.

        Args:
            observations: tree of `[rows, *obs]`; views into the batch, so not to be changed.
            noise: `[rows, noise_size]` float64, of its `noise_kind`: the only randomness to use,
                where a run is to be reproducible.
            episode_start: `[rows]` bool; a recurrent policy clears its state where True.
            envs: `[rows]` int64, whose observations these are.

        Returns:
            Actions `[rows, *act]` of the action space's dtype, their log-probabilities `[rows]`
            and the values `V(s)` `[rows]`, both floating point.
        """
        ...  # pragma: no cover

    def value(self, observations: Tree, *, envs: NDArray[np.int64]) -> Given:
        """Returns `V(s)` `[rows]`; must leave the state of a recurrent policy as it is.

        Args:
            observations: tree of `[rows, *obs]`.
            envs: `[rows]` int64, ascending or not, an environment more than once possible.
        """
        ...  # pragma: no cover


class Predicting(Protocol):
    """What may be given for a policy where actions are Discrete."""

    def predict_logits(self, observations: Tree, /) -> Given:
        """Returns logits `[rows, A]`, for observations `[rows, *obs]`."""
        ...  # pragma: no cover

    def predict_value(self, observations: Tree, /) -> Given:
        """Returns `V(s)` `[rows]`."""
        ...  # pragma: no cover


AnyPolicy: TypeAlias = Policy | Predicting | tuple[Predictor, Predictor]


def as_policy(policy: AnyPolicy, action_space: Space) -> Policy:
    """Returns `policy` as the collector's `Policy`.

    Args:
        policy: an object with `act`, `value` and `noise_size`; or, for a Discrete space, a pair
            `(predict_logits, predict_value)` or an object with these two methods.
        action_space: of one environment.

    Raises:
        TypeError: says which of these are missing.
        ValueError: a `noise_kind` that there is not, or `act_rows` that is no number of rows.

    Example:
        >>> pair = (lambda obs: np.zeros((len(obs), 3)), lambda obs: np.zeros(len(obs)))
        >>> as_policy(pair, spaces.Discrete(3)).noise_size
        1
    """
    act_rows = getattr(policy, "act_rows", None)
    found = _decider(policy, action_space)
    return found if act_rows is None else Tiled(found, act_rows, action_space)


def state_keeper(actor: Policy) -> Given:
    """Returns what has `get_state` and `set_state`, None where nothing is kept.

    Raises:
        TypeError: one of the two is missing.
    """
    policy = actor.policy if isinstance(actor, Tiled) else actor
    getter, setter = hasattr(policy, "get_state"), hasattr(policy, "set_state")
    if getter != setter:
        raise TypeError(
            f"expected both of get_state and set_state, {type(policy).__name__} has one"
        )
    return policy if getter else None


def keeps_state(actor: Policy) -> bool:
    """Whether a policy keeps something from step to step, which it says by `get_state`."""
    return state_keeper(actor) is not None


def _decider(policy: Given, action_space: Space) -> Policy:
    """Returns an object with `act`, `value` and `noise_size`."""
    if hasattr(policy, "act"):
        _require(policy, "value", "noise_size")
        kind = noise_kind_of(policy)
        if kind not in NOISE_KINDS:
            raise ValueError(f"noise_kind: expected one of {NOISE_KINDS}, got {kind!r}")
        found: Policy = policy
        return found
    if isinstance(policy, (tuple, list)) and len(policy) == 2 and all(map(callable, policy)):
        return CategoricalPolicy(policy[0], policy[1], action_space)
    _require(policy, "predict_logits", "predict_value")
    return CategoricalPolicy(policy.predict_logits, policy.predict_value, action_space)


def _require(policy: Given, *names: str) -> None:
    missing = [name for name in names if not hasattr(policy, name)]
    if missing:
        raise TypeError(
            "expected a pair (predict_logits, predict_value), an object with these methods, or "
            f"one with act, value and noise_size; got {type(policy).__name__} without "
            f"{' and '.join(missing)}"
        )


def noise_kind_of(policy: Policy) -> str:
    """Returns which kind of noise a policy wants."""
    kind: str = getattr(policy, "noise_kind", NOISE_KINDS[0])
    return kind


def noise_for(
    policy: Policy, seed: int, counter: int, envs: NDArray[np.int64], steps: int
) -> NDArray[np.float64]:
    """Returns what `act` gets as noise in locksteps `counter .. counter + steps`.

    Args:
        policy: says how much, and of which kind.
        seed: of the stream.
        counter: number of the first lockstep in the stream.
        envs: `[rows]`, the environments that the rows belong to.
        steps: how many locksteps.

    Returns:
        `[steps, rows, noise_size]` float64.
    """
    block = max(1, _NOISE_BLOCK // max(1, policy.noise_size * len(envs)))
    if steps <= block:
        return _noise(policy, seed, counter, envs, steps)
    noise = np.empty((steps, len(envs), policy.noise_size))
    for begin in range(0, steps, block):
        part = noise[begin : begin + block]
        part[...] = _noise(policy, seed, counter + begin, envs, len(part))
    return noise


def _noise(
    policy: Policy, seed: int, counter: int, envs: NDArray[np.int64], steps: int
) -> NDArray[np.float64]:
    size = policy.noise_size
    if noise_kind_of(policy) == "splitmix64":
        return splitmix_noise(seed, counter, envs, size, steps)
    if noise_kind_of(policy) == "uniform":
        return uniform_noise(seed, counter, envs, size, steps)
    pairs = uniform_noise(seed, counter, envs, size + size % 2, steps)
    return normal_noise(pairs)[..., :size]


def dtypes_of(decision: Given) -> Dtypes:
    """Returns the dtypes of the log-probabilities and the values that a policy gave.

    Raises:
        TypeError: it gave something else.
    """
    if not isinstance(decision, (tuple, list)) or len(decision) != 3:
        raise TypeError(
            "expected the policy's act to return (actions, log_probs, values), "
            f"got {type(decision).__name__}"
        )
    log_probs, values = (np.asarray(part).dtype for part in decision[1:])
    for name, dtype in (("log_probs", log_probs), ("values", values)):
        if dtype.kind != "f":
            raise TypeError(f"expected floating-point {name} from the policy, got {dtype}")
    return log_probs, values


def fitting(name: str, given: Given, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Returns what a policy gave as an array of `dtype`, which holds it without a loss.

    Raises:
        ValueError: it has another shape.
        TypeError: it has a dtype that `dtype` does not hold.
    """
    if type(given) is np.ndarray and given.dtype == dtype and given.shape == shape:
        return given
    # What has no fixed shape, such as a text, is an object: NumPy would look into it.
    array = object_array(given) if dtype.kind == "O" else np.asarray(given)
    if array.shape != shape:
        raise ValueError(
            f"expected {name} of shape {list(shape)} from the policy, got {list(array.shape)}"
        )
    if array.dtype != dtype and not np.can_cast(array.dtype, dtype):
        raise TypeError(
            f"expected {name} of dtype {dtype} from the policy, got {array.dtype}: cast it "
            "there, so that log-probabilities are those of the actions that are taken"
        )
    return array.astype(dtype, copy=False)


class CategoricalPolicy:
    """Samples the actions of a Discrete space from logits.

    Args:
        predict_logits: takes observations `[rows, *obs]`, returns `[rows, A]`.
        predict_value: takes observations `[rows, *obs]`, returns `[rows]`.
        action_space: Discrete, of one environment; `A = action_space.n`.
        noise_kind: "uniform", or "splitmix64" for the very actions of the reference system.

    Example:
        >>> policy = CategoricalPolicy(
        ...     lambda obs: np.zeros((len(obs), 2), dtype=np.float32),
        ...     lambda obs: np.zeros(len(obs), dtype=np.float32),
        ...     spaces.Discrete(2),
        ... )
        >>> noise, start, envs = np.array([[0.2], [0.7]]), np.ones(2, dtype=bool), np.arange(2)
        >>> policy.act(np.zeros((2, 4)), noise=noise, episode_start=start, envs=envs)[0].tolist()
        [0, 1]
    """

    noise_size = 1

    def __init__(
        self,
        predict_logits: Predictor,
        predict_value: Predictor,
        action_space: Space,
        noise_kind: str = "uniform",
    ) -> None:
        if noise_kind not in ("uniform", "splitmix64"):
            raise ValueError(f"noise_kind: expected 'uniform' or 'splitmix64', got {noise_kind!r}")
        if not isinstance(action_space, spaces.Discrete):
            raise TypeError(
                "a pair (predict_logits, predict_value) decides for Discrete action spaces, got "
                f"{action_space}; pass an object with act, value and noise_size"
            )
        self.predict_logits = predict_logits
        self.predict_value = predict_value
        self.noise_kind = noise_kind
        self._count = int(action_space.n)
        self._first = int(action_space.start)
        self._dtype = action_space.dtype

    def act(
        self,
        observations: Tree,
        *,
        noise: NDArray[np.float64],
        episode_start: NDArray[np.bool_],
        envs: NDArray[np.int64],
    ) -> Decision:
        """See `Policy.act`."""
        del episode_start, envs  # nothing is remembered
        logits = np.asarray(self.predict_logits(observations))
        if logits.shape != (len(noise), self._count):
            raise ValueError(
                f"expected predict_logits to return {[len(noise), self._count]} "
                f"([rows, actions]), got {list(logits.shape)}"
            )
        if self.noise_kind == "splitmix64":
            choices = sample_first_above(logits, noise[:, 0])
            log_probs = categorical_log_prob(logits, choices)
        else:
            choices, log_probs = sample_with_log_prob(logits, noise[:, 0])
        actions = (choices + self._first).astype(self._dtype, copy=False)
        return actions, log_probs, self.predict_value(observations)

    def value(self, observations: Tree, *, envs: NDArray[np.int64]) -> Given:
        """See `Policy.value`."""
        del envs
        return self.predict_value(observations)


class RandomPolicy:
    """Draws each action at random, whatever it sees; every value is 0.

    Uniform over Discrete, MultiDiscrete, MultiBinary and bounded Box spaces. As `Box.sample`
    does, an element without bounds is drawn from the standard normal distribution, and one with
    a single bound at an exponentially distributed distance from it.

    Args:
        space: the action space of one environment.

    Example:
        >>> policy = RandomPolicy(spaces.Box(-2, 2, (1,)))
        >>> noise, start, envs = np.array([[0.5], [1.0]]), np.ones(2, dtype=bool), np.arange(2)
        >>> policy.act(np.zeros((2, 4)), noise=noise, episode_start=start, envs=envs)[0].tolist()
        [[0.0], [2.0]]
    """

    def __init__(self, space: Space) -> None:
        self.noise_size, self._draw = drawing(space)

    def act(
        self,
        observations: Tree,
        *,
        noise: NDArray[np.float64],
        episode_start: NDArray[np.bool_],
        envs: NDArray[np.int64],
    ) -> Decision:
        """See `Policy.act`."""
        del observations, episode_start
        actions, log_probs = self._draw(noise)
        return actions, log_probs, self.value(None, envs=envs)

    def value(self, observations: Tree, *, envs: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `Policy.value`."""
        del observations
        return np.zeros(len(envs), dtype=np.float32)
