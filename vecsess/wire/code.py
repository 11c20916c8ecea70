"""Pickles of what may hold code, whose tracebacks name file, line and source wherever it runs.

Cloudpickle calls the file of every function "<dynamic-code>". The source of a notebook's cell is in
no file at all, so it goes along, and becomes known to `linecache` where the code is unpickled.
"""

from __future__ import annotations

import io
import linecache
import os
import pickle
import types
from collections.abc import Callable
from typing import Any

import cloudpickle

from vecsess.wire.values import Plain

_MOST = 1 << 20  # characters of source in a pickle


class CodePickler(cloudpickle.Pickler):  # type: ignore[misc]  # it ships no types
    """Cloudpickle's, with the names and, where there is no such file, the sources of code."""

    def __init__(
        self,
        stream: io.BytesIO,
        protocol: int | None = None,
        buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None,
    ) -> None:
        super().__init__(stream, protocol=protocol, buffer_callback=buffer_callback)
        self._origins: dict[str, tuple[str, str]] = {}
        self._left = _MOST

    def reducer_override(self, obj: Plain) -> Plain:
        """Returns how an object is pickled, as the module `pickle` asks for it."""
        if type(obj) is types.CodeType:
            make, parts = self.dispatch_table[types.CodeType](obj)
            return _code, (self._origin(obj.co_filename), make, parts)
        return super().reducer_override(obj)

    def _origin(self, name: str) -> tuple[str, str]:
        """Returns the same object for all code of a file, so that it is pickled once."""
        if name not in self._origins:
            file = os.path.exists(name)  # noqa: PTH110  # it takes any name; Path raises for some
            source = "" if file else "".join(linecache.getlines(name))
            source = source if len(source) <= self._left else ""
            self._left -= len(source)
            self._origins[name] = (name, source)
        return self._origins[name]


def keep_in(buffers: list[memoryview], least: int = 0) -> Callable[[pickle.PickleBuffer], bool]:
    """Returns a callback for buffers of a pickle.

    Args:
        buffers: takes those that lie in one piece; the others stay in the pickle.
        least: bytes from which on one is taken.
    """

    def keep(buffer: pickle.PickleBuffer) -> bool:
        try:
            raw = buffer.raw()
        except BufferError:  # it does not lie in one piece
            return True
        if raw.nbytes < least:
            return True
        buffers.append(raw)
        return False

    return keep


def dumps(
    value: Plain, buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None
) -> bytes:
    """Returns a pickle, for `pickle.loads` in another process.

    Args:
        value: may hold functions and classes of a script or a notebook.
        buffer_callback: called with each buffer; what it returns false for is not in the pickle.

    Example:
        >>> code = pickle.loads(dumps(lambda: 1)).__code__
        >>> code.co_filename == dumps.__code__.co_filename
        False
    """
    stream = io.BytesIO()
    CodePickler(stream, pickle.HIGHEST_PROTOCOL, buffer_callback).dump(value)
    return stream.getvalue()


def _code(origin: tuple[str, str], make: Callable[..., types.CodeType], parts: Plain) -> Plain:
    """Returns code, under the name of its file, with its source where that came along."""
    name, source = origin
    if source and name not in linecache.cache:
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    return make(*parts).replace(co_filename=name)
