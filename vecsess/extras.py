"""What a missing optional dependency looks like: an error that names the extra to install."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vecsess.errors import VecsessError

_ENVS = ("ale_py", "box2d", "minigrid", "mujoco")
_ABSENT = ("ModuleNotFoundError", "DependencyNotInstalled", "NameNotFound", "NamespaceNotFound")


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


def hint_at_envs(error_type: str, message: str) -> str:
    """Returns what to install where an environment of the extra `envs` can't be made, else "".

    Args:
        error_type: name of the exception's class; what follows a parenthesis does not count.
        message: its text.

    Example:
        >>> hint_at_envs("ModuleNotFoundError", "No module named 'ale_py'")
        "; pip install 'vecsess[envs]'"
        >>> hint_at_envs("ModuleNotFoundError", "No module named 'mine'")
        ''
    """
    absent = error_type.partition("(")[0] in _ABSENT
    ours = any(name in message.lower() for name in _ENVS)
    return "; pip install 'vecsess[envs]'" if absent and ours else ""
