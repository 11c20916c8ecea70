"""What a step gives beside the observation, as plain Python values, or an error saying why not."""

from __future__ import annotations

import bdb
import builtins
import pickle
import traceback
from collections.abc import Callable

import gymnasium
import numpy as np

from vecsess.wire.channel import VALUE_BYTES
from vecsess.wire.leaves import TRY_LENIENT, FormError
from vecsess.wire.spaces import describe
from vecsess.wire.values import Env, Fields, FrameError, Given, check_objects, pack_value

_NUMBERS = (float, np.floating, np.integer)
_FLOAT_BITS = 1024  # an int of fewer has a float


def _scalar(value: Given, lenient: bool) -> Given:
    """Returns the number in an array without axes; if `lenient`, in any array of one number."""
    single = isinstance(value, np.ndarray) and (value.shape == () or (lenient and value.size == 1))
    return value.reshape(())[()] if single else value


def reward_of(value: Given, *, lenient: bool = False) -> float:
    """Returns a reward as float; a text, None, an array with axes, or a bool is none.

    Args:
        value: what an environment gave.
        lenient: take a bool, too.
    """
    if type(value) is int and value.bit_length() < _FLOAT_BITS:
        return float(value)
    scalar = _scalar(value, False)
    bools = isinstance(scalar, bool | np.bool_)
    if (lenient and bools) or type(scalar) is int or isinstance(scalar, _NUMBERS):
        try:
            return float(scalar)
        except OverflowError:
            pass  # an int beyond float64 is none, either
    got = f"shape {list(value.shape)}" if isinstance(value, np.ndarray) else repr(value)[:80]
    got = f"{type(value).__name__} {got}{TRY_LENIENT if bools else ''}"
    raise FormError("reward", f"expected a number, got {got}")


def flag_of(value: Given, name: str, *, lenient: bool = False) -> bool:
    """Returns a done flag as bool; a number or a text is none, unless `lenient` takes 0 and 1."""
    scalar = _scalar(value, lenient)
    if isinstance(scalar, np.bool_ | bool):
        return bool(scalar)
    whole = _scalar(value, True)
    number = isinstance(whole, int | np.integer | np.bool_) and whole in (0, 1)
    if lenient and number:
        return bool(whole)
    got = f"{type(value).__name__} {repr(value)[:80]}{TRY_LENIENT if number else ''}"
    raise FormError(name, f"expected a bool, got {got}")


def refuse_info(info: Given) -> None:
    """Raises the error for an info that is no dict."""
    raise FormError("info", f"expected a dict, got {type(info).__name__} {repr(info)[:80]}")


def refuse_step(result: Given) -> None:
    """Raises the error for a step's result that is no tuple of five."""
    size = f" of {len(result)}" if isinstance(result, tuple | list) else ""
    old = "; this is an environment of the old Gym API: wrap it" if size == " of 4" else ""
    raise FormError(
        "step",
        "expected (observation, reward, terminated, truncated, info), "
        f"got {type(result).__name__}{size}{old}",
    ) from None


def pack_info(info: Fields, warn: Callable[[str], None]) -> bytes:
    """Returns an info as msgpack; to be done at once, since environments reuse their arrays.

    Args:
        info: may be nested.
        warn: called with a text for each key whose value is left out.
    """
    try:
        packed = pack_value(info)
    except (TypeError, ValueError):
        packed = pack_value(_sendable(info, "info", warn))
    try:
        check_size(packed)
        check_objects([packed])
    except FrameError as error:
        warn(f"an info was left out: {error}")
        return pack_value({})
    return packed


def _sendable(
    info: dict[Given, Given], name: str, warn: Callable[[str], None]
) -> dict[Given, Given]:
    """Returns what of a dict can be sent."""
    kept = {}
    for key, value in info.items():
        place = f"{name}[{key!r}]"
        try:
            pack_value({key: value})
        except (TypeError, ValueError) as error:
            if isinstance(value, dict) and not _is_unsendable(key):
                kept[key] = _sendable(value, place, warn)
            else:
                warn(f"{place} was left out: {error}")
        else:
            kept[key] = value
    return kept


def _is_unsendable(key: Given) -> bool:
    try:
        pack_value(key)
    except (TypeError, ValueError):
        return True
    return False


