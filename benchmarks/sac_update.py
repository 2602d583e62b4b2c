"""Row sac_update: one update of SAC, batch 256, 2 x 256, 17 observations, 6 actions, in seconds.

All that a training loop does for an update counts: the draw from a buffer of 100,000 transitions, the noise, actor,
critics, temperature and targets, and reading the metrics. The figure is that of eager updates; compiled ones, in
float32 and with products between hidden layers in bfloat16, stand beside it. The peer is stable-baselines3's
`SAC.train` on its own buffer; the floor is the matrix products alone, into memory that is already there.
"""

import time
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import stable_baselines3
import torch
from stable_baselines3.common.logger import Logger
from torch import Tensor, nn

from benchmarks.harness import CORE_SHARE, alternate, timed
from benchmarks.report import compare
from benchmarks.workload import ACT, OBS, transitions
from mbrl.data.buffer import ReplayBuffer
from mbrl.learners.fast import compiled as compile_learner
from mbrl.learners.networks import MLP
from mbrl.learners.sac import SACLearner, SACState
from mbrl.pipelines.recorder import NullRecorder
from mbrl.pipelines.updates import Mode, Updates
from mbrl.processors import Precision
from mbrl.seeding import generator
from mbrl.types import TransitionBatch

BATCH, HIDDEN, CAPACITY, DISCOUNT = 256, (256, 256), 100_000, 0.99
TARGET, TARGET_BFLOAT16 = 1.3, 1.6
LOW, HIGH = (-1.0,) * ACT, (1.0,) * ACT


def run(*, rounds: int, small: bool) -> dict[str, Any]:
    """Measure the row; `small`: a few updates, to see that it runs."""
    checks: dict[str, float] = {}
    for fast in (False, True):
        name = "_compiled" if fast else ""
        checks |= {
            f"float64_200_updates{name}": agree(torch.float64, 200, fast),
            f"float32_20_updates{name}": agree(torch.float32, 20, fast),
        }
    count = 2 if small else 20
    data = transitions(CAPACITY)
    ours, compiled, peer, floor = updates(data), updates(data, "compile"), sb3(data), Products()
    lowered = updates(data, "compile", "bfloat16")
    began = time.perf_counter()
    compiled.run(1, 0)
    compile_seconds = time.perf_counter() - began
    lowered.run(1, 0)

    def products() -> None:
        for _ in range(count):
            floor()

    contestants = {
        "ours": timed(lambda: ours.run(count, 0)),
        "compiled": timed(lambda: compiled.run(count, 0)),
        "bfloat16": timed(lambda: lowered.run(count, 0)),
        "peer": timed(lambda: peer.train(gradient_steps=count, batch_size=BATCH)),
        "floor": timed(products),
    }
    readings = alternate(contestants, rounds=rounds, core_share=0.0 if small else CORE_SHARE)
    record = compare(
        "sac_update",
        readings,
        unit="ms/update",
        scale=1e3 / count,
        target=TARGET,
        peer_versions={"stable-baselines3": stable_baselines3.__version__},
        notes={
            "updates_per_second": round(count / readings.wall("ours").median, 1),
            "compiled_updates_per_second": round(count / readings.wall("compiled").median, 1),
            "compiled_times_peer": readings.ratio("peer", "compiled")._asdict(),
            "compiled_times_ours": readings.ratio("ours", "compiled")._asdict(),
            "compiled_bfloat16_times_peer": readings.ratio("peer", "bfloat16")._asdict(),
            "compile_seconds": round(compile_seconds, 1),
            "largest_difference_from_plain": checks,
        },
    )
    peers, gain = readings.ratio("peer", "compiled"), readings.ratio("ours", "compiled")
    figure = f"{readings.wall('compiled').median * 1e3 / count:.4g} ms/update; the first took {compile_seconds:.0f} s"
    print(f"  compiled: {figure}; ratio to peer {peers.median:.3g}, to eager {gain.median:.3g}")
    milliseconds, peers = readings.wall("bfloat16").median * 1e3 / count, readings.ratio("peer", "bfloat16")
    print(f"  with bfloat16: {milliseconds:.4g} ms/update; ratio to peer {peers.median:.3g}, target {TARGET_BFLOAT16}")
    return record


