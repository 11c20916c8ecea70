"""Infos: Gymnasium's dict of arrays with masks, equal to SyncVectorEnv's in every mode."""

from __future__ import annotations

import collections
from functools import partial
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from tests.gymnasium.comparison import Twins, assert_same
from tests.gymnasium.mode_envs import InfoEnv
from vecsess import VecCheckedSession

N = 3
Point = collections.namedtuple("Point", "x y")


def every_kind(index: int, step: int) -> dict[Any, Any]:
    return {
        "int": index,
        "float": step / 2,
        "bool": step % 2 == 0,
        "numpy bool": np.bool_(True),
        "numpy scalar": np.float32(index),
        "complex": np.complex64(1j),
        "array": np.full((2, index + 1 - index), step, np.int16),
        "text": f"{index}:{step}",
        "numpy text": np.str_("text"),
        "bytes": b"\x00\xff",
        "none": None,
        "list": [1, [2, None]],
        "tuple": (1, ("a", 2.0)),
        "named tuple": Point(1, 2),
        "wide": (1 << 100, -(1 << 70)),
        "nested": {"deep": {"array": np.arange(3.0), "text": "x"}, "int": step},
        "ordered": collections.OrderedDict(b=1, a=2),
        "counted": collections.Counter("aab"),
        "empty": {},
        7: "a key that is no text",
    }


def some_of_the_time(index: int, step: int) -> dict[str, Any]:
    info: dict[str, Any] = {}
    if step == index + 1:
        info["mine"] = step
    if step == 2:
        info[f"only {index}"] = {"of": index}
    if index == 1:
        info["array"] = np.full(2, step)
    return info


def nothing(_index: int, _step: int) -> dict[str, Any]:
    return {}


def at_the_end(index: int, step: int) -> dict[str, Any]:
    return {"episode": {"r": float(step), "l": step}} if step >= 3 + index else {}


def makers(info_of: Any) -> list[Any]:
    return [partial(InfoEnv, info_of, index) for index in range(N)]


@pytest.mark.parametrize("workers", [0, 2, None])
@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("info_of", [every_kind, some_of_the_time, nothing, at_the_end])
def test_infos_are_gymnasiums(info_of: Any, mode: AutoresetMode, workers: int | None) -> None:
    with Twins(makers(info_of), mode, workers=workers) as twins:
        assert twins.run(8) > N


def test_final_observations_have_the_form_of_the_space() -> None:
    with VecCheckedSession(makers(nothing), workers=2) as vec:
        vec.reset(seed=0)
        for _ in range(3):
            infos = vec.step([0] * N)[4]
    assert list(infos) == ["final_obs", "_final_obs", "final_info", "_final_info"]
    assert infos["_final_obs"].tolist() == [True, False, False]
    assert infos["final_obs"].dtype == object
    assert infos["final_obs"][1] is None
    assert_same(infos["final_obs"][0], {"a": np.full(2, 3, np.float32), "b": (3,)})
    assert infos["final_info"] == {}


def reused(index: int, step: int, buffer: Any = np.zeros(2)) -> dict[str, Any]:  # noqa: B008
    buffer[:] = index, step
    return {"buffer": buffer}


@pytest.mark.parametrize("workers", [0, 1])
def test_an_array_that_is_used_again_is_sent_as_it_was(workers: int) -> None:
    with VecCheckedSession(makers(reused), workers=workers) as vec:
        vec.reset(seed=0)
        for _ in range(3):
            infos = vec.step([0] * N)[4]
        assert infos["final_info"]["buffer"][0].tolist() == [0, 3]
        assert infos["buffer"].tolist() == [[0, 0], [1, 3], [2, 3]]


KEPT = ["step", "inner", "step again", "axes", "empty"]


class Size(int):
    """A number of a class of its own, as members of an IntEnum are."""


class TestWhatCanNotBeSent:
    @staticmethod
    def info(_index: int, step: int) -> dict[Any, Any]:
        return {
            "object": object(),
            "step": step,
            "inner": {"function": print, "kept": 1, "set": {1}},
            "objects": np.array([object()], object),
            ("an", object): 3,
            "masked": np.ma.array([1, 2], mask=[True, False]),
            "step again": Size(step),
            "axes": np.zeros((1,) * 9),
            "empty": np.zeros((0, 10**6)),
        }

    @pytest.mark.parametrize("workers", [0, 2, None])
    def test_it_is_left_out_with_one_warning_that_names_it(self, workers: int | None) -> None:
        with VecCheckedSession(makers(self.info), workers=workers) as vec:
            with pytest.warns(UserWarning, match="was left out") as caught:
                _, infos = vec.reset(seed=0)
            told = sorted(str(warning.message).partition(" was")[0] for warning in caught)
            assert [text.partition(": ")[2] for text in told] == sorted(
                [
                    "info['object']",
                    "info['inner']['function']",
                    "info['inner']['set']",
                    "info['objects']",
                    "info[('an', <class 'object'>)]",
                    "info['masked']",
                ]
            )
            assert infos["step"].tolist() == [0] * N
            assert infos["inner"]["kept"].tolist() == [1] * N
            assert [name for name in infos if name[0] != "_"] == KEPT
            assert infos["step again"].tolist() == [0] * N
            assert infos["axes"].shape == (N, *(1,) * 9)
            assert infos["empty"].shape == (N, 0, 10**6)
            for _ in range(4):  # warnings are errors here
                infos = vec.step([0] * N)[4]
            assert infos["step"].tolist() == [1, 0, 4]


class TestLevels:
    def session(self, infos: Any, mode: Any = "same_step", workers: int = 2) -> VecCheckedSession:
        return VecCheckedSession(
            makers(every_kind), workers=workers, infos=infos, autoreset_mode=mode
        )

    @pytest.mark.parametrize("workers", [0, 2])
    def test_none(self, workers: int) -> None:
        with self.session("none", workers=workers) as vec:
            assert vec.reset(seed=0)[1] == {}
            for _ in range(6):
                assert vec.step([0] * N)[4] == {}
            assert not vec.engine.lockstep.flight.answers  # not even sent

    @pytest.mark.parametrize("workers", [0, 2])
    def test_final(self, workers: int) -> None:
        with self.session("final", workers=workers) as vec, self.session("all") as whole:
            assert vec.reset(seed=0)[1] == {}
            whole.reset(seed=0)
            for step in range(1, 6):
                infos, all_infos = vec.step([0] * N)[4], whole.step([0] * N)[4]
                keys = ["final_obs", "_final_obs", "final_info", "_final_info"]
                assert_same(infos, {key: all_infos[key] for key in keys} if step >= 3 else {})

    @pytest.mark.parametrize("workers", [0, 2])
    def test_final_where_nothing_is_reset_in_the_step(self, workers: int) -> None:
        with self.session("final", "next_step", workers) as vec:
            assert vec.reset(seed=0)[1] == {}
            assert vec.step([0] * N)[4] == {}
            assert vec.step([0] * N)[4] == {}
            infos = vec.step([0] * N)[4]
            assert infos["_int"].tolist() == [True, False, False]
            assert infos["text"][0] == "0:3"

    def test_another_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"expected one of \['none', 'final', 'all'\]"):
            VecCheckedSession(makers(nothing), infos="some")  # type: ignore[arg-type]
