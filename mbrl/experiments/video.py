"""Videos of episodes, on machines with a screen, without one, and without any OpenGL at all.

MuJoCo chooses its OpenGL library when it is imported, by the environment variable MUJOCO_GL, and a wrong value makes
that import fail. So `choose_backend` is called before anything imports mujoco, and it tries in processes of their own,
since a graphics driver that does not like a machine may abort.
"""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import gymnasium as gym
import imageio_ffmpeg  # type: ignore[import-untyped]
import numpy as np

from mbrl.experiments.episode import Policy, play

INSTALL = "apt-get install libegl1 libgl1"
"""What, as root, gives a headless Debian or Ubuntu machine a back end that works."""

_SCENE = '<mujoco><worldbody><light pos="0 0 3"/><geom size="1"/></worldbody></mujoco>'
_TRIAL = f"""
import mujoco
model = mujoco.MjModel.from_xml_string('{_SCENE}')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 32, 32)
renderer.update_scene(data)
assert renderer.render().max() > 0
"""


def choose_backend() -> str | None:
    """Set MUJOCO_GL to a back end that renders, and return its name; None where there is none.

    Where nothing works, MUJOCO_GL becomes "disable", with which mujoco can be imported and all but pictures goes on.
    Call it before mujoco is imported.
    """
    name = find_backend()
    os.environ["MUJOCO_GL"] = name or "disable"
    return name


def find_backend() -> str | None:
    """The first back end that renders: the one that MUJOCO_GL names, a screen's, egl, osmesa."""
    given = os.environ.get("MUJOCO_GL", "").strip().lower()
    candidates = ([given] if given else []) + (["glfw"] if _has_screen() else []) + ["egl", "osmesa"]
    return next((name for name in candidates if name not in _OFF and trial(name) is None), None)


_OFF = {"0", "disable", "disabled", "off", "false"}


def _has_screen() -> bool:
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


@cache
def trial(backend: str) -> str | None:
    """Render one frame in another process: None where that works, else the last line of what went wrong."""
    # PYOPENGL_PLATFORM is what mujoco sets itself, once it has chosen: a stale one would decide the trial.
    settings = {key: value for key, value in os.environ.items() if key != "PYOPENGL_PLATFORM"}
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _TRIAL],
            env={**settings, "MUJOCO_GL": backend},
            capture_output=True,
            text=True,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"the process ended with status {done.returncode}"


def rendering_problem() -> str | None:
    """None where a frame can be rendered with the MUJOCO_GL that is set, else a sentence with what to do."""
    backend = os.environ.get("MUJOCO_GL", "").strip().lower()
    if not backend and not _has_screen():
        return f"no pictures: there is no screen and MUJOCO_GL is not set; set MUJOCO_GL=egl (Debian: {INSTALL})"
    if backend in _OFF:
        return f"no pictures: no OpenGL back end works here; on Debian or Ubuntu: {INSTALL}"
    reason = trial(backend or "glfw")
    if reason is None:
        return None
    return (
        f"no pictures: the OpenGL back end {backend or 'glfw'} does not work ({reason}); on Debian or Ubuntu: {INSTALL}"
    )


class Recording(NamedTuple):
    """What came of `record_episode`."""

    path: Path | None
    """The MP4 file; None where nothing could be rendered."""
    problem: str | None
    """Why there is none, and what to install."""
    ret: float
    """The return of the episode, with or without a picture."""
    length: int


def record_episode(env: gym.Env, policy: Policy, path: str | Path, seed: int) -> Recording:
    """Play one episode from `env.reset(seed=seed)` and stream it to an MP4 file.

    Needs an environment made with `render_mode="rgb_array"`. Where no frame can be rendered the episode is played all
    the same, and `Recording.problem` says which package to install.
    """
    with Film(env, Path(path)) as film:
        episode = play(policy, env, seed=seed, watch=film)
    return Recording(film.result, film.problem, episode.ret, episode.length)


class Film:
    """Writes a frame of an environment whenever it is called; after the `with` block, `result` or `problem` is set.

    Frames are encoded as they come, so a long episode takes no memory, into a hidden file that gets its name at the
    end: a killed process leaves no video that stops in the middle.
    """

    def __init__(self, env: gym.Env, path: Path) -> None:
        self.result: Path | None = None
        self.problem: str | None = None
        self._env, self._path = env, path
        self._writer: Any = None
        self._staged = path.with_name(f".{path.stem}.part.mp4")
        if env.render_mode != "rgb_array":
            self.problem = (
                f'no pictures: expected an environment made with render_mode="rgb_array", got {env.render_mode!r}'
            )
        elif hasattr(env.unwrapped, "mujoco_renderer"):
            self.problem = rendering_problem()  # asked first, for a bad driver may abort instead of raising

    def __enter__(self) -> Self:
        return self

    def __call__(self, obs: Any = None, reward: float = 0.0) -> None:
        if self.problem is not None:
            return
        try:
            frame = np.asarray(self._env.render())
            if self._writer is None:
                self._writer = self._open(frame)
            self._writer.send(np.ascontiguousarray(frame))
        except Exception as error:  # drivers and codecs raise whatever they like; an episode goes on without its video
            self.problem = f"no pictures: {type(error).__name__}: {error}; on Debian or Ubuntu: {INSTALL}"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
        if writer is None or kind is not None or self.problem is not None:
            self._staged.unlink(missing_ok=True)
        elif self._staged.exists():
            self.result = self._staged.replace(self._path)
        else:
            self.problem = f"no video: ffmpeg left no file at {self._path}"

    def _open(self, frame: np.ndarray) -> Any:
        height, width = frame.shape[:2]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        speed = self._env.metadata.get("render_fps", 30)
        # The frame is padded to even sides (yuv420p needs them) instead of scaled to a multiple of 16.
        writer = imageio_ffmpeg.write_frames(
            str(self._staged),
            (width, height),
            fps=speed,
            macro_block_size=1,
            output_params=["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-movflags", "+faststart"],
            ffmpeg_log_level="error",
        )
        writer.send(None)
        return writer
