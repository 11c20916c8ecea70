"""A worker that does not keep to the protocol is ended; the trainer takes no harm."""

from __future__ import annotations

import sys
import tracemalloc
from functools import partial
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from tests.envs import CountingEnv
from tests.hostility import ENDLESS, ODD_ANSWERS, ODD_ROLLOUTS, HostileEnv, SilentEnv
from tests.sessions import open_session, zeros
from vecsess import (
    ContractViolation,
    EnvError,
    Timeouts,
    VecCheckedSession,
    WorkerDied,
    WorkerTimeout,
    collect_rollout,
)
from vecsess.collect.policies import RandomPolicy
from vecsess.errors import ProtocolError, WorkerError
from vecsess.fleet import held
from vecsess.fleet.description import agree
from vecsess.fleet.held import Held
from vecsess.fleet.lockstep import _Growing
from vecsess.fleet.reports import MAX_TEXT, Reports, start_error
from vecsess.fleet.worker import Worker
from vecsess.recovery.policy import RestartPolicy
from vecsess.wire.messages import Described, Done, Failed, decode, encode
from vecsess.wire.slab import Layout
from vecsess.wire.spaces import describe
from vecsess.wire.values import FrameError, pack_value

N = 3
BRIEF = Timeouts(step_s=2, reset_s=2, close_s=2)
pytestmark = pytest.mark.usefixtures("no_process_left")


def hostile(deed: str) -> VecCheckedSession:
    """Returns a session whose environment 1 is hostile, alone in worker 1."""
    makers: list[Any] = [partial(CountingEnv, 1000)] * N
    makers[1] = partial(HostileEnv, deed)
    vec = open_session(makers, N, timeouts=BRIEF)
    vec.reset(seed=0)
    vec.step(zeros(N))
    return vec


def step_often(vec: VecCheckedSession) -> None:
    for _ in range(5):
        vec.step(zeros(N))


def others_are_unharmed(vec: VecCheckedSession) -> None:
    observations, _ = vec.reset(seed=0)
    np.testing.assert_array_equal(observations[:, 1], 0)
    np.testing.assert_array_equal(vec.step(zeros(N))[0][:, 1], 1)


