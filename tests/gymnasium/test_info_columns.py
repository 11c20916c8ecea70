"""Infos in shared memory: as SyncVectorEnv's, whatever environments tell, and whatever happens."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests.gymnasium.comparison import Twins, assert_same
from tests.gymnasium.mode_envs import InfoEnv
from tests.hostility import slab_fd
from tests.losses import kill
from vecsess import VecCheckedSession
from vecsess.errors import ProtocolError
from vecsess.fleet.in_process import LocalChannel
from vecsess.fleet.infos import InfoReader, add_info
from vecsess.fleet.worker import Worker
from vecsess.wire.columns import INFO_BYTES, MAX_SCHEMAS, Schema
from vecsess.wire.messages import Done
from vecsess.wire.slab import Layout
from vecsess.wire.values import FrameError

N = 3


class ScriptedEnv(InfoEnv):
    """Tells what its script has for each call, again and again.

    Args:
        index: of this environment.
    """

    def __init__(self, index: int) -> None:
        super().__init__(self.told, index)
        self.script: list[Any] = [{}]
        self.calls = 0

    def told(self, _index: int, step: int) -> Any:
        self.calls += 1
        info = dict(self.script[self.calls % len(self.script)])
        return {**info, "n": self.calls} if "n" in info else info


def numbers() -> st.SearchStrategy[Any]:
    """Returns numbers as infos have them, Python's and NumPy's."""
    kinds = ["?", "i1", "i8", "u1", "u8", "f2", "f4", "f8", "c8"]
    scalars = st.sampled_from(kinds).flatmap(lambda kind: arrays.arrays(kind, ()))
    return (
        st.booleans()
        | st.integers(-(1 << 66), 1 << 66)
        | st.integers(-9, 9)
        | st.floats(allow_nan=False)
        | scalars.map(lambda array: array[()]).filter(lambda value: value == value)
    )


def values() -> st.SearchStrategy[Any]:
    shapes = st.sampled_from([(), (0,), (2,), (3,), (2, 2), (40, 40)])
    kinds = st.sampled_from(["?", "i1", "f4", ">f8", "c16", "U2"])
    arrays_ = kinds.flatmap(lambda kind: shapes.flatmap(partial(arrays.arrays, kind, fill=None)))
    return numbers() | arrays_ | st.none() | st.text(max_size=2) | st.lists(st.integers(0, 3))


def infos() -> st.SearchStrategy[dict[Any, Any]]:
    keys = st.sampled_from(["a", "b", "c", "n", "_a", "final_info", 7])
    inner = st.dictionaries(keys, values(), max_size=3)
    return st.dictionaries(keys, values() | inner, max_size=4)


@st.composite
def scripts(draw: st.DrawFn) -> list[list[dict[Any, Any]]]:
    """Returns what each environment tells, call by call: few infos, so that most come again."""
    pool = draw(st.lists(infos(), min_size=1, max_size=3))
    one = st.lists(st.sampled_from(pool), min_size=1, max_size=4)
    return draw(st.lists(one, min_size=N, max_size=N))


@pytest.fixture(scope="module", params=[0, 2, N])
def workers(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module", params=AutoresetMode)
def twins(request: pytest.FixtureRequest, workers: int) -> Iterator[Twins]:
    makers = [partial(ScriptedEnv, index) for index in range(N)]
    with Twins(makers, request.param, workers=workers) as pair:
        yield pair


def outcome(call: Any, *args: Any) -> Any:
    """Returns what a call returns, or the error that it raises."""
    with np.errstate(all="ignore"):
        try:
            return call(*args)
        except (
            ArithmeticError,
            AttributeError,
            LookupError,
            TypeError,
            ValueError,
            Warning,
        ) as error:
            return error


@given(scripts())
@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_they_are_gymnasiums_whatever_environments_tell(twins: Twins, script: Any) -> None:
    sides: tuple[Any, ...] = (twins.ours, twins.theirs)
    for side in sides:
        side.set_attr("script", script)
        side.set_attr("calls", [0] * N)
    pairs = [outcome(side.reset) for side in sides]
    for _ in range(9):
        if isinstance(pairs[1], Exception):
            assert not isinstance(pairs[0], Exception), repr(
                pairs[0]
            )  # ours keeps as objects what does not fit
            return  # theirs has taken half a step
        assert_same(pairs[0], pairs[1])
        done = twins.ours.engine.progress.ended.copy()
        if twins.ours.autoreset_mode is AutoresetMode.DISABLED and done.any():
            resets = [partial(side.reset, options={"reset_mask": done}) for side in sides]
            pairs = [outcome(reset) for reset in resets]
        else:
            pairs = [outcome(side.step, [0] * N) for side in sides]


@given(st.lists(infos(), min_size=N, max_size=N))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_does_not_fit_is_kept_as_an_object(told: list[dict[Any, Any]]) -> None:
    vector: VectorEnv[Any, Any, Any] = VectorEnv()
    vector.num_envs = N
    merged: dict[Any, Any] = {}
    with np.errstate(all="ignore"):
        for env, info in enumerate(told):
            add_info(vector._add_info, merged, info, env)
    assert {key for info in told for key in info} <= merged.keys()


def four_numbers(index: int, step: int) -> dict[str, Any]:
    return {"x": float(step), "y": np.float32(index), "n": index * step, "mask": np.arange(3)}


def now_and_then(index: int, step: int) -> dict[str, Any]:
    info = four_numbers(index, step)
    return {**info, "text": "by pipe"} if step == 2 + index else info


def sent(vec: VecCheckedSession) -> list[str]:
    """Returns what came by pipe in the last call."""
    return [
        what
        for answer in vec.engine.lockstep.flight.answers.values()
        for _, what, _ in answer.values
    ]


@pytest.mark.parametrize("count", [0, 2, N])
def test_what_comes_again_does_not_go_by_pipe(count: int) -> None:
    makers = [partial(InfoEnv, four_numbers, index, 5) for index in range(N)]
    with Twins(makers, AutoresetMode.SAME_STEP, workers=count) as twins:
        twins.reset(0)
        came = [(twins.step([0] * N), sent(twins.ours))[1] for _ in range(20)]
        assert not any(came[2:])


def test_a_single_info_by_pipe_merges_with_the_others() -> None:
    makers = [partial(InfoEnv, now_and_then, index, 9) for index in range(N)]
    with Twins(makers, AutoresetMode.SAME_STEP, workers=2) as twins:
        twins.reset(0)
        came = [(twins.step([0] * N), sent(twins.ours))[1] for _ in range(6)]
        assert came[1] == came[2] == came[3] == ["info"]
        assert not came[5]


@pytest.mark.parametrize("info_of", [four_numbers, now_and_then])
def test_kills_in_between_change_nothing(info_of: Any) -> None:
    makers = [partial(InfoEnv, info_of, index, 4) for index in range(N)]
    with Twins(makers, AutoresetMode.SAME_STEP, workers=2) as twins:
        twins.reset(0)
        for step in range(12):
            if step % 3 == 1:
                kill(twins.ours, step % N, wait=step % 2 == 0)
            twins.step([0] * N)
        assert twins.ours.incidents


def test_infos_of_others_stay_where_a_worker_is_replaced_in_the_step() -> None:
    makers: list[Any] = [partial(InfoEnv, four_numbers, index, 50) for index in range(N)]
    makers[1] = partial(RaisingEnv, four_numbers, 1, 50)
    with VecCheckedSession(makers, workers=2, on_error="restart") as vec:
        vec.reset(seed=0)
        for step in range(1, 8):
            infos = vec.step([0] * N)[4]
            alive = [True, step != 5, True]
            assert infos["_x"].tolist() == alive
            assert infos["x"][[0, 2]].tolist() == [step, step]
        assert len(vec.incidents) == 1


class RaisingEnv(InfoEnv):
    """Raises in its fifth step."""

    def step(self, action: Any) -> Any:
        if self.steps == 4:
            self.steps = 0
            raise ValueError("in step 5")
        return super().step(action)


def write_into(field: str, row: int, data: bytes) -> None:
    """Writes into this worker's range, as nobody but its environments could."""
    layout = Layout(InfoEnv(None, 0).observation_space, spaces.Discrete(2), 2)
    memory = mmap.mmap(-1, layout.stride_bytes)
    view = getattr(layout.views(memory), field)[0, row]
    start = view.__array_interface__["data"][0]
    start -= np.frombuffer(memory, np.uint8).__array_interface__["data"][0]
    os.pwrite(slab_fd(), data, start)


