"""Copies of a Gymnasium environment as `Dynamics`: the environment itself is the model that a planner steps.

A state is a value: the environment's attributes as bytes, beside the observation. Stepping row i writes them into one
private copy of the environment, gives it a random stream of its own, takes the step, and reads the attributes again;
nothing is shared between rows or with the environment that acts. Steps run one after the other in Python.
"""

import io
import pickle
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Generator, Tensor

from planners.dynamics import Step
from planners.env_streams import find_stream
from planners.rows import repeat_rows

_SHARED = {"env", "spec", "metadata", "action_space", "observation_space", "_np_random", "_np_random_seed"} | {
    "_cached_spec",
    "_metadata",
    "_action_space",
    "_observation_space",
}
"""Attributes that no step changes, but for the random stream, which is set before every step."""
_HEADER = 8  # bytes that hold the length of what follows
_TRIES = 8
"""Streams under which a deterministic step is tried."""


class CopyState(NamedTuple):
    """States of copies, rows leading, on the CPU."""

    obs: Float[Tensor, "rows obs"]
    """Float64; a discrete observation is its number, [rows, 1]; tuples and dicts of spaces are flattened likewise.
    First, for planners of continuous actions plan in the type of a state's first tensor."""
    blob: UInt8[Tensor, "rows bytes"]
    """The attributes of the environment and of its wrappers, pickled, with the length in front (uint8)."""
    terminated: Bool[Tensor, "rows"]
    """The episode is over: further steps change nothing and pay 0."""


