"""Updates with products in bfloat16 between hidden layers."""

from dataclasses import replace
from typing import Any

import gymnasium as gym
import pytest
import torch
from torch import Tensor

from mbrl.experiments.run import Run
from mbrl.experiments.settings import change_settings
from mbrl.learners.awac import AWACLearner
from mbrl.learners.behavior_cloning import BehaviorCloningLearner
from mbrl.learners.combo import COMBOLearner
from mbrl.learners.cql import CQLLearner
from mbrl.learners.ddpg import DDPGLearner
from mbrl.learners.discrete_sac import DiscreteSACLearner
from mbrl.learners.dqn import DQNConfig, DQNLearner
from mbrl.learners.fast import compiled
from mbrl.learners.fqe import FQELearner
from mbrl.learners.iql import IQLLearner
from mbrl.learners.networks import differentiable, init_mlp, mlp
from mbrl.learners.precision import in_bfloat16
from mbrl.learners.relu_network import bfloat16_products
from mbrl.learners.sac import DROQ, REDQ, SACConfig, SACLearner
from mbrl.learners.td3 import TD3Learner
from mbrl.learners.td3_bc import TD3BCLearner
from mbrl.pipelines.agents import SAC
from mbrl.pipelines.off_policy import train_off_policy
from mbrl.pipelines.off_policy_config import OffPolicyConfig
from mbrl.seeding import generator
from planners.rows import leaves, map_rows
from tests.mbrl.learner_cases import HIGH, LOW, OBS, batch_of

ROWS, ACTIONS = 64, 3
BOX = (OBS, LOW, HIGH)
LEARNERS: dict[str, Any] = {
    "sac": SACLearner(*BOX),
    "redq": SACLearner(*BOX, replace(REDQ, critics=3)),
    "td3": TD3Learner(*BOX),
    "ddpg": DDPGLearner(*BOX),
    "dqn": DQNLearner(OBS, ACTIONS, DQNConfig(hidden=(64, 64))),
    "discrete_sac": DiscreteSACLearner(OBS, ACTIONS),
    "bc": BehaviorCloningLearner(*BOX),
    "td3_bc": TD3BCLearner(*BOX),
    "iql": IQLLearner(*BOX),
    "awac": AWACLearner(*BOX),
    "cql": CQLLearner(*BOX),
    "combo": COMBOLearner(*BOX),
}


def apart(got: list[Tensor], expected: list[Tensor]) -> list[float]:
    """Norms of differences, as shares of the expected norms."""
    return [float((a - b).norm() / b.norm()) for a, b in zip(got, expected, strict=True)]


@pytest.mark.parametrize("outputs", [1, 3])
def test_gradients_move_by_about_a_hundredth(outputs: int) -> None:
    params = init_mlp((OBS, 128, 128, 128, outputs), [generator(0), generator(1)], members=2)
    x = torch.randn(2, ROWS, OBS, generator=generator(2)).requires_grad_()
    graph = differentiable(params)

    def both() -> tuple[Tensor, list[Tensor]]:
        out = mlp(graph, x)
        return out.detach(), list(torch.autograd.grad(out.square().mean(), [*leaves(graph), x]))

    expected, exact = both()
    with bfloat16_products():
        got, rough = both()
    assert got.dtype == expected.dtype
    assert all(a.dtype == b.dtype and a.shape == b.shape for a, b in zip(rough, exact, strict=True))
    assert 1e-4 < apart([got], [expected])[0] < 0.02
    assert all(1e-4 < share < 0.05 for share in apart(rough, exact))


@pytest.mark.parametrize(
    "network", [{"dtype": torch.float64}, {"layer_norm": True}, {"sizes": (OBS, 64, 1)}, {"sizes": (OBS, 1)}]
)
def test_other_networks_stay_as_they_are(network: dict[str, Any]) -> None:
    params = init_mlp(**{"sizes": (OBS, 64, 64, 1), "generators": [generator(0)], **network})
    x = torch.randn(1, ROWS, OBS, generator=generator(2)).to(params[0][0].dtype)
    expected = mlp(params, x)
    with bfloat16_products():
        assert torch.equal(mlp(params, x), expected)


