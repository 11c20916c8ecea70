"""What happens to an environment, whether it lives in a worker or in the trainer's process.

Resets, steps, auto-reset, the check of form, and the copy into the slab. No pipe, no process, no
clock: `serve` calls this in a worker, and `vecsess.in_process` in the trainer.
"""

from __future__ import annotations

import contextlib
import pickle
import traceback
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np

from vecsess.wire.slab import Layout, Views
from vecsess.wire.spaces import Form, FormError, Space
from vecsess.wire.values import pack_value
from vecsess.workers.env_source import BuildError, Env, Maker, build
from vecsess.workers.exceptions import MAX_MESSAGE, account_of
from vecsess.workers.rng_state import Words, load_rng, save_rng

NO_INFOS, FINAL_INFOS, ALL_INFOS = 0, 1, 2

Values = list[list[Any]]  # [row, what, value as msgpack]
Failures = list[list[Any]]  # [row, kind, type or field, message, traceback]


class EnvHost:
    """The environments of one worker, and the rows of the slab that they write.

    Args:
        makers: one callable per row.
        autoreset_mode: "same_step", "next_step" or "disabled", as Gymnasium's `AutoresetMode`.
        keep_rng: write each episode's RNG state into the slab, so that it can be replayed.
    """

    def __init__(self, makers: Iterable[Maker], autoreset_mode: str, *, keep_rng: bool) -> None:
        self.envs: list[Env] = []
        self._makers = list(makers)
        self.warnings: Values = []
        self.last_exception: BaseException | None = None
        try:
            for maker in self._makers:
                self.envs.append(build(maker))
        except Exception as error:
            row = len(self.envs)
            self.close()
            raise BuildError(row) from error
        except BaseException:  # a Ctrl-C where this is the trainer's own process
            self.close()
            raise
        self._same_step = autoreset_mode == "same_step"
        self._next_step = autoreset_mode == "next_step"
        self._keep_rng = keep_rng
        self._ended = [False] * len(self.envs)  # the last step ended the episode, no reset yet
        self._warned: set[str] = set()

    def spaces(self) -> list[tuple[Space, Space]]:
        """Returns each row's observation and action space."""
        return [(env.observation_space, env.action_space) for env in self.envs]

    def attach(self, layout: Layout, views: Views, *, exact: bool) -> None:
        """Takes the rows `[0]` of `views` as its own.

        Args:
            layout: the layout that `views` was made with.
            views: the fields of one range.
            exact: refuse observations of another dtype instead of casting them.
        """
        self.views = views
        self._resetting = layout.rows
        self._rows = _Rows(views, layout)
        self._writers = []
        self._reset_forms = []
        self._final_forms = []
        for row, env in enumerate(self.envs):
            space, warn = env.observation_space, partial(self._warn, row)
            observations = [array[0] for array in views.observations]
            finals = [array[0] for array in views.finals]
            first = Form(space, observations, "observation", exact=exact, warn=warn)
            form = Form(space, observations, "next_observation", exact=exact, warn=warn)
            final = Form(space, finals, "next_observation", exact=exact, warn=warn)
            self._reset_forms.append(first.write)
            self._writers.append(form.writer())
            self._final_forms.append(final.write)
        self._all = [(row, env.step) for row, env in enumerate(self.envs)]

    def remake(self, row: int) -> None:
        """Builds a row's environment anew: nothing of its former life is left."""
        self.envs[row].close()
        self.envs[row] = build(self._makers[row])
        self._all[row] = (row, self.envs[row].step)
        self._ended[row] = False

    # --- commands --------------------------------------------------------------------------------

    def reset(
        self, rows: list[int], seeds: list[int | None], options: bytes, infos: int
    ) -> tuple[Values, Failures]:
        """Resets `rows`, each with its seed."""
        values: Values = []
        failures: Failures = []
        for row, seed in zip(rows, seeds, strict=True):
            try:
                info = self._reset(row, seed, pickle.loads(options) if options else None)  # noqa: S301  # from the manager
                self._rows.settle(row, 0.0, terminated=False, truncated=False)
                if info and infos:
                    values.append([row, "info", self._packed(row, info)])
            except Exception as error:
                failures.append(self._failure(row, error))
        self._rows.running[0] = -1
        return values, failures

    def step(self, infos: int, only: list[int] | None = None) -> tuple[Values, Failures]:
        """Steps every row, or only some, with the actions that lie in the slab."""
        rows = self._rows
        running, actions, writers = rows.running, rows.actions, self._writers
        rewards, terminations, truncations = rows.rewards, rows.terminated, rows.truncated
        values: Values = []
        failures: Failures = []
        for row, env_step in self._all if only is None else [self._all[row] for row in only]:
            running[0] = row
            try:
                if self._ended[row]:
                    self._step_ended(row, values, infos)
                    continue
                observation, reward, terminated, truncated, info = env_step(actions(row))
                if type(reward) is not float:
                    reward = reward_of(reward)
                if type(terminated) is not bool:
                    terminated = flag_of(terminated, "terminated")
                if type(truncated) is not bool:
                    truncated = flag_of(truncated, "truncated")
                if terminated or truncated:
                    info = self._end(row, observation, info, values, infos)
                else:
                    writers[row](row, observation)
                rewards[row] = reward
                terminations[row] = terminated
                truncations[row] = truncated
                if type(info) is not dict:
                    _refuse_info(info)
                if info and infos == ALL_INFOS:
                    values.append([row, "info", self._packed(row, info)])
            except Exception as error:
                failures.append(self._failure(row, error))
        running[0] = -1
        return values, failures

    def call(
        self, rows: list[int], verb: str, name: str, arguments: bytes
    ) -> tuple[Values, Failures]:
        """Calls, gets or sets an attribute of the environments; results come back as data."""
        values: Values = []
        failures: Failures = []
        for row in rows:
            self._rows.running[0] = row
            try:
                result = _attribute(self.envs[row], verb, name, pickle.loads(arguments))  # noqa: S301  # from the manager
                values.append([row, "result", _packed_result(result, name)])
            except Exception as error:
                failures.append(self._failure(row, error))
        self._rows.running[0] = -1
        return values, failures

    def close(self) -> None:
        """Closes every environment; one that raises does not keep the others open."""
        while self.envs:
            env = self.envs.pop()
            try:
                env.close()
            except Exception:
                traceback.print_exc()  # goes to the worker's stderr, which the manager keeps

    def begin_episode(self, row: int, number: int, rng: Words) -> Failures:
        """Begins a row's episode as its auto-reset did.

        Args:
            row: which environment.
            number: how many auto-resets there were since the last reset that was asked for.
            rng: `[RNG_WORDS]`, the state of `np_random` before it.
        """
        del number  # an environment's own stream needs no more than its state
        try:
            load_rng(self.envs[row], rng)
            self._reset(row, None, None)
            self._rows.settle(row, 0.0, terminated=False, truncated=False)
        except Exception as error:
            return [self._failure(row, error)]
        return []

    def take_warnings(self) -> Values:
        """Returns and forgets what there is to warn of."""
        taken, self.warnings = self.warnings, []
        return taken

    # --- one environment -------------------------------------------------------------------------

    def _reset(self, row: int, seed: int | None, options: Any) -> dict[str, Any]:
        """Resets a row and writes its observation; returns the info."""
        self._rows.running[0] = row + self._resetting  # another value than its step's: progress
        env = self.envs[row]
        if self._keep_rng:
            save_rng(env, self._rows.rng[row])
        result = env.reset(seed=seed, options=options)
        if type(result) is not tuple or len(result) != 2:
            raise FormError("reset", f"expected (observation, info), got {type(result).__name__}")
        self._ended[row] = False
        self._reset_forms[row](row, result[0])
        info = result[1]
        if type(info) is not dict:
            _refuse_info(info)
        return info

    def _end(
        self, row: int, observation: Any, info: Any, values: Values, infos: int
    ) -> dict[str, Any]:
        """Ends an episode; returns the info that belongs to the observation now in the row."""
        if not self._same_step:
            self._ended[row] = True
            self._writers[row](row, observation)
            return info  # type: ignore[no-any-return]  # `step` looks at its type
        # Before the reset: many environments give out the same buffer again and again.
        self._final_forms[row](row, observation)
        if type(info) is not dict:
            _refuse_info(info)
        if infos:
            values.append([row, "final_info", self._packed(row, info)])
        return self._reset(row, None, None)

    def _step_ended(self, row: int, values: Values, infos: int) -> None:
        """What a step does after one that ended the episode, where none was reset in between."""
        if not self._next_step:
            raise RuntimeError(
                "expected a reset of this environment, got a step after its episode had ended; "
                "with autoreset_mode='disabled' pass options={'reset_mask': ...} to reset()"
            )
        info = self._reset(row, None, None)
        self._rows.settle(row, 0.0, terminated=False, truncated=False)
        if info and infos == ALL_INFOS:
            values.append([row, "info", self._packed(row, info)])

    def _packed(self, row: int, info: dict[str, Any]) -> bytes:
        """Returns an info as msgpack, at once: environments reuse their arrays.

        What is not plain data is left out, with one warning for each key.
        """
        try:
            return pack_value(info)
        except (TypeError, ValueError):
            sendable = {key: value for key, value in info.items() if self._can_send(row, key, value)}
            return pack_value(sendable)

    def _can_send(self, row: int, key: Any, value: Any) -> bool:
        try:
            pack_value({key: value})
        except (TypeError, ValueError) as error:
            self._warn(row, f"info[{key!r}] was left out: {error}")
            return False
        return True

    def _warn(self, row: int, text: str) -> None:
        text = text.removeprefix("next_")  # a reset's observation and a step's are one field here
        if text not in self._warned:
            self._warned.add(text)
            self.warnings.append([row, "warning", pack_value(text)])

    def _failure(self, row: int, error: Exception) -> list[Any]:
        self.last_exception = error
        if isinstance(error, FormError):
            return [row, "form", error.field, str(error)[:MAX_MESSAGE], ""]
        return [row, "raised", *account_of(error)]


