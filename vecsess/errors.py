"""One tree of errors; each says where it happened and what to do next."""

from __future__ import annotations

import builtins
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager

import gymnasium

from vecsess.wire.values import Fields, Given


class VecsessError(Exception):
    """The root of every error that vecsess raises on its own account.

    Attributes:
        worker: index of the worker, where one is to blame.
        env: index of the environment, `0 <= env < n`.
        episode: how many episodes this environment had finished.
        step: how many steps of that episode had been taken.
        field: the part of the transition or the argument, such as "reward".
        shard: of a session on many machines: which one; its workers count from 0.
        node: likewise, its node's address.

    Example:
        >>> print(VecsessError("expected a float, got None", env=3, step=7, field="reward"))
        env 3, step 7, field 'reward': expected a float, got None
    """

    shard: int | None = None
    node: str | None = None

    def __init__(
        self,
        message: str,
        *,
        worker: int | None = None,
        env: int | None = None,
        episode: int | None = None,
        step: int | None = None,
        field: str | None = None,
    ) -> None:
        # Not super(): EnvError is mixed with builtins whose constructors want other arguments.
        Exception.__init__(self, message)
        self.message = message
        self.worker = worker
        self.env = env
        self.episode = episode
        self.step = step
        self.field = field

    @property
    def brief(self) -> str:
        """The first line, cut where it is long: what a record of it keeps."""
        return str(self).partition("\n")[0][:300]

    def __str__(self) -> str:
        places = [
            f"{name} {value!r}"
            for name, value in (
                ("shard", self.shard),
                ("node", self.node),
                ("worker", self.worker),
                ("env", self.env),
                ("episode", self.episode),
                ("step", self.step),
                ("field", self.field),
            )
            if value is not None
        ]
        return f"{', '.join(places)}: {self.message}" if places else self.message


class ContractViolation(VecsessError):
    """A transition broke the contract: a wrong type, shape, dtype or value came from the env.

    Example:
        >>> print(ContractViolation("expected a finite number, got nan", env=3, field="reward"))
        env 3, field 'reward': expected a finite number, got nan
    """


class ActionError(VecsessError, ValueError):
    """The actions are not a batch of the action space; no worker was told of them."""


class ActionTypeError(ActionError, TypeError):
    """One action where a batch is expected; a `TypeError` as in Gymnasium's own."""


class SpaceError(VecsessError, TypeError):
    """A space that vecsess can't carry, or spaces that do not agree between environments."""


class SpaceMismatchError(SpaceError, RuntimeError):
    """Spaces that do not agree between environments; a `RuntimeError` as in Gymnasium's own."""


class StateError(VecsessError, RuntimeError):
    """The call does not fit the session's state, for instance a step before the first reset."""


class ResetNeededError(StateError, gymnasium.error.ResetNeeded, AssertionError):
    """An episode has ended, and nothing resets it by itself; an assertion in Gymnasium's own."""


class PendingCallError(StateError, gymnasium.error.AlreadyPendingCallError):
    """A step, reset or call is still under way; wait for it, or reset.

    Attributes:
        name: what is under way: "step", "reset" or "call".
    """

    def __init__(self, message: str, name: str = "step", **where: Given) -> None:
        StateError.__init__(self, message, **where)
        self.name = name


class NoPendingCallError(StateError, gymnasium.error.NoAsyncCallError):
    """There is nothing to wait for: `step_async`, `reset_async` or `call_async` comes first.

    Attributes:
        name: what there is none of: "step", "reset" or "call".
    """

    def __init__(self, message: str, name: str = "step", **where: Given) -> None:
        StateError.__init__(self, message, **where)
        self.name = name


class CallTimeout(VecsessError, TimeoutError, multiprocessing.TimeoutError):
    """A wait was too short; what it was for is still under way, and nothing is lost."""


class ClosedError(StateError, gymnasium.error.ClosedEnvironmentError):
    """The session was closed."""


class ThreadError(StateError):
    """A session belongs to the thread that made it."""


class SpawnError(VecsessError):
    """The workers could not be started; carries the worker's own traceback as a note."""


