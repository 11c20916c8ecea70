"""Environments of your own: a callable, a module beside your script, an id registered here.

Nothing needs a main guard: the workers never run this file.
"""

import gymnasium
import numpy as np

# A module beside this script, found in the workers too.
from corridor import Corridor

from vecsess import VecCheckedSession


class Windy(gymnasium.ObservationWrapper):
    """A wrapper that is defined in the script itself."""

    def __init__(self, env: gymnasium.Env, strength: float) -> None:
        super().__init__(env)
        self.strength = strength

    def observation(self, observation):
        wind = self.np_random.normal(0, self.strength, observation.shape)
        return (observation + wind).astype(observation.dtype)


def show(title: str, vec: VecCheckedSession) -> None:
    observations, _ = vec.reset(seed=0)
    _, rewards, *_ = vec.step(np.ones(vec.num_envs, np.int64))
    print(f"{title}: observations {observations.shape}, rewards {rewards}")


strength = 0.01  # a closure takes it along

with VecCheckedSession(lambda: Windy(gymnasium.make("CartPole-v1"), strength), n=4) as vec:
    show("a callable", vec)

with VecCheckedSession(Corridor, n=4, workers=2) as vec:
    show("a class of a module beside this script", vec)

gymnasium.register("LongCorridor-v0", lambda length=20: Corridor(length))
with VecCheckedSession("LongCorridor-v0", n=4, make_kwargs={"length": 30}) as vec:
    show("an id that this script registers", vec)

different = [lambda length=length: Corridor(length) for length in (3, 5, 8, 13)]
with VecCheckedSession(different, n=4) as vec:
    show("a callable for each environment", vec)
