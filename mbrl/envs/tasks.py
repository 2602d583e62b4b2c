"""The tasks that the library knows: their rewards and terminations, and whether an environment agrees with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from inspect import signature
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import torch
from torch import Tensor

from mbrl.envs.arms import pusher, reacher
from mbrl.envs.bodies import ant, humanoid, humanoid_standup
from mbrl.envs.classic import cartpole, pendulum
from mbrl.envs.definition import Task
from mbrl.envs.make import SWING_UP, make_env, task_options
from mbrl.envs.pendulums import inverted_double_pendulum, inverted_pendulum, swing_up
from mbrl.envs.runners import half_cheetah, hopper, swimmer, walker2d
from mbrl.types import TransitionBatch
from planners.dynamics import FunctionDynamics, Reward, Termination

if TYPE_CHECKING:
    from planners.simulator import Simulator

__all__ = ["Task", "simulator", "stated", "task", "task_of", "true_model", "verify"]

_BUILDERS: dict[str, Callable[..., Task]] = {
    SWING_UP: swing_up,
    "Pendulum-v1": pendulum,
    "CartPole-v1": cartpole,
    "InvertedPendulum-v5": inverted_pendulum,
    "InvertedDoublePendulum-v5": inverted_double_pendulum,
    "Reacher-v5": reacher,
    "Pusher-v5": pusher,
    "Swimmer-v5": swimmer,
    "HalfCheetah-v5": half_cheetah,
    "Hopper-v5": hopper,
    "Walker2d-v5": walker2d,
    "Ant-v5": ant,
    "Humanoid-v5": humanoid,
    "HumanoidStandup-v5": humanoid_standup,
}
_WITHOUT_EFFECT = {
    "render_mode", "width", "height", "camera_id", "camera_name", "default_camera_config", "max_geom",
    "visual_options", "reset_noise_scale",
}  # fmt: skip
_HARMLESS = {
    "AddRenderObservation", "Autoreset", "ClipAction", "DtypeObservation", "FlattenObservation", "HumanRendering",
    "OrderEnforcing", "PassiveEnvChecker", "RecordEpisodeStatistics", "RecordVideo", "RenderCollection",
    "RescaleAction", "TimeLimit", "Watched",
}  # fmt: skip
"""Wrappers that leave the columns of observations, and rewards, what they are."""
_FLOOR = 1e-2
"""Rewards smaller than this are compared as if they had this size."""


def task(env: str | gym.Env | gym.vector.VectorEnv) -> Task | None:
    """What the library knows of an environment.

    Args:
        env: an environment, or a vector: then the options it was made with count. Without x in the observation, for
            one, the task of HalfCheetah-v5 has `reward=None`. Or an id: then the options of `make_env` count. With a
            wrapper that may change observations or rewards the task leaves no inputs out, and has no terminal value.

    Returns:
        The task; None where the library has none, or where an option (`xml_file`, say) changes what it knows.
    """
    if isinstance(env, str):
        env_id = env.rpartition(":")[2]
        kwargs = task_options(env_id)
    else:
        spec = _spec(env)
        if spec is None:
            return None
        env_id, kwargs = spec.id, dict(spec.kwargs)
        known = task_of(env_id, kwargs)
        if known is not None and not all(map(_is_harmless, spec.additional_wrappers)):
            return replace(known, ignored_inputs=(), terminal_value=None)
        return known
    return task_of(env_id, kwargs)


def task_of(env_id: str, env_kwargs: Mapping[str, Any]) -> Task | None:
    """What the library knows of an environment that was made with exactly these options, such as that of a dataset.

    None where it has none, or where an option changes what it knows.
    """
    builder = _BUILDERS.get(env_id.rpartition(":")[2])
    if builder is None:
        return None
    options = {k: v for k, v in env_kwargs.items() if k not in _WITHOUT_EFFECT}
    return builder(**options) if set(options) <= set(signature(builder).parameters) else None


class Disagreement(ValueError):
    """A task's function says something else than the environment did.

    Attributes:
        row: the first transition where it does.
    """

    def __init__(self, which: str, row: int, rows: int, shown: str) -> None:
        self._which, self._shown, self.row = which, shown, row
        super().__init__(self.told(row, rows))

    def told(self, row: int, rows: int) -> str:
        """The message, where that transition is row `row` of `rows`."""
        return f"{self._which} disagrees with the environment in row {row} of {rows}: {self._shown}"


def stated(
    known: Task | None, reward: Reward | None, termination: Termination | None, *, any_end: bool = False
) -> Task:
    """An environment as a model has it, for `verify`: with these functions, and the excuses of what the library knows.

    Args:
        known: what the library knows of the environment; None: nothing.
        reward: what the model has; None: it is learned, and not compared.
        termination: likewise; None: there are no ends.
        any_end: whether any end may come, for the model does not say where.
    """
    made = replace(known or Task("the environment", {}, None, None), reward=reward, termination=termination)
    return replace(made, hidden_end=_always) if any_end else made


def verify(task: Task, batch: TransitionBatch, *, tolerance: float = 1e-4, rounding: float = 0.0) -> None:
    """Compare a task's reward and termination with what an environment returned.

    Meant for the float64 data of a collector: differences of positions lose digits in float32.

    Args:
        task: the task; a function that it does not have is not compared (a termination of None must not end).
        batch: transitions, one a row.
        tolerance: relative to the real reward, or to 0.01 where that is smaller.
        rounding: of observations that were float32 once, `torch.finfo(torch.float32).eps`: velocities that are
            differences of positions may be as wrong as it makes them.

    Raises:
        Disagreement: a ValueError, whose message shows the first transition where they disagree.
    """
    action = batch.action.to(batch.obs.dtype) if batch.action.is_floating_point() else batch.action
    inputs = (batch.obs, action, batch.next_obs)
    no = torch.zeros_like(batch.terminated)
    terminated = no if task.termination is None else task.termination(*inputs)
    excused = no if task.hidden_end is None else task.hidden_end(*inputs) & (terminated | batch.terminated)
    _raise_first(task, batch, "terminated", (terminated != batch.terminated) & ~excused, terminated)
    if task.reward is not None:
        reward = task.reward(*inputs).to(batch.reward.dtype)
        near = task.reward_error + tolerance * batch.reward.abs().clamp(min=_FLOOR)
        # Each of the two positions is rounded by half of `rounding`, relative to its size.
        near = near + rounding * task.x_gain * torch.maximum(batch.obs[:, 0].abs(), batch.next_obs[:, 0].abs())
        wrong = ~((reward - batch.reward).abs() <= near)
        unseen = no if task.hidden_reward is None else task.hidden_reward(*inputs)
        _raise_first(task, batch, "reward", wrong & ~excused & ~unseen, reward)


def true_model(env: str | gym.Env, *, threads: int = 0) -> Simulator | FunctionDynamics:
    """The environment itself as the model, for `Problem`: a formula where there is one, else MuJoCo.

    Plans on a formula start from observations, `model.reset(obs)`, those on MuJoCo from `model.state_of(env)`.

    Args:
        env: an environment of the library's tasks, or its id (as `make_env` makes it).
        threads: of MuJoCo; 0: one for each CPU core that the process may use.

    A formula has the constants that the environment is registered with; MuJoCo those of the environment's own model.

    Raises:
        ValueError: the library has no such task, or a wrapper changes what actions are.
    """
    _check_own_actions(env)
    known = task(env)
    if known is None or known.transition is None or known.reward is None:
        return simulator(env, threads=threads)
    return FunctionDynamics(known.transition, known.reward, known.termination)


def simulator(env: str | gym.Env, *, threads: int = 0, worlds: Sequence[Any] | None = None) -> Simulator:
    """MuJoCo itself as the model of a task, for `Problem`. Start plans from `simulator.state_of(env)`.

    Args:
        env: an environment of the library's tasks, or its id (as `make_env` makes it).
        threads: of MuJoCo; 0: one for each CPU core that the process may use.
        worlds: models that the particles of a plan live in, such as `randomize_models(env.unwrapped.model, ...)` of
            `planners.simulator_models` makes; None: the environment's own alone.

    Raises:
        ValueError: the library has no such task, it is not one of MuJoCo's, or a wrapper changes what actions are.
    """
    from planners.simulator import Simulator

    _check_own_actions(env)
    known = task(env)
    name = env if isinstance(env, str) else env.spec.id if env.spec is not None else str(env)
    if known is None:
        raise ValueError(
            f"env: expected one of {', '.join(_BUILDERS)} with options that the library knows, got {name}; build "
            "planners.simulator.Simulator with an outcome of your own"
        )
    if known.physics is None:
        raise ValueError(f"env: expected a MuJoCo task, got {name}, which is a formula: use mbrl.envs.true_model")
    made = make_env(env) if isinstance(env, str) else None
    inner: Any = (made if made is not None else env).unwrapped  # type: ignore[union-attr]
    physics = known.physics
    result = Simulator(
        inner.model,
        physics.outcome,
        physics.observe,
        inner.frame_skip,
        threads,
        fields=physics.fields,
        carry=physics.carry,
        state_from_obs=physics.state_from_obs,
        worlds=worlds,
    )
    if made is not None:
        made.close()
    return result


def _check_own_actions(env: str | gym.Env) -> None:
    """Plans would be in units of the wrapper, and the model takes those of the environment inside."""
    if not isinstance(env, str) and env.action_space != env.unwrapped.action_space:
        raise ValueError(
            f"env: expected actions in {env.unwrapped.action_space}, as the model takes them, got {env.action_space} "
            "from a wrapper; plan for env.unwrapped, and convert the actions of plans"
        )


def _is_harmless(wrapper: Any) -> bool:
    module, _, name = wrapper.entry_point.partition(":")
    return name in _HARMLESS and module.partition(".")[0] in ("gymnasium", "mbrl")


def _spec(env: gym.Env | gym.vector.VectorEnv) -> Any:
    if isinstance(env, gym.vector.VectorEnv):
        # A vector of functions has no spec of its own, but its environments do.
        return env.get_attr("spec")[0] if hasattr(env, "get_attr") else env.spec
    return env.spec


def _raise_first(task: Task, batch: TransitionBatch, name: str, wrong: Tensor, computed: Tensor) -> None:
    if not bool(wrong.any()):
        return
    row = int(wrong.nonzero()[0, 0])
    raise Disagreement(
        f"{task.env_id}: the task's {name}",
        row,
        len(wrong),
        f"the environment says {getattr(batch, name)[row].item()}, the task {computed[row].item()}. "
        f"obs: {batch.obs[row].tolist()}, action: {batch.action[row].tolist()}, "
        f"next_obs: {batch.next_obs[row].tolist()}. Is there a wrapper that changes observations, actions or rewards? "
        "Pass reward and termination functions of your own then, or have them learned where the settings offer it "
        "(reward='learned', termination='learned')",
    )


def _always(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    return torch.ones(len(obs), dtype=torch.bool, device=obs.device)
