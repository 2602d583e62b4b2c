"""Notice simulations that diverged.

MuJoCo answers a state that is not finite or huge by starting over from the default pose: no error is raised, the
observation and the reward are finite, and nothing has terminated. What shows it is a counter of warnings, and time.
"""

from typing import Any

import gymnasium as gym

DIVERGED = "mbrl/diverged"
"""Key of a step's info where `Watched` tells."""
_UNSTABLE = slice(3, 6)  # mjWARN_BADQPOS, mjWARN_BADQVEL, mjWARN_BADQACC in MuJoCo's enumeration mjtWarning


class Watch:
    """Watches the simulation of one environment; an environment without MuJoCo data never diverges.

    Args:
        env: the environment, wrapped or not. Its MuJoCo data is `env.unwrapped.data`, as Gymnasium's environments have.
    """

    def __init__(self, env: gym.Env) -> None:
        self._world: Any = env.unwrapped
        data = getattr(self._world, "data", None)
        self.watches = hasattr(data, "warning") and hasattr(data, "time")
        self._time = -float("inf")

    def started(self) -> None:
        """Call it after every reset."""
        if self.watches:
            self._time = self._world.data.time
            self._seen = self._count()

    def diverged(self) -> bool:
        """Call it after every step: whether the simulation started over in it."""
        if not self.watches:
            return False
        time, before = self._world.data.time, self._time
        self._time = time
        return not time > before or self._count() != self._seen

    def _count(self) -> bytes:
        return self._world.data.warning.number[_UNSTABLE].tobytes()


class Watched(gym.Wrapper):
    """Tells by `info["mbrl/diverged"]` (True, else absent) that the simulation started over in a step.

    For environments in other processes, whose simulation can't be looked at from here.
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self._watch = Watch(env)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        result = self.env.reset(seed=seed, options=options)
        self._watch.started()
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        if self._watch.diverged():
            info = {**info, DIVERGED: True}
        return obs, reward, terminated, truncated, info