class EnvError(VecsessError):
    """An environment raised; also an instance of the builtin exception that it raised.

    Attributes:
        remote_type: name of the exception's class in the worker.
        remote_traceback: the worker's own traceback, as text.

    Example:
        >>> error = env_error("KeyError", "'no such room'", "Traceback ...", env=2, step=7)
        >>> isinstance(error, KeyError), error.step
        (True, 7)
    """

    remote_type = ""
    remote_traceback = ""

    def __reduce__(self) -> tuple[Given, ...]:
        """Pickles its class by what it is mixed with, since it has no place of its own."""
        builtin = None if type(self) is EnvError else type(self).__bases__[1]
        return _revive, (builtin, self.message, self.__dict__)


class PolicyError(VecsessError, RuntimeError):
    """A policy can't be taken to the workers, went wrong there, or said what is not finite.

    Where it went wrong at a worker, the worker's traceback comes with it.

    Example:
        >>> print(PolicyError("expected finite actions, got nan", worker=1, env=3, step=7))
        worker 1, env 3, step 7: expected finite actions, got nan
    """


class WorkerError(VecsessError):
    """A worker process did not keep to its duties."""


class WorkerDied(WorkerError):
    """A worker process ended without being asked to.

    Example:
        >>> print(WorkerDied("the worker (pid 812) ended with exit code 7", worker=3, env=3))
        worker 3, env 3: the worker (pid 812) ended with exit code 7
    """


class ServerDied(WorkerDied):
    """The fork server ended, and every worker with it."""


class RestartLimitExceeded(WorkerError):
    """A worker was lost more often than its `RestartPolicy` allows."""


class WorkerTimeout(WorkerError, TimeoutError):
    """An environment did not answer within its deadline.

    Example:
        >>> isinstance(WorkerTimeout("expected an answer within 60 s", env=3), TimeoutError)
        True
    """


class ProtocolError(WorkerError):
    """A worker sent something that the protocol does not allow."""


class BadEncoding(ProtocolError):
    """A worker sent bytes that are not msgpack."""


class MissingField(ProtocolError):
    """A worker sent a message with a field missing, or with one too many."""


class WrongFieldType(ProtocolError):
    """A worker sent a message with a field of another type."""


_env_error_types: dict[type[Exception], type[EnvError]] = {}


def _env_error_type(builtin: type[Exception]) -> type[EnvError]:
    """Returns the class of both; always the same one, so that it can be caught by name."""
    if builtin not in _env_error_types:
        mixed = type(f"EnvError[{builtin.__name__}]", (EnvError, builtin), {})
        _env_error_types[builtin] = mixed
    return _env_error_types[builtin]


def _revive(builtin: type[Exception] | None, message: str, state: Fields) -> EnvError:
    error = (EnvError if builtin is None else _env_error_type(builtin))(message)
    error.__dict__.update(state)
    return error


def env_error(
    remote_type: str, message: str, remote_traceback: str, **where: int | None
) -> EnvError:
    """Returns an `EnvError` that is also the exception named, of Python's or Gymnasium's own.

    Args:
        remote_type: class name of what was raised in the worker, such as "ValueError", or
            "MyError(LookupError)" for a class that derives from a builtin one.
        message: its text.
        remote_traceback: the worker's traceback, attached as a note.
        where: worker, env, episode, step.
    """
    name, _, nearest = remote_type.removesuffix(")").partition("(")
    builtin = getattr(builtins, nearest or name, None) or getattr(gymnasium.error, name, None)
    kind: type[EnvError] = EnvError
    if isinstance(builtin, type) and issubclass(builtin, Exception) and builtin is not Exception:
        # A group consists of exceptions, and those stay in the worker.
        kind = EnvError if issubclass(builtin, BaseExceptionGroup) else _env_error_type(builtin)
    text = f"the environment raised {name}: {message}"
    error = kind(text, **where)  # type: ignore[arg-type]  # `where` never holds `field`
    error.remote_type = name
    error.remote_traceback = remote_traceback
    error.add_note(f"Traceback in the worker:\n{remote_traceback}")
    return error


_ENVS = ("ale_py", "namespace ale", "box2d", "minigrid", "mujoco")
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
        vecsess.errors.MissingExtraError: a doctest needs no_such_module, which is not installed: \
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
