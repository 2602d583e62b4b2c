"""Worlds: particles are models that differ in numbers, and a risk measure ranges over them."""

from typing import Any

import mujoco
import numpy as np
import pytest
import torch
from torch import Tensor

from mbrl.envs import make_env, simulator
from planners import CEM, Box, Problem, evaluate_plans
from planners.risk import mean, worst
from planners.rows import map_rows, repeat_rows
from planners.simulator import Simulator
from planners.simulator_models import load_model, randomize_models, sensor
from planners.testing import check_dynamics

SLIDER = """<mujoco><option timestep="0.02"/><worldbody><body name="block">
<joint name="x" type="slide" axis="1 0 0" damping="0.1"/><geom size="0.1" mass="{mass}"/><site name="top"/>
</body></worldbody>
<actuator><motor joint="x" ctrlrange="-1 1" ctrllimited="true"/></actuator>
<sensor><jointpos name="where" joint="x"/><framelinvel name="fast" objtype="site" objname="top"/></sensor></mujoco>"""
MASSES, NOMINAL = [0.2, 1.0, 3.0], 0.6


def distance(before: Any, action: Tensor, after: Any) -> tuple[Tensor, Tensor]:
    """The block is to stand 0.3 to the right: how far depends on its mass."""
    return -(after["qpos"][:, 0] - 0.3).abs(), torch.zeros(len(action), dtype=torch.bool)


def state(after: Any) -> Tensor:
    return torch.cat([after["qpos"], after["qvel"]], 1)


def slider(masses: list[float] | None = None, mass: float = NOMINAL, fields: tuple[str, ...] = ()) -> Simulator:
    worlds = None if masses is None else [load_model(SLIDER.format(mass=m)) for m in masses]
    return Simulator(
        SLIDER.format(mass=mass),
        distance,
        state,
        frame_skip=2,
        threads=1,
        fields=fields,
        state_from_obs=lambda obs: (obs[:, :1], obs[:, 1:]),
        worlds=worlds,
    )


