"""Updates with products in bfloat16 between hidden layers."""

from dataclasses import replace

import gymnasium as gym
import pytest
import torch
from torch import Tensor

from mbrl.learners.combo import COMBOLearner
from mbrl.learners.cql import CQLLearner
from mbrl.learners.fqe import FQELearner
from mbrl.learners.iql import IQLLearner
from mbrl.learners.networks import bfloat16_products, differentiable, init_mlp, mlp
from mbrl.learners.precision import in_bfloat16
from mbrl.learners.sac import DROQ, SACConfig, SACLearner
from mbrl.learners.td3 import TD3Learner
from mbrl.pipelines.agents import SAC
from mbrl.pipelines.off_policy import train_off_policy
from mbrl.pipelines.off_policy_config import OffPolicyConfig
from mbrl.seeding import generator
from planners.rows import leaves, map_rows
from tests.mbrl.learner_cases import HIGH, LOW, OBS, batch_of

pytestmark = pytest.mark.filterwarnings("ignore:precision. this processor has no products")
ROWS = 64
WIDE = SACConfig(hidden=(128, 128, 128))


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


def test_float64_and_normalised_networks_stay_as_they_are() -> None:
    x = torch.randn(1, ROWS, OBS, generator=generator(2))
    double = init_mlp((OBS, 64, 64, 1), [generator(0)], dtype=torch.float64)
    normalised = init_mlp((OBS, 64, 64, 1), [generator(0)], layer_norm=True)
    expected = mlp(double, x.double()), mlp(normalised, x)
    with bfloat16_products():
        assert torch.equal(mlp(double, x.double()), expected[0])
        assert torch.equal(mlp(normalised, x), expected[1])


LEARNERS = {
    "sac": SACLearner(OBS, LOW, HIGH, WIDE),
    "td3": TD3Learner(OBS, LOW, HIGH),
    "iql": IQLLearner(OBS, LOW, HIGH),
    "cql": CQLLearner(OBS, LOW, HIGH),
    "combo": COMBOLearner(OBS, LOW, HIGH),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_an_update_is_nearly_the_one_in_float32(name: str) -> None:
    learner = LEARNERS[name]
    rough = in_bfloat16(learner)
    batch, noise = batch_of(rows=ROWS, dtype=torch.float32), learner.noise(ROWS, [generator(3)])
    exact_state, rough_state = (learner.init([generator(0)]) for _ in range(2))
    _, exact_metrics = learner.update(exact_state, batch, noise)
    _, metrics = rough.update(rough_state, batch, noise)
    assert list(metrics) == list(exact_metrics)
    assert all(
        abs(float(metrics[key] - value)) < 0.02 * (1 + abs(float(value))) for key, value in exact_metrics.items()
    )
    pairs = list(zip(leaves(exact_state), leaves(rough_state), strict=True))
    assert all(a.dtype == b.dtype for a, b in pairs)
    assert any(not torch.equal(a, b) for a, b in pairs)
    obs = torch.randn(1, ROWS, OBS, generator=generator(4))
    assert torch.equal(rough.act(exact_state, obs), learner.act(exact_state, obs))  # what acts is exact


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


def test_what_has_no_such_form_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"precision: expected 'full' for SACLearner, .* no other in torch.float64"):
        in_bfloat16(SACLearner(OBS, LOW, HIGH, dtype=torch.float64))
    with pytest.raises(ValueError, match="precision: expected 'full' with dropout or layer norm"):
        in_bfloat16(SACLearner(OBS, LOW, HIGH, DROQ))
    with pytest.raises(ValueError, match="precision: expected 'full' for FQELearner"):
        in_bfloat16(FQELearner(OBS, None, LOW, HIGH))
