"""Evaluation: the mean return of a policy over whole episodes with seeds of their own."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from mbrl.experiments.episode import Episode, Policy, play, play_together
from mbrl.experiments.video import Film
from mbrl.seeding import derive


@dataclass(frozen=True)
class Evaluation:
    """Returns and lengths, one an episode."""

    returns: np.ndarray
    """[episodes] sums of rewards; -inf where the simulation diverged."""
    lengths: np.ndarray
    """[episodes] steps."""
    diverged: int = 0
    """Episodes that ended because the simulation diverged."""
    video: Path | None = None
    """The first episode as MP4, where one was asked for and could be made."""
    video_problem: str | None = None
    """Why there is no video although one was asked for, with what to install."""

    @property
    def mean(self) -> float:
        return float(self.returns.mean())

    @property
    def std(self) -> float:
        """Standard deviation over the episodes (of the population, as stable-baselines3 gives it)."""
        return float(self.returns.std()) if self.diverged == 0 else float("nan")

    def metrics(self) -> dict[str, Any]:
        """The row that a run logs, with stable-baselines3's names."""
        return {
            "eval/mean_reward": self.mean,
            "eval/std_reward": self.std,
            "eval/mean_ep_length": float(self.lengths.mean()),
            "eval/diverged": self.diverged,
        }

    def __str__(self) -> str:
        text = f"return {self.mean:.2f} +- {self.std:.2f} over {len(self.returns)} episodes"
        return text + (f", {self.diverged} diverged" if self.diverged else "")


def evaluate(
    policy: Policy,
    env: gym.Env,
    *,
    episodes: int,
    seed: int,
    deterministic: bool = True,
    video: str | Path | None = None,
) -> Evaluation:
    """Play whole episodes in one environment; episode `i` is reset with a seed derived from `(seed, i)`.

    `policy` is anything with stable-baselines3's `predict`; it gets single observations and a state of None at each
    start, so that no episode depends on another. The episodes count as nobody's training steps. `video` names an MP4
    file for the first episode; it needs an environment made with `render_mode="rgb_array"`, and without a picture the
    evaluation goes on and `video_problem` says why. Raises ValueError where `episodes` < 1, where the environment
    returns a number that is not finite, and where an action has the wrong shape.
    """
    if episodes < 1:
        raise ValueError(f"episodes: expected at least 1, got {episodes}")
    if getattr(env, "num_envs", None) is not None and not isinstance(env, gym.Env):
        raise ValueError(
            f"env: expected a single Gymnasium environment, got {type(env).__name__} of {env.num_envs}: pass one made "
            f"with gymnasium.make"
        )
    film = None if video is None else Film(env, Path(video))
    played = []
    for number, key in enumerate(_seeds(seed, episodes)):
        watch = film if number == 0 else None
        with watch or nullcontext():
            played.append(play(policy, env, seed=key, deterministic=deterministic, watch=watch))
    return _evaluation(played, film)


def evaluate_together(policy: Policy, envs: Sequence[gym.Env], *, seed: int, deterministic: bool = True) -> Evaluation:
    """Play a whole episode in each of several equal environments at once; episode `i` starts as that of `evaluate`.

    It takes a planner far less time than one episode after the other. The policy gets `[episodes, obs]`
    (`mbrl.experiments.episode.play_together`). Raises ValueError where there is no environment, and as `evaluate`.
    """
    if not envs:
        raise ValueError("envs: expected at least 1 environment, got none")
    return _evaluation(play_together(policy, envs, seeds=_seeds(seed, len(envs)), deterministic=deterministic))


def _seeds(seed: int, episodes: int) -> list[int]:
    return [derive(seed, "evaluate", number) % 2**31 for number in range(episodes)]


def _evaluation(played: Sequence[Episode], film: Film | None = None) -> Evaluation:
    return Evaluation(
        returns=np.array([episode.ret for episode in played]),
        lengths=np.array([episode.length for episode in played]),
        diverged=sum(episode.diverged for episode in played),
        video=film.result if film else None,
        video_problem=film.problem if film else None,
    )
