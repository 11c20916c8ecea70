"""A session whose environments live on many machines; what the driver keeps of it."""

from __future__ import annotations

import secrets
import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import ray

from vecsess import tree
from vecsess.collect.policies import AnyPolicy, as_policy
from vecsess.collect.rollout import Rollout
from vecsess.contract import Transition
from vecsess.errors import ClosedError, StateError
from vecsess.fleet.plan import EnvLike, group
from vecsess.integrations.ray.log import Log
from vecsess.integrations.ray.losses import Shards
from vecsess.integrations.ray.parts import Assembly, Collecting
from vecsess.integrations.ray.placement import Cluster
from vecsess.integrations.ray.shard import Answer
from vecsess.integrations.ray.slots import (
    Limits,
    ShardHealth,
    ShardIncident,
    Slot,
    ask_health,
    pack_shard,
)
from vecsess.session.checkpoint import read_recipe, state_of
from vecsess.session.conventions import Seed
from vecsess.session.partition import divide_checkpoint, join_checkpoints
from vecsess.session.signature import check_origin, signed
from vecsess.tree import Tree
from vecsess.wire.values import Fields, Given, Space


class RaySession:
    """N environments in K shards on the nodes of a Ray cluster: a session of many machines.

    `collect_rollout` and `evaluate` take it as they take a `VecCheckedSession`, and the batch is
    the same, bit for bit, for any number of shards, also when nodes are lost in the middle.

    Args:
        env: as for `VecCheckedSession`; must be picklable by cloudpickle.
        n: how many environments, in all shards together.
        shards: how many; each is an actor that owns a `VecCheckedSession`.
        options: Ray's options of each actor, such as `{"num_cpus": 4, "num_gpus": 0.25}`; one CPU
            by default.
        answer_s: a shard that gives no sign of life for so long is lost; None never is.
        race: a shard that takes this many times what the others take is raced by a second copy on
            another node, and whichever ends first counts; None never is.
        start_s: how long a shard may wait for its place and for its session.
        address: of the cluster; None for the one that `ray.init` has joined, or else for a local
            one that ends with the session.
        settings: `VecCheckedSession`'s, for each shard, such as `workers`, of one shard.

    Raises:
        SpawnError: a shard could not be started; says why, and what to do.
        EnvError: as `VecCheckedSession`.

    Example:
        with RaySession("CartPole-v1", n=256, shards=8, options={"num_cpus": 4}, workers=4) as vec:
            rollout = collect_rollout(vec, policy, horizon=128, seed=0)
    """

    def __init__(
        self,
        env: EnvLike = "CartPole-v1",
        n: int = 16,
        *,
        shards: int = 2,
        options: Fields | None = None,
        answer_s: float | None = 10.0,
        race: float | None = 3.0,
        start_s: float = 60.0,
        address: str | None = None,
        _kept: Fields | None = None,
        **settings: Given,
    ) -> None:
        groups = _groups(n, shards)
        if settings.get("on_crash", "replay") != "replay" or "first_env" in settings:
            raise ValueError(
                "settings: expected on_crash='replay' and no first_env: a lost shard is brought "
                "back from its log, and its place in the session is the session's affair"
            )
        self.num_envs = n
        self._env, self._settings = env, settings
        self._options = {"num_cpus": 1, **(options or {}), "max_restarts": 0, "max_task_retries": 0}
        self._limits = Limits(answer_s=answer_s, race=race, start_s=start_s)
        self.noise_seed, self.noise_counter = secrets.randbits(63), 0
        self.episode_returns = np.zeros(n, np.float64)
        self.episode_lengths = np.zeros(n, np.int64)
        self.last_seen: Tree | None = None  # of no use here: each shard looks for itself
        self._last: Tree | None = None
        self._closed = True  # until there is something to close
        self._incidents: list[ShardIncident] = []
        self._cluster: Cluster | None = Cluster(
            address, shards * self._options["num_cpus"], start_s
        )
        self._closed = False
        try:
            self._open(groups, _kept)
        except BaseException:
            self._closed = True
            self._cluster.close()
            raise

    # --- the verbs -------------------------------------------------------------------------------

    @property
    def started(self) -> bool:
        """Whether the environments have been reset and can be stepped."""
        return self._last is not None

    def start(self, seed: Seed = None) -> Tree:
        """Resets every environment; returns the observations `[N, *obs]`."""
        self._require_open()
        self._last = None
        for slot in self._shards.slots:
            slot.log = slot.seen = None

        def submit(slot: Slot, actor: Given) -> Given:
            own = seed if seed is None or np.ndim(seed) == 0 else list(seed)[slot.envs]  # type: ignore[arg-type]
            return actor.start.remote(own)

        self._call(submit)
        self.episode_returns[:], self.episode_lengths[:] = 0.0, 0
        return self.observe()

    def observe(self) -> Tree:
        """Returns a copy of the observations to act on next, `[N, *obs]`."""
        if self._last is None:
            raise StateError("`observe`: expected start() first: it has not been reset yet")
        return tree.map_leaves(np.copy, self._last)

    def step_checked(self, actions: Tree) -> Transition:
        """Steps every environment and returns the whole transition.

        Slow across nodes: each step is a call of every shard, and brings what is new of their
        logs; 2 to 3 ms in two shards on one machine, five times what one session takes.
        """
        self.observe()
        made: dict[int, Transition] = {}
        self._call(
            lambda slot, actor: actor.step.remote(tree.row(actions, slot.envs)),
            lambda slot, answer: made.update({slot.index: answer["transition"]}),
        )
        parts = [made[index] for index in sorted(made)]
        columns = (
            tree.concatenate([getattr(part, name) for part in parts])
            for name in Transition.__dataclass_fields__
        )
        return Transition(*columns)

    def collect(
        self,
        policy: AnyPolicy,
        horizon: int,
        *,
        seed: int | None = None,
        counter: int | None = None,
        out: Rollout | None = None,
        on_part: Callable[[range, Rollout], None] | None = None,
        **how: Given,
    ) -> Rollout:
        """Collects a rollout; what `collect_rollout` calls.

        Args:
            policy: as for `collect_rollout`; travels to the shards once a rollout.
            horizon: `T`, at least 1.
            seed: of the noise, as for `collect_rollout`.
            counter: likewise.
            out: likewise.
            on_part: is called with the environments whose part has come, and the rollout in which
                it lies; the rest of that is not filled yet.
            how: what else `collect_rollout` takes, such as `pace`, for each shard.
        """
        if horizon <= 0:
            raise ValueError(f"expected a positive horizon (locksteps to collect), got {horizon!r}")
        self._require_open()
        as_policy(policy, self.single_action_space)  # what is none is refused here
        if seed is not None:
            self.noise_seed, self.noise_counter = seed, 0
        if counter is not None:
            self.noise_counter = counter
        if not self.started:
            self.start(seed)
        stream = {"seed": self.noise_seed, "counter": self.noise_counter}
        assembly = Assembly(horizon, self.num_envs, self._spaces, out)
        run = Collecting(policy, self._spaces[1], {"horizon": horizon, **stream, **how})

        def take(slot: Slot, part: Answer) -> None:
            rollout = assembly.add(slot.envs, part)
            run.take(slot, part)
            if on_part is not None:
                on_part(range(self.num_envs)[slot.envs], rollout)

        self._call(run.submit, take, race=True)
        run.end(self.episode_returns, self.episode_lengths)
        self.noise_counter += horizon
        return assembly.finish(self.noise_counter)

    # --- what is going on ------------------------------------------------------------------------

    @property
    def single_observation_space(self) -> Space:
        """Of one environment."""
        return self._spaces[0]

    @property
    def single_action_space(self) -> Space:
        """Of one environment."""
        return self._spaces[1]

    @property
    def incidents(self) -> list[ShardIncident]:
        """What went wrong with shards and in them, and what was done about it."""
        return [*self._incidents, *self._shards.incidents]

    def health(self) -> list[ShardHealth]:
        """Returns how each shard's workers are, and on which node it lives."""
        self._require_open()
        return ask_health(self._shards.slots)

    # --- checkpoints, and other numbers of shards ------------------------------------------------

    def checkpoint(self) -> Fields:
        """Returns the session as plain data, for `restore` here or of `VecCheckedSession`.

        Asks nobody: what brings the shards back came with their last answers.

        Raises:
            StateError: before the first start.
        """
        parts = [slot.log.whole() for slot in self._shards.slots if slot.log is not None]
        if self._last is None or len(parts) < len(self._shards.slots):
            raise StateError("`checkpoint`: expected start() first: there is nothing to keep yet")
        # The shards are this user's own, whatever the keys on their machines.
        return signed(join_checkpoints(parts, (self.noise_seed, self.noise_counter)))

    @classmethod
    def restore(
        cls,
        data: Fields,
        env: EnvLike | None = None,
        *,
        trusted: bool = False,
        **settings: Given,
    ) -> RaySession:
        """Returns a session like the one of which a checkpoint was taken, mid-episode.

        Args:
            data: what `checkpoint` returned, here or of a `VecCheckedSession`.
            env: as for `VecCheckedSession.restore`.
            trusted: as there.
            settings: as for the constructor, such as `shards`.

        Raises:
            StateError: as there.
        """
        own = ("shards", "options", "answer_s", "race", "start_s", "address")
        ours = {name: settings.pop(name) for name in own if name in settings}
        made = read_recipe(data, settings if env is None else {**settings, "env": env})
        made.pop("first_env", None)  # the session's affair
        if not trusted:
            check_origin(data)
        session = cls(**made, **ours, _kept=data)
        state = state_of(data)
        session.noise_seed, session.noise_counter = state["noise"]
        return session

    def reshard(self, shards: int) -> None:
        """Goes on in another number of shards, on the nodes that there are now.

        Args:
            shards: how many.
        """
        self._require_open()
        groups = _groups(self.num_envs, shards)
        data = self.checkpoint()
        self._shards.close()
        self._incidents += self._shards.incidents
        self._open(groups, data)

    # --- life ------------------------------------------------------------------------------------

    def close(self) -> None:
        """Ends the shards, and the cluster where it is the session's own."""
        if self._closed:
            return
        self._closed = True
        if ray.is_initialized():
            self._shards.close()
        if self._cluster is not None:
            self._cluster.close()

    def __enter__(self) -> RaySession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            warnings.warn(
                f"{self!r} was not closed; use it in a `with`, or call close()",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )
            self.close()

    def __repr__(self) -> str:
        return f"RaySession(num_envs={self.num_envs}, shards={len(self._shards.slots)})"

    # --- how it is done --------------------------------------------------------------------------

    @property
    def _spaces(self) -> tuple[Space, Space]:
        assert self._shards.spaces is not None, "a shard has opened"
        return self._shards.spaces

    def _require_open(self) -> None:
        if self._closed:
            raise ClosedError("this session was closed; make a new one")

    def _open(self, groups: list[tuple[int, int]], kept: Fields | None) -> None:
        """Makes shards, from a checkpoint where there is one."""
        parts = [None] * len(groups) if kept is None else divide_checkpoint(kept, groups)
        slots = [
            Slot(index, first, count, None if part is None else Log(part))
            for index, ((first, count), part) in enumerate(zip(groups, parts, strict=True))
        ]
        make = partial(pack_shard, self._env, self._settings)
        self._shards = Shards(slots, make, list(sys.path), self._options, self._limits)
        self._shards.open()
        if kept is None:
            return
        self._call(lambda slot, actor: actor.observe.remote())
        state = state_of(kept)
        self.episode_returns[:], self.episode_lengths[:] = state["returns"], state["lengths"]
        for env in self._shards.begun:
            self.episode_returns[env], self.episode_lengths[env] = 0.0, 0

    def _call(
        self,
        submit: Callable[[Slot, Any], Any],
        take: Callable[[Slot, Answer], None] | None = None,
        *,
        race: bool = False,
    ) -> None:
        """Calls all shards; where they stand then counts once all have answered."""
        kept: dict[int, Fields] = {}
        seen: dict[int, Tree] = {}

        def taken(slot: Slot, answer: Answer) -> None:
            if take is not None:
                take(slot, answer)
            kept[slot.index] = answer["kept"]
            seen[slot.index] = tree.map_leaves(np.copy, answer["seen"])
            self._shards.tell(slot, answer["incidents"])

        self._shards.call(submit, taken, race=race)
        for slot in self._shards.slots:
            slot.keep(kept[slot.index], seen[slot.index])
        self._last = tree.concatenate([seen[index] for index in sorted(seen)])


def _groups(n: int, shards: int) -> list[tuple[int, int]]:
    if type(shards) is not int or not 1 <= shards <= n:
        raise ValueError(f"shards: expected a number from 1 to n={n}, got {shards!r}")
    return group(n, shards)