def updates(data: TransitionBatch, mode: Mode = "eager", precision: Precision = "full") -> Updates:
    """Our updates as a training loop runs them, from a buffer of `data`."""
    buffer = ReplayBuffer(len(data.obs), OBS, ACT)
    buffer.extend_rows(data)
    learner = SACLearner(OBS, LOW, HIGH)
    agent = SimpleNamespace(learner=learner, state=learner.init([generator(0, "init")]), updates=0)

    def draw(n: int) -> TransitionBatch:
        batch = buffer.sample(BATCH, generator=generator(0, "batch", 0, n), discount=DISCOUNT)
        return TransitionBatch(*(x[None] for x in batch))

    return Updates(agent, draw, seed=0, batch_size=BATCH, recorder=NullRecorder(), mode=mode, precision=precision)


def sb3(data: TransitionBatch) -> stable_baselines3.SAC:
    """The peer with its own settings, networks and buffer, which holds `data`."""
    model = stable_baselines3.SAC("MlpPolicy", _Spaces(), buffer_size=len(data.obs), device="cpu", seed=0)
    model.set_logger(Logger(folder=None, output_formats=[]))
    buffer = model.replay_buffer
    assert buffer is not None
    columns = {"observations": "obs", "next_observations": "next_obs", "actions": "action", "rewards": "reward"}
    for theirs, name in columns.items():
        values = getattr(data, name).numpy()
        getattr(buffer, theirs)[:] = values.reshape(getattr(buffer, theirs).shape)
    buffer.full = True
    return model


