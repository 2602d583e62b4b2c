"""Notice simulations that diverged.

MuJoCo answers a state that is not finite or huge by starting over from the default pose: no error is raised, the
observation and the reward are finite, and nothing has terminated. What shows it is a counter of warnings, and time.
"""

from typing import Any

import gymnasium as gym

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
