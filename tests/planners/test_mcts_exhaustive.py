"""Tree search against exhaustive search on random finite-horizon MDPs, all of them in one batch."""

import numpy as np
import torch

from planners import UCT, Problem, Step

COUNT, STATES, ACTIONS = 50, 6, 3


class Worlds:
    """Random MDPs with 2 to 6 states and depth 2 to 5; every second one is stochastic, two outcomes an action.

    A state is [world, number, step]. Worlds in which the best action's lead is below 5 % of the range of returns are
    drawn again; the range is that from the lowest to the highest return of any trajectory.
    """

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        worlds = []
        while len(worlds) < COUNT:
            world = self.draw(rng, stochastic=len(worlds) % 2 == 1)
            lead = np.diff(np.sort(world[3])[-2:])[0]
            if lead >= 0.05 * world[4]:
                worlds.append(world)
        parts = [torch.from_numpy(np.array(part)) for part in zip(*worlds, strict=True)]
        self.probability, self.reward, self.depth, self.q, self.range = parts

    @staticmethod
    def draw(rng, *, stochastic):
        states, depth = rng.integers(2, STATES + 1), int(rng.integers(2, 6))
        probability = np.zeros((STATES, ACTIONS, STATES))
        for s in range(states):
            for a in range(ACTIONS):
                outcomes = rng.choice(states, size=2 if stochastic else 1, replace=False)
                probability[s, a, outcomes] = rng.dirichlet(np.ones(len(outcomes)))
        reward = rng.uniform(-1, 1, probability.shape)
        best, highest, lowest = np.zeros((3, STATES))
        possible = probability > 0
        for _ in range(depth):
            q = (probability * (reward + best)).sum(2)
            best = q.max(1)
            highest = np.where(possible, reward + highest, -np.inf).max((1, 2))
            lowest = np.where(possible, reward + lowest, np.inf).min((1, 2))
        return probability, reward, depth, q[0], highest[0] - lowest[0]

    def start(self):
        return torch.tensor([[world, 0, 0] for world in range(COUNT)])

    def reset(self, obs):
        return obs.long()

    def observe(self, state):
        return state.double()

    def assign(self, state, particles, *, generator):
        return state

    def step(self, state, action, *, generator=None):
        world, number, t = state.unbind(1)
        luck = torch.rand(len(state), 1, generator=generator, dtype=torch.float64)
        following = (self.probability[world, number, action].cumsum(1) <= luck).sum(1).clamp(max=STATES - 1)
        after = torch.stack([world, following, t + 1], 1)
        reward = self.reward[world, number, action, following]
        return after, Step(after.double(), reward, t + 1 >= self.depth[world])


def search(worlds, simulations):
    """Whether the action is the best one, and the error of the value as a share of the range, in every world."""
    planner = UCT(
        ACTIONS, simulations=simulations, exploration=1.0, rollout=5, backup="max", stochastic=True, reuse=False
    )
    generator = torch.Generator().manual_seed(0)
    problem, start = Problem(worlds), worlds.start()
    plan = planner.plan(problem, start, planner.init(problem, start, generator=generator), generator=generator)
    return plan.actions[:, 0] == worlds.q.argmax(1), (plan.value - worlds.q.amax(1)).abs() / worlds.range


def test_uct_finds_what_exhaustive_search_finds():
    """5,000 simulations (100 %, within 0.03) take a minute: run this file as a program for them."""
    right, error = search(Worlds(seed=0), 500)
    assert right.double().mean() >= 0.95
    assert error.max() <= 0.1, error.max()


if __name__ == "__main__":
    for number in (500, 5000):
        found, off = search(Worlds(seed=0), number)
        share = float(found.double().mean())
        print(f"{number} simulations: best action in {share:.0%}, value off by at most {float(off.max()):.3f}")
