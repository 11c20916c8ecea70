"""Values without a fixed shape: Text, Sequence, Graph, OneOf and custom spaces, by pipe as msgpack.

The same check of form on both sides: the worker's, before it sends one, and the manager's, which
trusts no worker.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from gymnasium import spaces

from vecsess.wire.coercion import coerce, told
from vecsess.wire.leaves import FormError, Leaf, Space, all_leaves_of
from vecsess.wire.values import pack_value, unpack_value

Warn = Callable[[str], None]


def pack_piped(space: Space, value: Any, field: str, *, exact: bool, warn: Warn) -> bytes:
    """Returns a value of the space as msgpack.

    Raises:
        FormError: it is not of the space's form, or holds what can't be sent as plain data.
    """
    formed = _Former(exact, warn).form(space, value, field)
    try:
        return pack_value(formed)
    except (TypeError, ValueError) as error:
        raise FormError(
            field,
            f"{error}: values of {space} must be plain data (texts, numbers, NumPy arrays, lists, "
            "dicts) to be sent. Wrap the environment so that it shows such, or a space of arrays",
        ) from error


def unpack_piped(space: Space, data: bytes, field: str) -> Any:
    """Returns the value that `pack_piped` packed, from untrusted bytes.

    Raises:
        FormError: it is not of the space's form.
        FrameError: not msgpack, or not what it may hold.
    """
    return _Former(exact=True, warn=_never).form(space, unpack_value(data), field)


def digest_of(data: bytes) -> int:
    """Returns 64 bits that stand for `data` in a checksum."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _never(text: str) -> None:
    raise AssertionError(f"a value that was cast before it was sent is cast again: {text}")


@dataclass(frozen=True, slots=True)
class _Former:
    """Turns values into the form that their space declares, or says why that can't be."""

    exact: bool
    warn: Warn

    def form(self, space: Space, value: Any, field: str) -> Any:
        match space:
            case spaces.Text():
                _require(isinstance(value, str), field, "a text", value)
                return value
            case spaces.Sequence():
                if space.stack:
                    return self._stacked(space.feature_space, value, field)
                return self._tuple(space.feature_space, value, field)
            case spaces.Graph():
                return self._graph(space, value, field)
            case spaces.OneOf():
                return self._choice(space, value, field)
            case spaces.Dict():
                return self._dict(space, value, field, self.form)
            case spaces.Tuple():
                return self._fixed_tuple(space, value, field, self.form)
            case _:
                leaf = next(all_leaves_of(space))
                if leaf.piped:
                    return value  # of a custom space: whatever is plain data
                return self._array(leaf, value, field)

    def _array(self, leaf: Leaf, value: Any, field: str) -> Any:
        array = coerce(value, leaf, field, exact=self.exact, warn=self.warn)
        return np.asarray(array)[()] if leaf.discrete else array

    def _tuple(self, feature_space: Space, value: Any, field: str) -> Any:
        _require(isinstance(value, tuple), field, "a tuple", value)
        return tuple(
            self.form(feature_space, part, f"{field}[{index}]") for index, part in enumerate(value)
        )

    def _stacked(self, space: Space, value: Any, field: str) -> Any:
        """Returns a batch of the space's values, of any length."""
        if isinstance(space, spaces.Dict):
            return self._dict(space, value, field, self._stacked)
        if isinstance(space, spaces.Tuple):
            return self._fixed_tuple(space, value, field, self._stacked)
        leaf = next(all_leaves_of(space))
        if leaf.piped:
            return self._tuple(space, value, field)
        _require(isinstance(value, np.ndarray) and value.ndim > 0, field, "an array", value)
        batch = replace(leaf, shape=(len(value), *leaf.shape), discrete=False)
        return coerce(value, batch, field, exact=self.exact, warn=self.warn)

    def _graph(self, space: spaces.Graph, value: Any, field: str) -> Any:
        _require(isinstance(value, tuple) and len(value) == 3, field, "a GraphInstance", value)
        nodes, edges, links = value
        nodes = self._stacked(space.node_space, nodes, f"{field}.nodes")
        if edges is not None:
            _require(space.edge_space is not None, field, "no edges", value)
            edges = self._stacked(space.edge_space, edges, f"{field}.edges")  # type: ignore[arg-type]
        if links is not None:
            fits = isinstance(links, np.ndarray) and links.dtype.kind in "iu"
            fits = fits and links.ndim == 2 and links.shape[1] == 2
            _require(fits, f"{field}.edge_links", "an array of integers [edges, 2]", links)
        return spaces.GraphInstance(nodes, edges, links)

    def _choice(self, space: spaces.OneOf[Any], value: Any, field: str) -> Any:
        whole = isinstance(value, tuple) and len(value) == 2
        whole = whole and isinstance(value[0], int | np.integer)
        whole = whole and 0 <= value[0] < len(space.spaces)
        _require(whole, field, f"(index below {len(space.spaces)}, value)", value)
        return value[0], self.form(space.spaces[int(value[0])], value[1], f"{field}[1]")

    def _dict(self, space: spaces.Dict, value: Any, field: str, form: Any) -> Any:
        whole = isinstance(value, dict) and value.keys() == space.spaces.keys()
        _require(whole, field, f"a dict with {list(space.spaces)}", value)
        parts = space.spaces.items()
        return {key: form(part, value[key], f"{field}[{key!r}]") for key, part in parts}

    def _fixed_tuple(self, space: spaces.Tuple[Any], value: Any, field: str, form: Any) -> Any:
        whole = isinstance(value, tuple) and len(value) == len(space.spaces)
        _require(whole, field, f"a tuple of {len(space.spaces)}", value)
        pairs = enumerate(zip(space.spaces, value, strict=True))
        return tuple(form(part, one, f"{field}[{index}]") for index, (part, one) in pairs)


def _require(fits: bool, field: str, expected: str, value: Any) -> None:
    if not fits:
        raise FormError(field, f"expected {expected}, got {told(value)}")