def plans(count: int, horizon: int = 12) -> Tensor:
    noise = torch.rand(1, count, horizon, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return 2 * noise - 1


@pytest.mark.parametrize("fields", [(), ("cfrc_ext",)], ids=["batch", "data"])
def test_a_world_scores_as_a_simulator_of_its_model(fields: tuple[str, ...]) -> None:
    scores: list[Tensor] = []

    def keep(returns: Tensor, valid: Tensor) -> Tensor:
        scores.append(returns)
        return returns.mean(-1)

    model = slider(MASSES, fields=fields)
    generator = torch.Generator()
    start = model.reset(torch.zeros(1, 2))
    evaluate_plans(Problem(model, particles=3, risk=keep), start, plans(7), generator=generator)
    for j, mass in enumerate(MASSES):
        single = slider(mass=mass)
        alone = evaluate_plans(Problem(single), single.reset(torch.zeros(1, 2)), plans(7), generator=generator)
        assert torch.equal(scores[0][..., j], alone.scores)
    assert scores[0].std(-1).min() > 1e-3  # the worlds do differ


@pytest.mark.parametrize("fields", [(), ("cfrc_ext",)], ids=["batch", "data"])
def test_the_laws_hold_with_worlds(fields: tuple[str, ...]) -> None:
    model = slider(MASSES, fields=fields)
    start = model.reset(torch.linspace(-0.1, 0.1, 12, dtype=torch.float64).view(6, 2))
    check_dynamics(model, start, plans(6, 3)[0].transpose(0, 1), particles=3)


def test_risk_ranges_over_worlds() -> None:
    """The motor pushes right in two worlds and left in the third, and speed to the right pays.

    On average it pays to push as hard as one can; in the worst case any push loses, and nothing is best.
    """
    xml, worlds = SLIDER.format(mass=1.0), []
    for gear in (1.0, 1.0, -1.0):
        worlds.append(load_model(xml))
        worlds[-1].actuator_gear[0, 0] = gear
    model = Simulator(
        xml,
        lambda before, action, after: (after["qvel"][:, 0], torch.zeros(len(action), dtype=torch.bool)),
        state,
        frame_skip=5,
        threads=1,
        state_from_obs=lambda obs: (obs[:, :1], obs[:, 1:]),
        worlds=worlds,
    )
    start, planner = model.reset(torch.zeros(1, 2)), CEM(Box(-1.0, 1.0, 1), 6, 60, 6, iterations=12)
    best = {}
    for risk in (mean, worst):
        problem, generator = Problem(model, particles=3, risk=risk), torch.Generator().manual_seed(1)
        best[risk] = planner.plan(
            problem, start, planner.init(problem, start, generator=generator), generator=generator
        )
    assert best[mean].actions[0, :4].min() > 0.6
    assert best[worst].value.item() > -0.05
    careless = evaluate_plans(
        Problem(model, particles=3, risk=worst), start, best[mean].actions.unsqueeze(1), generator=torch.Generator()
    )
    assert careless.scores.item() < -0.5


@pytest.mark.parametrize("fields", [(), ("cfrc_ext",)], ids=["batch", "data"])
def test_one_particle_lives_in_the_nominal_model(fields: tuple[str, ...]) -> None:
    """So do rows that no plan has assigned: predictions of a delay, and iLQR's."""
    model, nominal = slider(MASSES, fields=fields), slider(fields=fields)
    generator, start = torch.Generator(), model.reset(torch.zeros(2, 2))
    one = evaluate_plans(Problem(model), start, plans(5).repeat(2, 1, 1, 1), generator=generator)
    alone = evaluate_plans(Problem(nominal), start, plans(5).repeat(2, 1, 1, 1), generator=generator)
    assert torch.equal(one.scores, alone.scores)
    single = slider(MASSES[:1], fields=fields)
    assert torch.equal(
        evaluate_plans(Problem(single), start, plans(5).repeat(2, 1, 1, 1), generator=generator)[0], one[0]
    )
    action = torch.ones(2, 1, dtype=torch.float64)
    expected, _ = nominal.step(nominal.reset(torch.zeros(2, 2)), action)
    for state in (start, model.at(start.physics), model.retract(start, torch.zeros(2, 2, dtype=torch.float64))):
        assert torch.equal(model.step(state, action)[0].physics, expected.physics)
    three = model.assign(repeat_rows(start, 3), 3, generator=generator)
    again = model.assign(model.step(three, torch.ones(6, 1).double())[0], 1, generator=generator)
    assert again.world.tolist() == [-1] * 6
    data = mujoco.MjData(load_model(SLIDER.format(mass=NOMINAL)))
    assert torch.equal(model.step(model.state_of(data), action[:1])[0].physics, expected.physics[:1])


@pytest.mark.parametrize("fields", [(), ("cfrc_ext",)], ids=["batch", "data"])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5])
def test_rows_of_no_world_are_nominal_from_the_first_call_on(rows: int, fields: tuple[str, ...]) -> None:
    """As many rows as there are models, or fewer: nothing is made anew for them."""
    model, nominal, action = slider(MASSES, fields=fields), slider(), torch.ones(rows, 1, dtype=torch.float64)
    after, _ = model.step(model.reset(torch.zeros(rows, 2)), action)
    expected, _ = nominal.step(nominal.reset(torch.zeros(rows, 2)), action)
    assert torch.equal(after.physics, expected.physics)


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # torch's own, as forward mode is loaded
@pytest.mark.parametrize("derivatives", ["differences", "transition_fd"])
def test_derivatives_are_those_of_the_model_that_a_row_lives_in(derivatives: Any) -> None:
    def make(mass: float, masses: list[float] | None = None) -> Simulator:
        worlds = None if masses is None else [load_model(SLIDER.format(mass=m)) for m in masses]
        return Simulator(
            SLIDER.format(mass=mass),
            distance,
            state,
            threads=1,
            state_from_obs=lambda obs: (obs[:, :1], obs[:, 1:]),
            worlds=worlds,
            derivatives=derivatives,
        )

    model, action = make(NOMINAL, MASSES), torch.full((4, 1), 0.5, dtype=torch.float64)
    start = model.reset(torch.zeros(4, 2))
    start = start._replace(world=torch.tensor([-1, 0, 1, 2]))
    found = model.expand(start, action).action_jacobian
    for row, mass in enumerate((NOMINAL, *MASSES)):
        single = make(mass)
        alone = single.expand(single.reset(torch.zeros(1, 2)), action[:1]).action_jacobian
        assert torch.equal(found[row], alone[0])
    assert float(found.std(0).max()) > 1e-4