class _Spaces(gym.Env):
    """Spaces, which is all of an environment that the peer looks at."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (OBS,))
    action_space = gym.spaces.Box(-1, 1, (ACT,))


class Products:
    """The matrix products of one update: two passes of the actor, three of the critics, and what goes back.

    Back go gradients of weights and inputs for critics and actor, and of inputs alone for the critics that the actor
    climbs. The critics' last layers have one column and are left out: 0.4 % of the arithmetic.
    """

    def __init__(self) -> None:
        critics, actor = [(OBS + ACT, HIDDEN[0]), HIDDEN], [(OBS, HIDDEN[0]), HIDDEN, (HIDDEN[1], 2 * ACT)]
        passes = [(1, actor), (2, critics), (2, critics), (1, actor), (2, critics)]
        trained, climbed = passes[2:4], passes[4:]
        forward = [_factors((n, BATCH, i), (n, i, o)) for n, layers in passes for i, o in layers]
        weights = [_factors((n, BATCH, i), (n, BATCH, o), "first") for n, layers in trained for i, o in layers]
        inputs = [_factors((n, BATCH, o), (n, i, o), "second") for n, layers in trained for i, o in layers[1:]]
        inputs += [_factors((n, BATCH, o), (n, i, o), "second") for n, layers in climbed for i, o in layers]
        self._products = [(a, b, torch.bmm(a, b)) for a, b in forward + weights + inputs]

    def __call__(self) -> None:
        """The products of one update, into memory that is already there."""
        for a, b, out in self._products:
            torch.bmm(a, b, out=out)


def _factors(first: tuple[int, ...], second: tuple[int, ...], transposed: str = "") -> tuple[Tensor, Tensor]:
    """Factors of batched products, stored in these shapes, of which one may go in transposed."""
    stream = torch.Generator().manual_seed(0)
    a, b = (0.05 * torch.randn(shape, generator=stream) for shape in (first, second))
    return (a.mT if transposed == "first" else a), (b.mT if transposed == "second" else b)


def agree(dtype: torch.dtype, count: int, fast: bool = False) -> float:
    """Make updates with `SACLearner`, and the same with plain modules and torch's Adam, from the same numbers.

    With `fast`, the learner's are compiled.

    Returns the largest difference of a parameter of actor, critics, targets or temperature.

    Raises:
        RuntimeError: it is more than rounding explains.
    """
    learner = SACLearner(OBS, LOW, HIGH, dtype=dtype)
    quick = compile_learner(learner) if fast else learner
    state = learner.init([generator(0, "init")])
    plain, data = _PlainSAC(state), transitions(10_000)
    for n in range(count):
        rows = torch.randint(len(data.obs), (BATCH,), generator=generator(0, "batch", n))
        batch = TransitionBatch(
            *(x[rows][None].to(dtype) if x.dtype.is_floating_point else x[rows][None] for x in data)
        )
        noise = learner.noise(BATCH, [generator(0, "noise", n)])
        quick.update(state, batch, noise)
        plain.update(TransitionBatch(*(x[0] for x in batch)), noise.action[0], noise.next_action[0])
    worst = plain.difference(state)
    if not worst < (1e-7 if dtype == torch.float64 else 1e-4):
        raise RuntimeError(f"after {count} updates in {dtype} parameters differ from plain training by {worst}")
    return worst


class _PlainSAC:
    """SAC with one run, one module a network, `torch.distributions` and `torch.optim`."""

    def __init__(self, state: SACState) -> None:
        self.actor = _module(state.actor, ())
        self.critics = nn.ModuleList(_module(state.critics, (i,)) for i in (0, 1))
        self.targets = nn.ModuleList(_module(state.targets, (i,)) for i in (0, 1))
        self.log_temperature = state.log_temperature.clone().requires_grad_()
        trained: list[list[Tensor]] = [[*self.actor.parameters()], [*self.critics.parameters()], [self.log_temperature]]
        self.adams = [torch.optim.Adam(parameters, lr=3e-4) for parameters in trained]

    def update(self, batch: TransitionBatch, noise: Tensor, next_noise: Tensor) -> None:
        temperature = self.log_temperature.exp().detach()
        with torch.no_grad():
            action, log_prob = self._sample(batch.next_obs, next_noise)
            value = self._values(self.targets, batch.next_obs, action).amin(0) - temperature * log_prob
            target = batch.reward + batch.discount * value
        q = self._values(self.critics, batch.obs, batch.action)
        self._step(1, 0.5 * (q - target).square().mean(1).sum())
        action, log_prob = self._sample(batch.obs, noise)
        q = self._values(self.critics, batch.obs, action).amin(0)
        self._step(0, (temperature * log_prob - q).mean())
        self._step(2, -self.log_temperature * (log_prob.detach() - ACT).mean())
        for slow, fast in zip(self.targets.parameters(), self.critics.parameters(), strict=True):
            slow.data += 0.005 * (fast.data - slow.data)

    def difference(self, state: SACState) -> float:
        pairs: list[tuple[nn.Module, MLP, tuple[int, ...]]] = [(self.actor, state.actor, ())]
        pairs += [(self.critics[i], state.critics, (i,)) for i in (0, 1)]
        pairs += [(self.targets[i], state.targets, (i,)) for i in (0, 1)]
        values = [(mine, theirs) for net, params, at in pairs for mine, theirs in _pairs(net, params, at)]
        values.append((self.log_temperature, state.log_temperature))
        return max(float((a - b).detach().abs().max()) for a, b in values)

    def _sample(self, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.actor(obs).chunk(2, -1)
        log_std = log_std.clamp(-20, 2)
        u = mean + log_std.exp() * noise
        log_prob = torch.distributions.Normal(mean, log_std.exp()).log_prob(u)
        slope = torch.distributions.TanhTransform().log_abs_det_jacobian(u, None)
        return u.tanh(), (log_prob - slope).sum(-1)

    @staticmethod
    def _values(critics: nn.ModuleList, obs: Tensor, action: Tensor) -> Tensor:
        return torch.stack([critic(torch.cat([obs, action], -1))[:, 0] for critic in critics])

    def _step(self, number: int, loss: Tensor) -> None:
        self.adams[number].zero_grad()
        loss.backward()
        self.adams[number].step()


def _module(params: MLP, at: tuple[int, ...]) -> nn.Sequential:
    """The network of the first run (and, of critics, of the one numbered `at`) as modules."""
    layers: list[nn.Module] = []
    for weight, bias in params:
        linear = nn.Linear(weight.shape[-2], weight.shape[-1])
        linear.weight.data, linear.bias.data = weight[(0, *at)].T.clone(), bias[(0, *at, 0)].clone()
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _pairs(net: nn.Module, params: MLP, at: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
    linear = [layer for layer in net.children() if isinstance(layer, nn.Linear)]
    weights = [(layer.weight, weight[(0, *at)].T) for layer, (weight, _) in zip(linear, params, strict=True)]
    return weights + [(layer.bias, bias[(0, *at, 0)]) for layer, (_, bias) in zip(linear, params, strict=True)]
