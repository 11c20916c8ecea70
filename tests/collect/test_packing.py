"""Policies as bytes: arrays beside the pickle, and an error that names what can't go."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from tests.collect.mlps import Mlp
from vecsess.collect.packing import pack, unpack
from vecsess.errors import PolicyError


def test_arrays_lie_beside_the_pickle_and_come_back_over_the_given_memory() -> None:
    mlp = Mlp(4, 2)
    packed = pack(mlp)
    assert [buffer.nbytes for buffer in packed.buffers] == [each.nbytes for each in mlp.weights]
    assert len(packed.head) < 4000
    memory = [bytearray(buffer) for buffer in packed.buffers]
    twin = unpack(packed.head, memory)
    for one, other in zip(twin.weights, mlp.weights, strict=True):
        np.testing.assert_array_equal(one, other)
    twin.weights[0][0, 0] = 7.0
    assert np.frombuffer(memory[0], np.float32)[0] == 7.0


def test_an_array_that_lies_in_pieces_comes_along_too() -> None:
    part = np.arange(20.0).reshape(4, 5)[:, ::2]
    packed = pack([part, np.asfortranarray(part)])
    for one in unpack(packed.head, packed.buffers):
        np.testing.assert_array_equal(one, part)


def test_a_function_of_the_script_is_packed() -> None:
    packed = pack((lambda obs: np.zeros((len(obs), 2)), lambda obs: np.zeros(len(obs))))
    assert unpack(packed.head, packed.buffers)[0]([1, 2, 3]).shape == (3, 2)


def test_tensors_go_as_arrays() -> None:
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 2))
    net.register_buffer("short", torch.zeros(3, dtype=torch.bfloat16))
    net.register_buffer("piece", torch.arange(10.0)[2:5])
    packed = pack(net)
    assert sum(buffer.nbytes for buffer in packed.buffers) == 4 * (4 * 8 + 8 + 8 + 8 + 8 * 2 + 2)
    twin = unpack(packed.head, [bytearray(buffer) for buffer in packed.buffers])
    assert all(parameter.requires_grad for parameter in twin.parameters())
    for name, value in net.state_dict().items():
        assert torch.equal(twin.state_dict()[name], value), name


class Locked:
    """Holds, somewhere, what can't be pickled."""

    def __init__(self) -> None:
        self.fine = np.zeros(3)
        self.nets = {"actor": [1, threading.Lock()]}


@pytest.mark.parametrize(
    ("policy", "place"),
    [
        (Locked(), "policy.nets['actor'][1]"),
        ((len, Locked().nets), "policy[1]['actor'][1]"),
        ((lambda lock: lambda: lock)(threading.Lock()), "policy.lock"),
    ],
)
def test_the_part_that_can_t_be_pickled_is_named(policy: Any, place: str) -> None:
    with pytest.raises(PolicyError, match="cannot pickle") as caught:
        pack(policy)
    assert caught.value.field == place
    assert f"whose {place} can't be" in str(caught.value)
