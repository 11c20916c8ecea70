"""An environment under the debugger: with `workers=0` a breakpoint in `step` stops as usual.

Run it, and type `p self.place` and `c` at the prompt. With worker processes the environment's
stdin is closed, so a breakpoint there could not ask you anything.
"""

from corridor import Corridor

from vecsess import VecCheckedSession


class Watched(Corridor):
    def step(self, action):
        if self.place == self.length - 1:
            breakpoint()  # one step from the end
        return super().step(action)


with VecCheckedSession(lambda: Watched(length=4), n=1, workers=0) as vec:
    vec.reset(seed=0)
    terminated = [False]
    while not terminated[0]:
        _, rewards, terminated, _, _ = vec.step([1])
    print(f"arrived, reward {rewards[0]}")
