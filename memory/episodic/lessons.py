"""Lessons: memories that are asked, and others that answer, for an encoder to learn from or to be judged by.

Memories of an action answer for one another, but none of about the same time: whatever is particular to an episode
would answer for itself, and be learned by heart. Without that exception it is the kernel regression of Weinberger and
Tesauro (2007), whose form for classes are neighbourhood components (Goldberger et al. 2004).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from memory.episodic.memory import EpisodicMemory

_NEWEST = 0.2
"""Share of the memories that is kept from lessons, for what was learned to be judged by."""
_AT_ONCE = 256
"""Memories that are judged at a time: bounds the matrix of their distances to all of an action."""


class Lesson(NamedTuple):
    """Memories of one action that are asked, and those that answer."""

    slots: Tensor
    """Of all of them, distinct, int64 `[n]`."""
    asked: Tensor
    """Which of these are asked, int64 `[m]`."""
    answering: Tensor
    """Which answer to each, nearest first, int64 `[m, width]`."""
    valid: Tensor
    """False where there are not so many, bool `[m, width]`; never all of a row."""


class Lessons:
    """What a memory holds of before some agent step, as lessons, and what it holds of later, to judge by.

    Args:
        memory: whose keys are all of one encoder.
        apart: agent steps that lie at least between an observation that is asked and any that answers; 1 or more.
        until: the agent step; by default such that a fifth of all memories are of later.
    """

    def __init__(self, memory: EpisodicMemory, apart: int, until: int | None = None) -> None:
        self.memory = memory
        self.apart = apart
        if until is None:
            origins = memory.table.origins[memory.rows_of(memory.filled_slots())].sort().values
            until = int(origins[int(len(origins) * (1 - _NEWEST))]) if len(origins) else 0
        self.until = until

    @property
    def actions(self) -> list[int]:
        """Those of which there are lessons: two memories of before that lie apart."""
        found = []
        for action in self.memory.known_actions:
            origins = self._origins(action)
            older = origins[origins < self.until]
            if len(older) and (older.max() - older.min()).item() >= self.apart:
                found.append(action)
        return found

    def draw(self, most: int, width: int, rng: np.random.Generator) -> Lesson:
        """Distinct memories of an action, drawn by how many it has, and the nearest to each, by stored keys.

        A pass over the keys of that action for every draw. There must be `actions`.

        Args:
            most: how many are asked, where the action has as many.
            width: how many answer each, where there are as many.
            rng: what draws.
        """
        actions = self.actions
        lengths = np.array([len(self.memory.stores[action]) for action in actions])
        action = actions[rng.choice(len(actions), p=lengths / lengths.sum())]
        origins = self._origins(action)
        older = origins[origins < self.until]
        first, last = older.min(), older.max()
        answered = (origins < self.until) & ((origins - first >= self.apart) | (last - origins >= self.apart))
        asked = answered.nonzero().squeeze(1)
        asked = asked[torch.from_numpy(rng.choice(len(asked), min(most, len(asked)), replace=False))]
        distances, nearest = self._nearest(action, asked, width)
        slots, places = torch.cat([asked[:, None], nearest], dim=1).unique(return_inverse=True)
        slots += action * self.memory.capacity
        return Lesson(slots, places[:, 0], places[:, 1:], distances.isfinite())

    def later(self, most: int, rng: np.random.Generator) -> Tensor:
        """Slots of distinct memories of later that some of before lie apart from, int64 `[n]`, at most so many."""
        found = []
        for action in self.memory.known_actions:
            origins = self._origins(action)
            older = origins < self.until
            if older.any():
                slots = (~older & (origins - origins[older].min() >= self.apart)).nonzero().squeeze(1)
                found.append(slots + action * self.memory.capacity)
        every = torch.cat(found) if found else torch.zeros(0, dtype=torch.int64)
        return every[torch.from_numpy(rng.choice(len(every), min(most, len(every)), replace=False))]

    def errors(self, slots: Tensor) -> Tensor:
        """Squared errors of what memories of before answer, as in acting, to those of later in `slots [n]`, `[n]`."""
        table, found = self.memory.table, torch.zeros(len(slots))
        for action in self.memory.known_actions:
            mine = (slots // self.memory.capacity == action).nonzero().squeeze(1)
            for piece in mine.split(_AT_ONCE):
                asked = slots[piece] - action * self.memory.capacity
                distances, nearest = self._nearest(action, asked, self.memory.neighbours)
                filled = table.filled(action)
                keys, values = table.keys[filled], table.values[filled]
                weights = self.memory.kernel(keys[asked], keys[nearest], distances.isfinite())
                found[piece] = ((weights * values[nearest]).sum(dim=1) - values[asked]).square()
        return found

    def unexplained(self, lesson: Lesson, keys: Tensor) -> Tensor:
        """Mean squared error of the answers of a lesson, over the variance of the values of its action.

        Args:
            lesson: what was drawn.
            keys: what an encoder makes of the lesson's memories, `[n, key_size]`, on its graph.

        Returns:
            A number on the graph of the keys; 1 is what the mean value of the action would leave, about.
        """
        values = self.memory.table.values[self.memory.rows_of(lesson.slots)]
        weights = self.memory.kernel(keys[lesson.asked], keys[lesson.answering], lesson.valid)
        answers = (weights * values[lesson.answering]).sum(dim=1)
        action = int(lesson.slots[0]) // self.memory.capacity
        variance = self.memory.stores[action].values.var(correction=0).clamp_min(1e-6)
        return (answers - values[lesson.asked]).square().mean() / variance

    def _origins(self, action: int) -> Tensor:
        return self.memory.table.origins[self.memory.table.filled(action)].long()

    def _nearest(self, action: int, asked: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Distances and places of the nearest of before that lie apart, `[n, width]`; inf where there are no more."""
        table, origins = self.memory.table, self._origins(action)
        keys = table.keys[table.filled(action)] - table.centre
        # By a matrix product: rounding can but swap memories that are about as near.
        distances = torch.cdist(keys[asked], keys)
        near = (origins[asked, None] - origins).abs() < self.apart
        distances.masked_fill_(near | (origins >= self.until), torch.inf)
        found = distances.topk(min(width, len(keys)), dim=1, largest=False)
        return found.values, found.indices