class LyingEnv(InfoEnv):
    """Writes into the row of its neighbour, in its fifth step.

    Args:
        field: of the slab.
        data: what it writes there.
    """

    def __init__(self, field: str, data: bytes) -> None:
        super().__init__(four_numbers, 1, 50)
        self.field, self.data = field, data

    def step(self, action: Any) -> Any:
        if self.steps == 4:
            write_into(self.field, 0, self.data)
        return super().step(action)


def beside_a_liar(field: str, data: bytes) -> VecCheckedSession:
    makers: list[Any] = [partial(InfoEnv, four_numbers, index, 50) for index in range(N)]
    makers[1] = partial(LyingEnv, field, data)
    vec = VecCheckedSession(makers, workers=2, on_crash="raise")
    vec.reset(seed=0)
    for _ in range(4):
        vec.step([0] * N)
    return vec


def test_a_schema_that_nobody_described_ends_the_worker() -> None:
    with beside_a_liar("info_numbers", b"\x77" * 16) as vec:
        with pytest.raises(ProtocolError, match="as it has described them") as caught:
            vec.step([0] * N)
        assert caught.value.worker == 0
        assert vec.reset(seed=0)[1]["_x"].all()


def test_false_numbers_are_those_of_their_own_rows_alone() -> None:
    with beside_a_liar("infos", b"\xff" * 2 * INFO_BYTES) as vec:
        infos = vec.step([0] * N)[4]
        assert infos["x"].tolist()[1:] == [5.0, 5.0]
        assert np.isnan(infos["x"][0])