class EnvCopies:
    """A Gymnasium environment as a model, for discrete or continuous actions.

    The environment must be plain Python: all that a step changes lies in the attributes of the environment and its
    wrappers, and all its randomness in its `np_random`. Whether that holds is tried at construction, on two steps, and
    attributes are searched for random streams of its own.
    Truncation by a time limit is no end for a planner and is not reported, though the copy counts its steps.

    Args:
        env: the environment; it is copied, and stays as it is. After `reset`, without a render mode.
        deterministic: a step has only one outcome: there is a mean transition then, and nothing is drawn. Three steps
            are tried on it, each under eight random streams.
        fields: names of the attributes of `env.unwrapped` that a step changes; None: all attributes are kept, those of
            wrappers too, which is safe and slower (FrozenLake carries its tables along).
        room: bytes of a state at most; None: twice what it takes at construction, and 256 more.

    Raises:
        ValueError: the environment can't be copied, or is not deterministic; the message says why, and what to use
            instead.
    """

    def __init__(
        self, env: Any, *, deterministic: bool = False, fields: Sequence[str] | None = None, room: int | None = None
    ) -> None:
        _refuse(env)
        self.deterministic = deterministic
        self.fields = None if fields is None else tuple(fields)
        self.room = room
        self._discrete = isinstance(env.action_space, gym.spaces.Discrete)
        try:
            self._env = deepcopy(env)
            first, _ = self._env.reset(seed=0)
            self._layers = _layers(self._env)
            stream = find_stream(self._layers, _SHARED)
            needed = 0 if stream else len(self._dump(self._layers))
        except Exception as error:  # whatever a foreign class raises when it is copied
            raise ValueError(
                f"env: {env} can't be copied: {type(error).__name__}: {error}. Make it without a render mode; where it "
                "rests on a simulator in C, plan with a model of its own (planners.simulator for MuJoCo)"
            ) from error
        self._refuse_stream(stream)
        self._bytes = _HEADER + (2 * needed + 256 if room is None else room)
        self._try_out(first)
        self._refuse_stream(find_stream(self._layers, _SHARED))  # it may have been made in the first step

    def state_of(self, env: Any, obs: Any) -> CopyState:
        """The state of an environment as it stands, one row.

        Args:
            env: an environment made as the one at construction, with the same wrappers.
            obs: the observation that it returned last.

        Raises:
            ValueError: the wrappers are others, or the state takes more room than there is.
        """
        layers = _layers(env)
        if [type(layer) for layer in layers] != [type(layer) for layer in self._layers]:
            raise ValueError(f"env: expected the wrappers of {self._env}, got {env}")
        blob = torch.from_numpy(self._pack(layers))[None]
        return CopyState(torch.from_numpy(_flat(obs))[None], blob, torch.zeros(1, dtype=torch.bool))

    def reset(self, obs: Float[Tensor, "rows obs"]) -> CopyState:
        raise ValueError(
            "obs: an observation does not determine the state of an environment; plan from `state_of(env, obs)`, with "
            "`MPC.act_from`"
        )

    def observe(self, state: CopyState) -> Float[Tensor, "rows obs"]:
        return state.obs

    def assign(self, state: CopyState, particles: int, *, generator: Generator) -> CopyState:
        return state

    def step(self, state: CopyState, action: Tensor, *, generator: Generator | None = None) -> tuple[CopyState, Step]:
        """Take a step in every row.

        Args:
            action: numbers of actions, Long [rows], of a Discrete space; else [rows, *shape of the space].

        Raises:
            ValueError: actions are of another kind or shape, or there is no mean transition to take.
        """
        rows = len(action)
        self._check_action(action)
        if generator is not None:
            seeds = torch.randint(2**63 - 1, (rows, 2), generator=generator).tolist()
        elif self.deterministic:
            seeds = [[0, 0]] * rows
        else:
            raise ValueError(
                "generator: an environment has no mean transition; plan with stochastic=True, or make "
                "EnvCopies(..., deterministic=True) where every step has only one outcome"
            )
        blobs, actions = state.blob.numpy().copy(), action.numpy()
        obs, ended = state.obs.numpy().copy(), state.terminated.numpy().copy()
        reward = np.zeros(rows)
        for i in np.flatnonzero(~ended):
            seen, reward[i], ended[i] = self._step_one(blobs[i], actions[i], seeds[i])
            obs[i], blobs[i] = _flat(seen), self._pack(self._layers)
        after = CopyState(torch.from_numpy(obs), torch.from_numpy(blobs), torch.from_numpy(ended))
        return after, Step(after.obs, torch.from_numpy(reward), after.terminated.clone())

    def _step_one(self, blob: Any, action: Any, seed: list[int]) -> tuple[Any, float, bool]:
        self._unpack(blob)
        stream = self._env.unwrapped.np_random.bit_generator
        # A copy shares the stream of what it was copied from: planning would know the luck to come. In place, because
        # the environment may hold the generator under other names too.
        number = {"state": (seed[0] << 64) | seed[1], "inc": (seed[1] << 64) | 1}
        stream.state = {"bit_generator": "PCG64", "state": number, "has_uint32": 0, "uinteger": 0}
        space = self._env.action_space
        taken = int(action) + int(space.start) if self._discrete else action.astype(space.dtype)
        obs, reward, terminated, _, _ = self._env.step(taken)
        return obs, float(reward), bool(terminated)

    def _check_action(self, action: Tensor) -> None:
        space = self._env.action_space
        shape, floats = [len(action), *space.shape], np.issubdtype(space.dtype, np.floating)
        if list(action.shape) != shape or action.is_floating_point() != floats or action.dtype == torch.bool:
            kind, help_ = ("floats", "use CEM, ICEM or MPPI") if floats else ("integers", "use UCT, PUCT or Gumbel")
            raise ValueError(
                f"action: expected {kind} of shape {shape} for {space}, got {action.dtype} {list(action.shape)}; for "
                f"such actions {help_}"
            )
        wrong = (action < 0) | (action >= int(space.n)) if self._discrete else torch.zeros(1, dtype=torch.bool)
        if bool(wrong.any()):
            raise ValueError(f"action: expected integers in [0, {space.n}), got {int(action[wrong][0])}")

    def _refuse_stream(self, found: tuple[str, Any] | None) -> None:
        if found is not None:
            raise ValueError(
                f"env: {self._env} can't be copied: its attribute {found[0]} is a random stream of its own, "
                f"{type(found[1]).__name__}; copies would hold it as it stands, and planning would know the luck to "
                "come. Draw from self.np_random, which super().reset(seed=seed) makes"
            )

    def _dump(self, layers: list[Any]) -> bytes:
        if self.fields is not None:
            inner = vars(layers[-1])
            return pickle.dumps([{name: inner[name] for name in self.fields}], protocol=5)
        values = [{name: value for name, value in vars(layer).items() if name not in _SHARED} for layer in layers]
        buffer = io.BytesIO()
        _Pickler(buffer, layers).dump(values)
        return buffer.getvalue()

    def _pack(self, layers: list[Any]) -> Any:
        data = self._dump(layers)
        if len(data) > self._bytes - _HEADER:
            raise ValueError(
                f"room: a state takes {len(data)} bytes, there are {self._bytes - _HEADER}; "
                "give EnvCopies(..., room=...) what the largest state needs"
            )
        blob = np.zeros(self._bytes, dtype=np.uint8)
        blob[:_HEADER] = np.frombuffer(len(data).to_bytes(_HEADER, "little"), dtype=np.uint8)
        blob[_HEADER : _HEADER + len(data)] = np.frombuffer(data, dtype=np.uint8)
        return blob

    def _unpack(self, blob: Any) -> None:
        size = int.from_bytes(blob[:_HEADER].tobytes(), "little")
        data = blob[_HEADER : _HEADER + size].tobytes()
        if self.fields is not None:
            vars(self._layers[-1]).update(pickle.loads(data)[0])
            return
        for layer, values in zip(self._layers, _Unpickler(io.BytesIO(data), self._layers).load(), strict=True):
            own = vars(layer)
            for name in [name for name in own if name not in _SHARED and name not in values]:
                del own[name]
            own.update(values)

    def _try_out(self, first: Any) -> None:
        """Take a step twice from the same state with the same stream, after another that would betray what was kept."""
        if type(self._env.unwrapped.np_random.bit_generator).__name__ != "PCG64":
            raise ValueError("env: expected the random stream of gymnasium.utils.seeding (PCG64), to be seeded anew")
        space = deepcopy(self._env.action_space)
        space.seed(0)
        start = self.state_of(self._env, first)
        low = int(space.start) if self._discrete else 0
        actions = [torch.as_tensor(np.asarray(space.sample() - low))[None] for _ in range(3)]
        streams = [Generator().manual_seed(k) for k in (0, 1, 0)]
        once, seen = self.step(start, actions[0], generator=streams[0])
        self.step(once, actions[1], generator=streams[1])
        again, other = self.step(start, actions[0], generator=streams[2])
        same = torch.equal(seen.obs, other.obs) and torch.equal(seen.reward, other.reward)
        if not same or not torch.equal(once.terminated, again.terminated):
            raise ValueError(
                f"env: {self._env} can't be copied: from a copy of its attributes the same step had another outcome; "
                "something that a step changes lies elsewhere, or its randomness is not its np_random"
            )
        if self.deterministic:
            self._try_luck(repeat_rows(start, _TRIES), actions)

    def _try_luck(self, state: CopyState, actions: list[Tensor]) -> None:
        """Take the steps in equal rows, each with a stream of its own."""
        generator = Generator().manual_seed(0)
        for action in actions:
            state, step = self.step(state, repeat_rows(action, _TRIES), generator=generator)
            if any(bool((part != part[:1]).any()) for part in step):
                raise ValueError(
                    f"deterministic: expected False, for a step of {self._env} has several outcomes, got True; leave "
                    "it away, and plan with stochastic=True or with particles"
                )