@pytest.mark.parametrize(
    ("deed", "message"),
    [
        ("garbage", "not valid msgpack"),
        ("no frame at all", "expected a frame of at most"),
        ("a frame that is too long", "expected a frame of at most"),
        ("a reply of the future", "expected the reply to command"),
        ("a reply of another kind", ""),
        ("a command", "expected one of"),
        ("a field of another type", "Done.seq: expected int, got str"),
        ("code", ""),
    ],
)
def test_a_breach_of_the_protocol_ends_the_worker(
    deed: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with hostile(deed) as vec:
        with pytest.raises(ProtocolError) as caught:
            vec.step(zeros(N))
        assert caught.value.worker == 1
        assert message in str(caught.value)
        others_are_unharmed(vec)
    assert not list(tmp_path.iterdir()), "nothing that a worker sent was executed"


def test_a_worker_that_hangs_up_is_lost() -> None:
    with hostile("hang up") as vec:
        with pytest.raises(WorkerDied) as caught:
            vec.step(zeros(N))
        assert caught.value.worker == 1
        others_are_unharmed(vec)


def test_the_slab_can_not_be_cut() -> None:
    with hostile("cut the slab") as vec, pytest.raises(EnvError, match="it was sealed"):
        vec.step(zeros(N))


def test_a_scribbled_slab_harms_its_own_rows_alone() -> None:
    """What was written is not finite; and a worker that confused itself by it is ended."""
    with hostile("scribble") as vec:
        with pytest.raises((ContractViolation, WorkerError)) as caught:
            step_often(vec)
        assert caught.value.worker == 1
        others_are_unharmed(vec)


@pytest.mark.parametrize("deed", list(ENDLESS))
def test_no_deed_holds_the_manager_past_a_deadline(deed: str) -> None:
    with hostile(deed) as vec:
        with pytest.raises((WorkerTimeout, ProtocolError)) as caught:
            vec.step(zeros(N))
        assert caught.value.worker == 1
        others_are_unharmed(vec)


@pytest.mark.parametrize("deed", list(ENDLESS))
def test_nor_does_it_hold_close(deed: str) -> None:
    makers: list[Any] = [partial(CountingEnv, 1000)] * N
    makers[1] = partial(HostileEnv, deed, at_close=True)
    vec = open_session(makers, N, timeouts=BRIEF)
    vec.reset(seed=0)
    with pytest.warns(Warning, match="a worker did not close in order"):
        vec.close()


def test_an_answer_that_comes_before_its_command_is_a_breach() -> None:
    with hostile("answer ahead") as vec:
        with pytest.raises(ProtocolError, match=r"expected the reply to|expected one reply"):
            step_often(vec)
        others_are_unharmed(vec)


def test_the_number_of_the_next_command_can_not_be_told_from_those_before() -> None:
    numbers = list(islice(_Growing(), 3000))
    leaps = np.diff(numbers)
    assert (leaps > 0).all()
    assert len(set(leaps.tolist())) > 2900
    assert leaps.max() > 1 << 23


@pytest.mark.parametrize("deed", list(ODD_ANSWERS))
def test_an_odd_answer_is_a_breach_that_is_recovered(deed: str) -> None:
    """The deed is repeated in each try, so its row is cut off; the others' come as they were."""
    makers: list[Any] = [partial(CountingEnv, 1000)] * N
    with open_session(makers, N) as plain:
        plain.reset(seed=0)
        expected = [plain.step(zeros(N)) for _ in range(3)]
    makers[1] = partial(HostileEnv, deed)
    with VecCheckedSession(makers, N, timeouts=BRIEF) as vec:
        vec.reset(seed=0)
        for observations, rewards, terminated, truncated, _ in expected:
            got = vec.step(zeros(N))
            for mine, theirs in zip(
                got[:4], (observations, rewards, terminated, truncated), strict=True
            ):
                np.testing.assert_array_equal(mine[[0, 2]], theirs[[0, 2]])
        breach = vec.incidents[0]
        assert breach.worker == 1
        assert breach.kind in ("ProtocolError", "BadEncoding")


def test_an_answer_without_the_observation_that_goes_by_pipe_is_a_breach() -> None:
    makers = [partial(SilentEnv, silent=index == 1) for index in range(N)]
    with open_session(makers, N, timeouts=BRIEF) as vec:
        with pytest.raises(ProtocolError, match="expected an observation of each") as caught:
            vec.reset(seed=0)
        assert caught.value.worker == 1


@pytest.mark.filterwarnings("ignore:a worker did not close in order")
@pytest.mark.parametrize("deed", list(ODD_ROLLOUTS))
def test_an_odd_answer_to_a_rollout_is_a_breach_that_is_recovered(deed: str) -> None:
    makers: list[Any] = [partial(CountingEnv, 1000)] * N
    makers[1] = partial(HostileEnv, deed)
    policy = RestartPolicy(max_restarts=None, backoff_s=0.001, max_backoff_s=0.001)
    terms: dict[str, Any] = {"restart_policy": policy, "on_error": "truncate"}
    with VecCheckedSession(makers, N, timeouts=BRIEF, **terms) as vec:
        acts = RandomPolicy(vec.single_action_space)
        for first in (0, 6):
            rollout = collect_rollout(vec, acts, 6, inference="workers")
            steps = np.arange(first, first + 6)
            np.testing.assert_array_equal(rollout.observations[:, [0, 2], 1], np.c_[steps, steps])
            assert rollout.valid[:, [0, 2]].all()
        assert {incident.worker for incident in vec.incidents} == {1}
        assert vec.incidents[0].kind == "ProtocolError"


class LargeEnv(CountingEnv):
    """Tells much in its infos, and when it is called."""

    def __init__(self, size: int, told_bytes: int = 0) -> None:
        super().__init__(1000)
        self.frames = [np.zeros(size, np.uint8)] * 3
        self.objects: list[Any] = [[]] * size
        self.info = {"told": bytes(told_bytes)}

    def step(self, action: Any) -> Any:
        return (*super().step(action)[:4], self.info if self.steps == 2 else {})


MUCH = [300_000, 1_500_000, 300_000]


def test_what_is_too_much_together_ends_the_worker_that_has_sent_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(held, "MAX_REPLY_BYTES", 2_000_000)
    with open_session([partial(LargeEnv, 1, size) for size in MUCH], N) as vec:
        vec.reset(seed=0)
        vec.step(zeros(N))
        with pytest.raises(ProtocolError, match=r"VECSESS_MAX_REPLY_BYTES raises") as caught:
            vec.step(zeros(N))
        assert caught.value.worker == 1
        assert " from worker 1, 300," in str(caught.value)
        others_are_unharmed(vec)


def test_the_row_of_one_that_sends_too_much_is_cut_off_and_the_others_come() -> None:
    makers: list[Any] = [partial(LargeEnv, 1, size) for size in MUCH]
    with VecCheckedSession(makers, N, timeouts=BRIEF) as vec, pytest.MonkeyPatch.context() as patch:
        patch.setattr(held, "MAX_REPLY_BYTES", 2_000_000)
        vec.reset(seed=0)
        vec.step(zeros(N))
        observations, *_, infos = vec.step(zeros(N))
        assert infos["invalid"].tolist() == [False, True, False]
        assert infos["told"][0] == infos["told"][2] == bytes(300_000)
        np.testing.assert_array_equal(observations[[0, 2], 1], 2)
        assert vec.incidents[0].worker == 1


def test_small_bytes_of_many_objects_count_as_what_they_become(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(held, "MAX_REPLY_BYTES", 30_000_000)
    with open_session([partial(LargeEnv, 100_000)] * N, N) as vec:
        vec.reset(seed=0)
        assert [len(frames) for frames in vec.get_attr("frames")] == [3] * N
        assert len(vec.get_attr("objects")[2]) == 100_000
    monkeypatch.setattr(held, "MAX_REPLY_BYTES", 15_000_000)
    with open_session([partial(LargeEnv, 100_000)] * N, N) as vec:
        vec.reset(seed=0)
        with pytest.raises(ProtocolError, match="VECSESS_MAX_REPLY_BYTES"):
            vec.get_attr("objects")


@pytest.mark.parametrize("workers", [1, 12])
def test_twelve_frames_of_full_hd_come_whatever_the_grouping(workers: int) -> None:
    with open_session([partial(LargeEnv, 1920 * 1080 * 2)] * 12, 12, workers=workers) as vec:
        vec.reset(seed=0)
        assert [frames[2].nbytes for frames in vec.get_attr("frames")] == [1920 * 1080 * 2] * 12


LAYOUT = Layout(spaces.Discrete(2), spaces.Discrete(2), 4)
views = partial(LAYOUT.views, bytearray(LAYOUT.stride_bytes))
WORKER = Worker(7, 0, 4, None, -1)  # type: ignore[arg-type]  # nothing is sent
SPACE = describe(spaces.Discrete(2))
BOX = describe(spaces.Box(0, 1, (2,)))
CUSTOM = {"type": "Custom", "shape": None, "dtype": ""}
LAZY: dict[str, Any] = {**CUSTOM, "module": "tests.lazy", "name": "Space", "state": {}}
REPLACING: dict[str, Any] = {**CUSTOM, "module": __name__, "name": "OwnSpace"}


class OwnSpace(spaces.Space[Any]):
    """A space whose class the trainer has."""

    size = 1


def generator(name: str, **changed: Any) -> dict[str, Any]:
    """Returns the state of a bit generator with some of its parts changed."""
    state: dict[str, Any] = dict(getattr(np.random, name)(0).state)
    inner = {**state["state"], **{k: v for k, v in changed.items() if k in state["state"]}}
    outer = {key: value for key, value in changed.items() if key not in inner}
    return {**state, **outer, "state": inner}


WIDE = 1 << 900
GENERATORS = [
    5,
    {},
    {"bit_generator": "PCG64"},
    {"bit_generator": np.zeros(3)},
    *(generator("MT19937", pos=pos) for pos in (-1, 625, 1 << 31, WIDE, None, 1.5)),
    generator("MT19937", key=np.zeros(624, np.uint32)),
    generator("MT19937", key=np.ones(623, np.uint32)),
    generator("MT19937", key=np.ones(624, np.int64)),
    *(generator("Philox", buffer_pos=pos) for pos in (-1, 5, WIDE)),
    generator("Philox", buffer=np.zeros(3, np.uint64)),
    generator("SFC64", has_uint32=2),
    generator("SFC64", uinteger=1 << 32),
    generator("PCG64", inc=2),
    generator("PCG64", state=1 << 128),
    generator("PCG64", more=1),
]


@pytest.mark.parametrize("state", GENERATORS, ids=lambda state: repr(state)[:60])
def test_a_generator_takes_only_what_is_within_its_bounds(state: Any) -> None:
    reports = Reports(LAYOUT.observation_space, views(), Held())
    reply = Done(1, [[0, "generator", pack_value(state)]], [])
    with pytest.raises(FrameError):
        reports.read(WORKER, reply, Done)


@pytest.mark.parametrize("name", ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"])
def test_the_state_of_every_generator_of_numpy_comes_as_it_was(name: str) -> None:
    reports = Reports(LAYOUT.observation_space, views(), Held())
    reply = Done(1, [[0, "generator", pack_value(generator(name))]], [])
    got = reports.read(WORKER, reply, Done).values[0][2]
    assert got.random() == np.random.Generator(getattr(np.random, name)(0)).random()


DESCRIPTIONS: dict[str, tuple[Any, ...]] = {
    "a MultiBinary of gigabytes": (SPACE, {"type": "MultiBinary", "n": 1 << 31}),
    "a MultiBinary of many sides": (SPACE, {"type": "MultiBinary", "n": [1 << 20] * 8}),
    "a Box of gigabytes": ({**BOX, "shape": [1 << 30]}, SPACE),
    "a sequence of large boxes": (
        {"type": "Sequence", "feature": {**BOX, "shape": [1 << 29]}, "stack": False},
        SPACE,
    ),
    "boxes that are large together": ({**BOX, "shape": [1 << 24]}, {**BOX, "shape": [1 << 23]}),
    "many members": ({"type": "Tuple", "parts": [SPACE] * 5000}, SPACE),
    "a charset of all there is": (
        {"type": "Text", "lengths": [0, 1], "characters": "".join(map(chr, range(1 << 15)))},
        {"type": "Text", "lengths": [0, 1], "characters": "".join(map(chr, range(1 << 15))) * 20},
    ),
    "integers that overflow": (
        {"type": "Discrete", "n": (1 << 63) - 1, "start": 5, "dtype": "<i8"},
        SPACE,
    ),
    "arrays of integers that overflow": (
        {"type": "MultiDiscrete", "nvec": np.array([2]), "start": np.array([(1 << 63) - 1])}
        | {"dtype": "<i8"},
        SPACE,
    ),
    "a custom space with other methods": ({**REPLACING, "state": {"contains": 5}}, SPACE),
    "a custom space of another class": ({**REPLACING, "state": {"__class__": 5}}, SPACE),
    "a custom space of a wide shape": ({**REPLACING, "state": {}, "shape": [1 << 90]}, SPACE),
    "no space": (5, SPACE),
    "a type that is an array": ({"type": np.zeros(2)}, SPACE),
}


def described(*pair: Any, spec: str = "", **others: Any) -> Described:
    fields = {
        "metadata": {},
        "render_mode": "",
        "generators": [[None], [None]],
        "sources": [],
        **others,
    }
    return Described(1, [list(pair), None, None, None], spec, **fields)


def refuse(description: Described) -> None:
    """Fails unless a description is refused, its worker named, in little time and memory."""
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError) as caught:
            agree([WORKER], [description], "same")
    finally:
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert caught.value.worker == 7
    assert len(str(caught.value)) < 1000
    assert peak_bytes < 64 << 20


@pytest.mark.parametrize("name", list(DESCRIPTIONS))
def test_an_odd_description_is_refused_before_anything_is_made_of_it(name: str) -> None:
    refuse(described(*DESCRIPTIONS[name]))


@pytest.mark.parametrize("spec", ["5", "[" * 200_000, "{}", '{"id": 5}', "x" * (1 << 20)])
def test_an_odd_spec_is_refused(spec: str) -> None:
    refuse(described(SPACE, SPACE, spec=spec))


def test_a_lazy_module_imports_nothing_because_a_worker_says_so() -> None:
    lazy = ModuleType("tests.lazy")
    asked: list[str] = []
    lazy.__getattr__ = asked.append  # type: ignore[method-assign]
    sys.modules["tests.lazy"] = lazy
    try:
        agreed = agree([WORKER], [described(LAZY, SPACE)], "same")
    finally:
        del sys.modules["tests.lazy"]
    assert str(agreed.observation_space) == "CustomSpace(tests.lazy.Space)"
    assert not asked


def test_what_a_custom_space_tells_of_itself_is_kept() -> None:
    plain = {**REPLACING, "state": {"size": 4, "words": ["a"]}}
    space = agree([WORKER], [described(plain, SPACE)], "same").observation_space
    assert isinstance(space, OwnSpace)
    assert space.size == 4


def test_metadata_of_many_keys_is_refused_before_it_is_decoded() -> None:
    message = described(SPACE, SPACE, metadata={str(key): 0 for key in range(1 << 17)})
    with pytest.raises(FrameError, match="expected at most 131072 objects"):
        decode(encode(message), (Described,))


@pytest.mark.parametrize("row", [-1, 2, 1 << 62])
def test_a_worker_tells_of_its_own_environments_alone_that_they_can_not_be_built(row: int) -> None:
    error = start_error(Failed(0, row, "KeyError", "", ""), 7, 4, 2)
    assert isinstance(error, ProtocolError)
    assert (error.worker, error.env) == (7, None)


def test_the_type_of_an_exception_is_as_harmless_as_its_text() -> None:
    error = start_error(Failed(0, 1, "Odd\x1b[31m", "\x1b[2J" * 10_000_000, "\x07" * 99), 7, 0, 2)
    assert "\x1b" not in str(error)
    assert len(str(error)) < 8 * MAX_TEXT
    assert "\x07" not in "".join(error.__notes__)


class TellingEnv(CountingEnv):
    """Tells the same info in each step."""

    def __init__(self, info: dict[str, Any]) -> None:
        super().__init__(1000)
        self.info = info

    def step(self, action: Any) -> Any:
        return (*super().step(action)[:4], self.info)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (1, 10**30, [1, 10**30]),
        (10**30, 1, [10**30, 1]),
        (1, {"b": 1}, [1, {"b": 1}]),
        (1, None, [1, None]),
        (1.5, "text", [1.5, "text"]),
        (np.uint8(3), 300, [3, 300]),
        ([1], 2, [[1], 2]),
    ],
    ids=repr,
)
@pytest.mark.parametrize("nested", [False, True])
def test_infos_of_honest_environments_that_do_not_go_together_are_kept_as_objects(
    one: Any, other: Any, expected: list[Any], *, nested: bool
) -> None:
    makers = [partial(TellingEnv, {"k": {"a": v}} if nested else {"a": v}) for v in (one, other)]
    with VecCheckedSession(makers, 2, workers=0) as vec:
        vec.reset(seed=0)
        observations, *_, infos = vec.step(zeros(2))
        told = infos["k"] if nested else infos
        assert told["a"].tolist() == expected
        assert told["_a"].tolist() == [True, True]
        np.testing.assert_array_equal(observations[:, 1], 1)


def test_an_info_of_too_many_objects_is_left_out_with_a_warning() -> None:
    makers = [partial(TellingEnv, {"a": [{}] * (1 << 20)})]
    with VecCheckedSession(makers, 1, workers=0) as vec:
        vec.reset(seed=0)
        with pytest.warns(UserWarning, match="VECSESS_MAX_OBJECTS raises the bound"):
            *_, infos = vec.step(zeros(1))
    assert not infos


def test_a_key_that_is_a_tuple_is_left_out_with_a_warning() -> None:
    makers = [partial(TellingEnv, {"a": 1, "b": {(1, 2): 3}})]
    with VecCheckedSession(makers, 1, workers=0) as vec:
        vec.reset(seed=0)
        with pytest.warns(UserWarning, match="can't send a key of type tuple"):
            *_, infos = vec.step(zeros(1))
    assert infos["a"] == [1]