@pytest.mark.parametrize(
    "description",
    [
        None,
        {},
        [1],
        [["a"]],
        [["a", "int", "<i8", [], 0]],
        [[7, "int", "<i8", []]],
        [["a", "int", "<i4", []]],
        [["a", "int", "<i8", [2]]],
        [["a", "array", "|O", [2]]],
        [["a", "array", "<f8", [-1]]],
        [["a", "array", "<f8", [2.0]]],
        [["a", "array", "<f8", (2,)]],
        [["a", "array", "<f8", [INFO_BYTES]]],
        [["a", "array", "<f8", [1] * 9]],
        [["a", "scalar", ">f8", []]],
        [["a", "scalar", "<c8", []]],
        [["a", "text", "<U1", []]],
        [["a", "int", "<i8", []], ["a", "int", "<i8", []]],
        [["a", "int", "<i8", []], ["_a", "int", "<i8", []]],
        [["final_obs", "int", "<i8", []]],
        [["a", "list", []]],
        [["a", "dict", [["final_info", "dict", []]]]],
        [[f"{index}", "bool", "|b1", []] for index in range(200)],
    ],
)
def test_what_is_no_description_is_refused(description: Any) -> None:
    with pytest.raises(FrameError):
        Schema(description)


def test_a_description_that_is_nested_without_end_is_refused() -> None:
    description: list[Any] = []
    for _ in range(30):
        description = [["a", "dict", description]]
    with pytest.raises(FrameError, match="deep"):
        Schema(description)


def test_a_worker_describes_so_many_and_no_more() -> None:
    worker = Worker(0, 0, 1, LocalChannel(None), -1, pid=0)  # type: ignore[arg-type]
    layout = Layout(spaces.Discrete(2), spaces.Discrete(2), 1)
    reader = InfoReader([worker], layout, layout.views(mmap.mmap(-1, layout.stride_bytes)))

    def told(index: int) -> Done:
        return Done(1, [(0, "schema", Schema([[f"{index}", "int", "<i8", []]]))], [])

    for index in range(MAX_SCHEMAS):
        reader.learn(worker, told(index))
    with pytest.raises(FrameError, match=f"at most {MAX_SCHEMAS}"):
        reader.learn(worker, told(99))
    worker.generation += 1
    reader.learn(worker, told(99))  # a successor begins anew


class ManyEnv(InfoEnv):
    """Tells under another key in each step, and comes back to each."""

    def __init__(self, index: int) -> None:
        super().__init__(lambda _, step: {f"key {step % 40}": step}, index, 200)


def test_more_kinds_of_infos_than_have_room_go_by_pipe() -> None:
    makers = [partial(ManyEnv, index) for index in range(N)]
    with Twins(makers, AutoresetMode.SAME_STEP, workers=2) as twins:
        assert twins.run(130) == 0
