"""A MuJoCo model of your own, its reward on a sensor, planned for three masses at once: a crane that stops its load."""

import mujoco
import torch

from planners import CEM, MPC, Box, Problem
from planners.risk import worst
from planners.simulator import Simulator
from planners.simulator_models import load_model, randomize_models, sensor

model = load_model("""<mujoco><option timestep="0.02"/><worldbody><body>
  <joint name="trolley" type="slide" axis="1 0 0" damping="1"/><geom size="0.1" mass="1" contype="0"/>
  <body><joint name="rope" type="hinge" axis="0 1 0" damping="0.01"/>
    <geom type="capsule" fromto="0 0 0 0 0 -0.5" size="0.02" mass="0.1" contype="0"/>
    <body name="load" pos="0 0 -0.5"><geom size="0.06" mass="1" contype="0"/><site name="load"/></body>
  </body></body></worldbody>
  <actuator><motor joint="trolley" ctrlrange="-10 10" ctrllimited="true"/></actuator>
  <sensor><framepos name="place" objtype="site" objname="load"/></sensor></mujoco>""")
place = sensor(model, "place")


def outcome(before, action, after):  # the load is to hang still at x = 1
    x = after["sensordata"][:, place][:, 0]
    cost = (x - 1.0).abs() + 0.1 * after["qvel"].abs().sum(1) + 1e-4 * action.square().sum(1)
    return -cost, torch.zeros(len(x), dtype=torch.bool)


def observe(after):
    return torch.cat([after["qpos"], after["qvel"]], 1)


def heavier_or_lighter(world, rng):
    world.body_mass[world.body("load").id] = rng.uniform(0.5, 2.0)


worlds = randomize_models(model, heavier_or_lighter, count=3)
simulator = Simulator(model, outcome, observe, frame_skip=5, fields=("sensordata",), worlds=worlds)
planner = CEM(Box(-10.0, 10.0, dim=1), horizon=15, population=40, elites=6, iterations=2)
mpc = MPC(planner, Problem(simulator, particles=3, risk=worst))
data = mujoco.MjData(model)
for _ in range(25):
    data.ctrl[:] = mpc.act_from(simulator.state_of(data))[0]
    mujoco.mj_step(model, data, nstep=5)
print(f"the load hangs at {data.sensordata[place][0]:.3f} m of 1")
