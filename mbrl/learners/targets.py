"""Targets and losses of reinforcement learning, each a function of its own, with time in the names.

`q_tm1` belongs to the state that an action was taken in; `reward_t`, `discount_t` and `value_t` to what came of it.
`discount_t` is gamma^n (1 - terminated), as a TransitionBatch has it. Values lead with an axis of runs and, where there
are several critics, one of critics; losses are means over rows and keep the axes before.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def td_target(
    reward_t: Float[Tensor, "*rows"], discount_t: Float[Tensor, "*rows"], value_t: Float[Tensor, "*rows"]
) -> Float[Tensor, "*rows"]:
    """reward_t + discount_t value_t: what one (or n) steps and the value after them promise."""
    return torch.addcmul(reward_t, discount_t, value_t)


def minimum_over_critics(
    q: Float[Tensor, "runs critics rows"], subset: Int[Tensor, "runs subset"] | None = None
) -> Float[Tensor, "runs rows"]:
    """The least value that the critics, or those numbered in `subset`, give.

    Two critics: Fujimoto et al. (2018), https://arxiv.org/abs/1802.09477; a random subset of many: REDQ, Chen et al.
    (2021), https://arxiv.org/abs/2101.05982, algorithm 1.
    """
    if subset is not None:
        q = q.gather(1, subset[..., None].expand(-1, -1, q.shape[-1]))
    return q.amin(1)


def soft_value(
    q: Float[Tensor, "runs *critics rows"], log_prob: Float[Tensor, "runs rows"], temperature: Float[Tensor, "runs"]
) -> Float[Tensor, "runs *critics rows"]:
    """q - temperature log_prob: with an action drawn from the policy, one sample of its soft value.

    Haarnoja et al. (2018), https://arxiv.org/abs/1812.05905, equation 3.
    """
    entropy = temperature[:, None] * log_prob
    return q - (entropy[:, None] if q.dim() == 3 else entropy)


def smoothed_action(
    action: Float[Tensor, "*rows act"], noise: Float[Tensor, "*rows act"], std: float, clip: float
) -> Float[Tensor, "*rows act"]:
    """An action in [-1, 1] with clipped Gaussian noise added, cut to [-1, 1].

    Target policy smoothing of TD3, Fujimoto et al. (2018), https://arxiv.org/abs/1802.09477, section 5.3.

    Args:
        action: of the target policy.
        noise: standard normal.
        std: of the noise that is added, in half action ranges.
        clip: largest absolute noise, likewise.
    """
    return (action + (std * noise).clamp(-clip, clip)).clamp(-1, 1)


def squared_error(
    q_tm1: Float[Tensor, "*axes rows"], target_tm1: Float[Tensor, "*axes rows"]
) -> Float[Tensor, "*axes"]:
    """Mean over rows of (q_tm1 - target_tm1)^2; no gradient goes into the target."""
    return (q_tm1 - target_tm1.detach()).square().mean(-1)


def huber(error: Float[Tensor, "*axes"], delta: float = 1.0) -> Float[Tensor, "*axes"]:
    """error^2 / 2 up to an absolute error of `delta`, linear beyond, with the slope kept (Huber 1964)."""
    size = error.abs()
    return torch.where(size <= delta, 0.5 * error.square(), delta * (size - 0.5 * delta))


def policy_loss(q: Float[Tensor, "runs rows"]) -> Float[Tensor, "runs"]:
    """-E[q]: a deterministic policy climbs its critic (Silver et al. 2014, theorem 1)."""
    return -q.mean(-1)


def soft_policy_loss(
    q: Float[Tensor, "runs rows"], log_prob: Float[Tensor, "runs rows"], temperature: Float[Tensor, "runs"]
) -> Float[Tensor, "runs"]:
    """E[temperature log_prob - q]: a stochastic policy climbs its critic and keeps its entropy.

    Haarnoja et al. (2018), https://arxiv.org/abs/1812.05905, equation 7.
    """
    return -soft_value(q, log_prob, temperature).mean(-1)


def temperature_loss(
    log_temperature: Float[Tensor, "runs"], log_prob: Float[Tensor, "runs rows"], target_entropy: float
) -> Float[Tensor, "runs"]:
    """-log_temperature E[log_prob + target_entropy]: it falls where the policy's entropy is above its target.

    Equation 18 of Haarnoja et al. (2018), https://arxiv.org/abs/1812.05905, has the temperature in front in place of
    its logarithm; their code, and stable-baselines3, take the logarithm, whose gradient does not vanish with it.
    """
    return -log_temperature * (log_prob + target_entropy).detach().mean(-1)


def expectile_loss(
    q: Float[Tensor, "runs rows"], value: Float[Tensor, "runs rows"], expectile: float
) -> Float[Tensor, "runs"]:
    """E[|expectile - 1(q < value)| (q - value)^2]: its least is where `value` is an expectile of q.

    0.5 gives the mean; towards 1 it becomes the largest q that occurs. Kostrikov et al. (2021),
    https://arxiv.org/abs/2110.06169, equation 5. No gradient goes into q.
    """
    error = q.detach() - value
    return ((expectile - (error < 0).to(error)).abs() * error.square()).mean(-1)


def advantage_weights(
    advantage: Float[Tensor, "*rows"], inverse_temperature: float, largest: float
) -> Float[Tensor, "*rows"]:
    """exp(inverse_temperature advantage), cut at `largest`: how much an action of the data is worth imitating.

    Peng et al. (2019), https://arxiv.org/abs/1910.00177, equation 10. No gradient goes into it.
    """
    return (inverse_temperature * advantage.detach()).exp().clamp(max=largest)


def weighted_imitation_loss(
    log_prob: Float[Tensor, "runs rows"], weight: Float[Tensor, "runs rows"]
) -> Float[Tensor, "runs"]:
    """-E[weight log_prob] of the data's actions: maximum likelihood where all weights are 1."""
    return -(weight * log_prob).mean(-1)


