"""What happens to an environment, whether it lives in a worker or in the trainer's process.

Resets, steps, auto-reset, the check of form, and the copy into the slab. No pipe, no process, no
clock: `serve` calls this in a worker, and `vecsess.fleet.in_process` in the trainer.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from numpy import float64

from vecsess.wire.forms import Form
from vecsess.wire.leaves import FormError
from vecsess.wire.slab import Layout, Views
from vecsess.wire.values import Env, Fields, FrameError, Given, Space, pack_value
from vecsess.workers.columns import InfoWriter
from vecsess.workers.env_source import BuildError, Maker, build
from vecsess.workers.episodes import Episodes, Words, load_rng
from vecsess.workers.outcomes import (
    READS,
    account_of,
    check_size,
    flag_of,
    pack_info,
    pack_result,
    refuse_info,
    refuse_step,
    reward_of,
    set_attribute,
    told,
)
from vecsess.workers.rows import Rows

NO_INFOS, FINAL_INFOS, ALL_INFOS = 0, 1, 2

Values = list[list[Given]]  # [row, what, value as msgpack]
Writer = Callable[[Any], None]
Failures = list[list[Given]]  # [row, kind, type or field, message, traceback]


class EnvHost:
    """The environments of one worker, and the rows of the slab that they write.

    Args:
        makers: one callable per row.
        autoreset_mode: "same_step", "next_step" or "disabled", as Gymnasium's `AutoresetMode`.
        keep_rng: write each episode's RNG state into the slab, so that it can be replayed.
        episodes: says how an episode begins that nobody asked for; None for Gymnasium's way.
    """

    def __init__(
        self,
        makers: Iterable[Maker],
        autoreset_mode: str,
        *,
        keep_rng: bool,
        episodes: Episodes | None = None,
    ) -> None:
        self.envs: list[Env] = []
        self._makers = list(makers)
        self.asides: Values = []  # warnings, and what of observations goes by pipe
        self.last_exception: BaseException | None = None
        try:
            for maker in self._makers:
                self.envs.append(build(maker))
        except Exception as error:
            row = len(self.envs)
            self.close()
            raise BuildError(row, error) from error
        except BaseException:  # a Ctrl-C where this is the trainer's own process
            self.close()
            raise
        self._same_step = autoreset_mode == "same_step"
        self._next_step = autoreset_mode == "next_step"
        self._keep_rng = keep_rng
        self._episodes = episodes or Episodes(len(self.envs))
        self._ended: set[int] = set()  # rows whose last step ended the episode, no reset yet
        self._warned: set[str] = set()

    def spaces(self) -> list[tuple[Space, Space]]:
        """Returns each row's observation and action space."""
        return [(env.observation_space, env.action_space) for env in self.envs]

    def attach(self, layout: Layout, views: Views, *, exact: bool, lenient: bool = False) -> None:
        """Takes the rows `[0]` of `views` as its own.

        Args:
            layout: the layout that `views` was made with.
            views: the fields of one range.
            exact: refuse observations of another dtype instead of casting them.
            lenient: take what is common though of another form, as Gymnasium's own classes do.
        """
        self.views, self._lenient = views, lenient
        self._resetting = layout.rows
        self._rows = Rows(views, self.envs[0].action_space)
        self.infos = InfoWriter(views, lambda data: self.asides.append([0, "schema", data]))
        pairs = zip(layout.actions, views.actions, strict=True)
        self._piped_actions = [array[0] for leaf, array in pairs if leaf.piped]
        self._writers, self._reset_writers, self._final_writers = [], [], []
        for row, env in enumerate(self.envs):
            observations = [array[0] for array in views.written]
            finals = [array[0] for array in views.written_finals]
            make = partial(
                Form,
                env.observation_space,
                exact=exact,
                lenient=lenient,
                warn=partial(self._warn, row),
            )
            pipe, final_pipe = (partial(self._pipe, what) for what in ("observation", "final"))
            first = make(observations, "observation", pipe=pipe)
            form = make(observations, "next_observation", pipe=pipe)
            final = make(finals, "next_observation", pipe=final_pipe)
            self._reset_writers.append(first.writer(row))
            self._writers.append(form.writer(row))
            self._final_writers.append(final.writer(row))
        self._steps = [self._rows.stepper(env) for env in self.envs]
        self._range = range(len(self.envs))

    def remake(self, row: int) -> None:
        """Builds a row's environment anew: nothing of its former life is left."""
        _close(self.envs[row])
        self.envs[row] = build(self._makers[row])
        self._steps[row] = self._rows.stepper(self.envs[row])
        self._ended.discard(row)

    # --- commands --------------------------------------------------------------------------------

    def reset(
        self, rows: list[int], seeds: list[int | None], options: bytes, infos: int
    ) -> tuple[Values, Failures]:
        """Resets `rows`, each with its seed."""
        values: Values = []
        failures: Failures = []
        if infos:
            self.infos.begin()
        for row, seed in zip(rows, seeds, strict=True):
            try:
                info = self._reset(row, *self._episodes.asked(row, seed, options))
                self._rows.settle(row)
                if info and infos == ALL_INFOS:
                    self._tell(row, "info", info, values)
            except Exception as error:
                failures.append(self.failure(row, error))
        self._rows.running[0] = -1
        return values, failures

    def place_actions(self, rows: list[int], actions: list[list[bytes]]) -> None:
        """Takes the parts of actions that came by pipe; for each part one for each of `rows`."""
        for array, packed in zip(self._piped_actions, actions, strict=True):
            for row, data in zip(rows, packed, strict=True):
                array[row] = data

    def step(self, infos: int, only: list[int] | None = None) -> tuple[Values, Failures]:
        """Steps every row, or only some, with the actions that lie in the slab."""
        rows, ended, tell = self._rows, self._ended, infos == ALL_INFOS
        running, rewards, write_info = rows.running, rows.rewards, self.infos.write
        values: Values = []
        failures: Failures = []
        if infos:
            self.infos.begin()
        for row, env_step, write, action in self._calls(only):
            running[0] = row
            try:
                if ended and row in ended:
                    self._step_ended(row, values, infos)
                    continue
                result = env_step(action)
                try:
                    observation, reward, terminated, truncated, info = result
                except (TypeError, ValueError):
                    refuse_step(result)
                    raise
                if type(terminated) is not bool:
                    terminated = flag_of(terminated, "terminated", lenient=self._lenient)
                if type(truncated) is not bool:
                    truncated = flag_of(truncated, "truncated", lenient=self._lenient)
                if terminated or truncated:
                    info = self._end(row, observation, info, values, infos)
                    rows.terminated[row], rows.truncated[row] = terminated, truncated
                else:
                    write(observation)
                if type(reward) is not float and type(reward) is not float64:
                    reward = reward_of(reward, lenient=self._lenient)
                rewards[row] = reward
                if type(info) is not dict:
                    refuse_info(info)
                if tell and info and not write_info(row, False, info):
                    self._send(row, "info", info, values)
            except Exception as error:
                failures.append(self.failure(row, error))
        running[0] = -1
        return values, failures

    def _calls(self, only: list[int] | None) -> Iterable[tuple[int, Any, Writer, Any]]:
        """Returns row, `env.step`, writer and action of every row, or only of some."""
        rows, steps, writers = self._rows, self._steps, self._writers
        if only is None:
            rows.flags.fill(0)  # until a step says otherwise
            # The slab may have room for more rows than there are: the shortest counts.
            return zip(self._range, steps, writers, rows.actions())  # noqa: B905
        rows.flags[only] = 0
        pairs = zip(only, rows.actions_of(only), strict=True)
        return [(row, steps[row], writers[row], action) for row, action in pairs]

    def call(
        self, rows: list[int], verb: str, name: str, arguments: list[bytes]
    ) -> tuple[Values, Failures]:
        """Calls, gets or sets an attribute of the environments; results come back as data.

        Args:
            rows: of which environments.
            verb: "set", or one of `READS`.
            name: of the attribute.
            arguments: for each of `rows` a pickle: `(args, kwargs)`, or the value to set.
        """
        values: Values = []
        failures: Failures = []
        for row, packed in zip(rows, arguments, strict=True):
            self._rows.running[0] = row
            try:
                env = self.envs[row]
                if verb == "set":
                    set_attribute(env, name, packed)
                else:
                    if verb == "call" and callable(env.get_wrapper_attr(name)):
                        values.append([row, "called", pack_value(None)])  # it may change things
                    values.append([row, *pack_result(READS[verb](env, name, packed), name)])
            except Exception as error:
                failures.append(self.failure(row, error))
        self._rows.running[0] = -1
        return values, failures

    def close(self) -> None:
        """Closes every environment; one that raises does not keep the others open."""
        while self.envs:
            _close(self.envs.pop())

    def begin_episode(self, row: int, number: int, rng: Words, seed: int | None) -> Failures:
        """Begins a row's episode as its auto-reset did.

        Args:
            row: which environment.
            number: how many auto-resets there were since the last reset that was asked for.
            rng: `[RNG_WORDS]`, the state of `np_random` before it.
            seed: of that last reset.
        """
        try:
            self._episodes.go_to(row, number, seed)
            load_rng(self.envs[row], rng)
            self._reset(row, *self._episodes.next(row))
            self._rows.settle(row)
        except Exception as error:
            return [self.failure(row, error)]
        return []

    def take_asides(self) -> Values:
        """Returns and forgets what there is to tell beside a command's own values."""
        taken, self.asides = self.asides, []
        return taken

    def drop_observations(self) -> None:
        """Forgets what of a replay's observations would go by pipe: the manager has it."""
        self.asides = [aside for aside in self.asides if aside[1] not in ("observation", "final")]

    # --- one environment -------------------------------------------------------------------------

    def _reset(self, row: int, seed: int | None, options: Given) -> Fields:
        """Resets a row and writes its observation; returns the info."""
        self._rows.running[0] = row + self._resetting  # another value than its step's: progress
        env = self.envs[row]
        if self._keep_rng:
            self._rows.rng[row].save(env)
        # As Gymnasium's own classes do: an environment need not know of what nobody says.
        given: Fields = {} if seed is None else {"seed": seed}
        result = env.reset(**given) if options is None else env.reset(**given, options=options)
        if type(result) is not tuple or len(result) != 2:
            raise FormError("reset", f"expected (observation, info), got {type(result).__name__}")
        self._ended.discard(row)
        self._reset_writers[row](result[0])
        info = result[1]
        if type(info) is not dict:
            refuse_info(info)
        return info

    def _end(self, row: int, observation: Given, info: Given, values: Values, infos: int) -> Fields:
        """Ends an episode; returns the info that belongs to the observation now in the row."""
        if not self._same_step:
            self._ended.add(row)
            self._writers[row](observation)
            if infos == FINAL_INFOS and type(info) is dict and info:
                self._tell(row, "info", info, values)
            return info  # type: ignore[no-any-return]  # `step` looks at its type
        # Before the reset: many environments give out the same buffer again and again.
        self._final_writers[row](observation)
        if type(info) is not dict:
            refuse_info(info)
        if info and infos:
            self._tell(row, "final_info", info, values)
        return self._reset(row, *self._episodes.next(row))

    def _step_ended(self, row: int, values: Values, infos: int) -> None:
        """What a step does after one that ended the episode, where none was reset in between."""
        if not self._next_step:
            raise RuntimeError(
                "expected a reset of this environment, got a step after its episode had ended; "
                "with autoreset_mode='disabled' pass options={'reset_mask': ...} to reset()"
            )
        info = self._reset(row, *self._episodes.next(row))
        self._rows.settle(row)
        if info and infos == ALL_INFOS:
            self._tell(row, "info", info, values)

    def _tell(self, row: int, what: str, info: Fields, values: Values) -> None:
        """Writes an info into the slab; what has no place there goes into `values`."""
        if not self.infos.write(row, what == "final_info", info):
            self._send(row, what, info, values)

    def _send(self, row: int, what: str, info: Fields, values: Values) -> None:
        values.append([row, what, pack_info(info, partial(self._warn, row))])

    def _pipe(self, what: str, row: int, leaf: int, data: bytes) -> None:
        try:
            check_size(data)
        except FrameError as error:
            raise FormError("observation", str(error)) from error
        self.asides.append([row, what, pack_value([leaf, data])])

    def _warn(self, row: int, text: str) -> None:
        text = text.removeprefix("next_")  # a reset's observation and a step's are one field here
        if text not in self._warned:
            self._warned.add(text)
            self.asides.append([row, "warning", pack_value(text)])

    def failure(self, row: int, error: Exception) -> list[Given]:
        """Returns what is told of an exception of a row's environment."""
        self.last_exception = error
        if isinstance(error, FormError):
            return [row, "form", error.field, told(error), ""]
        return [row, "raised", *account_of(error)]


def _close(env: Env) -> None:
    try:
        env.close()
    except Exception:
        traceback.print_exc()  # goes to the worker's stderr, which the manager keeps