class _Rows:
    """One range's fields, each in the form that is quickest to use for single rows."""

    def __init__(self, views: Views, layout: Layout) -> None:
        self.running = memoryview(views.running)
        self.rewards = memoryview(views.rewards[0])
        self.terminated = memoryview(views.terminated[0])
        self.truncated = memoryview(views.truncated[0])
        self.rng = views.rng[0]
        self.actions = _action_reader(views, layout)

    def settle(self, row: int, reward: float, *, terminated: bool, truncated: bool) -> None:
        self.rewards[row] = reward
        self.terminated[row] = terminated
        self.truncated[row] = truncated


def _action_reader(views: Views, layout: Layout) -> Callable[[int], Any]:
    """Returns the function that gives a row's action as Gymnasium's vector environments do."""
    arrays = [array[0] for array in views.actions]
    if layout.actions[0].discrete:
        return arrays[0].__getitem__  # a NumPy scalar of the space's dtype

    def read(row: int) -> Any:
        # A copy: environments keep their last action, and the slab's row is written again.
        return arrays[0][row].copy()

    return read


def _attribute(env: Env, verb: str, name: str, arguments: Any) -> Any:
    if verb == "set":
        return env.set_wrapper_attr(name, arguments)
    value = env.get_wrapper_attr(name)
    if verb == "get" or not callable(value):
        return value
    args, kwargs = arguments
    return value(*args, **kwargs)


