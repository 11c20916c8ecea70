"""The log that a lost environment is brought back from: what it holds, forgets, and can't tell."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from vecsess.recovery.journal import Journal
from vecsess.recovery.locksteps import CHUNK_STEPS
from vecsess.recovery.progress import Progress
from vecsess.wire.slab import Layout

N, WORKERS = 3, 2
PLACES = [(0, 0), (0, 1), (1, 0)]


@dataclass
class Desk:
    """A journal over a slab that the test writes to, as workers would."""

    limit_bytes: int = 1 << 30
    mode: str = "same_step"
    journal: Journal = field(init=False)

    def __post_init__(self) -> None:
        box = spaces.Box(-1, 1, (2,), np.float32)
        layout = Layout(box, spaces.Discrete(100), 2)
        buffer = bytearray(layout.stride_bytes * WORKERS)
        self.views = layout.views(buffer, WORKERS)
        self.views.rng[..., 0] = 1  # "this state is known"
        self.progress = Progress([2, 1], self.mode)
        self.journal = Journal(layout, self.views, self.progress, self.limit_bytes)

    def reset(self, seed: int | None = 7) -> None:
        seeds = [None if seed is None else seed + env for env in range(N)]
        self.progress.reset(range(N))
        self.journal.reset(list(range(N)), seeds, b"")

    def step(self, action: int = 0, ended: tuple[int, ...] = ()) -> None:
        self.journal.note([np.full(N, action)])
        np.add(self.views.rewards, 1, out=self.views.rewards)  # so that each checksum is another
        self.journal.complete(self.progress.complete(np.array(ended) if ended else None))

    def accounts(self, env: int = 0) -> Any:
        return self.journal.accounts(env)


def test_the_first_episode_is_replayed_from_its_seed_with_the_actions_given() -> None:
    desk = Desk()
    desk.reset(seed=7)
    for action in (5, 6):
        desk.step(action)
    (account,) = desk.accounts(env=2)
    head, steps = account.script
    assert head[:2] == ["reset", 9]
    assert steps[:2] == ["steps", 2]
    assert steps[2][0].tolist() == [5, 6]
    assert account.rung == "episode"


def test_every_command_of_a_script_has_a_checksum_to_compare_with() -> None:
    desk = Desk()
    desk.reset()
    for step in range(5):
        desk.step(step, ended=(0,) if step == 2 else ())
    for account in desk.accounts():
        commands = sum(entry[1] if entry[0] == "steps" else 1 for entry in account.script)
        assert len(account.expected) == commands
        assert None not in account.expected
        assert len(set(account.expected)) == commands


def test_a_later_episode_has_two_ways_the_quicker_first() -> None:
    desk = Desk()
    desk.reset()
    for step in range(5):
        desk.step(step, ended=(0,) if step == 2 else ())
    quick, whole = desk.accounts()
    assert (quick.rung, quick.steps) == ("episode", 2)
    assert quick.script[0][:2] == ["episode", 1]
    assert (whole.rung, whole.steps) == ("seeded reset", 5)
    assert len(desk.accounts(env=1)) == 1, "its first episode goes on"


def test_an_unknown_rng_leaves_only_the_seeded_reset() -> None:
    desk = Desk()
    desk.reset()
    desk.views.rng[..., 0] = 0
    desk.step(ended=(0,))
    (account,) = desk.accounts()
    assert account.rung == "seeded reset"


def test_nothing_is_left_without_a_seed_and_an_rng() -> None:
    desk = Desk()
    desk.views.rng[..., 0] = 0
    desk.reset(seed=None)
    desk.step()
    assert desk.accounts() == []


def test_a_reset_without_a_seed_goes_on_from_the_seeded_one() -> None:
    desk = Desk()
    desk.reset(seed=7)
    desk.step(1)
    desk.reset(seed=None)
    desk.step(2)
    quick, whole = desk.accounts()
    assert [entry[0] for entry in quick.script] == ["reset", "steps"]
    assert quick.script[0][1] is None
    assert [entry[0] for entry in whole.script] == ["reset", "steps", "reset", "steps"]
    assert whole.script[2] == ["reset", None, b"", None], "its RNG state comes of the steps"


def test_attributes_are_set_again_where_they_were() -> None:
    desk = Desk()
    desk.reset()
    desk.step(1)
    desk.journal.set(0, "gravity", b"pickled")
    desk.step(2)
    (account,) = desk.accounts()
    assert [entry[0] for entry in account.script] == ["reset", "steps", "set", "steps"]
    assert account.script[2] == ["set", "gravity", b"pickled"]
    assert [entry[0] for entry in desk.accounts(env=1)[0].script] == ["reset", "steps"]


@pytest.mark.parametrize("broken_off", [False, True])
def test_what_an_attribute_was_set_to_outlives_resets(broken_off: bool) -> None:
    desk = Desk()
    desk.reset()
    desk.journal.set(0, "gravity", b"pickled")
    desk.step(1)
    if broken_off:
        desk.journal.break_off()
    desk.reset(seed=9)
    desk.step(2, ended=(0,))
    desk.step(3)
    for account in desk.accounts():
        assert account.script[0] == ["set", "gravity", b"pickled"]
        assert account.script[1][0] in ("episode", "reset")


def test_a_call_makes_an_episode_unreplayable_until_it_is_over() -> None:
    desk = Desk()
    desk.reset()
    desk.journal.called(0)
    desk.step(1)
    assert desk.accounts() == []
    assert len(desk.accounts(env=1)) == 1
    desk.reset(seed=8)
    desk.step(1)
    assert len(desk.accounts()) == 1


def test_scripts_run_across_chunks() -> None:
    desk = Desk()
    desk.reset()
    for step in range(2 * CHUNK_STEPS + 10):
        desk.step(step % 100)
    (account,) = desk.accounts()
    _, count, (actions,) = account.script[1]
    assert count == 2 * CHUNK_STEPS + 10
    assert actions.tolist() == [step % 100 for step in range(count)]


def test_the_log_is_bounded_in_bytes_and_says_what_it_has_forgotten() -> None:
    chunk_bytes = CHUNK_STEPS * (N * 8 + WORKERS * 2 * 8)
    desk = Desk(limit_bytes=4 * chunk_bytes)
    desk.reset()
    for step in range(20 * CHUNK_STEPS):
        desk.step(0, ended=(1,) if step == 19 * CHUNK_STEPS else ())
        assert desk.journal.size_bytes <= 4 * chunk_bytes
    assert desk.accounts(env=0) == [], "its episode began before what is left"
    (account,) = desk.accounts(env=1)
    assert (account.rung, account.steps) == ("episode", CHUNK_STEPS - 1)


def test_what_no_environment_needs_is_forgotten_at_a_reset() -> None:
    desk = Desk()
    desk.reset()
    for _ in range(5 * CHUNK_STEPS):
        desk.step()
    desk.reset()
    desk.step()
    assert desk.journal.size_bytes < 3 * CHUNK_STEPS * (N * 8 + WORKERS * 2 * 8)


def test_a_call_that_was_not_completed_leaves_nothing_to_replay() -> None:
    desk = Desk()
    desk.reset()
    desk.step()
    desk.journal.break_off()
    assert desk.accounts() == []
    desk.reset(seed=None)
    desk.step()
    assert [account.rung for account in desk.accounts()] == ["episode"], "from its RNG state"


def test_with_next_step_an_episode_begins_one_lockstep_later() -> None:
    desk = Desk(mode="next_step")
    desk.reset()
    desk.step(1)
    desk.step(2, ended=(0,))
    desk.step(3)  # its action is not used: this is the reset
    desk.step(4)
    quick, whole = desk.accounts()
    assert quick.script[0][:2] == ["episode", 1]
    assert quick.script[1][2][0].tolist() == [4]
    assert whole.script[1][2][0].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("limit_bytes", [1 << 30, 1])
def test_a_dumped_log_gives_the_same_accounts(limit_bytes: int) -> None:
    desk = Desk(limit_bytes=limit_bytes)
    desk.reset()
    for step in range(700):
        desk.step(step % 100, ended=(0, 2) if step % 90 == 89 else ())
    workers, rows = np.array(PLACES).T
    other = Desk(limit_bytes=limit_bytes)
    other.progress.load(desk.progress.dump())
    other.journal.load(desk.journal.dump(workers, rows), workers, rows)
    for env in range(N):
        for one, two in zip(desk.accounts(env), other.accounts(env), strict=True):
            assert repr(one.script) == repr(two.script)
            assert one.expected == two.expected
