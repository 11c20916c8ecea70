"""Which contenders there are, by key; one line each, so that the list is the documentation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any, Literal

from vecsess.bench.bare import BareAdapter, BareLoopsAdapter
from vecsess.bench.cases import Case
from vecsess.bench.collecting import (
    CollectAdapter,
    UsualLoop,
)
from vecsess.bench.contenders import (
    Adapter,
    Contender,
    enough_for_two,
    open_gymnasium,
    open_ours,
    open_sb3,
    ours,
    over_async,
    over_sync,
)
from vecsess.bench.overhead import MANAGER, WORKER
from vecsess.bench.paces import FREE, OVERLAPS, SLOW
from vecsess.bench.peers import (
    ENVPOOL,
    PUFFER,
    ShmemAdapter,
    TorchAdapter,
    in_envpool,
    open_stable,
    over_envpool,
)

BARE = Contender(key="bare", label="one bare environment", open=BareAdapter, bare=True)
BARE_LOOPS = Contender(
    key="bare-cores", label="bare loops on all cores, none waits", open=BareLoopsAdapter, bare=True
)
BARE_ACTING = Contender(
    key="bare-acting",
    label="the same with the policy, nothing checked",
    open=partial(BareLoopsAdapter, acting=True),
    bare=True,
)
SYNC = Contender(
    key="sync", label="Gymnasium SyncVectorEnv", open=partial(open_gymnasium, make=over_sync)
)
ASYNC = Contender(
    key="async", label="Gymnasium AsyncVectorEnv", open=partial(open_gymnasium, make=over_async)
)


def _sb3(key: str, label: str, open_: Callable[[Case, int], Adapter]) -> Contender:
    load = partial(import_module, "stable_baselines3")
    return Contender(key=key, label=label, package="stable_baselines3", load=load, open=open_)


_LAYOUTS: dict[str, int | Literal["auto"] | None] = {"auto": "auto", "n": None, "0": 0}
# By step(), the call that users make, with everything that is on by default: infos too.
OURS = (
    ours("ours-auto", 'vecsess workers="auto"', partial(open_ours, workers="auto")),
    ours("ours-n", "vecsess workers=N", partial(open_ours, workers=None)),
    ours("ours-2", "vecsess workers=2", partial(open_ours, workers=2), enough_for_two),
    ours("ours-0", "vecsess workers=0", partial(open_ours, workers=0)),
)
# By step_into, the call that collection makes: no infos.
INTO = tuple(
    ours(
        f"into-{key}",
        f"vecsess workers={key!r}, step_into",
        partial(open_ours, workers=w, into=True),
    )
    for key, w in _LAYOUTS.items()
)

PEERS = (
    _sb3("ours-sb3", 'SB3VecEnv over vecsess workers="auto"', open_sb3),
    _sb3("dummy", "SB3 DummyVecEnv", partial(open_stable, kind="DummyVecEnv")),
    _sb3("sb3", "SB3 SubprocVecEnv", partial(open_stable, kind="SubprocVecEnv")),
    Contender(
        key="tianshou",
        label="tianshou ShmemVectorEnv",
        package="tianshou",
        load=partial(import_module, "tianshou.env"),
        open=ShmemAdapter,
    ),
    Contender(
        key="torchrl",
        label="TorchRL ParallelEnv",
        package="torchrl",
        load=partial(import_module, "torchrl.envs"),
        open=TorchAdapter,
    ),
    PUFFER,
    ENVPOOL,
)


def _usual(key: str, label: str, make: Callable[[Case, int], object], **given: Any) -> Contender:
    open_ = partial(UsualLoop, make=make)
    return Contender(key=key, label=f"usual loop over {label}", open=open_, **given)


USUAL_LOOP = _usual("usual-loop", "AsyncVectorEnv", over_async)
_POOL = {"package": "envpool", "applies": in_envpool, "own_environments": True}
COLLECTORS = (
    _usual("usual-sync", "SyncVectorEnv", over_sync),
    USUAL_LOOP,
    _usual("usual-envpool", "EnvPool sync", over_envpool, **_POOL),
    *(
        ours(
            f"collect-{key}",
            f"vecsess collect_rollout, workers={w}",
            partial(CollectAdapter, workers=w),
        )
        for key, w in _LAYOUTS.items()
    ),
    *(
        ours(
            f"acting-{key}",
            f'vecsess inference="workers", workers={w}',
            partial(CollectAdapter, workers=w, inference="workers"),
        )
        for key, w in _LAYOUTS.items()
        if w != 0
    ),
)

CHECKED = ours("checked", "vecsess workers=2", partial(open_ours, workers=2))
UNCHECKED = ours(
    "unchecked", "vecsess workers=2, no value checks", partial(open_ours, workers=2, values=False)
)
CHECKS = (CHECKED, UNCHECKED)

EXTRA = (*FREE, *OVERLAPS["rows"], *OVERLAPS["call"], *SLOW, MANAGER, WORKER)

EVERYTHING = {
    contender.key: contender
    for contender in (
        BARE,
        BARE_LOOPS,
        BARE_ACTING,
        SYNC,
        ASYNC,
        *OURS,
        *INTO,
        *PEERS,
        *COLLECTORS,
        *CHECKS,
        *EXTRA,
    )
}


def choose(
    standard: Sequence[Contender], *, peers: str = "all", only: str | None = None
) -> list[Contender]:
    """Chooses contenders by the options that a command was given.

    Args:
        standard: what the command measures in any case.
        peers: "all", "none", or keys of peers, separated by commas.
        only: keys of any contenders, separated by commas, instead of all that.

    Raises:
        ValueError: a key that doesn't exist.
    """
    if only is not None:
        return _by_key(only, EVERYTHING)
    known = {peer.key: peer for peer in PEERS}
    if peers == "all":
        return [*standard, *PEERS]
    return [*standard] if peers == "none" else [*standard, *_by_key(peers, known)]


def _by_key(keys: str, known: dict[str, Contender]) -> list[Contender]:
    unknown = [key for key in keys.split(",") if key not in known]
    if unknown:
        raise ValueError(f"no contender {', '.join(unknown)}; there are: {', '.join(known)}")
    return [known[key] for key in keys.split(",")]
