"""MPC on a MuJoCo task with a learned model: random data, one fit, and CEM through the ensemble."""

from mbrl.data import RandomPolicy, collect
from mbrl.envs import make_env, task
from mbrl.models import EnsembleDynamics, GaussianEnsemble, fit
from planners import CEM, MPC, Box, Problem

env, known = make_env("InvertedPendulum-v5"), task("InvertedPendulum-v5")
data = collect(env, RandomPolicy(env.action_space), steps=500, seed=0)
ensemble = GaussianEnsemble(obs_dim=4, action_dim=1, members=5, hidden=(128, 128))
fit(ensemble, data, seed=0, steps=500)
model = EnsembleDynamics(ensemble, reward=known.objective, termination=known.termination)
mpc = MPC(CEM(Box.from_space(env.action_space), horizon=15, population=50, elites=8), Problem(model, particles=5))
obs, ret, terminated = env.reset(seed=0)[0], 0.0, False
while ret < 100 and not terminated:
    obs, reward, terminated, _, _ = env.step(mpc.act(obs))
    ret += reward
print(f"the pole stayed up for {ret:.0f} steps")
