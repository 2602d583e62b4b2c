"""Runs inside mbrl-lib's environment: one unit of work for every line read, one JSON line with its cost for each.

python -I mbrl_lib_worker.py ensemble_epoch|cem_plan|model_rollout|mbpo_step '{"sizes": ...}'
"""

import json
import sys
import time
from importlib import metadata

import gymnasium as gym
import mbrl.planning
import mbrl.util
import numpy as np
import omegaconf
import torch
from mbrl.util import common

import mbrl.models

OBS, ACT = 17, 6


def dynamics_config(members, rows):
    """The library's Gaussian ensemble: 4 layers of 200, SiLU, learned reward, predicting differences."""
    return omegaconf.OmegaConf.create(
        {
            "dynamics_model": {
                "_target_": "mbrl.models.GaussianMLP",
                "_recursive_": False,
                "device": "cpu",
                "num_layers": 4,
                "hid_size": 200,
                "in_size": "???",
                "out_size": "???",
                "ensemble_size": members,
                "deterministic": False,
                "propagation_method": "random_model",
                "learn_logvar_bounds": False,
                "activation_fn_cfg": {"_target_": "torch.nn.SiLU"},
            },
            "algorithm": {"learned_rewards": True, "target_is_delta": True, "normalize": True},
            "overrides": {"trial_length": 200, "num_steps": rows, "num_elites": members},
        }
    )


def model_and_buffer(members, rows):
    """An ensemble and a buffer full of transitions of a smooth random system."""
    config = dynamics_config(members, rows)
    rng = np.random.default_rng(0)
    model = common.create_one_dim_tr_model(config, (OBS,), (ACT,))
    buffer = common.create_replay_buffer(config, (OBS,), (ACT,), rng=rng)
    weights = 0.1 * rng.normal(size=(OBS + ACT, OBS))
    obs, action = rng.normal(size=(rows, OBS)), rng.uniform(-1, 1, size=(rows, ACT))
    following = obs + np.tanh(np.concatenate([obs, action], 1) @ weights)
    for o, a, n in zip(obs, action, following, strict=True):
        buffer.add(o, a, n, float(o[0]), False, False)
    model.update_normalizer(buffer.get_all())
    return model, buffer


def ensemble_epoch(members, rows, batch_size):
    """One pass over the data by every member, without scoring a holdout."""
    model, buffer = model_and_buffer(members, rows)
    trainer = mbrl.models.ModelTrainer(model, optim_lr=1e-3, weight_decay=5e-5)
    batches, _ = common.get_basic_buffer_iterators(
        buffer, batch_size, 0.0, ensemble_size=members, shuffle_each_epoch=True
    )
    return lambda: trainer.train(batches, num_epochs=1, evaluate=False, silent=True)


def cem_plan(members, population, horizon, particles, iterations, elites):
    """One plan of the library's agent, through an ensemble that was trained for an epoch."""
    rows = 2_000
    model, buffer = model_and_buffer(members, rows)
    trainer = mbrl.models.ModelTrainer(model, optim_lr=1e-3, weight_decay=5e-5)
    batches, _ = common.get_basic_buffer_iterators(buffer, 256, 0.0, ensemble_size=members)
    trainer.train(batches, num_epochs=1, evaluate=False, silent=True)

    class Spaces(gym.Env):
        observation_space = gym.spaces.Box(-np.inf, np.inf, (OBS,))
        action_space = gym.spaces.Box(-1, 1, (ACT,))

    def never(action, next_obs):
        return torch.zeros(len(next_obs), 1, dtype=torch.bool)

    env = mbrl.models.ModelEnv(Spaces(), model, never, None, generator=torch.Generator())
    config = omegaconf.OmegaConf.create(
        {
            "_target_": "mbrl.planning.TrajectoryOptimizerAgent",
            "_recursive_": False,
            "action_lb": "???",
            "action_ub": "???",
            "planning_horizon": horizon,
            "replan_freq": 1,
            "verbose": False,
            "optimizer_cfg": {
                "_target_": "mbrl.planning.CEMOptimizer",
                "num_iterations": iterations,
                "elite_ratio": elites / population,
                "population_size": population,
                "alpha": 0.1,
                "device": "cpu",
                "lower_bound": "???",
                "upper_bound": "???",
                "return_mean_elites": True,
                "clipped_normal": False,
            },
        }
    )
    agent = mbrl.planning.create_trajectory_optim_agent_for_model(env, config, num_particles=particles)
    rng = np.random.default_rng(1)
    return lambda: agent.act(rng.normal(size=OBS))


