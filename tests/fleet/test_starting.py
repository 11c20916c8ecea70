"""Where environments may come from, and what a session says that can't start."""

from __future__ import annotations

import copy as copy_module
import pickle
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from tests.envs import CountingEnv, SpaceEnv, counting, faulty
from tests.processes import all_gone, processes_below, run_script
from tests.sessions import open_session
from vecsess import EnvError, Timeouts, VecCheckedSession, WorkerDied
from vecsess.errors import SpaceError, SpawnError
from vecsess.fleet.plan import group

pytestmark = pytest.mark.usefixtures("no_process_left")
METHODS = ["fork", "spawn"]
GROUPINGS = [pytest.param(0, id="in the trainer"), pytest.param(2, id="2 workers")]


# --- scripts as users write them -----------------------------------------------------------------

PREAMBLE = """
import sys
import gymnasium
import numpy as np
from gymnasium import spaces
from vecsess import VecCheckedSession

made_here = 0


class SmallEnv(gymnasium.Env):
    def __init__(self, size=3):
        global made_here
        made_here += 1
        self.observation_space = spaces.Box(-9, 9, (size,), np.float32)
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(self.observation_space.shape, np.float32), {}

    def step(self, action):
        return np.ones(self.observation_space.shape, np.float32), 1.0, False, False, {}


def run(env, **arguments):
    with VecCheckedSession(env, n=3, start_method=sys.argv[1], **arguments) as vec:
        vec.reset(seed=0)
        observations, *_ = vec.step([0, 1, 0])
    print(observations.shape, observations.sum(), made_here)
"""
SOURCES = {
    "a lambda": "run(lambda: SmallEnv(3))",
    "a closure": "def make(size):\n    return lambda: SmallEnv(size)\nrun(make(3))",
    "a function": "def make():\n    return SmallEnv(3)\nrun(make)",
    "the class": "run(SmallEnv)",
    "a partial": "from functools import partial\nrun(partial(SmallEnv, size=3))",
    "a sequence": "run([SmallEnv, SmallEnv, lambda: SmallEnv(3)])",
    "an id registered here": "gymnasium.register('Mine-v0', SmallEnv)\nrun('Mine-v0')",
    "an id with arguments": (
        "gymnasium.register('Mine-v0', SmallEnv)\nrun('Mine-v0', make_kwargs={'size': 3})"
    ),
    "a callable that makes an id registered here": (
        "gymnasium.register('Mine-v0', SmallEnv, kwargs={'size': 3}, max_episode_steps=9)\n"
        "run(lambda: gymnasium.make('Mine-v0'))"
    ),
    "a callable that makes an id by its text": (
        "gymnasium.register('Mine-v0', 'beside:SmallEnv', kwargs={'size': 3})\n"
        "run(lambda: gymnasium.make('Mine-v0'))"
    ),
    "an environment that makes one of another id": (
        "gymnasium.register('Inner-v0', SmallEnv)\n"
        "gymnasium.register('Outer-v0', lambda: gymnasium.make('Inner-v0'))\nrun('Outer-v0')"
    ),
    "what can't be pickled is registered beside it": (
        "import threading\nlock = threading.Lock()\n"
        "gymnasium.register('Other-v0', lambda: lock, kwargs={'size': lock})\nrun(SmallEnv)"
    ),
    "a function beside the script": "import beside\nrun(beside.make)",
    "module:EnvId": "run('registering:Beside-v0')",
}
BESIDE = PREAMBLE.partition("def run")[0] + "\n\ndef make():\n    return SmallEnv(3)\n"
REGISTERING = "import gymnasium\ngymnasium.register('Beside-v0', 'beside:SmallEnv')\n"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("source", SOURCES)
def test_a_script_without_a_main_guard(source: str, method: str, tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text(BESIDE)
    (tmp_path / "registering.py").write_text(REGISTERING)
    done = run_script(PREAMBLE + SOURCES[source], tmp_path, method)
    assert done.stdout == "(3, 3) 9.0 0\n", done.stderr
    assert done.returncode == 0
    assert done.stderr == ""


@pytest.mark.parametrize("method", METHODS)
def test_code_without_a_file_as_in_a_notebook(method: str, tmp_path: Path) -> None:
    text = f"cell = {PREAMBLE!r}\nexec(cell)\nexec('run(lambda: SmallEnv(3))')"
    command = [sys.executable, "-c", text, method]
    done = run_script(f"import subprocess\nsubprocess.run({command!r}, check=True)", tmp_path)
    assert done.stdout == "(3, 3) 9.0 0\n", done.stderr


def test_the_modules_beside_a_script_are_found_from_another_directory(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "beside.py").write_text(BESIDE)
    text = (
        f"import os\nos.chdir({str(elsewhere)!r})\n"
        + PREAMBLE
        + SOURCES["a function beside the script"]
    )
    assert run_script(text, tmp_path, "fork").stdout.startswith("(3, 3)")


# --- what a session can't start with -------------------------------------------------------------


def test_an_unknown_id_is_told_with_the_workers_traceback() -> None:
    with pytest.raises(EnvError, match="NoSuchEnv") as caught:
        VecCheckedSession("NoSuchEnv-v0", 2)
    assert caught.value.remote_type in ("NameNotFound", "NamespaceNotFound")
    assert "gymnasium" in caught.value.remote_traceback
    assert "nothing was left running" in str(caught.value)


@pytest.mark.parametrize("method", METHODS)
def test_a_missing_dependency_is_told_as_what_it_is(method: Any) -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module") as caught:
        VecCheckedSession("no_such_module:Env-v0", 2, start_method=method)
    assert isinstance(caught.value, EnvError)


@pytest.mark.parametrize("workers", [0, 1, 2, 5])
def test_a_constructor_that_raises_names_its_environment(workers: int) -> None:
    with pytest.raises(ValueError, match="a bad value") as caught:
        open_session(faulty(5, 3, "ValueError", "init"), 5, workers=workers)
    assert isinstance(caught.value, EnvError)
    assert caught.value.env == 3
    assert "while it was made" in str(caught.value)
    assert "_break_in" in caught.value.remote_traceback


def test_what_was_built_before_it_is_closed(capfd: pytest.CaptureFixture[str]) -> None:
    makers = [*faulty(1, 0, "print", "close"), *faulty(1, 0, "ValueError", "init")]
    with pytest.raises(ValueError, match="a bad value"):
        open_session(makers, 2, workers=0)
    assert capfd.readouterr().out.startswith("printed by an environment")


@pytest.mark.parametrize("fault", ["sleep", "spin", "SIGSTOP"])
def test_a_constructor_that_hangs_is_ended_at_the_start_deadline(fault: str) -> None:
    with pytest.raises(SpawnError, match=r"built within 6\.0 s.*start_s") as caught:
        open_session(faulty(3, 1, fault, "init"), 3, timeouts=Timeouts(start_s=6.0))
    assert caught.value.worker == 1


@pytest.mark.parametrize("fault", ["exit 0", "sys.exit 5", "segfault", "abort", "SIGKILL"])
@pytest.mark.parametrize("method", METHODS)
def test_a_constructor_that_ends_its_worker(fault: str, method: str) -> None:
    with pytest.raises(WorkerDied, match="while it built its environments") as caught:
        open_session(faulty(3, 1, fault, "init"), 3, start_method=method)
    assert caught.value.worker == 1


def test_a_module_that_hangs_when_it_is_preloaded(tmp_path: Path) -> None:
    (tmp_path / "hanging.py").write_text("import time\ntime.sleep(1000)\n")
    text = """
    from vecsess import Timeouts, VecCheckedSession
    VecCheckedSession("hanging:Env-v0", 2, timeouts=Timeouts(start_s=1.0))
    """
    done = run_script(text, tmp_path)
    assert "SpawnError" in done.stderr
    assert "a module that it preloads may hang" in done.stderr


def test_a_callable_that_can_not_be_pickled_is_refused_before_anything_starts() -> None:
    lock = threading.Lock()
    with pytest.raises(SpawnError, match=r"can be pickled.*workers=0"):
        VecCheckedSession(lambda: (lock, CountingEnv())[1], 2)


@pytest.mark.parametrize("method", METHODS)
def test_an_id_that_can_not_be_sent_is_named_where_it_is_asked_for(method: Any) -> None:
    lock = threading.Lock()
    spec = gymnasium.envs.registration.EnvSpec("Locked-v0", lambda **_: (lock, CountingEnv())[1])
    gymnasium.registry["Locked-v0"] = spec
    try:
        with pytest.raises(EnvError, match=r"registered 'Locked-v0'.*pickle.*workers=0"):
            VecCheckedSession(lambda: gymnasium.make("Locked-v0"), 2, start_method=method)
    finally:
        del gymnasium.registry["Locked-v0"]


def test_in_the_trainer_it_needs_no_pickle() -> None:
    lock = threading.Lock()
    with open_session(lambda: (lock, CountingEnv())[1], 2, workers=0) as vec:
        assert vec.reset()[0].shape == (2, 4)


@pytest.mark.parametrize("workers", GROUPINGS)
def test_a_callable_must_return_an_environment(workers: int) -> None:
    with pytest.raises(TypeError, match=r"expected the callable to return a gymnasium\.Env"):
        open_session(dict, 2, workers=workers)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n: expected a positive number"),
        ({"n": 2.0}, "n: expected a positive number"),
        ({"workers": -1}, "workers: expected None, 'auto' or a number from 0 on, got -1"),
        ({"workers": "all"}, "workers: expected"),
        ({"workers": True}, "workers: expected"),
        ({"start_method": "forkserver"}, "start_method: expected"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VecCheckedSession(**{"env": CountingEnv, "n": 2, **arguments})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"timeouts": 5}, TypeError, r"expected such as Timeouts\(step_s=5\), got 5"),
        ({"restart_policy": 3}, TypeError, r"expected such as RestartPolicy\(max_restarts=3\)"),
        ({"contract": {}}, TypeError, r"contract: expected such as Contract\("),
        ({"affinity": "all"}, ValueError, r"expected 'spread' or cores out of .*, got 'all'"),
        ({"preload": "numpy"}, TypeError, r"names of modules, such as \['numpy'\], got a text"),
        ({"env": CountingEnv()}, TypeError, "expected what makes an environment"),
        ({"env": [CountingEnv] * 3}, TypeError, "a sequence of 2 callables, got 3 of them"),
        ({"context": "greenlet"}, ValueError, "context: expected one of"),
        ({"daemon": False}, ValueError, "no worker may outlive the trainer"),
        ({"worker": print}, ValueError, "wrap the environment"),
        ({"shared_memorie": True}, TypeError, "unexpected keyword argument 'shared_memorie'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_refusal_says_what_to_write(
    arguments: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        VecCheckedSession(**{"env": CountingEnv, "n": 2, **arguments})


@pytest.mark.parametrize(
    ("arguments", "workers"),
    [
        ({"context": "spawn", "shared_memory": False, "daemon": True}, 3),
        ({"context": "forkserver", "max_concurrency": 2}, 2),
        ({"context": None, "max_concurrency": 2, "workers": 1}, 1),
        ({"max_concurrency": 9}, 3),
    ],
    ids=str,
)
def test_arguments_of_async_vector_env_are_taken(arguments: Any, workers: int) -> None:
    with VecCheckedSession(CountingEnv, 3, **arguments) as vec:
        assert len(vec.health()) == workers
        assert vec.reset(seed=0)[0].shape == (3, 4)


def test_a_session_is_no_data() -> None:
    with VecCheckedSession(CountingEnv, 1, workers=0) as vec:
        for copy in (pickle.dumps, copy_module.copy, copy_module.deepcopy):
            with pytest.raises(TypeError, match=r"restore\(\) what checkpoint\(\) returns"):
                copy(vec)


def test_it_derives_directly_from_gymnasiums_class() -> None:
    assert gymnasium.vector.VectorEnv in VecCheckedSession.__bases__


@pytest.mark.parametrize("env", [3, None, [], [CountingEnv] * 3, ["CartPole-v1"] * 2])
def test_an_env_is_an_id_a_callable_or_n_callables(env: Any) -> None:
    with pytest.raises(TypeError, match="env: expected an id, a callable, or a sequence of 2"):
        VecCheckedSession(env, 2)


def test_make_kwargs_need_an_id() -> None:
    with pytest.raises(TypeError, match=r"functools\.partial"):
        VecCheckedSession(CountingEnv, 2, make_kwargs={"length": 3})


# --- spaces --------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", GROUPINGS)
def test_environments_must_agree_on_their_spaces(workers: int) -> None:
    other = partial(CountingEnv, action_space=spaces.Discrete(3))
    with pytest.raises(SpaceError, match=r"Discrete\(2\).*Discrete\(3\)") as caught:
        open_session([*counting(3), other], 4, workers=workers)
    assert caught.value.env == 3


@pytest.mark.parametrize("workers", GROUPINGS)
@pytest.mark.parametrize("space", [None, 4, spaces.Discrete, (spaces.Discrete(2),)], ids=repr)
def test_what_is_no_space_is_refused_with_what_is(space: Any, workers: int) -> None:
    maker = partial(SpaceEnv, space)
    with pytest.raises(SpaceError, match="expected observation_space to be") as caught:
        open_session([*counting(1), maker], 2, workers=workers)
    assert caught.value.env == 1
    for supported in ("Box", "Discrete", "MultiDiscrete", "MultiBinary"):
        assert supported in str(caught.value)


@pytest.mark.parametrize("workers", GROUPINGS)
def test_a_failure_after_the_workers_have_started_ends_them(
    workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        assert len(processes_below()) == (workers + 1 if workers else 0)
        raise KeyboardInterrupt

    monkeypatch.setattr("vecsess.session.engine.Recovery", interrupt)
    with pytest.raises(KeyboardInterrupt):
        open_session(counting(3), 3, workers=workers)
    assert all_gone(processes_below(), 0.5)


# --- groups --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "workers", "expected"),
    [
        (4, 2, [(0, 2), (2, 2)]),
        (5, 2, [(0, 3), (3, 2)]),
        (16, 5, [(0, 4), (4, 3), (7, 3), (10, 3), (13, 3)]),
        (3, None, [(0, 1), (1, 1), (2, 1)]),
        (3, 1, [(0, 3)]),
        (3, 0, []),
        (2, 3, [(0, 1), (1, 1)]),
    ],
)
def test_environments_are_spread_evenly(n: int, workers: Any, expected: Any) -> None:
    assert group(n, workers) == expected


@pytest.mark.parametrize("n", [1, 2, 7, 64])
def test_auto_is_a_worker_for_each_core_at_most(n: int) -> None:
    assert 1 <= len(group(n, "auto")) <= n


def test_a_session_describes_itself_as_gymnasium_does() -> None:
    reference = gymnasium.make("CartPole-v1")
    with open_session("CartPole-v1", 3, workers=2) as vec:
        assert vec.num_envs == 3
        assert vec.single_observation_space == reference.observation_space
        assert vec.single_action_space == reference.action_space
        assert vec.observation_space.shape == (3, 4)
        assert vec.spec is not None
        assert vec.spec.id == "CartPole-v1"
        assert isinstance(vec.reset(seed=0)[0], np.ndarray)
    reference.close()


@pytest.mark.parametrize("name", ["start_s", "reset_s", "step_s", "close_s"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, "5", True])
def test_a_limit_that_never_comes_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"Timeouts\.{name}: expected seconds"):
        Timeouts(**{name: value})


def test_only_closing_needs_a_limit() -> None:
    assert Timeouts(start_s=None, reset_s=None, step_s=None, close_s=0).step_s is None
    with pytest.raises(ValueError, match=r"Timeouts\.close_s"):
        Timeouts(close_s=None)  # type: ignore[arg-type]  # the fault itself


class TellsModules(gymnasium.Env[Any, Any]):
    """Tells at its reset what this process has imported."""

    observation_space = gymnasium.spaces.Box(0, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return np.zeros(1, np.float32), {"masked": "numpy.ma" in sys.modules}

    def step(self, action: Any) -> Any:
        return np.zeros(1, np.float32), 0.0, False, False, {}


def test_workers_import_nothing_that_they_do_not_need() -> None:
    """NumPy imports `np.ma` at first sight, which took each of 16 workers 6 ms of their start."""
    with VecCheckedSession(TellsModules, n=2) as vec:
        _, infos = vec.reset(seed=0)
        assert not infos["masked"].any()
