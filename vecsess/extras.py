"""What a missing optional dependency looks like: an error that names the extra to install."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vecsess.errors import VecsessError


class MissingExtraError(VecsessError, ImportError):
    """A library that vecsess can do without is not installed; says how to get it."""


@contextmanager
def extra(name: str, *, needed_by: str) -> Iterator[None]:
    """Turns an `ImportError` in its body into one that names what to install.

    Args:
        name: of the extra, such as "train".
        needed_by: what the user asked for.

    Raises:
        MissingExtraError: where an import in the body fails.

    Example:
        >>> with extra("train", needed_by="a doctest"):
        ...     import no_such_module
        Traceback (most recent call last):
        ...
        vecsess.extras.MissingExtraError: a doctest needs no_such_module, which is not installed: \
pip install 'vecsess[train]'
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{needed_by} needs {error.name}, which is not installed: pip install 'vecsess[{name}]'"
        ) from error
    except ImportError as error:
        raise MissingExtraError(
            f"{needed_by} could not import what it needs ({error}): "
            f"pip install --upgrade 'vecsess[{name}]'"
        ) from error
