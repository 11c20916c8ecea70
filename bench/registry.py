"""Which contenders there are, by key; one line each, so that the list is the documentation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module

from vecsess.bench.bare import BareAdapter, BareLoopsAdapter
from vecsess.bench.cases import Case
from vecsess.bench.collecting import CollectAdapter, UsualLoop
from vecsess.bench.contenders import (
    Adapter,
    Contender,
    anything,
    enough_for_two,
    load_ours,
    open_async,
    open_ours,
    open_sync,
)
from vecsess.bench.overhead import MANAGER, WORKER
from vecsess.bench.paces import FREE, OVERLAPS, SLOW
from vecsess.bench.peers import (
    PUFFER,
    PoolAdapter,
    ShmemAdapter,
    SubprocAdapter,
    TorchAdapter,
    in_envpool,
)

BARE = Contender(key="bare", label="one bare environment", open=BareAdapter, bare=True)
BARE_LOOPS = Contender(
    key="bare-cores", label="bare loops on all cores, none waits", open=BareLoopsAdapter, bare=True
)
SYNC = Contender(key="sync", label="Gymnasium SyncVectorEnv", open=open_sync)
ASYNC = Contender(key="async", label="Gymnasium AsyncVectorEnv", open=open_async)


def _ours(
    key: str,
    label: str,
    open_: Callable[[Case, int], Adapter],
    applies: Callable[[Case, int], bool] = anything,
) -> Contender:
    return Contender(
        key=key,
        label=f"vecsess {label}",
        package="vecsess",
        load=load_ours,
        open=open_,
        applies=applies,
    )


OURS = (
    _ours("ours-n", "workers=N", partial(open_ours, workers=None)),
    _ours("ours-2", "workers=2", partial(open_ours, workers=2), enough_for_two),
    _ours("ours-auto", 'workers="auto"', partial(open_ours, workers="auto")),
    _ours("ours-0", "workers=0", partial(open_ours, workers=0)),
)
DROP_IN = _ours(
    "ours-auto-step", 'workers="auto", step()', partial(open_ours, workers="auto", drop_in=True)
)

PEERS = (
    Contender(
        key="sb3",
        label="SB3 SubprocVecEnv",
        package="stable_baselines3",
        load=partial(import_module, "stable_baselines3"),
        open=SubprocAdapter,
    ),
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
    Contender(
        key="envpool",
        label="EnvPool sync (C++ environments)",
        package="envpool",
        load=partial(import_module, "envpool"),
        open=PoolAdapter,
        applies=in_envpool,
        own_environments=True,
    ),
)

USUAL_LOOP = Contender(key="usual-loop", label="usual loop over AsyncVectorEnv", open=UsualLoop)
COLLECTORS = (
    USUAL_LOOP,
    *(
        _ours(
            ours.key.replace("ours", "collect"),
            ours.label.replace("vecsess", "collect_rollout"),
            partial(CollectAdapter, workers=workers),
            ours.applies,
        )
        for ours, workers in zip(OURS, (None, 2, "auto", 0), strict=True)
    ),
)

CHECKED = _ours("checked", "workers=2", partial(open_ours, workers=2))
UNCHECKED = _ours(
    "unchecked", "workers=2, no value checks", partial(open_ours, workers=2, values=False)
)
CHECKS = (CHECKED, UNCHECKED)

EXTRA = (*FREE, *OVERLAPS["rows"], *OVERLAPS["call"], *SLOW, MANAGER, WORKER)

EVERYTHING = {
    contender.key: contender
    for contender in (
        BARE,
        BARE_LOOPS,
        SYNC,
        ASYNC,
        *OURS,
        DROP_IN,
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
