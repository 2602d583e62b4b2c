"""A learned ensemble as `Dynamics`: trajectory sampling, rewards and ends.

Source: Chua et al. (2018), https://arxiv.org/abs/1805.12114, section 5 (TS1, TS-infinity, expectation).
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from mbrl.models.folded import Folded, deviation, heads, with_bfloat16_products
from mbrl.models.gaussian_ensemble import GaussianEnsemble, Prediction
from mbrl.models.grouping import Grouping, group_rows
from mbrl.models.network import ACTIVATIONS
from mbrl.processors import Precision, warn_of_slow_bfloat16
from planners.derivatives import Expansion, curvature, expand_autodiff
from planners.dynamics import Reward, Step, Termination, check_result, check_untouched
from planners.rows import map_rows

Propagation = Literal["ts_inf", "ts1", "ts1_independent", "expectation"]
Penalty = Callable[[Prediction], Tensor]


class EnsembleState(NamedTuple):
    """State of the learned model, rows leading."""

    obs: Float[Tensor, "rows obs"]
    member: Int[Tensor, "rows"]
    """The member that predicts this row; under TS1 the one that predicted its last step."""
    particle: Int[Tensor, "rows"]
    """Rows of the same particle meet the same noise, whatever their plan, and the same member."""


class _Weights(NamedTuple):
    elites: Folded
    """In full precision."""
    sampled: Folded
    """The elites in the precision of sampled steps."""
    everyone: Folded
    """All members in that precision."""


class EnsembleDynamics:
    """Plans see the ensemble through this.

    Row i is particle `i % particles`. Under "ts_inf" a particle keeps its member for the whole plan. Under "ts1" the
    elites are dealt anew to the particles at every step, each to equally many, as in PETS; under "ts1_independent"
    every particle draws one for itself, as in MBPO. Each way noise of the member's own standard deviation is added.
    Under "expectation", and wherever no generator is given, the transition is the mean of the elites' means.

    Args:
        ensemble: may be fitted further: what is derived from its parameters follows.
        propagation: "ts_inf", "ts1", "ts1_independent" or "expectation".
        reward: `reward(obs, action, next_obs)` -> [rows]; None: the one that the ensemble has learned.
        termination: `termination(obs, action, next_obs)` -> bool [rows]; None: episodes never terminate.
        penalty: `penalty(prediction)` -> [rows], subtracted from the reward (all members' predictions of the rows).
        precision: "bfloat16": the products between hidden layers are, where steps are sampled, with their learned
            rewards and penalties. That takes about 0.6 of the time for networks of 4 x 200 on processors that have such
            products, and moves predicted changes by about a thousandth of their spread. Mean transition, disagreement
            and derivatives stay as they are ("full").

    Raises:
        ValueError: there is no reward, an option is unknown, nothing would be in "bfloat16", or a function returned the
            wrong shape or type.
    """

    def __init__(
        self,
        ensemble: GaussianEnsemble,
        *,
        propagation: Propagation = "ts_inf",
        reward: Reward | None = None,
        termination: Termination | None = None,
        penalty: Penalty | None = None,
        precision: Precision = "full",
    ) -> None:
        for name, given, known in (("propagation", propagation, Propagation), ("precision", precision, Precision)):
            if given not in get_args(known):
                raise ValueError(f"{name}: expected one of {', '.join(get_args(known))}, got {given!r}")
        if reward is None and not ensemble.learned_reward:
            raise ValueError(
                "reward: expected a function, for the ensemble has not learned one, got None; "
                "pass reward(obs, action, next_obs), or build the ensemble with learned_reward=True"
            )
        self.ensemble = ensemble
        self.propagation = propagation
        self.reward = reward
        self.termination = termination
        self.penalty = penalty
        self.precision = precision
        if precision == "bfloat16":
            self._check_bfloat16()
        self._checked = False
        self._elite_version = -1
        self._grouped: tuple[Tensor, Tensor, tuple[int, int, int], Grouping] | None = None
        self._numbered: tuple[Tensor, int] | None = None  # particles handed out last, and how many there are

    def reset(self, obs: Float[Tensor, "rows obs"]) -> EnsembleState:
        """States in the ensemble's dtype and on its device; row i is particle i until `assign` says otherwise."""
        if obs.dim() != 2 or obs.shape[1] != self.ensemble.obs_dim:
            raise ValueError(f"obs: expected shape [rows, {self.ensemble.obs_dim}], got {list(obs.shape)}")
        obs = obs.to(self.ensemble.device, self.ensemble.dtype)
        particle = torch.arange(len(obs), device=obs.device)
        self._numbered = (particle, len(obs))
        return EnsembleState(obs, self._deal(particle), particle)

    def observe(self, state: EnsembleState) -> Float[Tensor, "rows obs"]:
        """The observation that the state holds."""
        return state.obs

    def assign(self, state: EnsembleState, particles: int, *, generator: Generator) -> EnsembleState:
        """Row i becomes particle `i % particles`, with member `elites[particle % number of elites]`."""
        particle = torch.arange(len(state.obs), device=state.obs.device) % particles
        self._numbered = (particle, particles)
        return EnsembleState(state.obs, self._deal(particle), particle)

    def step(
        self, state: EnsembleState, action: Tensor, *, generator: Generator | None = None
    ) -> tuple[EnsembleState, Step]:
        """Advance every row; without a generator by the elites' mean, which is differentiable.

        Actions are [rows, act], or int64 [rows] where the ensemble's are discrete.
        """
        action = action if self.ensemble.discrete_actions else action.to(state.obs)
        if not self._checked:
            self.ensemble.check_actions(action)
        seen = self.ensemble.encode(action)
        prediction = None
        if generator is None or self.propagation == "expectation":
            change = self._mean(state.obs, seen)
        else:
            with torch.no_grad():
                if self.propagation != "ts_inf":
                    state = self._redraw(state, generator)
                if self.penalty is None:
                    change = self._sample(state, seen, generator)
                else:  # which asks all members anyway
                    if self.propagation == "ts_inf":
                        self._group(state)  # which checks members, once a plan
                    prediction = self._predict(state.obs, seen)
                    change = self._choose(prediction, state, generator)
        next_obs = state.obs + change[:, : self.ensemble.obs_dim]
        given = () if self._checked else tuple(x.detach().clone() for x in (state.obs, action, next_obs))
        reward = change[:, -1] if self.reward is None else self.reward(state.obs, action, next_obs)
        if self.termination is None:
            terminated = torch.zeros(len(action), dtype=torch.bool, device=action.device)
        else:
            terminated = self.termination(state.obs, action, next_obs)
        penalty = None
        if self.penalty is not None:
            penalty = self.penalty(prediction or self.ensemble.predict(state.obs, action))
        if not self._checked:
            check_untouched("reward or termination", given, (state.obs, action, next_obs))
            check_result("reward", reward, state.obs.shape[:1], state.obs.dtype)
            check_result("termination", terminated, state.obs.shape[:1], torch.bool)
            if penalty is not None:
                check_result("penalty", penalty, state.obs.shape[:1], state.obs.dtype)
            self._checked = True
        if penalty is not None:
            reward = reward - penalty
        return state._replace(obs=next_obs), Step(next_obs, reward, terminated)

    @torch.no_grad()
    def uncertainty(self, state: EnsembleState, action: Tensor) -> Float[Tensor, "rows"]:
        """How far the elites disagree: root mean square over outputs of the standard deviation of their means, in units
        of the standard deviation of the targets in the data, or in raw ones with `normalize_targets=False`. 0 for a
        single member."""
        mean = self._means(state.obs, self.ensemble.encode(action))
        return (mean.std(0, correction=0) / self.ensemble.target_scale).square().mean(-1).sqrt()

    def difference(self, state: EnsembleState, reference: EnsembleState) -> Float[Tensor, "rows obs"]:
        """The difference of the observations."""
        return state.obs - reference.obs

    def retract(self, reference: EnsembleState, dx: Float[Tensor, "rows obs"]) -> EnsembleState:
        """The reference with its observation moved by `dx`."""
        return reference._replace(obs=reference.obs + dx)

    def expand(self, state: EnsembleState, action: Float[Tensor, "rows act"]) -> Expansion:
        """Derivatives of the mean transition and of the reward, by automatic differentiation.

        Raises:
            ValueError: actions are discrete.
        """
        if self.ensemble.discrete_actions:
            raise ValueError("action: expected continuous actions for derivatives; use tree search with discrete ones")
        return expand_autodiff(self, state, action.to(state.obs))

    def curvature(self, state: EnsembleState, action: Float[Tensor, "rows act"]) -> Float[Tensor, "rows obs z z"]:
        """Second derivatives of the mean transition, for differential dynamic programming."""
        return curvature(self, state, action.to(state.obs))

    def _check_bfloat16(self) -> None:
        why = None
        if self.propagation == "expectation":
            why = "propagation='expectation', whose transition is the differentiable mean"
        elif self.ensemble.dtype is not torch.float32:
            why = f"an ensemble in {self.ensemble.dtype}"
        elif len(self.ensemble.parameters.weights) < 3:
            why = "fewer than two hidden layers, between which there are no products"
        if why:
            raise ValueError(f"precision: expected 'full' with {why}, got 'bfloat16'")
        warn_of_slow_bfloat16(self.ensemble.device)

    def _deal(self, particle: Int[Tensor, "rows"]) -> Int[Tensor, "rows"]:
        elites = self.ensemble.elites
        return elites[particle % len(elites)]

    def _redraw(self, state: EnsembleState, generator: Generator) -> EnsembleState:
        """New members for all particles. The number of draws depends on the number of rows alone."""
        rows, device = len(state.obs), state.obs.device
        if self.propagation == "ts1_independent":
            elites = self.ensemble.elites
            drawn = torch.randint(len(elites), (rows,), generator=generator, device=device)
            return state._replace(member=elites[drawn[state.particle % max(rows, 1)]])
        # A shuffled deal, as in PETS: members get equally many particles. Draws beyond the particles come last in the
        # order, so that nobody has to ask the device how many there are.
        draws = torch.rand(rows, generator=generator, device=device)
        beyond = torch.arange(rows, device=device) > state.particle.max() if rows else draws > 1
        place = draws.masked_fill(beyond, 2.0).argsort()
        return state._replace(member=self._deal(place[state.particle % max(rows, 1)]))

    def _sample(self, state: EnsembleState, action: Tensor, generator: Generator) -> Tensor:
        """A draw of every row's member's prediction: [rows, out]."""
        rows, out_dim = len(action), self.ensemble.out_dim
        # A draw for each row, though only as many as there are particles are used: other rows don't move the stream.
        noise = torch.randn(rows, out_dim, generator=generator, device=action.device, dtype=action.dtype)
        group, folded = self._group(state), self._elite_weights().sampled
        x = torch.cat([state.obs, action], -1).index_select(0, group.row_of_place).view(*group.shape, -1)
        out = heads(folded, x, self.ensemble.activation)
        if not self.ensemble.deterministic:
            std = deviation(folded, out[:, out_dim:])
            own = noise.flatten().index_select(0, group.noise_of_output).view_as(std)
            out = std.mul_(own).add_(out[:, :out_dim])
        drawn = out.flatten().index_select(0, group.output_of_row).view(rows, out_dim)
        return drawn if group.lost is None else drawn.masked_fill_(group.lost[:, None], torch.nan)

    def _predict(self, obs: Tensor, action: Tensor) -> Prediction:
        """`GaussianEnsemble.predict` by the folded parameters."""
        folded, out_dim = self._elite_weights().everyone, self.ensemble.out_dim
        x = torch.cat([obs, action], -1)
        out = heads(folded, x.expand(self.ensemble.members, *x.shape), self.ensemble.activation)
        mean = out[:, :out_dim].transpose(1, 2)
        if self.ensemble.deterministic:
            return Prediction(mean, torch.zeros_like(mean))
        return Prediction(mean, deviation(folded, out[:, out_dim:]).transpose(1, 2))

    def _choose(self, prediction: Prediction, state: EnsembleState, generator: Generator) -> Tensor:
        """As `_sample`, with the same draws, from predictions of all members: [rows, out]."""
        rows = len(state.obs)
        noise = torch.randn(
            rows, self.ensemble.out_dim, generator=generator, device=state.obs.device, dtype=state.obs.dtype
        )
        index = torch.arange(rows, device=state.obs.device)
        mean, std = (part[state.member, index] for part in prediction)
        return std.mul_(noise[state.particle % max(rows, 1)]).add_(mean)

    def _mean(self, obs: Tensor, action: Tensor) -> Tensor:
        return self._means(obs, action).mean(0)

    def _means(self, obs: Tensor, action: Tensor) -> Float[Tensor, "elites rows out"]:
        """Every elite's mean of every row. Differentiable."""
        folded, out_dim = self._elite_weights().elites, self.ensemble.out_dim
        x = torch.cat([obs, action], -1)
        x = x.expand(len(folded.floor), *x.shape)
        activation = ACTIVATIONS[self.ensemble.activation]
        for w, b in zip(folded.weights, folded.biases, strict=True):
            x = activation(torch.baddbmm(b, x, w))
        out = torch.baddbmm(folded.head_bias[:, :out_dim], folded.head_weight[:, :out_dim], x.transpose(1, 2))
        return out.transpose(1, 2)

    def _elite_weights(self) -> "_Weights":
        """The elites' parameters, in order of members; made once after each change of the ensemble."""
        if self._elite_version != self.ensemble.version:
            elites = self.ensemble.elites.sort().values
            everyone = self.ensemble.folded()
            chosen = everyone if len(elites) == self.ensemble.members else map_rows(lambda p: p[elites], everyone)
            lower = with_bfloat16_products if self.precision == "bfloat16" else lambda folded: folded
            self._weights = _Weights(chosen, lower(chosen), lower(everyone))
            slots = torch.full((self.ensemble.members,), -1, device=elites.device)
            self._slots = slots.index_copy(0, elites, torch.arange(len(elites), device=elites.device))
            self._elite_version = self.ensemble.version
        return self._weights

    def _group(self, state: EnsembleState) -> Grouping:
        """Rows by member. States share their member tensor along a plan, so that this is done once a plan."""
        members = len(self._elite_weights().elites.floor)
        key = (self._elite_version, _changes(state.member), _changes(state.particle))
        if self._grouped is not None:
            member, particle, known, grouping = self._grouped
            if member is state.member and particle is state.particle and known == key:
                return grouping
        slot = self._slots[state.member]
        if self.propagation == "ts_inf" and bool((slot < 0).any()):  # those of TS1 were dealt in this step
            raise ValueError("state: expected members among the elites, got others; call assign again after a fit")
        size = self._block_size(state)
        grouping = group_rows(slot, state.particle, members, self.ensemble.out_dim, size)
        self._grouped = (state.member, state.particle, key, grouping)
        return grouping

    def _block_size(self, state: EnsembleState) -> int | None:
        """Rows of a member at most, where that is known without asking the device, which would have to wait.

        Independent draws on a GPU get room for eight standard deviations more than the mean: with a probability of less
        than 1e-14 a row finds no place, and becomes NaN.
        """
        if self.propagation == "ts_inf" or self._numbered is None or self._numbered[0] is not state.particle:
            return None
        rows, particles, elites = len(state.obs), self._numbered[1], len(self.ensemble.elites)
        if particles > rows or rows % particles:
            return None
        if self.propagation == "ts1":
            return rows // particles * -(-particles // elites)
        if state.obs.device.type == "cpu":
            return None  # counting costs little, padding much
        mean = particles / elites
        return rows // particles * min(particles, math.ceil(mean + 8 * math.sqrt(mean) + 8))


def _changes(tensor: Tensor) -> int:
    """How often a tensor was written into, which tensors made in inference mode don't tell."""
    return 0 if tensor.is_inference() else tensor._version