def batch(name: str, seed: int = 1) -> Any:
    discrete = name in ("dqn", "discrete_sac")
    action = {"action": torch.randint(ACTIONS, (1, ROWS), generator=generator(5))} if discrete else {}
    return batch_of(rows=ROWS, seed=seed, dtype=torch.float32, **action)


@pytest.mark.parametrize("name", LEARNERS)
def test_gradients_of_every_network_are_nearly_those_in_float32(name: str) -> None:
    learner = LEARNERS[name]
    rough, state = in_bfloat16(learner), learner.init([generator(0)])
    noise = learner.noise(ROWS, [generator(3)])
    methods = [method for method in dir(learner) if method.endswith("_gradients")]
    assert methods
    for method in methods:
        arguments = (state, batch(name), noise)
        try:
            exact, got = (getattr(each, method)(*arguments) for each in (learner, rough))
        except TypeError:  # no noise
            exact, got = (getattr(each, method)(*arguments[:2]) for each in (learner, rough))
        wide = [i for i, grad in enumerate(exact[0]) if grad.dim() > 2 and min(grad.shape[-2:]) > 16]
        assert wide
        assert all(1e-4 < apart([got[0][i]], [exact[0][i]])[0] < 0.1 for i in wide)
        for key, value in exact[-1].items():
            torch.testing.assert_close(got[-1][key], value, rtol=0.02, atol=0.02)
    assert torch.equal(*(each.act(state, batch(name).obs) for each in (learner, rough)))  # what acts is exact


def test_compiled_updates_are_those_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)  # the trace; the compiler takes seconds
    rough = in_bfloat16(LEARNERS["sac"])
    noise = rough.noise(ROWS, [generator(3)])
    states = [rough.init([generator(0)]) for _ in range(2)]
    for each, state in zip((rough, compiled(rough)), states, strict=True):
        each.update(state, batch("sac"), noise)
    assert all(torch.equal(a, b) for a, b in zip(*map(leaves, states), strict=True))


def test_training_in_bfloat16_is_a_setting() -> None:
    env = gym.make("Pendulum-v1", max_episode_steps=13)
    tiny = OffPolicyConfig(total_timesteps=40, initial_steps=20, batch_size=8, buffer_size=50, eval_every=0)

    def trained(config: OffPolicyConfig) -> list[Tensor]:
        agent = SAC(env.observation_space, env.action_space, 1, hidden=(32, 32))
        return leaves(map_rows(torch.clone, train_off_policy(env, agent, config, seed=5).policy.state))

    full, rough, again = (trained(replace(tiny, precision=p)) for p in ("full", "bfloat16", "bfloat16"))
    assert all(torch.equal(a, b) for a, b in zip(rough, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(rough, full, strict=True))
    with pytest.raises(ValueError, match="precision: expected one of full, bfloat16, got 'float16'"):
        OffPolicyConfig(precision="float16")  # type: ignore[arg-type]


def test_a_run_from_before_the_setting_can_get_it(tmp_path: Any) -> None:
    """It is a change like any other, though its config.json has no such line."""
    stored = {"total_timesteps": 100, "initial_steps": 10}
    run = Run.create(tmp_path, "Pendulum-v1", "sac", 0, {"loop": stored})
    change_settings(run, {"loop": OffPolicyConfig(**stored)}, accept=False)  # nothing is changed
    asked = {"loop": OffPolicyConfig(**stored, precision="bfloat16")}
    with pytest.raises(ValueError, match="precision: full -> bfloat16"):
        change_settings(run, asked, accept=False)
    change_settings(run, asked, accept=True)
    assert run.config["loop"]["precision"] == "bfloat16"


@pytest.mark.parametrize(
    ("learner", "message"),
    [
        (SACLearner(*BOX, dtype=torch.float64), "precision: expected 'full' in torch.float64"),
        (SACLearner(*BOX, DROQ), "precision: expected 'full' with critics that have dropout or layer norm"),
        (SACLearner(*BOX, SACConfig(hidden=(64,))), "precision: expected 'full' with fewer than two hidden layers"),
        (FQELearner(OBS, None, LOW, HIGH), "precision: expected 'full' for FQELearner"),
    ],
)
def test_what_would_change_nothing_is_an_error(learner: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        in_bfloat16(learner)
