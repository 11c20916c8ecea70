"""A session as a Stable-Baselines3 `VecEnv`: what SB3's own `SubprocVecEnv` does, to the letter."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import concatenate, create_empty_array

from vecsess.contract import Finals
from vecsess.errors import StateError, extra
from vecsess.fleet.plan import EnvLike
from vecsess.session.conventions import InfoLevel, level_of
from vecsess.session.gym_vector import refuse_own_verbs
from vecsess.session.vector import VecCheckedSession
from vecsess.tree import Tree, row
from vecsess.wire.code import dumps
from vecsess.wire.values import Array, Fields, Given

with extra("sb3", needed_by="vecsess.integrations.sb3"):
    from stable_baselines3.common.vec_env.base_vec_env import VecEnv

Indices = int | Iterable[int] | None


class SB3VecEnv(VecEnv):
    """The environments of a session, for Stable-Baselines3.

    What SB3 documents for `VecEnv` holds: seeds and options take effect at the next reset and
    once; a finished environment is reset at once, its last observation is in the info as
    `terminal_observation`; `TimeLimit.truncated` is in every info; the infos of resets are in
    `reset_infos`. Observations are fresh arrays that no later step changes; rewards are float32,
    as those of `DummyVecEnv`.

    Two things differ from `SubprocVecEnv`: nothing that a worker sends is unpickled, so what
    `env_method` and `get_attr` return, and what infos hold, is plain data (numbers, texts, NumPy
    arrays, lists, dicts). And `set_attr` sets an attribute where `get_attr` finds it, rather than
    on the outermost wrapper. A row whose environment was lost has `invalid` in its info.

    Args:
        vec: a session with same-step auto-reset, which closing this closes; or what a session is
            made from, so that the class can be SB3's own `vec_env_cls`.
        infos: what of infos is asked for: "all"; "final" for those of an episode's last step, which
            is all that SB3's own algorithms read; None for what the session asks for.
        pure_calls: names of methods that change nothing in the environments, so that an episode can
            be replayed though they were called in it.
        arguments: for the session, where one is made: `workers` and so on; "auto" by default.

    Example:
        >>> with VecCheckedSession("CartPole-v1", n=4, workers=2) as vec:
        ...     SB3VecEnv(vec).reset().shape
        (4, 4)
    """

    def __init__(
        self,
        vec: VecCheckedSession | EnvLike,
        *,
        infos: InfoLevel | None = None,
        pure_calls: Sequence[str] = ("action_masks",),
        **arguments: Given,
    ) -> None:
        if not isinstance(vec, VecCheckedSession):
            vec = VecCheckedSession(vec, **{"workers": "auto", **arguments})
        elif arguments:
            raise TypeError(f"expected {list(arguments)} as arguments of the session")
        mode = vec.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.SAME_STEP:
            raise StateError(f"expected a session with same-step auto-reset, got {mode}")
        self.session = vec
        self._level = vec.engine.terms.conventions.info_level if infos is None else level_of(infos)
        self._pure_calls = frozenset(pure_calls)
        for name in self._pure_calls:
            refuse_own_verbs(name)
        super().__init__(vec.num_envs, vec.single_observation_space, vec.single_action_space)
        self.metadata = dict(vec.metadata)  # SB3's recorders look for render_fps

    # --- reset and step --------------------------------------------------------------------------

    def reset(self) -> Tree:
        """Resets every environment with its seed and options; cancels a step under way."""
        groups = _groups(self._options)
        for number, (options, envs) in enumerate(groups):
            chosen = dict(options)
            if number or (len(envs) < self.num_envs and self.session.started):
                chosen["reset_mask"] = np.isin(np.arange(self.num_envs), envs)
            observations, _ = self.session.reset(seed=self._seeds, options=chosen or None)
            infos, _ = self._told()
            for env in envs:
                self.reset_infos[env] = infos[env]
        # Seeds and options are only used once.
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: Tree) -> None:
        """Sends an action to each environment: a batch, or a list of N.

        What SB3's policies give for a MultiBinary space are floats, 0 and 1.
        """
        space = self.session.single_action_space
        if isinstance(space, spaces.Dict | spaces.Tuple) and isinstance(actions, list | np.ndarray):
            out: Given = create_empty_array(space, self.num_envs)
            actions = concatenate(space, actions, out)
        elif isinstance(space, spaces.MultiBinary) and np.asarray(actions).dtype.kind == "f":
            actions = whole_numbers(np.asarray(actions))
        engine = self.session.engine
        with engine.gate.during("step_async"):
            engine.begin_step(actions, self._level)

    def step_wait(self) -> tuple[Tree, Array, Array, list[Given]]:
        """Waits for the step; returns observations, rewards, dones and infos."""
        engine = self.session.engine
        rows = engine.new_rows()
        with engine.gate.during("step_wait"):
            finals = engine.finish_step(rows, None)
        infos, last = self._told()
        if finals is not None:
            self._end_episodes(infos, finals, last)
        cut_off = (rows.truncated & ~rows.terminated).tolist()
        for info, cut in zip(infos, cut_off, strict=True):
            info["TimeLimit.truncated"] = cut
        for env in np.flatnonzero(~rows.valid).tolist():
            infos[env]["invalid"] = True
        dones = rows.terminated | rows.truncated
        return rows.next_observations, rows.rewards.astype(np.float32), dones, infos

    def _end_episodes(self, infos: list[Fields], finals: Finals, last: dict[int, Fields]) -> None:
        """Parts the last step's info from the reset's, which came in the same step."""
        for k, env in enumerate(finals.envs.tolist()):
            self.reset_infos[env] = infos[env]
            infos[env] = last.get(env, {})
            infos[env]["terminal_observation"] = row(finals.observations, k)

    def _told(self) -> tuple[list[Fields], dict[int, Fields]]:
        """Returns each environment's info as it was, and by environment those of ended episodes."""
        flight = self.session.engine.lockstep.flight
        return flight.infos.of_each(flight.answers)

    def close(self) -> None:
        """Closes the session; a second call does nothing."""
        self.session.close()

    # --- attributes and methods ------------------------------------------------------------------

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Given]:
        """Returns an attribute of the environments, which is plain data."""
        return self._ask("get", attr_name, indices)

    def has_attr(self, attr_name: str) -> bool:
        """Returns whether every environment has an attribute, of any type."""
        return all(self._read("has_wrapper_attr", None, attr_name))

    def set_attr(self, attr_name: str, value: Given, indices: Indices = None) -> None:
        """Sets an attribute of the environments to one value."""
        envs = list(self._get_indices(indices))
        self.session.set_attr(attr_name, [value] * len(envs), indices=envs)

    def env_method(
        self, method_name: str, *method_args: Given, indices: Indices = None, **method_kwargs: Given
    ) -> list[Given]:
        """Calls a method of the environments; the results are plain data."""
        if method_name in self._pure_calls:
            return self._read(method_name, indices, *method_args, **method_kwargs)
        envs = list(self._get_indices(indices))
        return list(self.session.call(method_name, *method_args, indices=envs, **method_kwargs))

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Indices = None) -> list[bool]:
        """Returns which environments are wrapped with a class, or with one derived from it.

        The workers are told its name, not the class: they need not import what it needs.
        """
        name = f"{wrapper_class.__module__}.{wrapper_class.__qualname__}"
        return self._ask("wrapped", name, indices)

    def get_images(self) -> Sequence[Given]:
        """Returns a frame of each environment, where they render as `rgb_array`."""
        if self.render_mode != "rgb_array":
            warnings.warn(
                f"The render mode is {self.render_mode}, but this method assumes it is "
                "`rgb_array` to obtain images.",
                stacklevel=2,
            )
            return [None] * self.num_envs
        return list(self.session.render())

    def _read(self, name: str, indices: Indices, *args: Given, **kwargs: Given) -> list[Given]:
        """Calls a method that changes nothing."""
        return self._ask("read", name, indices, dumps((args, kwargs)))

    def _ask(self, verb: str, name: str, indices: Indices, packed: bytes = b"") -> list[Given]:
        return list(self.session.ask(verb, name, list(self._get_indices(indices)), packed))


def whole_numbers(actions: Array) -> Array:
    """Returns floats as int8 where nothing is lost, else as they are: they are refused then."""
    with np.errstate(invalid="ignore"):  # NaN is no number of any kind
        whole = actions.astype(np.int8)
    return whole if np.array_equal(whole, actions) else actions


def _groups(options: list[Fields]) -> list[tuple[Fields, list[int]]]:
    """Returns the environments that share their options; one reset serves each group."""
    groups: list[tuple[Fields, list[int]]] = []
    for env, own in enumerate(options):
        for shared, envs in groups:
            if _same(shared, own):
                envs.append(env)
                break
        else:
            groups.append((own, [env]))
    return groups


def _same(one: Given, other: Given) -> bool:
    """Whether two options are the same; arrays in them are compared as a whole."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return type(one) is type(other) and bool(np.all(np.array_equal(one, other)))
