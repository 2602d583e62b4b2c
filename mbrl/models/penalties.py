"""What a model's reward is lowered by where the model does not know: r(s, a) - weight * penalty(s, a).

    aleatoric      max_m ||std_m||             the largest noise that any member expects, over all outputs
    pairwise       max_m ||mean_m - mean||     the member that is farthest from the mean of all, over next observations
    ensemble_std   rms over next observations of the standard deviation over members of mean_m

The first is MOPO's, Yu et al. (2020), https://arxiv.org/abs/2005.13239, section 4.3. It measures the noise of the data,
which tells nothing of places where there are none: where the noise is the same everywhere, it lets a policy leave the
data at every weight. The other two are the disagreement of members, which grows away from the data; they are among the
choices that Lu et al. (2022), https://arxiv.org/abs/2110.04135, compare. All members count, elites or not.

In raw units (as published) norms add up outputs in the units of the environment, so that a weight means something else
in every environment, and where one output is large it is all that counts. In units of the data every output is divided
by the standard deviation of its targets, and a norm is a root mean square over outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor

from mbrl.models.gaussian_ensemble import GaussianEnsemble, Prediction

PenaltyKind = Literal["aleatoric", "pairwise", "ensemble_std", "none"]
PenaltyUnits = Literal["data", "raw"]


def aleatoric(prediction: Prediction, scale: Float[Tensor, "out"] | None = None) -> Float[Tensor, "rows"]:
    """The largest expected noise of any member. `scale`: of the outputs; None: raw units."""
    return _size(prediction.std, scale).amax(0)


def pairwise(prediction: Prediction, scale: Float[Tensor, "out"] | None = None) -> Float[Tensor, "rows"]:
    """The largest distance of a member's mean from the mean of all. `scale`: of the outputs; None: raw units."""
    return _size(prediction.mean - prediction.mean.mean(0), scale).amax(0)


def ensemble_std(prediction: Prediction, scale: Float[Tensor, "out"] | None = None) -> Float[Tensor, "rows"]:
    """The root mean square over outputs of the standard deviation (of the population) over members of the means."""
    std = prediction.mean.std(0, correction=0)
    return (std if scale is None else std / scale).square().mean(-1).sqrt()


def penalty_function(
    kind: PenaltyKind, ensemble: GaussianEnsemble, *, weight: float = 1.0, units: PenaltyUnits = "data"
) -> Callable[[Prediction], Float[Tensor, "rows"]] | None:
    """`weight * penalty(prediction)`, for `EnsembleDynamics(penalty=)`; it follows later fits of the ensemble.

    Args:
        kind: "aleatoric", "pairwise", "ensemble_std", or "none".
        ensemble: whose predictions it is shown.
        weight: of the penalty, in units of the reward.
        units: "data" or "raw"; an ensemble that leaves its targets raw knows no others.

    Returns:
        The function; None where there is no penalty or its weight is 0.

    Raises:
        ValueError: the weight is negative, an option is unknown, or this ensemble says nothing of that kind (a single
            member does not disagree, and a deterministic one expects no noise) or in these units.
    """
    check_penalty(kind, weight, units)
    if kind == "none" or weight == 0:
        return None
    if kind == "aleatoric" and ensemble.deterministic:
        raise ValueError("penalty: expected a disagreement (pairwise), for this ensemble is deterministic and expects "
                         "no noise, got 'aleatoric'")  # fmt: skip
    if kind != "aleatoric" and ensemble.members == 1:
        raise ValueError(f"penalty: expected 'aleatoric' or 'none' with one member, got {kind!r}; use more members")
    function = {"aleatoric": aleatoric, "pairwise": pairwise, "ensemble_std": ensemble_std}[kind]
    if units == "data" and not ensemble.normalize_targets:
        raise ValueError("penalty_units: expected 'raw', for this ensemble (normalize_targets=False) does not know the "
                         "units of the data, got 'data'")  # fmt: skip
    # As in the published code: noise is that of all outputs, the reward too; members disagree on observations.
    outputs = ensemble.out_dim if kind == "aleatoric" else ensemble.obs_dim

    def penalty(prediction: Prediction) -> Tensor:
        seen = Prediction(prediction.mean[..., :outputs], prediction.std[..., :outputs])
        return weight * function(seen, ensemble.target_scale[:outputs] if units == "data" else None)

    return penalty


def check_penalty(kind: str, weight: float, units: str) -> None:
    """Check the settings of a penalty.

    Raises:
        ValueError: the weight is negative or not a number, or an option is unknown.
    """
    for name, value, options in (("penalty", kind, PenaltyKind), ("penalty_units", units, PenaltyUnits)):
        if value not in get_args(options):
            raise ValueError(f"{name}: expected one of {', '.join(get_args(options))}, got {value!r}")
    if not 0 <= weight < float("inf"):
        raise ValueError(f"penalty_weight: expected a finite number of 0 or more, got {weight}")


def _size(x: Float[Tensor, "members rows out"], scale: Tensor | None) -> Float[Tensor, "members rows"]:
    """The norm in raw units; the root mean square over outputs in units of `scale`."""
    return x.square().sum(-1).sqrt() if scale is None else (x / scale).square().mean(-1).sqrt()
