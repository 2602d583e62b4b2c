"""Runs inside mbrl-lib's environment: its PETS on its continuous CartPole, until an episode lasts 200 steps.

    python -I mbrl_lib_pets.py [seed]

Prints the steps since the random ones, the return and the seconds at the end of every episode. Settings are those that
the library ships for this task, on one thread. Takes most of an hour on one core.
"""

import sys
import tempfile
import time

import gymnasium as gym
import mbrl.util
import omegaconf
import torch
from mbrl.algorithms import pets
from mbrl.env import cartpole_continuous, reward_fns, termination_fns

CONFIG = """
seed: 0
device: cpu
debug_mode: false
log_frequency_agent: 1000
dynamics_model:
  {_target_: mbrl.models.GaussianMLP, _recursive_: false, device: cpu, num_layers: 4, hid_size: 200, in_size: ???,
   out_size: ???, ensemble_size: 7, deterministic: false, propagation_method: random_model, learn_logvar_bounds: false,
   activation_fn_cfg: {_target_: torch.nn.SiLU}}
algorithm:
  name: pets
  normalize: true
  normalize_double_precision: true
  target_is_delta: true
  initial_exploration_steps: 200
  freq_train_model: 50
  learned_rewards: false
  num_particles: 20
  agent:
    _target_: mbrl.planning.TrajectoryOptimizerAgent
    _recursive_: false
    action_lb: ???
    action_ub: ???
    planning_horizon: 15
    replan_freq: 1
    verbose: false
    optimizer_cfg:
      {_target_: mbrl.planning.CEMOptimizer, num_iterations: 5, elite_ratio: 0.1, population_size: 350, alpha: 0.1,
       device: cpu, lower_bound: ???, upper_bound: ???, return_mean_elites: true, clipped_normal: false}
overrides:
  {env: cartpole_continuous, learned_rewards: false, trial_length: 200, num_steps: 2000, num_elites: 5,
   model_lr: 7.5e-4, model_wd: 3.0e-5, model_batch_size: 256, validation_ratio: 0, freq_train_model: 50, patience: 25,
   num_epochs_train_model: 25}
"""


class Solved(Exception):
    """An episode lasted to its time limit."""


def main():
    torch.set_num_threads(1)
    config = omegaconf.OmegaConf.create(CONFIG)
    config.seed = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    torch.manual_seed(config.seed)
    wall, cpu = time.perf_counter(), time.process_time()
    log = mbrl.util.Logger.log_data

    def watch(self, group, row):
        if "episode_reward" in row:
            ret = float(row["episode_reward"])
            seconds, busy = time.perf_counter() - wall, time.process_time() - cpu
            print(f"step {row['env_step']} return {ret:.0f} wall {seconds:.0f} s process {busy:.0f} s", flush=True)
            if ret >= 200:
                raise Solved
        return log(self, group, row)

    mbrl.util.Logger.log_data = watch
    env = gym.wrappers.TimeLimit(cartpole_continuous.CartPoleEnv(), max_episode_steps=200)
    try:
        pets.train(env, termination_fns.cartpole, reward_fns.cartpole, config, work_dir=tempfile.mkdtemp())
    except Solved:
        print("solved")


if __name__ == "__main__":
    main()
