"""Videos: a frame a step where pictures can be made, and an episode without them where not."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import imageio.v3 as imageio
import numpy as np
import pytest

from mbrl.experiments import video
from mbrl.experiments.evaluate import evaluate
from mbrl.experiments.video import record_episode

# imageio leaves the pipes of its reader, which only these tests use, to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


class Still:
    def predict(
        self, obs: np.ndarray, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        return np.zeros(1), state


class Painter(gym.Env):
    """Draws with numpy: five steps, frames with odd sides that grow brighter; `fails_at` breaks the drawing."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (1,))
    action_space = gym.spaces.Box(-1.0, 1.0, (1,))
    metadata = {"render_fps": 20, "render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, *, fails_at: int | None = None, reward: float = 1.0, render_mode: str = "rgb_array") -> None:
        self.fails_at, self.reward, self.render_mode, self.drawn = fails_at, reward, render_mode, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        self.t = 0
        return np.zeros(1), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        return np.zeros(1), self.reward if self.t == 3 else 1.0, False, self.t == 5, {}

    def render(self) -> np.ndarray:  # type: ignore[override]
        self.drawn += 1
        if self.t == self.fails_at:
            raise RuntimeError("the driver gave up")
        return np.full((63, 95, 3), 40 * self.t, np.uint8)


def test_the_video_has_the_reset_and_every_step(tmp_path: Path) -> None:
    path = tmp_path / "new" / "episode.mp4"
    recording = record_episode(Painter(), Still(), path, seed=0)
    assert recording == (path, None, 5.0, 5)
    frames = imageio.imread(path)
    assert frames.shape[0] == 6
    assert frames[:, :63, :95].mean((1, 2, 3)) == pytest.approx([0, 40, 80, 120, 160, 200], abs=6)
    assert list(path.parent.iterdir()) == [path]


def test_evaluation_films_its_first_episode(tmp_path: Path) -> None:
    env = Painter()
    result = evaluate(Still(), env, episodes=3, seed=0, video=tmp_path / "v.mp4")
    assert env.drawn == 6
    assert result.video == tmp_path / "v.mp4"
    assert result.video_problem is None
    assert imageio.imread(result.video).shape[0] == 6


@pytest.mark.parametrize("fails_at", [0, 3])
def test_an_episode_goes_on_where_drawing_breaks(tmp_path: Path, fails_at: int) -> None:
    recording = record_episode(Painter(fails_at=fails_at), Still(), tmp_path / "v.mp4", seed=0)
    assert recording.path is None
    assert recording.problem is not None
    assert "the driver gave up" in recording.problem
    assert "apt-get install libegl1 libgl1" in recording.problem
    assert (recording.ret, recording.length) == (5.0, 5)
    assert list(tmp_path.iterdir()) == []


def test_an_environment_without_pictures_is_named(tmp_path: Path) -> None:
    result = evaluate(Still(), Painter(render_mode="human"), episodes=1, seed=0, video=tmp_path / "v.mp4")
    assert result.video is None
    assert "render_mode=\"rgb_array\", got 'human'" in str(result.video_problem)


def test_a_failed_episode_leaves_no_half_video(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="finite"):
        record_episode(Painter(reward=float("nan")), Still(), tmp_path / "v.mp4", seed=0)
    assert list(tmp_path.iterdir()) == []


def test_mujoco_is_filmed_where_it_can_render(tmp_path: Path) -> None:
    if (problem := video.rendering_problem()) is not None:
        pytest.skip(problem)
    env = gym.make("InvertedPendulum-v5", render_mode="rgb_array", width=64, height=48)
    recording = record_episode(env, Still(), tmp_path / "v.mp4", seed=0)
    env.close()
    assert recording.path is not None
    frames = imageio.imread(recording.path)
    assert frames.shape[1:] == (48, 64, 3)
    assert abs(frames.shape[0] - recording.length - 1) <= 1
    assert frames.std() > 1


WITHOUT = """
import os, sys
from mbrl.experiments import video
if sys.argv[1] == "none works":
    video.trial = lambda backend: "no library"
    assert video.choose_backend() is None and os.environ["MUJOCO_GL"] == "disable"
import gymnasium as gym, numpy as np
class Still:
    def predict(self, obs, state=None, episode_start=None, deterministic=False):
        return np.zeros(1), state
env = gym.make("InvertedPendulum-v5", render_mode="rgb_array")
recording = video.record_episode(env, Still(), sys.argv[2], 0)
assert recording.path is None and recording.length > 5, recording
print(recording.problem)
"""


@pytest.mark.parametrize(("given", "case"), [("nonsense", "none works"), ("disable", "as given")])
def test_everything_runs_where_nothing_can_be_rendered(tmp_path: Path, given: str, case: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT, case, tmp_path / "v.mp4"],
        env={**os.environ, "MUJOCO_GL": given},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("no pictures: ")
    assert "apt-get install libegl1 libgl1" in done.stdout
    assert list(tmp_path.iterdir()) == []


def _only(monkeypatch: pytest.MonkeyPatch, *working: str, given: str | None = None, screen: bool = False) -> None:
    monkeypatch.setattr(video, "trial", lambda backend: None if backend in working else "no library")
    monkeypatch.setattr(video, "_has_screen", lambda: screen)
    if given is None:
        monkeypatch.delenv("MUJOCO_GL", raising=False)
    else:
        monkeypatch.setenv("MUJOCO_GL", given)


@pytest.mark.parametrize(
    ("working", "given", "screen", "chosen"),
    [
        (("egl", "osmesa", "glfw"), None, False, "egl"),
        (("osmesa",), None, False, "osmesa"),
        (("osmesa",), "egl", False, "osmesa"),
        (("egl", "osmesa"), "osmesa", False, "osmesa"),
        (("egl", "glfw"), None, True, "glfw"),
        (("egl",), "disable", False, "egl"),
        ((), "egl", False, None),
    ],
)
def test_the_first_back_end_that_works_is_chosen(
    monkeypatch: pytest.MonkeyPatch, working: tuple[str, ...], given: str | None, screen: bool, chosen: str | None
) -> None:
    _only(monkeypatch, *working, given=given, screen=screen)
    assert video.choose_backend() == chosen
    assert os.environ["MUJOCO_GL"] == (chosen or "disable")
    assert (video.rendering_problem() is None) == (chosen is not None)


def test_a_headless_machine_without_a_setting_is_told_which(monkeypatch: pytest.MonkeyPatch) -> None:
    _only(monkeypatch, "egl")
    assert "MUJOCO_GL=egl" in str(video.rendering_problem())
