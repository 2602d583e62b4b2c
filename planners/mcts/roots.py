"""The root of a search: found in the tree of the last plan or evaluated anew, with its noise and its schedule."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from planners.mcts.evaluators import Evaluator, Leaf
from planners.mcts.memory import SearchMemory, Settings
from planners.mcts.outcomes import same_state
from planners.mcts.policies import GUMBEL, Rule, halving_schedule
from planners.mcts.tensors import Root, fill
from planners.mcts.tree import NONE, children, subtree, take_nodes
from planners.rows import map_rows

NoiseSource = Callable[[Tensor, Generator], Tensor]
"""(mask [batch, actions], generator) -> noise [batch, actions]."""


def reach(memory: SearchMemory, state: Any) -> SearchMemory:
    """The subtree of the outcome that is `state`; no tree where there is none. A copy.

    States are compared whole: those that look alike and differ in what is hidden have other futures.
    """
    tree, pending = memory.tree, memory.pending
    root = torch.zeros_like(pending)
    moved = (pending >= 0) & (tree.size > 0)
    slot = torch.where(moved, children(tree, root, pending.clamp(min=0)), torch.where(tree.size > 0, root, NONE))
    found = torch.full_like(slot, NONE)
    rows = torch.arange(len(slot), device=slot.device)
    while bool((slot >= 0).any()):
        nodes = take_nodes(tree.states, slot.clamp(min=0))
        exact = (slot >= 0) & same_state(nodes, state, tolerance=0.0)  # the one, where others are within rounding
        near = (slot >= 0) & (found < 0) & same_state(nodes, state)
        found = torch.where(exact | near, slot, found)
        slot = torch.where(exact | ~moved | (slot < 0), NONE, tree.sibling[rows, slot.clamp(min=0)])
    same = found == 0
    stays = bool((same | (tree.size == 0)).all())
    tree = map_rows(lambda x: x.clone(), tree) if stays else subtree(tree, found)
    none = torch.full_like(pending, NONE)
    return memory._replace(
        tree=tree, pending=none, choice=torch.where(same, memory.choice, none), noisy=memory.noisy & same
    )


def plant(memory: SearchMemory, state: Any, obs: Tensor, evaluator: Evaluator, generator: Generator) -> SearchMemory:
    """Evaluate the root where there is none. Roots hold the state as it is, not as the model foresaw it."""
    tree = memory.tree
    map_rows(lambda nodes, own: nodes[:, 0].copy_(own), tree.states, state)
    missing = tree.size == 0
    if not bool(missing.any()):
        return memory
    leaf = evaluator.evaluate(state, obs, generator=generator)
    _check_leaf(leaf, tree.mask[:, 0])
    full = fill(leaf)
    check_masks(missing & ~full.mask.any(1))
    good = full.good & obs.isfinite().all(1)
    tree.raw[:, 0] = torch.where(missing, full.value, tree.raw[:, 0])
    tree.sign[:, 0] = torch.where(missing, full.sign, tree.sign[:, 0])
    tree.logits[:, 0] = torch.where(missing[:, None], full.logits, tree.logits[:, 0])
    tree.mask[:, 0] = torch.where(missing[:, None], full.mask & good[:, None], tree.mask[:, 0])
    return memory._replace(tree=tree._replace(size=torch.where(missing, 1, tree.size)))


def _check_leaf(leaf: Leaf, like: Tensor) -> None:
    rows, actions = like.shape
    for name, got, shape in (
        ("logits", leaf.logits, [rows, actions]),
        ("value", leaf.value, [rows]),
        ("mask", leaf.mask, [rows, actions]),
        ("sign", leaf.sign, [rows]),
    ):
        if got is None and name in ("mask", "sign"):
            continue
        if not isinstance(got, Tensor) or list(got.shape) != shape or (got.dtype == torch.bool) != (name == "mask"):
            kind = "bool" if name == "mask" else "floating-point"
            seen = f"{got.dtype} {list(got.shape)}" if isinstance(got, Tensor) else type(got).__name__
            raise ValueError(f"evaluator: expected {kind} {name} of shape {shape}, got {seen}")


def check_masks(stuck: Tensor) -> None:
    if bool(stuck.any()):
        row = int(stuck.nonzero()[0, 0])
        raise ValueError(
            f"mask: expected a valid action in every state, got none in a state of batch element {row}; "
            "where nothing can be done any more, the model must say that it is terminated"
        )


def draw_noise(memory: SearchMemory, noise_of: NoiseSource | None, generator: Generator) -> SearchMemory:
    """Noise belongs to the root: planning on from the same one keeps it."""
    if noise_of is None:
        return memory
    noise = noise_of(memory.tree.mask[:, 0], generator)
    noise = torch.where(memory.noisy[:, None], memory.noise, noise)
    return memory._replace(noise=noise, noisy=torch.ones_like(memory.noisy))


def gumbel_noise(scale: float) -> NoiseSource:
    """Gumbel noise times `scale`, independent for each action."""

    def draw(mask: Tensor, generator: Generator) -> Tensor:
        uniform = torch.rand(mask.shape, generator=generator, device=mask.device, dtype=torch.float64)
        return -scale * (-uniform.clamp(min=1e-300).log()).log()

    return draw


def dirichlet_noise(concentration: float, fraction: float) -> NoiseSource:
    """A draw of the symmetric Dirichlet distribution over the valid actions, times `fraction`."""

    def draw(mask: Tensor, generator: Generator) -> Tensor:
        seed = torch.randint(2**63 - 1, (1,), generator=generator, device=generator.device)
        # Torch's own gamma distribution takes no generator.
        gamma = np.random.default_rng(int(seed)).gamma(concentration, size=tuple(mask.shape))
        share = torch.where(mask, torch.from_numpy(gamma + 1e-300).to(mask.device), 0.0)
        return fraction * share / share.sum(1, keepdim=True).clamp(min=1e-300)

    return draw


def mixed_priors(log_prior: Tensor, noise: Tensor, mask: Tensor) -> Tensor:
    """Logarithm of (1 - fraction) prior + noise, where `noise` sums to the fraction."""
    fraction = noise.sum(1, keepdim=True)
    return torch.where(mask, ((1 - fraction) * log_prior.exp() + noise).log(), 0.0)


def root_of(settings: Settings, rule: Rule, memory: SearchMemory) -> Root:
    tree, considered = memory.tree, getattr(settings, "considered", 0)
    base = tree.visits[:, 0].clone()
    if rule.kind != GUMBEL:
        return Root(memory.noise, base, base[:, :0])
    table = [halving_schedule(min(considered, n), settings.simulations) for n in range(settings.actions + 1)]
    turns = torch.tensor(table, dtype=torch.long, device=base.device)
    return Root(memory.noise, base, turns[tree.mask[:, 0].sum(1)])
