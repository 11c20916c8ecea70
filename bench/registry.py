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
    WeightyPolicy,
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

_ACTING = partial(BareLoopsAdapter, acting=True)
_SYNC, _ASYNC = (partial(open_gymnasium, make=make) for make in (over_sync, over_async))

BARE = Contender("bare", "one bare environment", BareAdapter, bare=True)
BARE_LOOPS = Contender(
    "bare-cores", "bare loops on all cores, none waits", BareLoopsAdapter, bare=True
)
BARE_ACTING = Contender(
    "bare-acting", "the same with the policy, nothing checked", _ACTING, bare=True
)
SYNC = Contender("sync", "Gymnasium SyncVectorEnv", _SYNC)
ASYNC = Contender("async", "Gymnasium AsyncVectorEnv", _ASYNC)


def _peer(
    key: str, label: str, open_: Callable[[Case, int], Adapter], module: str = "stable_baselines3"
) -> Contender:
    package = module.partition(".")[0]
    return Contender(key, label, open_, package, partial(import_module, module))


_LAYOUTS: dict[str, int | Literal["auto"] | None] = {"auto": "auto", "n": None, "0": 0}
# By step(), the call that users make, with everything that is on by default: infos too.
OURS = (
    ours("ours-auto", 'vecsess workers="auto"', partial(open_ours, workers="auto")),
    ours("ours-n", "vecsess workers=N", partial(open_ours, workers=None)),
    ours("ours-2", "vecsess workers=2", partial(open_ours, workers=2), enough_for_two),
    ours("ours-0", "vecsess workers=0", partial(open_ours, workers=0)),
)
# By step_into, the call that collection makes: no infos.
_into = partial(partial, open_ours, into=True)
INTO = tuple(
    ours(f"into-{key}", f"vecsess workers={key!r}, step_into", _into(workers=w))
    for key, w in _LAYOUTS.items()
)

PEERS = (
    _peer("ours-sb3", 'SB3VecEnv over vecsess workers="auto"', open_sb3),
    _peer("dummy", "SB3 DummyVecEnv", partial(open_stable, kind="DummyVecEnv")),
    _peer("sb3", "SB3 SubprocVecEnv", partial(open_stable, kind="SubprocVecEnv")),
    _peer("tianshou", "tianshou ShmemVectorEnv", ShmemAdapter, "tianshou.env"),
    _peer("torchrl", "TorchRL ParallelEnv", TorchAdapter, "torchrl.envs"),
    PUFFER,
    ENVPOOL,
)


def _usual(key: str, label: str, make: Callable[[Case, int], object], **given: Any) -> Contender:
    return Contender(key, f"usual loop over {label}", partial(UsualLoop, make=make), **given)


USUAL_LOOP = _usual("usual-loop", "AsyncVectorEnv", over_async)
_POOL = {"package": "envpool", "applies": in_envpool, "own_environments": True}
_collect = partial(partial, CollectAdapter)
_acting = partial(_collect, inference="workers")
COLLECTORS = (
    _usual("usual-sync", "SyncVectorEnv", over_sync),
    USUAL_LOOP,
    _usual("usual-envpool", "EnvPool sync", over_envpool, **_POOL),
    *(
        ours(f"collect-{key}", f"vecsess collect_rollout, workers={w}", _collect(workers=w))
        for key, w in _LAYOUTS.items()
    ),
    *(
        ours(f"acting-{key}", f'vecsess inference="workers", workers={w}', _acting(workers=w))
        for key, w in _LAYOUTS.items()
        if w != 0
    ),
)

CHECKED = ours("checked", "vecsess workers=2", partial(open_ours, workers=2))
UNCHECKED = ours(
    "unchecked", "vecsess workers=2, no value checks", partial(open_ours, workers=2, values=False)
)
CHECKS = (CHECKED, UNCHECKED)
# What is left of the cost where the checks of values and the log are left out.
UNCHECKED_HERE = ours(
    "unchecked-0",
    "vecsess workers=0, no value checks, no log",
    partial(open_ours, workers=0, values=False, log=False),
)

# How inference at the workers grows: with their number, and with the policy's weights.
GROWTH = tuple(
    ours(f"growth-{w}", f"{w} workers, each with N", _acting(workers=w, each=True))
    for w in (1, 2, 4, 8, 16)
)
WEIGHTS = tuple(
    ours(
        f"weights-{name}",
        f"{name} of weights",
        _acting(workers="auto", policy=partial(WeightyPolicy, extra_bytes=size)),
    )
    for name, size in {"0B": 0, "10kB": 10_000, "6.7MB": 6_700_000, "50MB": 50_000_000}.items()
)

EXTRA = (
    UNCHECKED_HERE,
    *GROWTH,
    *WEIGHTS,
    *FREE,
    *OVERLAPS["rows"],
    *OVERLAPS["call"],
    *SLOW,
    MANAGER,
    WORKER,
)

_BARE = (BARE, BARE_LOOPS, BARE_ACTING)
EVERYTHING = {
    each.key: each
    for each in (*_BARE, SYNC, ASYNC, *OURS, *INTO, *PEERS, *COLLECTORS, *CHECKS, *EXTRA)
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
