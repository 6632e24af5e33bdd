"""Consolidation: the encoder learns on memories that come back together, and then every memory is embedded anew.

An encoder that learns all the time makes the keys stale that it wrote. One that stands still while the agent plays, and
learns in phases after each of which all keys are made again, never answers by a stale key. In such a phase memories of
an action answer for one another, each left out of the answer to itself: the kernel regression of Weinberger and Tesauro
(2007), whose form for classes are neighbourhood components (Goldberger et al. 2004).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from memory.episodic.memory import EpisodicMemory
from memory.episodic.neighbours import plain_distances

LEAST_TOGETHER = 3
"""Memories of an action that can learn from one another: of two, the other has all the weight, however near."""


def draw_together(memory: EpisodicMemory, most: int, rng: np.random.Generator) -> Tensor:
    """Slots of distinct memories of one action, int64 `[n]`, as they tell actions apart.

    An action is drawn by how many memories it has, of those that have enough.

    Args:
        memory: that holds them.
        most: how many, where the action has as many.
        rng: what draws.

    Raises:
        ValueError: where no action has enough.
    """
    lengths = np.array([len(store) for store in memory.stores])
    lengths[lengths < LEAST_TOGETHER] = 0
    if not lengths.any():
        raise ValueError(f"no action has {LEAST_TOGETHER} memories that could learn from one another")
    action = rng.choice(len(lengths), p=lengths / lengths.sum())
    drawn = rng.choice(lengths[action], min(most, lengths[action]), replace=False)
    return torch.from_numpy(drawn + action * memory.capacity)


def unexplained(memory: EpisodicMemory, slots: Tensor, keys: Tensor) -> Tensor:
    """Share of the variance of their values that memories of one action leave unexplained in each other.

    Args:
        memory: whose kernel weighs them, and how many neighbours answer.
        slots: the memories, at least three, int64 `[n]`.
        keys: what the encoder makes of them, `[n, key_size]`, on its graph.

    Returns:
        A number on the graph of the keys; 1 is what their mean would leave, about.
    """
    values = memory.table.values[memory.rows_of(slots)]
    with torch.no_grad():
        distances = plain_distances(keys, keys).fill_diagonal_(torch.inf)
        nearest = distances.topk(min(memory.neighbours, len(slots) - 1), dim=1, largest=False).indices
    weights = memory.kernel(keys, keys[nearest], torch.ones_like(nearest, dtype=torch.bool))
    answers = (weights * values[nearest]).sum(dim=1)
    return (answers - values).square().mean() / values.var(correction=0).clamp_min(1e-6)
