"""The arguments with which OfflineRL-Kit runs MOPO, COMBO and MOBILE on D4RL's medium-replay sets of three runners."""

from typing import Any

RUNNERS = ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5")
MODEL: dict[str, Any] = {
    "batch_size": 256,
    "discount": 0.99,
    "rollout_every": 1_000,
    "rollout_starts": 50_000,
    "retain_rounds": 5,
    "members": 7,
    "elites": 5,
    "model_hidden": (200,) * 4,
    "model_lr": 1e-3,
    "model_batch_size": 256,
    "model_max_steps": None,
    "holdout": 0.2,
    "max_holdout": 1_000,
    "patience": 5,
    "reward": "learned",
    "termination": "task",
    "elite_sampling": "ts1_independent",
}
"""What all three share."""
LEARNER: dict[str, Any] = {
    "lr": 3e-4,
    "actor_lr": 1e-4,
    "tau": 0.005,
    "temperature": None,
    "target_entropy": None,
    "critics": 2,
}
"""Likewise; the step size of the temperature is 1e-4 there."""
LENGTHS = {
    "mopo": (5, 5, 1),
    "combo": (5, 5, 1),
    "mobile": (5, 5, 1),
}
"""Steps of rollouts, by runner."""
WEIGHTS = {
    "mopo": (0.5, 2.5, 2.5),
    "combo": (0.5, 0.5, 0.5),
    "mobile": (0.1, 0.1, 0.5),
}
"""Of the penalty or the conservative term, by runner."""
OWN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "mopo": (
        {"total_updates": 3_000_000, "real_fraction": 0.05, "penalty": "aleatoric", "penalty_units": "raw"},
        {"hidden": (256, 256), "max_temperature": 1.0, "backup": "soft"},
    ),
    "combo": (
        {"total_updates": 1_000_000},
        {
            "hidden": (256, 256, 256),
            "real_fraction": 0.5,
            "actions": 10,
            "rho": "mixture",
            "backup": "deterministic",
            "triples": True,
        },
    ),
    "mobile": (
        {"total_updates": 3_000_000, "real_fraction": 0.05, "samples": 10},
        {"hidden": (256, 256), "max_temperature": 1.0, "backup": "deterministic"},
    ),
}
"""What each has of its own: settings of the loop and of the learner."""


def check_published(algorithm: str, env_id: str, preset: Any) -> None:
    """Every setting that is published, of loop and learner."""
    i = RUNNERS.index(env_id)
    loop, learner = OWN[algorithm]
    loop = {**MODEL, **loop, "rollout_length": LENGTHS[algorithm][i]}
    learner = {**LEARNER, **learner}
    holder, name = (learner, "weight") if algorithm == "combo" else (loop, "penalty_weight")
    holder[name] = WEIGHTS[algorithm][i]
    for expected, made in ((loop, preset.config), (learner, preset.learner)):
        assert {name: getattr(made, name) for name in expected} == expected
