"""One tree of errors; each says where it happened, and can be caught as what it was."""

from __future__ import annotations

import builtins
import pickle

import gymnasium
import pytest

from vecsess import errors
from vecsess.errors import EnvError, VecsessError, env_error
from vecsess.fleet.reports import printable
from vecsess.workers.outcomes import account_of, type_of

BUILTINS = sorted(
    name
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, Exception)
)
OWN = [kind for kind in vars(errors).values() if isinstance(kind, type)]
OWN = [kind for kind in OWN if issubclass(kind, VecsessError) and kind is not VecsessError]


@pytest.mark.parametrize("name", BUILTINS)
def test_an_env_error_is_the_builtin_that_it_was(name: str) -> None:
    error = env_error(name, "told", "trace", worker=1, env=2, episode=3, step=4)
    assert isinstance(error, EnvError)
    if "Group" not in name:  # it consists of exceptions, and those stay in the worker
        assert isinstance(error, getattr(builtins, name))
    assert (error.worker, error.env, error.episode, error.step) == (1, 2, 3, 4)
    assert str(error) == f"worker 1, env 2, episode 3, step 4: the environment raised {name}: told"
    assert (error.remote_type, error.remote_traceback) == (name, "trace")
    assert error.__notes__ == ["Traceback in the worker:\ntrace"]


@pytest.mark.parametrize("name", ["SystemExit", "int", "print", "nonsense", "", "(", "(int)"])
def test_what_is_no_builtin_exception_is_just_an_env_error(name: str) -> None:
    assert type(env_error(name, "told", "")) is EnvError


def test_a_class_of_ones_own_is_the_builtin_that_it_derives_from() -> None:
    error = env_error("Missing(LookupError)", "told", "")
    assert isinstance(error, LookupError)
    assert error.remote_type == "Missing"
    assert "raised Missing: told" in str(error)


@pytest.mark.parametrize("kind", OWN)
def test_every_error_can_be_caught_as_vecsess_error(kind: type[VecsessError]) -> None:
    error = kind("expected this, got that", env=3, field="reward")
    assert isinstance(error, VecsessError)
    assert str(error) == "env 3, field 'reward': expected this, got that"


def test_errors_are_what_callers_of_gymnasium_expect() -> None:
    assert issubclass(errors.ClosedError, gymnasium.error.ClosedEnvironmentError)
    assert issubclass(errors.PendingCallError, gymnasium.error.AlreadyPendingCallError)
    assert issubclass(errors.NoPendingCallError, gymnasium.error.NoAsyncCallError)
    assert issubclass(errors.WorkerTimeout, TimeoutError)
    assert issubclass(errors.ActionError, ValueError)
    assert issubclass(errors.SpaceError, TypeError)
    assert issubclass(errors.ThreadError, RuntimeError)


def test_errors_cross_the_trainers_own_processes() -> None:
    error = errors.WorkerDied("it ended", worker=1, env=2)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is errors.WorkerDied
    assert (again.worker, again.env, str(again)) == (1, 2, str(error))


class _Local(KeyError):
    pass


class _Odd(Exception):
    def __str__(self) -> str:
        raise RuntimeError


class TestAccount:
    """What of an exception crosses the wire."""

    @pytest.mark.parametrize(
        ("error", "name"),
        [
            (ValueError("x"), "ValueError"),
            (_Local("x"), "_Local(KeyError)"),
            (_Odd("x"), "_Odd"),
            (OSError(2, "x"), "FileNotFoundError"),
            (gymnasium.error.NameNotFound("x"), "NameNotFound"),
            (ExceptionGroup("x", [ValueError()]), "ExceptionGroup"),
        ],
    )
    def test_its_type(self, error: Exception, name: str) -> None:
        assert type_of(error) == name

    def test_its_text_can_always_be_sent(self) -> None:
        for error in (ValueError("\udcff"), _Odd(), ValueError("x" * 1_000_000)):
            for part in account_of(error):
                assert len(part.encode()) < 100_000

    def test_control_characters_are_escaped_where_they_are_shown(self) -> None:
        assert printable("\x1b[31mred\x07\n\tnext ü") == "\\x1b[31mred\\x07\n\tnext ü"