def _packed_result(result: Any, name: str) -> bytes:
    try:
        return pack_value(result)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"the result of {name!r} can't come back: {error}; results are plain data (numbers, "
            "texts, NumPy arrays, lists, dicts), so let the environment return such"
        ) from error


def reward_of(value: Any) -> float:
    """Returns a reward as float; a bool, a text, None or an array with axes is none."""
    scalar = value[()] if isinstance(value, np.ndarray) and value.shape == () else value
    if type(scalar) is int or isinstance(scalar, np.floating | np.integer | float):
        with contextlib.suppress(OverflowError):  # an int beyond float64 is none, either
            return float(scalar)
    got = f"shape {list(value.shape)}" if isinstance(value, np.ndarray) else repr(value)[:80]
    raise FormError("reward", f"expected a number, got {type(value).__name__} {got}")


def flag_of(value: Any, name: str) -> bool:
    """Returns a done flag as bool; a number or a text is none."""
    scalar = value[()] if isinstance(value, np.ndarray) and value.shape == () else value
    if isinstance(scalar, np.bool_ | bool):
        return bool(scalar)
    raise FormError(name, f"expected a bool, got {type(value).__name__} {repr(value)[:80]}")


def _refuse_info(info: Any) -> None:
    raise FormError("info", f"expected a dict, got {type(info).__name__} {repr(info)[:80]}")
