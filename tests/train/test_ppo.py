"""The PPO example: it learns, goes on exactly where it stopped, and does not feel kills."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.train.extras import NEEDS

torch = pytest.importorskip("torch", reason=NEEDS)
events = pytest.importorskip("tensorboard", reason=NEEDS)

SEEDS = range(1, 21 if os.environ.get("VECSESS_TRAIN") == "full" else 4)

KINDS = {
    "discrete": ["--steps", "12288"],
    "continuous": ["--env", "Pendulum-v1", "--steps", "8192", "--epochs", "2"],
    "lstm": ["--lstm", "--steps", "8192"],
    "image": [
        *("--env", "tests.train.train_envs:BrightSide-v0"),
        *("--n", "4", "--horizon", "64", "--steps", "6144"),
    ],
    "image and lstm": [
        *("--env", "tests.train.train_envs:BrightSide-v0", "--lstm"),
        *("--n", "4", "--horizon", "64", "--steps", "1024"),
    ],
}


def run(*arguments: object, evaluate: int = 0) -> Any:
    """Returns the trainer after a run."""
    return program().main([*map(str, arguments), "--eval-episodes", str(evaluate)])


def program() -> Any:
    """Returns the example as a module, found as when it is run."""
    return importlib.import_module("ppo")


def assert_same_run(one: Any, other: Any) -> None:
    assert one.curve == other.curve
    assert one.curve
    assert one.update == other.update
    for name in ("agent", "rewards"):
        state, expected = getattr(one, name).state_dict(), getattr(other, name).state_dict()
        assert state.keys() == expected.keys()
        for key in state:
            assert torch.equal(state[key], expected[key]), key


@pytest.mark.parametrize(
    ("option", "given", "said"),
    [
        ("--env", "Nope", "`Nope` doesn't exist"),
        ("--resume", "nope.pt", "--resume nope.pt: No such file"),
        ("--resume", __file__, "expected a checkpoint"),
        ("--workers", "some", "workers: expected"),
    ],
)
def test_what_can_not_be_begun_is_one_sentence(
    option: str, given: str, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(option, given)
    assert caught.value.code == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert said in line


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_is_the_run_that_never_stopped(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    whole = run(*KINDS[kind])
    stop = whole.settings.n * whole.settings.horizon * (whole.updates // 2)
    half = run(*KINDS[kind], "--checkpoint", path, "--stop-at", stop)
    assert half.update == whole.updates // 2
    assert_same_run(run("--resume", path), whole)


def test_the_grouping_of_environments_makes_no_difference() -> None:
    alone = run(*KINDS["discrete"], "--workers", "0")
    assert_same_run(run(*KINDS["discrete"], "--workers", "3"), alone)


SHORT = {
    "discrete": ["--steps", "4096"],
    "continuous": ["--env", "Pendulum-v1", "--steps", "4096", "--epochs", "1"],
    "lstm": ["--lstm", "--steps", "1536"],
}


@pytest.mark.parametrize("kind", SHORT)
def test_where_the_agent_acts_makes_no_difference(kind: str) -> None:
    calm = run(*SHORT[kind])
    assert_same_run(run(*SHORT[kind], "--inference", "workers", "--workers", "3"), calm)


def test_an_lstm_steps_at_any_pace() -> None:
    calm = run(*SHORT["lstm"], "--act-rows", "6")
    paced = run(*SHORT["lstm"], "--act-rows", "6", "--pace", "free", "--workers", "3")
    assert_same_run(paced, calm)


@pytest.mark.parametrize("kind", ["discrete", "lstm"])
def test_who_learns_meanwhile_learns_the_same_each_time(kind: str) -> None:
    once = run(*SHORT[kind], "--overlap")
    assert_same_run(run(*SHORT[kind], "--overlap"), once)
    assert_same_run(run(*SHORT[kind], "--overlap", "--workers", "0"), once)


def test_who_learns_meanwhile_is_one_update_behind() -> None:
    assert run(*SHORT["discrete"], "--overlap").curve != run(*SHORT["discrete"]).curve


def test_what_is_always_under_way_is_not_saved(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("--overlap", "--checkpoint", "run.pt")
    assert "expected no --overlap" in capfd.readouterr().err


# A kill may come between the last step and the end, where nobody needs the worker any more.
@pytest.mark.filterwarnings("ignore:a worker did not close in order")
@pytest.mark.parametrize("how", [[], ["--inference", "workers"], ["--overlap"]], ids=str)
def test_killed_workers_leave_the_curve_as_it_is(
    how: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    calm = run(*KINDS["discrete"], *how)
    for _ in range(5):  # a run is short, and kills come at random
        assert_same_run(run(*KINDS["discrete"], *how, "--chaos", "0.1"), calm)
        if "0 workers were killed" not in capfd.readouterr().out:
            return
    pytest.fail("five runs went by without a kill")


@pytest.mark.parametrize("kind", KINDS)
def test_the_ratios_begin_at_one(kind: str) -> None:
    ppo = program()
    settings, _ = ppo.parse("", KINDS[kind])
    options = ppo.session_options(settings)
    maker = ppo.env_maker(settings.env)
    with ppo.VecCheckedSession(maker, settings.n, **options) as vec:
        trainer = ppo.Trainer(settings, vec)
        trainer.learn(trainer.collect())
        tensors = trainer.collect().to_torch()  # by the agent that has learnt
    with torch.no_grad():
        for part, features in trainer.minibatches(tensors, np.random.default_rng(0)):
            log_probs = trainer.agent.log_prob(trainer.agent.actor(features), part.actions)
            torch.testing.assert_close(log_probs, part.log_probs, rtol=0, atol=1e-5)
            values = trainer.agent.critic(features)[:, 0]
            torch.testing.assert_close(values, part.values, rtol=0, atol=1e-5)


def test_it_learns_from_images() -> None:
    trainer = run(*KINDS["image"])
    returns = [value for _, value in trainer.curve]
    assert np.mean(returns[:50]) < 5.5  # of 8, by chance 4
    assert np.mean(returns[-50:]) > 7.0


def test_it_writes_scalars_and_a_curve(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curve, logdir = tmp_path / "plots" / "curve.png", tmp_path / "log"
    trainer = run(*KINDS["discrete"], "--logdir", logdir, "--curve", curve)
    assert curve.read_bytes().startswith(b"\x89PNG")
    logged = EventAccumulator(str(logdir)).Reload()
    returns = [(event.step, event.value) for event in logged.Scalars("charts/episodic_return")]
    assert returns == trainer.curve
    assert len(logged.Scalars("losses/policy_loss")) == trainer.updates
    rates = [event.value for event in logged.Scalars("charts/learning_rate")]
    assert rates == pytest.approx(np.linspace(1e-3, 0, trainer.updates, endpoint=False))


def test_a_return_below_what_is_required_is_a_failure() -> None:
    run("--steps", "512", "--require", "1", evaluate=4)
    with pytest.raises(SystemExit, match="at least 475"):
        run("--steps", "512", "--require", "475", evaluate=4)


def test_the_critic_keeps_up_with_the_returns() -> None:
    trainer = run(*KINDS["discrete"])
    last = trainer.rollout.to_torch()
    assert last.values.mean() > 0.5 * last.returns.mean()  # one that stays behind: 0.3 times


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_it_solves_cartpole_from_all_seeds_but_one_at_most() -> None:
    """How a run ends depends on the last bits, and those on the kind of CPU.

    Of 60 runs, 20 seeds with OpenBLAS' kernels for three kinds, each reached 475, so it is likely
    that less than one in 20 fails elsewhere, and two of three with a probability of below 0.8 %.
    """
    means = {seed: program().evaluate(run("--seed", seed), 100).mean() for seed in SEEDS}
    assert sum(mean < 475 for mean in means.values()) <= 1, means


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
def test_the_agent_that_acts_in_numpy_is_the_one_that_learns(kind: str) -> None:
    trainer = run(*KINDS[kind])  # after updates: what acts has seen them
    player, agent = trainer.player, trainer.agent
    player.begin()
    rng = np.random.default_rng(0)
    observations = rng.normal(size=(5, *trainer.vec.single_observation_space.shape))
    observations = observations.astype(np.float32)
    start, envs = np.zeros(5, np.bool_), np.arange(5)
    noise = rng.random((5, player.noise_size))
    actions, log_probs, values = player.act(
        observations, noise=noise, episode_start=start, envs=envs
    )
    heads, expected = player._torch_heads(observations, start, envs)
    np.testing.assert_allclose(player.heads(observations)[0], heads, atol=1e-5)
    np.testing.assert_allclose(values, expected, atol=1e-5)
    np.testing.assert_allclose(player.value(observations, envs=envs), expected, atol=1e-5)
    with torch.no_grad():
        again = agent.log_prob(torch.from_numpy(heads), torch.from_numpy(actions))
    np.testing.assert_allclose(log_probs, again.numpy(), atol=1e-4)