def test_rows_grow_and_worlds_follow() -> None:
    """The batch under the simulator is made anew for more rows, and rows change worlds from call to call."""
    model = slider(MASSES)
    for rows, particles in ((2, 2), (7, 3), (5, 1), (7, 3), (12, 2)):
        start = model.assign(model.reset(torch.zeros(rows, 2)), particles, generator=torch.Generator())
        after, _ = model.step(start, torch.ones(rows, 1, dtype=torch.float64))
        for row in range(rows):
            one = slider(mass=MASSES[row % particles] if particles > 1 else NOMINAL)
            alone, _ = one.step(one.reset(torch.zeros(1, 2)), torch.ones(1, 1, dtype=torch.float64))
            assert torch.equal(after.physics[row], alone.physics[0])


def test_randomized_models_are_reproducible_and_consistent() -> None:
    def heavier(model: Any, rng: np.random.Generator) -> None:
        model.body_mass[1] *= rng.uniform(1.0, 2.0)
        model.dof_damping[:] = rng.uniform(0.0, 1.0)

    source = SLIDER.format(mass=1.0)
    many, few = randomize_models(source, heavier, 4, seed=3), randomize_models(source, heavier, 2, seed=3)
    masses = [model.body_mass[1] for model in many]
    assert len(set(masses)) == 4
    assert [model.body_mass[1] for model in few] == masses[:2]
    assert [model.body_subtreemass[0] for model in many] == masses  # a constant that mj_setConst computes
    assert randomize_models(source, heavier, 1, seed=4)[0].body_mass[1] not in masses


def test_sensors_are_fields() -> None:
    xml = SLIDER.format(mass=1.0)
    where, fast = sensor(load_model(xml), "where"), sensor(load_model(xml), "fast")
    model = Simulator(
        xml,
        lambda before, action, after: (after["sensordata"][:, fast][:, 0], torch.zeros(len(action), dtype=torch.bool)),
        lambda after: after["sensordata"][:, where],
        fields=("sensordata",),
        threads=1,
    )
    data = mujoco.MjData(load_model(xml))
    state, action = model.state_of(data), torch.ones(1, 1, dtype=torch.float64)
    for _ in range(5):
        data.ctrl[:] = 1.0
        mujoco.mj_step(data.model, data)
        state, step = model.step(state, action)
        assert step.reward.item() == data.sensordata[fast][0]
        assert step.obs.item() == data.sensordata[0]
    with pytest.raises(ValueError, match=r"name: expected one of the model's sensors \['where', 'fast'\], got 'nose'"):
        sensor(data.model, "nose")


def test_states_at_given_physics() -> None:
    model = slider(MASSES, fields=("xpos", "cfrc_ext"))
    physics = model.reset(torch.zeros(2, 2)).physics.clone()
    physics[:, 1] = torch.tensor([0.5, -0.5])
    made = model.at(physics, torch.tensor([4, 1]))
    assert made.obs[:, 0].tolist() == [0.5, -0.5]
    assert made.world.tolist() == [4, 1]
    assert made.ok.all()


def test_bad_models(tmp_path: Any) -> None:
    broken = tmp_path / "broken.xml"
    broken.write_text("<mujoco><worldbody><geom size='-1'/></worldbody></mujoco>")
    with pytest.raises(ValueError, match=r"model: expected a model that MuJoCo compiles, .*broken.xml does not: "):
        load_model(broken)
    with pytest.raises(ValueError, match=r"the XML given does not"):
        load_model("<mujoco><nonsense/></mujoco>")
    with pytest.raises(ValueError, match=r"expected a MuJoCo model file, .* got 'no/such.xml'"):
        load_model("no/such.xml")
    with pytest.raises(ValueError, match=r"expected a MuJoCo model file, .* got int"):
        load_model(3)
    good = tmp_path / "good.xml"
    good.write_text(SLIDER.format(mass=1.0))
    binary = tmp_path / "good.mjb"
    mujoco.mj_saveModel(load_model(good), str(binary), None)
    assert load_model(str(binary)).nq == 1


