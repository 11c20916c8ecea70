"""Values that go by pipe: what comes out is what the space declares, however many there are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from vecsess.wire.forms import unpack_piped
from vecsess.wire.leaves import FormError
from vecsess.wire.values import pack_value

SMALL = spaces.Discrete(5, dtype=np.uint8)


@pytest.mark.parametrize(
    ("feature", "values", "kind"),
    [
        (spaces.Discrete(5), (3, np.int64(4), True), np.int64),
        (spaces.Discrete(5), (np.int8(3), 4), np.int64),
        (spaces.Discrete(5), (), None),
        (SMALL, (255, np.uint8(0)), np.uint8),
        (SMALL, (np.int64(7),), np.uint8),
        (spaces.Box(-1, 1, ()), (0.5, np.float32(0.25)), np.ndarray),
        (spaces.MultiBinary(2), (np.zeros(2, np.int8),), np.ndarray),
        (spaces.Text(3), ("a", "b"), str),
    ],
)
def test_the_parts_of_a_sequence_come_as_its_space_has_them(
    feature: spaces.Space[Any], values: Any, kind: Any
) -> None:
    got = unpack_piped(spaces.Sequence(feature), pack_value(values), "observation")
    assert all(type(part) is kind for part in got)
    assert len(got) == len(values)
    assert all(np.array_equal(one, other) for one, other in zip(got, values, strict=True))


@pytest.mark.parametrize(
    ("feature", "values"),
    [
        (spaces.Discrete(5), (1, 1 << 63)),
        (spaces.Discrete(5), (1, 1.5)),
        (spaces.Discrete(5), (1, "text")),
        (spaces.Discrete(5), (1, (2,))),
        (SMALL, (1, 256)),
        (SMALL, (1, -1)),
        (spaces.Box(-1, 1, (2,)), (np.zeros(2, np.float32), np.zeros(3, np.float32))),
    ],
)
def test_a_part_of_another_form_is_named(feature: spaces.Space[Any], values: Any) -> None:
    with pytest.raises(FormError) as caught:
        unpack_piped(spaces.Sequence(feature), pack_value(values), "observation")
    assert caught.value.field == "observation[1]"