MAX_TRACEBACK = 16_000
MAX_MESSAGE = 4_000
MAX_BRIEF = 200


def account_of(error: Exception) -> list[str]:
    """Returns `[type, message, traceback]` for the wire.

    The type is a name, with that of the builtin exception it derives from where that is another:
    "KeyError", or "MyError(LookupError)".
    """
    text = "".join(traceback.format_exception(error))
    return [type_of(error), told(error), _encodable(text)[-MAX_TRACEBACK:]]


def brief(failure: list[Given]) -> list[Given]:
    """Returns a failure without its traceback: many in one reply must fit into a frame."""
    row, kind, name, message, _ = failure
    return [row, kind, name, message[:MAX_BRIEF], ""]


def type_of(error: Exception) -> str:
    """Returns the name of an exception's class and of the nearest builtin one."""
    name = type(error).__name__
    nearest = next(kind for kind in type(error).__mro__ if _is_builtin(kind))
    return name if nearest in (type(error), Exception) else f"{name}({nearest.__name__})"


def told(error: Exception) -> str:
    """Returns an exception's text; one whose `__str__` raises must not end the worker."""
    if isinstance(error, bdb.BdbQuit):
        return "a breakpoint needs a terminal, which a worker has not: use workers=0"
    try:
        return _encodable(str(error))[:MAX_MESSAGE]
    except Exception as second:
        return f"<no text: {type(second).__name__} in __str__>"


def _is_builtin(kind: type) -> bool:
    return getattr(builtins, kind.__name__, None) is kind


def _encodable(text: str) -> str:
    """Returns the text without surrogates, which have no place in UTF-8."""
    return text.encode(errors="backslashreplace").decode()


def set_attribute(env: Env, name: str, packed: bytes) -> None:
    """Sets an attribute where a wrapper has it, else in the environment itself.

    Args:
        env: with all its wrappers.
        name: of the attribute.
        packed: a pickle of its value; from the manager: code goes this way only.
    """
    env.set_wrapper_attr(name, pickle.loads(packed))  # noqa: S301


def get_attribute(env: Env, name: str, _packed: bytes) -> Given:
    """Returns an attribute of an environment or of one of its wrappers."""
    return env.get_wrapper_attr(name)


def call_method(env: Env, name: str, packed: bytes) -> Given:
    """Returns what a method returns, or an attribute that can't be called as it is."""
    value = env.get_wrapper_attr(name)
    if not callable(value):
        return value
    args, kwargs = pickle.loads(packed)  # noqa: S301  # from the manager
    return value(*args, **kwargs)


def is_wrapped(env: Env, name: str, _packed: bytes) -> bool:
    """Returns whether one of an environment's wrappers is of a class, or derived from it.

    Args:
        env: with all its wrappers.
        name: of the class, with its module: nothing is imported here to find it.
    """
    while isinstance(env, gymnasium.Wrapper):
        if name in (f"{kind.__module__}.{kind.__qualname__}" for kind in type(env).__mro__):
            return True
        env = env.env
    return False


# "read" is a call that changes nothing, such as `render`.
READS = {"call": call_method, "read": call_method, "get": get_attribute, "wrapped": is_wrapped}


def check_size(packed: bytes) -> None:
    """Refuses what is more than one value may be, so that the same is legal in every grouping.

    Raises:
        FrameError: it is.
    """
    if len(packed) > VALUE_BYTES:
        raise FrameError(f"expected at most {VALUE_BYTES} bytes, got {len(packed)}")


def pack_result(result: Given, name: str) -> tuple[str, bytes]:
    """Returns what a result is, and the result as msgpack.

    Raises:
        TypeError: it is not plain data.
    """
    try:
        if isinstance(result, gymnasium.Space):
            return "space", pack_value(describe(result))
        if isinstance(result, gymnasium.envs.registration.EnvSpec):
            return "spec", pack_value(result.to_json())
        if isinstance(result, np.random.Generator):
            return "generator", pack_value(dict(result.bit_generator.state))
        packed = pack_value(result)
        check_size(packed)
        check_objects([packed])
        return "result", packed
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"the result of {name!r} can't come back: {error}; results are plain data (numbers, "
            "texts, NumPy arrays, lists, dicts), so let the environment return such"
        ) from error
