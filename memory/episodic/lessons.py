"""Lessons: memories that are asked, and others that answer, for an encoder to learn from or to be judged by.

Memories of an action answer for one another, but none of about the same time: whatever is particular to an episode
would answer for itself, and be learned by heart. Without that exception it is the kernel regression of Weinberger and
Tesauro (2007), whose form for classes are neighbourhood components (Goldberger et al. 2004). Errors are of
rescaled values: a few large returns would make most of a squared error else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from memory.episodic.memory import EpisodicMemory

_NEWEST = 0.2
"""Share of the memories by which what was learned is judged; no lesson has them, nor those just before them."""
_MOST_DISTANCES = 2**23
"""Memories are looked for in pieces so that a matrix of distances stays under 32 MiB, as does that of steps between."""
_AT_ONCE = 1_000
"""Memories that are judged at a time: bounds the keys of those that answer, 26 MiB of them where fifty of 128 do."""


def rescaled(values: Tensor) -> Tensor:
    """sign(v) (sqrt(|v| + 1) - 1): 3 becomes 1 and 8 becomes 2; about v / 2 where v is small.

    It is h of Pohlen et al. 2018 (arXiv 1805.11593) without its linear term, which keeps the slope of the inverse
    bounded: nothing is scaled back here.
    """
    return values.sign() * ((values.abs() + 1).sqrt() - 1)


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
    """What a memory holds of before some agent step, as lessons, and what it holds of well after it, to judge by.

    Args:
        memory: whose keys are all of one encoder; it is not written to meanwhile.
        apart: agent steps that lie at least between an observation that is asked and any that answers, and between any
            that is learned from and any that is judged by; 1 or more.
        until: the agent step; by default such that a fifth of all memories are to judge by.
        scale: what values are made of before they answer, and before errors are taken.
    """

    def __init__(
        self,
        memory: EpisodicMemory,
        apart: int,
        until: int | None = None,
        scale: Callable[[Tensor], Tensor] = rescaled,
    ) -> None:
        self.memory = memory
        self.apart = apart
        self._scale = scale
        if until is None:
            origins = memory.table.origins[memory.rows_of(memory.filled_slots())].sort().values
            until = int(origins[int(len(origins) * (1 - _NEWEST))]) - apart if len(origins) else 0
        self.until = until
        self._askable = {action: places for action in memory.known_actions if len(places := self._places(action))}

    @property
    def actions(self) -> list[int]:
        """Those of which there are lessons: two memories of before that lie apart."""
        return [*self._askable]

    def draw(self, most: int, width: int, rng: np.random.Generator) -> Lesson:
        """Distinct memories of an action, drawn by how many can be asked, and the nearest to each, by stored keys.

        A pass over the keys of that action for every draw.

        Args:
            most: how many are asked, where the action has as many.
            width: how many answer each, where there are as many.
            rng: what draws.

        Raises:
            ValueError: where there are no `actions`.
        """
        if not self._askable:
            raise ValueError(f"there are no lessons: no two memories of before lie {self.apart:,} agent steps apart")
        counts = np.array([len(places) for places in self._askable.values()])
        action = self.actions[rng.choice(len(counts), p=counts / counts.sum())]
        asked = self._askable[action]
        asked = asked[torch.from_numpy(rng.choice(len(asked), min(most, len(asked)), replace=False))]
        distances, nearest = self._nearest(action, asked, width)
        slots, places = torch.cat([asked[:, None], nearest], dim=1).unique(return_inverse=True)
        slots += action * self.memory.capacity
        return Lesson(slots, places[:, 0], places[:, 1:], distances.isfinite())

    def later(self, most: int, rng: np.random.Generator) -> Tensor:
        """Slots of distinct memories to judge by, int64 `[n]`, at most so many, of actions with some of before."""
        found = []
        for action in self.memory.known_actions:
            origins = self._origins(action)
            if (origins < self.until).any():
                slots = (origins >= self.until + self.apart).nonzero().squeeze(1)
                found.append(slots + action * self.memory.capacity)
        every = torch.cat(found) if found else torch.zeros(0, dtype=torch.int64)
        return every[torch.from_numpy(rng.choice(len(every), min(most, len(every)), replace=False))]

    def errors(self, slots: Tensor) -> Tensor:
        """Squared errors of what memories of before answer to those in `slots [n]` of `later`, `[n]`.

        The nearest answer as in acting, but by values on the scale of errors.
        """
        found = torch.zeros(len(slots))
        for action in self.memory.known_actions:
            store = self.memory.stores[action]
            mine = (slots // self.memory.capacity == action).nonzero().squeeze(1)
            asked = slots[mine] - action * self.memory.capacity
            distances, nearest = self._nearest(action, asked, self.memory.neighbours)
            values = self._scale(store.values)
            pieces = (part.split(_AT_ONCE) for part in (mine, asked, nearest, distances.isfinite()))
            for piece, *question in zip(*pieces, strict=True):
                found[piece] = self._squared_errors(store.keys, values, *question)
        return found

    def unexplained(self, lesson: Lesson, keys: Tensor) -> Tensor:
        """Mean squared error of the answers of a lesson, over the variance of what its action has of before.

        Args:
            lesson: what was drawn.
            keys: what an encoder makes of the lesson's memories, `[n, key_size]`, on its graph.

        Returns:
            A number on the graph of the keys; 1 is what the mean value of the action would leave, about.
        """
        values = self.values(lesson.slots)
        errors = self._squared_errors(keys, values, lesson.asked, lesson.answering, lesson.valid)
        action = int(lesson.slots[0]) // self.memory.capacity
        of_before = self._scale(self.memory.stores[action].values[self._origins(action) < self.until])
        return errors.mean() / of_before.var(correction=0).clamp_min(1e-6)

    def values(self, slots: Tensor) -> Tensor:
        """Values of memories on the scale of errors, `[n]`."""
        return self._scale(self.memory.table.values[self.memory.rows_of(slots)])

    def _squared_errors(self, keys: Tensor, values: Tensor, asked: Tensor, answering: Tensor, valid: Tensor) -> Tensor:
        """Of the answers of some, `[m, width]`, to those asked, `[m]`, all by place among keys and values; `[m]`."""
        weights = self.memory.kernel(keys[asked], keys[answering], valid)
        return ((weights * values[answering]).sum(dim=1) - values[asked]).square()

    def _origins(self, action: int) -> Tensor:
        return self.memory.table.origins[self.memory.table.filled(action)]

    def _places(self, action: int) -> Tensor:
        """Which memories of an action can be asked: some of before lie apart from them, int64 `[n]`."""
        origins = self._origins(action)
        before = origins < self.until
        if not before.any():
            return torch.zeros(0, dtype=torch.int64)
        first, last = origins[before].min(), origins[before].max()
        apart = (origins - first >= self.apart) | (last - origins >= self.apart)
        return (before & apart).nonzero().squeeze(1)

    def _nearest(self, action: int, asked: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Distances and places of the nearest of before that lie apart, `[n, width]`; inf where there are no more."""
        table, origins = self.memory.table, self._origins(action)
        keys = table.keys[table.filled(action)] - table.centre
        distances, places = [], []
        for piece in asked.split(max(1, _MOST_DISTANCES // len(keys))):
            # By a matrix product: rounding can only swap memories that are about as near.
            found = torch.cdist(keys[piece], keys)
            near = (origins[piece, None] - origins).abs_() < self.apart
            found.masked_fill_(near | (origins >= self.until), torch.inf)
            best = found.topk(min(width, len(keys)), dim=1, largest=False)
            distances.append(best.values)
            places.append(best.indices)
        return torch.cat(distances), torch.cat(places)