class _Pickler(pickle.Pickler):
    """Writes what all states share, the layers' `_SHARED` attributes, as references: not their contents."""

    def __init__(self, buffer: io.BytesIO, layers: list[Any]) -> None:
        super().__init__(buffer, protocol=5)
        self._names = {
            id(value): (depth, name)
            for depth, layer in enumerate(layers)
            for name, value in vars(layer).items()
            if name in _SHARED and not isinstance(value, int | str | tuple | None)  # which others may hold too
        } | {id(layer): (depth, "") for depth, layer in enumerate(layers)}

    def persistent_id(self, value: Any) -> tuple[int, str] | None:
        return self._names.get(id(value))


class _Unpickler(pickle.Unpickler):
    def __init__(self, buffer: io.BytesIO, layers: list[Any]) -> None:
        super().__init__(buffer)
        self._layers = layers

    def persistent_load(self, reference: tuple[int, str]) -> Any:
        depth, name = reference
        return vars(self._layers[depth])[name] if name else self._layers[depth]


def _layers(env: Any) -> list[Any]:
    """The environment's wrappers from the outermost on, and the environment itself."""
    layers = [env]
    while layers[-1] is not env.unwrapped:
        layers.append(layers[-1].env)
    return layers


def _flat(obs: Any) -> Any:
    """An observation as one vector of float64: parts of tuples and dicts one after the other, numbers as they are."""
    if isinstance(obs, dict):
        return np.concatenate([_flat(part) for part in obs.values()])
    if isinstance(obs, tuple):
        return np.concatenate([_flat(part) for part in obs])
    return np.asarray(obs, dtype=np.float64).reshape(-1)


def _refuse(env: Any) -> None:
    inner = getattr(env, "unwrapped", None)
    if inner is None or hasattr(env, "num_envs"):
        raise ValueError(f"env: expected one gymnasium.Env, got {env}")
    if any(kind.__module__.startswith("gymnasium.envs.mujoco") for kind in type(inner).__mro__):
        raise ValueError(
            f"env: {env} rests on MuJoCo, whose state does not lie in attributes (a copy would start anew in silence); "
            "use planners.simulator.Simulator, or mbrl.envs.simulator(env)"
        )
