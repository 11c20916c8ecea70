"""A policy as bytes: its code and structure by cloudpickle, its arrays beside that, uncopied.

Code goes one way, from the trainer to those who act for it. PyTorch's tensors go as arrays, too:
by itself PyTorch would write each of them as an archive.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from vecsess.errors import PolicyError
from vecsess.wire.code import CodePickler, keep_in
from vecsess.wire.values import Given

_DEEP = 6  # how far into a policy is looked for what can't be pickled


@dataclass(frozen=True, slots=True)
class Packed:
    """A policy that was packed.

    Attributes:
        head: the pickle, without its arrays.
        buffers: the arrays' own memory, each flat bytes, in the order that `unpack` wants.

    Example:
        >>> import numpy as np
        >>> packed = pack({"weights": np.zeros(1000)})
        >>> [buffer.nbytes for buffer in packed.buffers], len(packed.head) < 300
        ([8000], True)
    """

    head: bytes
    buffers: list[memoryview]


def pack(policy: Given) -> Packed:
    """Packs a policy; nothing of its arrays is copied, so they must not change meanwhile.

    Raises:
        PolicyError: names the first part that can't be pickled.
    """
    stream = io.BytesIO()
    buffers: list[memoryview] = []
    try:
        _Pickler(stream, keep_in(buffers)).dump(policy)
    except Exception as error:
        raise _refused(policy, error) from error
    return Packed(stream.getvalue(), buffers)


def unpack(head: bytes, buffers: Iterable[Given]) -> Given:
    """Returns the policy; its arrays lie in `buffers`, so these must be writable where it writes.

    Example:
        >>> packed = pack([1, 2])
        >>> unpack(packed.head, packed.buffers)
        [1, 2]
    """
    return pickle.loads(head, buffers=buffers)  # noqa: S301  # from the trainer, to who acts for it


class _Pickler(CodePickler):
    """With arrays out of band, and tensors as arrays."""

    def __init__(self, stream: io.BytesIO, keep: Callable[[pickle.PickleBuffer], bool]) -> None:
        super().__init__(stream, protocol=5, buffer_callback=keep)
        self._torch = sys.modules.get("torch")

    def reducer_override(self, obj: Given) -> Given:
        torch = self._torch
        if torch is not None and type(obj) is torch.Tensor and _is_plain(torch, obj):
            return torch.from_numpy, (obj.numpy(),)
        return super().reducer_override(obj)


def _is_plain(torch: Given, tensor: Given) -> bool:
    """Whether a tensor is no more than an array: on the CPU, dense, of a dtype that NumPy has."""
    if tensor.device.type != "cpu" or tensor.layout is not torch.strided or tensor.requires_grad:
        return False
    if tensor.is_conj() or tensor.is_neg() or not tensor.is_contiguous():
        return False
    # A part of something larger shares memory with it, which arrays would no longer do.
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return bool(whole) and tensor.dtype != torch.bfloat16 and tensor.dtype.itemsize <= 8


def _refused(policy: Given, error: Exception) -> PolicyError:
    place, reason = _guilty(policy, "policy", _DEEP, error)
    return PolicyError(
        f"expected a policy that can be pickled, got one whose {place} can't be: {reason}. Leave "
        "it out in __getstate__, make it where it is first needed, or use inference='trainer'",
        field=place,
    )


def _guilty(part: Given, place: str, depth: int, error: Exception) -> tuple[str, Exception]:
    """Returns the innermost part that can't be pickled, and why."""
    for name, inner in _parts(part) if depth else ():
        try:
            _Pickler(io.BytesIO(), lambda _: False).dump(inner)
        except Exception as reason:  # whatever a `__reduce__` raises
            return _guilty(inner, place + name, depth - 1, reason)
    return place, error


def _parts(part: Given) -> Iterator[tuple[str, Any]]:
    """Yields what a part consists of, named as one would write it behind the part's name."""
    if isinstance(part, dict):
        yield from ((f"[{key!r}]", value) for key, value in part.items())
    elif isinstance(part, (list, tuple, set)):
        yield from ((f"[{index}]", value) for index, value in enumerate(part))
    elif getattr(part, "__closure__", None):
        cells = zip(part.__code__.co_freevars, part.__closure__, strict=True)
        yield from ((f".{name}", cell.cell_contents) for name, cell in cells)
    elif getattr(part, "__self__", None) is not None:
        yield ".__self__", part.__self__
    elif isinstance(state := getattr(part, "__dict__", None), dict) and not isinstance(part, type):
        yield from ((f".{name}", value) for name, value in state.items())
