"""PPO (Schulman et al. 2017, arXiv 1707.06347) in one file, on `VecCheckedSession`.

    python examples/ppo.py                                     # CartPole-v1, ten seconds
    python examples/ppo.py --env Pendulum-v1 --logdir runs/pendulum --curve runs/pendulum.png
    python examples/ppo.py --chaos                             # workers are killed; the same curve
    python examples/ppo.py --inference workers                 # who act; the same curve
    python examples/ppo.py --overlap                           # learn while others collect
    python examples/ppo.py --checkpoint run.pt --stop-at 100000
    python examples/ppo.py --resume run.pt                     # as if it had never stopped

All randomness is a function of the seed: the first weights, the noise that actions are made from
(`collect_rollout` derives it from seed, lockstep and env), the order of the minibatches. So runs
with the same settings are the same, bit for bit, on one kind of CPU; on another, BLAS adds up in
another order, and a run goes another way to the same end.

Beside this file: the agent as a policy (`acting.py`), the hyperparameters and the command line
(`settings.py`), normalisation (`scaling.py`), progress bar, scalars, curve and chaos
(`instruments.py`).
"""

import dataclasses
import math
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import Space, spaces
from instruments import Chaos, Instruments, draw
from settings import Settings, env_maker, is_image, open_session, parse, session_options, stop

from vecsess import Rollout, VecCheckedSession, collect_rollout
from vecsess.collect.sources import Collected, Collecting, begin_rollout
from vecsess.errors import extra

with extra("train", needed_by="examples/ppo.py"):
    import torch
    from acting import CELLS, LOG_SQRT_TAU, Player
    from scaling import Moments, RewardScale
    from torch import Tensor, nn

    from vecsess.collect.pytorch import Minibatch, TorchRollout


# --- networks ------------------------------------------------------------------------------------


def orthogonal(module: nn.Module, gain: float = math.sqrt(2)) -> nn.Module:
    nn.init.orthogonal_(module.weight, gain)
    nn.init.zeros_(module.bias)
    return module


def linear(inputs: int, outputs: int, gain: float = math.sqrt(2)) -> nn.Module:
    return orthogonal(nn.Linear(inputs, outputs), gain)


def mlp(inputs: int, outputs: int, gain: float) -> nn.Module:
    hidden = [linear(inputs, 64), nn.Tanh(), linear(64, 64), nn.Tanh()]
    return nn.Sequential(*hidden, linear(64, outputs, gain))


