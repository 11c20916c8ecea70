"""Answers in pieces that Ray sends at once, instead of as an object that must be fetched.

What is below 100 KiB comes with the reply, in 1 ms; what is more lies in the object store of its
node, and takes 6 ms more to come. With many pieces the store is faster again.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence

from vecsess.wire.values import Fields, Given

_PIECE_BYTES, _MOST = 90_000, 8
_SLACK = 1.2  # how much an answer may grow from one to the next


def pieces_for(size_bytes: int) -> int:
    """Returns in how many pieces to ask for an answer that is about that large.

    Example:
        >>> pieces_for(1000), pieces_for(165_000), pieces_for(28_000_000)
        (1, 3, 1)
    """
    wanted = int(size_bytes * _SLACK) // _PIECE_BYTES + 1
    return wanted if wanted <= _MOST else 1


def cut(answer: Fields, pieces: int) -> Given:
    """Returns an answer as so many objects: cut, or whole with nothing behind it.

    Example:
        >>> [type(piece).__name__ for piece in cut({"numbers": b"1" * 100_000}, 2)]
        ['bytes', 'bytes']
        >>> [type(piece).__name__ for piece in cut({"numbers": b"1" * 200_000}, 2)]
        ['dict', 'NoneType']
    """
    if pieces == 1:
        return answer
    packed = pickle.dumps(answer, protocol=5)
    if len(packed) > pieces * _PIECE_BYTES:
        return [answer, *[None] * (pieces - 1)]
    step = -(-len(packed) // pieces)
    return [packed[index * step : (index + 1) * step] for index in range(pieces)]


def joined(pieces: Sequence[Given]) -> Fields:
    """Returns the answer that was cut.

    Example:
        >>> joined(cut({"numbers": 12}, 3))
        {'numbers': 12}
    """
    first = pieces[0]
    if isinstance(first, bytes):
        first = pickle.loads(b"".join(pieces))  # noqa: S301  # a cluster is one trust domain
    whole: Fields = first
    return whole