def expanded_targets(
    reward_t: Float[Tensor, "steps *rows"],
    discount_t: Float[Tensor, "steps *rows"],
    value_t: Float[Tensor, "steps *rows"],
) -> Float[Tensor, "steps *rows"]:
    """What 1, 2, ... steps and the value after them promise, of the same start.

    T_i = sum_{j<=i} (prod_{k<j} discount_k) reward_j + (prod_{k<=i} discount_k) value_i. Where a discount is 0 the
    episode is over, and nothing after it counts, whatever it is. Feinberg et al. (2018),
    https://arxiv.org/abs/1803.00101, equation 3.
    """
    after = discount_t.cumprod(0)
    before = torch.cat([torch.ones_like(after[:1]), after[:-1]])
    rewards = torch.where(before == 0, 0.0, before * reward_t).cumsum(0)
    return rewards + torch.where(after == 0, 0.0, after * value_t)


def inverse_variance_mean(
    targets: Float[Tensor, "steps ensemble *rows"], floor: float = 1e-8
) -> Float[Tensor, "*rows"]:
    """The mean of targets of several horizons, each weighted by the inverse of its variance over an ensemble.

    Buckman et al. (2018), https://arxiv.org/abs/1807.01675, section 3: where the model can't be trusted, long horizons
    vary, and count little.

    Args:
        targets: candidates, by horizon and member of the ensemble.
        floor: added to the variances: targets that agree exactly share the weight.
    """
    weight = 1 / (targets.var(1, correction=0) + floor)
    return (weight * targets.mean(1)).sum(0) / weight.sum(0)


def value_of_action(
    q: Float[Tensor, "*axes rows actions"], action: Int[Tensor, "*axes rows"]
) -> Float[Tensor, "*axes rows"]:
    """The entries of q at discrete actions."""
    return q.gather(-1, action[..., None].expand(*q.shape[:-1], 1))[..., 0]


def greedy_value(q_t: Float[Tensor, "*axes rows actions"]) -> Float[Tensor, "*axes rows"]:
    """max_a q_t: Q-learning (Watkins and Dayan 1992)."""
    return q_t.amax(-1)


def double_q_value(
    q_t: Float[Tensor, "*axes rows actions"], selector_t: Float[Tensor, "*axes rows actions"]
) -> Float[Tensor, "*axes rows"]:
    """q_t at argmax_a of `selector_t`: who picks the action does not value it, so that errors of one are not maximised.

    Double DQN, van Hasselt et al. (2016), https://arxiv.org/abs/1509.06461: the network picks, the target network
    values.
    """
    return value_of_action(q_t, selector_t.argmax(-1))


def expected_soft_value(
    q: Float[Tensor, "runs rows actions"],
    log_prob: Float[Tensor, "runs rows actions"],
    temperature: Float[Tensor, "runs"],
) -> Float[Tensor, "runs rows"]:
    """sum_a pi(a) (q(a) - temperature log pi(a)): the soft value where actions can be summed over, without sampling.

    Christodoulou (2019), https://arxiv.org/abs/1910.07207, equation 10.
    """
    return (log_prob.exp() * (q - temperature[:, None, None] * log_prob)).sum(-1)


def mean_log_prob(log_prob: Float[Tensor, "*rows actions"]) -> Float[Tensor, "*rows"]:
    """sum_a pi(a) log pi(a): minus the entropy of a distribution over discrete actions."""
    return (log_prob.exp() * log_prob).sum(-1)