class Images(nn.Module):
    """The convolutions of Mnih et al. 2015, or smaller ones where an image is too small."""

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.channels_last = shape[2] < shape[0]
        channels, side = (shape[2], min(shape[:2])) if self.channels_last else (shape[0], shape[2])
        parts: list[nn.Module] = []
        kernels = [(8, 4), (4, 2), (3, 1)] if side >= 36 else [(2, 1), (2, 1), (2, 1)]
        for outputs, (size, stride) in zip((32, 64, 64), kernels, strict=True):
            parts += [orthogonal(nn.Conv2d(channels, outputs, size, stride)), nn.ReLU()]
            channels = outputs
        self.layers = nn.Sequential(*parts, nn.Flatten())
        self.layers.append(linear(self(torch.zeros(1, *shape)).shape[1], 512)).append(nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        images = images.movedim(-1, -3) if self.channels_last else images
        return self.layers(images / 255.0)


class Agent(nn.Module):
    """Actor and critic; an LSTM's state is passed in and out, nothing is remembered here."""

    def __init__(self, observations: Space, actions: Space, lstm: bool):
        super().__init__()
        self.discrete, self.shape = isinstance(actions, spaces.Discrete), actions.shape
        if not self.discrete and not isinstance(actions, spaces.Box):
            raise SystemExit(f"expected a Discrete or Box action space, got {actions}")
        self.first = int(actions.start) if self.discrete else 0
        self.size = int(actions.n) if self.discrete else math.prod(actions.shape)
        image, features = is_image(observations), math.prod(observations.shape)
        self.scale = nn.Identity() if image or self.discrete else Moments(*observations.shape)
        self.encoder, self.lstm, self.shared = nn.Flatten(), None, image or lstm
        head = linear if self.shared else mlp
        if image:
            self.encoder, features = Images(observations.shape), 512
        elif lstm:
            self.encoder = nn.Sequential(nn.Flatten(), linear(features, 64), nn.Tanh())
            features = 64
        if lstm:
            self.lstm = nn.LSTM(features, CELLS)
            for name, weights in self.lstm.named_parameters():
                nn.init.zeros_(weights) if "bias" in name else nn.init.orthogonal_(weights)
            features = CELLS
        self.actor, self.critic = head(features, self.size, 0.01), head(features, 1, 1.0)
        if not self.discrete:
            self.log_std = nn.Parameter(torch.zeros(self.size))

    def encode(self, observations: Tensor) -> Tensor:
        return self.encoder(self.scale(observations).float())

    def recur(self, features: Tensor, state: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the LSTM; its `state [2, rows, CELLS]` is 0 where an episode starts."""
        hidden, state = self.lstm(features[None], (state * ~start[:, None]).split(1))
        return hidden[0], torch.cat(state)

    def log_prob(self, heads: Tensor, actions: Tensor) -> Tensor:
        if self.discrete:
            return heads.log_softmax(-1).gather(-1, (actions - self.first)[:, None])[:, 0]
        scaled = (actions.flatten(1) - heads) / self.log_std.exp()
        return -(0.5 * scaled**2 + self.log_std + LOG_SQRT_TAU).sum(-1)

    def entropy(self, heads: Tensor) -> Tensor:
        if self.discrete:
            return -(heads.log_softmax(-1) * heads.softmax(-1)).sum(-1).mean()
        return (self.log_std + 0.5 + LOG_SQRT_TAU).sum()


# --- learning ------------------------------------------------------------------------------------


class Trainer:
    """Collects a rollout, learns from it, and again; what it is made of can be saved."""

    def __init__(self, settings: Settings, vec: Any):
        torch.manual_seed(settings.seed)
        shapes = vec.single_observation_space, vec.single_action_space
        self.vec, self.settings = vec, (s := settings.filled(*shapes))
        self.agent = Agent(*shapes, s.lstm)
        # With returns of 100 the critic, which may change by `clip` in each update, stays behind
        # for the whole run, and its gradient drowns the policy's where both are clipped together.
        self.rewards = RewardScale(s.n, s.gamma)
        parameters = self.agent.parameters()
        self.optimizer = torch.optim.Adam(parameters, lr=s.learning_rate, eps=1e-5)
        self.player = Player(self.agent, s.n, act_rows=s.act_rows)
        self.rollout: Rollout | None = None
        self.used: list[Rollout] = []  # are filled again
        self.under_way: tuple[Collected | Collecting, Tensor] | None = None
        self.curve: list[tuple[int, float]] = []  # (environment steps, return) of each episode
        self.updates = max(1, s.steps // (s.n * s.horizon))
        self.update = 0  # how many of them are done

    @property
    def steps(self) -> int:
        return self.update * self.settings.n * self.settings.horizon

    def collect(self) -> Rollout:
        """Returns the next rollout; with `overlap` one more is under way from then on.

        That one is collected by the agent as it is now: always one update behind.
        """
        s = self.settings
        handle, self.first_state = self.under_way or self.begin(self.update)
        self.rollout = rollout = handle.result()
        self.used.append(rollout)
        self.curve += [(self.steps + (e.end_step + 1) * s.n, e.return_) for e in rollout.episodes]
        more = s.overlap and self.update + 1 < self.updates
        self.under_way = self.begin(self.update + 1) if more else None
        return rollout

    def begin(self, number: int) -> tuple[Collected | Collecting, Tensor]:
        """Has a rollout collected, with `overlap` meanwhile; returns its first LSTM states too."""
        s, player = self.settings, self.player
        player.begin()
        first_state = player.state.clone()
        kept: dict[str, Any] = {"seed": s.seed} if number == 0 else {}  # then its stream goes on
        if len(self.used) > s.overlap:  # not the one that is learned from meanwhile
            kept["out"] = self.used.pop(0)
        if s.overlap:
            return begin_rollout(self.vec, player, s.horizon, **kept), first_state
        kept |= {"pace": s.pace, "inference": s.inference}
        return Collected(collect_rollout(self.vec, player, s.horizon, **kept)), first_state

    def learn(self, rollout: Rollout) -> dict[str, float]:
        """Updates the agent; returns the means of what TensorBoard shows."""
        s = self.settings
        rate = s.learning_rate * (1 - self.update / self.updates)
        self.optimizer.param_groups[0]["lr"] = rate
        self.rewards.apply_to(rollout)
        tensors, seen = rollout.to_torch(gamma=s.gamma, lam=s.lam), []
        for epoch in range(s.epochs):
            # A generator for each epoch: there is no state of it to be saved.
            rng = np.random.default_rng((s.seed, self.update, epoch))
            for part, features in self.minibatches(tensors, rng):
                loss, scalars = self.loss(part, features)
                self.optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.agent.parameters(), s.max_grad_norm)
                self.optimizer.step()
                seen.append([scalar.item() for scalar in scalars.values()])
        if isinstance(self.agent.scale, Moments):  # only now, so that the ratios began at 1
            self.agent.scale.update(tensors.observations.flatten(0, 1))
        self.update += 1
        means = np.mean(seen, axis=0).tolist()
        return {"charts/learning_rate": rate, **dict(zip(scalars, means, strict=True))}

    def minibatches(
        self, tensors: TorchRollout, rng: np.random.Generator
    ) -> Iterator[tuple[Minibatch, Tensor]]:
        """Yields valid rows with their features: any rows, or with an LSTM whole sequences."""
        s = self.settings
        if self.agent.lstm is None:
            for part in tensors.minibatches(s.n * s.horizon // s.minibatches, rng):
                yield part, self.agent.encode(part.observations)
            return
        for chosen in np.array_split(rng.permutation(s.n), min(s.n, s.minibatches)):
            envs = torch.from_numpy(chosen)
            encoded = self.agent.encode(tensors.observations[:, envs].flatten(0, 1))
            steps = zip(encoded.split(len(envs)), tensors.episode_start[:, envs], strict=True)
            state, rows = self.first_state[:, envs], []
            for features, start in steps:
                hidden, state = self.agent.recur(features, state, start)
                rows.append(hidden)
            yield tensors.of_envs(envs), torch.stack(rows)[tensors.valid[:, envs]]

    def loss(self, part: Minibatch, features: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        s, agent = self.settings, self.agent
        heads, values = agent.actor(features), agent.critic(features)[:, 0]
        log_ratio = agent.log_prob(heads, part.actions) - part.log_probs
        ratio, entropy = log_ratio.exp(), agent.entropy(heads)
        clipped = ratio.clamp(1 - s.clip, 1 + s.clip)
        centred = part.advantages - part.advantages.mean()
        advantages = centred / (part.advantages.std(correction=0) + 1e-8)
        policy_loss = -torch.min(advantages * ratio, advantages * clipped).mean()
        near = part.values + (values - part.values).clamp(-s.clip, s.clip)
        errors = torch.max((values - part.returns) ** 2, (near - part.returns) ** 2)
        value_loss = 0.5 * errors.mean()
        scalars = {
            "losses/policy_loss": policy_loss,
            "losses/value_loss": value_loss,
            "losses/entropy": entropy,
            "losses/approx_kl": (ratio - 1 - log_ratio).mean(),
            "losses/clipfrac": (clipped != ratio).float().mean(),
        }
        return policy_loss + s.value * value_loss - s.entropy * entropy, scalars

    def save(self, path: Path) -> None:
        """Writes all that the run depends on; where that is interrupted the old file stays."""
        state = {
            name: getattr(self, name).state_dict() for name in ("agent", "optimizer", "rewards")
        }
        state |= {"settings": dataclasses.asdict(self.settings), "lstm": self.player.state}
        state |= {"update": self.update, "curve": self.curve, "vec": self.vec.checkpoint()}
        torch.save(state, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)

    @classmethod
    def load(cls, path: Path, chaos: bool = False) -> "Trainer":
        """Brings a run back, its environments in the middle of their episodes."""
        state = read_checkpoint(path)
        settings = Settings(**state["settings"])
        options = session_options(settings, chaos=chaos)
        vec = VecCheckedSession.restore(state["vec"], env_maker(settings.env), **options)
        trainer = cls(settings, vec)
        for name in ("agent", "optimizer", "rewards"):
            getattr(trainer, name).load_state_dict(state[name])
        trainer.player.state, trainer.update = state["lstm"], state["update"]
        trainer.curve = [tuple(point) for point in state["curve"]]
        return trainer


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads what `Trainer.save` wrote, or ends the program with a sentence."""
    try:
        state = torch.load(path, weights_only=True)
    except OSError as error:
        stop(f"--resume {path}: {error.strerror or error}")
    except (pickle.UnpicklingError, RuntimeError, EOFError):
        state = None
    if not isinstance(state, dict) or not {"settings", "vec", "update"} <= state.keys():
        stop(f"--resume {path}: expected a checkpoint, as --checkpoint writes them")
    return state


def evaluate(trainer: Trainer, episodes: int) -> np.ndarray:
    """Returns the returns `[episodes]` of greedy episodes, the first of as many environments."""
    returns: dict[int, float] = {}
    s = trainer.settings
    with VecCheckedSession(env_maker(s.env), episodes, **session_options(s)) as vec:
        vec.start(seed=s.seed + 1_000_000)
        player = Player(trainer.agent, episodes, greedy=True)
        while len(returns) < episodes:
            for episode in collect_rollout(vec, player, horizon=100).episodes:
                returns.setdefault(episode.env, episode.return_)
    return np.array([returns[env] for env in range(episodes)])


def train(trainer: Trainer, options: Any) -> None:
    """Runs the updates that are left, or those until `--stop-at`."""
    s = trainer.settings
    stop = min(s.steps, options.stop_at or s.steps)
    shown = Instruments(s.env, stop, trainer.steps, len(trainer.curve), options.logdir)
    with Chaos(options.chaos), shown:
        while trainer.update < trainer.updates and trainer.steps < stop:
            shown.show(trainer.steps, trainer.curve, trainer.learn(trainer.collect()))
            if options.checkpoint and trainer.update % options.save_every == 0:
                trainer.save(options.checkpoint)
    if options.checkpoint:
        trainer.save(options.checkpoint)
    if options.curve:
        draw(trainer.curve, f"PPO, {s.env}, seed {s.seed}", options.curve, options.require)


def main(argv: list[str] | None = None) -> Trainer:
    settings, options = parse((__doc__ or "").splitlines()[0], argv)
    if settings.overlap and options.checkpoint:
        stop("--checkpoint: expected no --overlap, where a rollout is always under way")
    torch.set_num_threads(1)  # small networks, and the sums are always added in the same order
    torch.use_deterministic_algorithms(True)
    if options.resume:
        trainer = Trainer.load(options.resume, bool(options.chaos))
    else:
        trainer = Trainer(settings, open_session(settings, chaos=bool(options.chaos)))
    with trainer.vec:
        train(trainer, options)
    if options.eval_episodes:
        mean = evaluate(trainer, options.eval_episodes).mean()
        print(f"mean return of {options.eval_episodes} evaluation episodes: {mean:.1f}")
        if options.require is not None and mean < options.require:
            raise SystemExit(f"expected a mean return of at least {options.require:g}")
    return trainer


if __name__ == "__main__":
    main()
