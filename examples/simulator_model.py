"""The simulator itself as the model: MPC on the true dynamics of a cart-pole."""

from mbrl.envs import make_env, simulator
from planners import CEM, MPC, Box, Problem

env = make_env("mbrl/CartPoleSwingUp-v0")
env.reset(seed=0)
model = simulator(env)
planner = CEM(Box.from_space(env.action_space), horizon=25, population=60, elites=8, iterations=3)
mpc, ret = MPC(planner, Problem(model)), 0.0
for _ in range(50):
    action = mpc.act_from(model.state_of(env))
    ret += env.step(action[0].numpy())[1]
print(f"return {ret:.1f} in 50 steps")