def test_bad_worlds_and_fields() -> None:
    xml = SLIDER.format(mass=1.0)
    other = "<mujoco><worldbody><body><freejoint/><geom size='1'/></body></worldbody></mujoco>"
    for fields in ((), ("cfrc_ext",)):
        with pytest.raises(ValueError, match=r"worlds: expected models that differ in numbers only"):
            Simulator(xml, distance, state, worlds=[xml, other], fields=fields)
    with pytest.raises(ValueError, match=r"worlds: expected at least one"):
        Simulator(xml, distance, state, worlds=[])
    with pytest.raises(ValueError, match=r"fields: expected names of MjData's arrays.*got 'nose'"):
        Simulator(xml, distance, state, fields=("nose",))
    with pytest.raises(ValueError, match=r"carry: expected some of fields=\(\), got \('xpos',\)"):
        Simulator(xml, distance, state, carry=("xpos",))
    with pytest.raises(ValueError, match=r"count: expected at least 1"):
        randomize_models(xml, lambda model, rng: None, 0)


def test_divergence_is_found_with_data_too(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for fields in ((), ("cfrc_ext",)):
        model = slider(MASSES, fields=fields)
        start = model.reset(torch.zeros(4, 2))
        start.physics[2, 2] = 1e12  # MuJoCo warns, and starts over from 0
        after, step = model.step(start, torch.zeros(4, 1))
        assert step.reward.isnan().tolist() == [False, False, True, False]
        assert after.ok.tolist() == [True, True, False, True]
        assert torch.equal(after.physics[2], start.physics[2])
        for rows in (2, 4):  # neither the rows beside it nor the next simulation in its place suffer
            well = map_rows(lambda x, rows=rows: x[:rows], model.reset(torch.zeros(4, 2)))
            again, step = model.step(well, torch.zeros(rows, 1))
            assert again.ok.all()
            assert step.reward.isfinite().all()
    assert list(tmp_path.iterdir()) == []


def test_a_reward_that_is_not_finite_ends_a_row_for_good() -> None:
    """The root of a negative position: physics is well, the row is not."""
    model = Simulator(
        SLIDER.format(mass=1.0),
        lambda before, action, after: (after["qpos"][:, 0].sqrt(), torch.zeros(len(action), dtype=torch.bool)),
        state,
        threads=1,
        state_from_obs=lambda obs: (obs[:, :1], obs[:, 1:]),
    )
    start = model.reset(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    after, step = model.step(start, torch.zeros(2, 1))
    assert step.reward.isnan().tolist() == [False, True]
    assert after.ok.tolist() == [True, False]
    assert torch.equal(after.physics[1], start.physics[1])
    assert model.diverged == 1


def test_worlds_of_a_known_task() -> None:
    env = make_env("InvertedPendulum-v5")
    env.reset(seed=0)

    def heavier(model: Any, rng: np.random.Generator) -> None:
        model.body_mass[2] *= 1 + rng.random()

    worlds = randomize_models(env.unwrapped.model, heavier, 3)
    model, action = simulator(env, threads=1, worlds=worlds), torch.full((3, 1), 0.5, dtype=torch.float64)
    start = model.assign(repeat_rows(model.state_of(env), 3), 3, generator=torch.Generator())
    _, step = model.step(start, action)
    for j, world in enumerate(worlds):
        alone = simulator(env, threads=1, worlds=[world, world])
        row = alone.assign(repeat_rows(alone.state_of(env), 2), 2, generator=torch.Generator())
        assert torch.equal(alone.step(row, action[:2])[1].obs[0], step.obs[j])
    _, plain = simulator(env, threads=1).step(start, action)
    assert (plain.obs[:, 1] - step.obs[:, 1]).abs().min() > 1e-6