def model_rollout(members, elites, rows, all_members):
    """One step of the library's ModelEnv from `rows` states, as its MBPO takes it; all members by "expectation"."""
    model, _ = model_and_buffer(members, 2_000)
    if all_members:
        model.model.propagation_method = "expectation"
    else:
        model.set_elite(list(range(elites)))

    class Spaces(gym.Env):
        observation_space = gym.spaces.Box(-np.inf, np.inf, (OBS,))
        action_space = gym.spaces.Box(-1, 1, (ACT,))

    def never(action, next_obs):
        return torch.zeros(len(next_obs), 1, dtype=torch.bool)

    env = mbrl.models.ModelEnv(Spaces(), model, never, None, generator=torch.Generator())
    rng = np.random.default_rng(1)
    obs = rng.normal(size=(rows, OBS)).astype(np.float32)

    def step():
        state = env.reset(obs, return_as_np=True)
        env.step(rng.uniform(-1, 1, size=(rows, ACT)).astype(np.float32), state, sample=True)

    return step


def mbpo_step(rows, starts, part):
    """A part of the library's MBPO: acting and 20 updates, a fit of 10 epochs with a holdout, or 1-step rollouts."""
    from mbrl.algorithms.mbpo import rollout_model_and_populate_sac_buffer
    from mbrl.planning.sac_wrapper import SACAgent
    from mbrl.third_party.pytorch_sac_pranz24 import SAC

    model, buffer = model_and_buffer(7, rows)
    space = gym.spaces.Box(-1, 1, (ACT,), np.float32)
    arguments = {"gamma": 0.99, "tau": 0.005, "alpha": 0.2, "policy": "Gaussian", "target_update_interval": 1}
    arguments |= {"automatic_entropy_tuning": True, "target_entropy": -3, "hidden_size": 256, "lr": 3e-4}
    agent = SACAgent(SAC(OBS, space, omegaconf.OmegaConf.create({**arguments, "device": "cpu"})))
    trainer = mbrl.models.ModelTrainer(model, optim_lr=1e-3, weight_decay=5e-5)
    train, held = common.get_basic_buffer_iterators(buffer, 256, 0.2, ensemble_size=7, shuffle_each_epoch=True)
    made = mbrl.util.ReplayBuffer(starts, (OBS,), (ACT,), rng=np.random.default_rng(2))
    model.set_elite([0, 1, 2, 3, 4])

    class Spaces(gym.Env):
        observation_space = gym.spaces.Box(-np.inf, np.inf, (OBS,))
        action_space = space

    def never(action, next_obs):
        return torch.zeros(len(next_obs), 1, dtype=torch.bool)

    env = mbrl.models.ModelEnv(Spaces(), model, never, None, generator=torch.Generator())
    rng, obs = np.random.default_rng(1), np.zeros(OBS, np.float32)

    def roll():
        rollout_model_and_populate_sac_buffer(env, buffer, agent, made, True, 1, starts)

    def step():
        agent.act(obs, sample=True, batched=False)
        for i in range(20):
            memory = buffer if rng.random() < 0.05 else made
            agent.sac_agent.update_parameters(memory, 256, i, None, reverse_mask=True)

    def fit():
        trainer.train(train, dataset_val=held, num_epochs=10, patience=10, silent=True)

    roll()
    return {"step": step, "fit": fit, "rollout": roll}[part]


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    out, sys.stdout = sys.stdout, sys.stderr  # the library prints; the pipe is for answers alone
    works = {"ensemble_epoch": ensemble_epoch, "cem_plan": cem_plan, "model_rollout": model_rollout}
    works["mbpo_step"] = mbpo_step
    work = works[sys.argv[1]](**json.loads(sys.argv[2]))

    def answer(value):
        out.write(json.dumps(value) + "\n")
        out.flush()

    answer({name: metadata.version(name) for name in ("mbrl", "torch", "numpy", "gymnasium", "hydra-core")})
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        answer({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu})


if __name__ == "__main__":
    main()
