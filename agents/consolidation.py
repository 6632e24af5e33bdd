"""Consolidation: the encoder learns in phases, after each of which every memory is embedded anew.

An encoder that learns all the time makes the keys stale that it wrote. One that stands still while the agent plays, and
learns in between from memories alone, never answers by a stale key. What it learned in a phase is kept only where the
newest play, which no lesson asked or had answer, is then answered better by what came before.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from agents.agent import Metrics
from agents.learning_memory import LearningMemory
from agents.optimisers import load_optimiser
from agents.rec_config import RECConfig
from memory.episodic import EpisodicMemory
from memory.episodic.lessons import Lessons

JUDGED = 10_000
"""Memories of the newest play by which a phase is judged, at most."""
_STANDARD_ERRORS = 2.0
"""Mean gain over its standard error above which what a phase learned is kept."""
_LEAST_SPELLS = 5
"""Stretches of play that tell how far the gain varies, at least: with fewer there is no phase."""
_LEAST_VARIANCE = 1e-6
"""Of rescaled values, above which there is something to explain."""
_AT_ONCE = 10_000
"""Memories that are embedded anew at a time: bounds what lies beside the table meanwhile."""


class Embedding(NamedTuple):
    """A copy of an encoder, with what optimises it, and of the keys that it made."""

    weights: dict[str, Any]
    optimiser: dict[str, Any]
    slots: Tensor
    """Of all memories, int64 `[n]`."""
    keys: Tensor
    """Theirs, `[n, key_size]`."""
    keyed_at: Tensor
    """The agent steps at which those were made, int32 `[n]`."""


class Consolidation:
    """The phases of an agent.

    Args:
        memory: what is remembered; only through these phases do keys of it become those of another encoder.
        parts: the encoder, and what brings observations back.
        config: how often, and for how long.
        rng: what draws memories.

    Attributes:
        changed_at: the agent step at which the encoder last changed, -1 before.
    """

    def __init__(
        self, memory: EpisodicMemory, parts: LearningMemory, config: RECConfig, rng: np.random.Generator
    ) -> None:
        self.changed_at = -1
        self._memory, self._parts, self._config, self._rng = memory, parts, config, rng
        self._next = float(config.learning_starts)

    def run(self, step: int) -> Metrics | None:
        """One phase, at an agent step, where it is time for one and there is something to learn from.

        Raises:
            NonFiniteError: on a loss, gradient or embedding that is not finite.
        """
        memory, config = self._memory, self._config
        if not config.consolidation_updates or step < self._next or not len(memory):
            return None
        lessons = Lessons(memory, config.consolidation_apart)
        judged = lessons.later(JUDGED, self._rng)
        spells = memory.table.origins[memory.rows_of(judged)] // config.consolidation_apart
        if not lessons.actions or len(spells.unique()) < _LEAST_SPELLS:
            # To find that out takes a pass over all memories.
            self._next = step + config.consolidation_apart
            return None
        memory.table.now = step
        before = lessons.errors(judged)
        embedding = self.embedding()
        left = []
        for _ in range(config.consolidation_updates):
            loss, batch = self.learn(lessons)
            left.append(loss)
        self.embed_anew(batch)
        after = lessons.errors(judged)
        kept = _above_chance(before - after, spells)
        if kept:
            self.changed_at = step
        else:
            self.restore(embedding)
        while self._next <= step:
            self._next = max(self._next * config.consolidation_growth, self._next + 1)
        metrics = {"consolidation/unexplained": float(np.mean(left)), "consolidation/kept": float(kept)}
        variance = lessons.values(judged).var(correction=0)
        # Where rewards are rare the newest values may all be the same: then there is nothing to explain.
        if variance > _LEAST_VARIANCE:
            for name, errors in (("before", before), ("after", after)):
                metrics[f"consolidation/newest_unexplained_{name}"] = (errors.mean() / variance).item()
        return metrics

    def learn(self, lessons: Lessons) -> tuple[float, dict[str, Tensor]]:
        """One update by a lesson: what this left unexplained, and what it was made of."""
        memory, parts = self._memory, self._parts
        lesson = lessons.draw(self._config.batch_size, self._config.reinstated, self._rng)
        rows = memory.rows_of(lesson.slots)
        observations = parts.reinstatement.recall(lesson.slots, memory.table.keys[rows])
        batch = {"observations": observations.to(torch.uint8), "returns": memory.table.values[rows]}
        keys = parts.encoder(observations)
        left = lessons.unexplained(lesson, keys)
        left.backward()
        parts.follow(keys, batch)
        return left.item(), batch

    def embed_anew(self, batch: dict[str, Tensor]) -> None:
        """Give all memories keys of the encoder as it is, which last learned from a batch.

        Raises:
            NonFiniteError: on embeddings that are not finite.
        """
        for piece in self._memory.filled_slots().split(_AT_ONCE):
            self._parts.freshen(piece, batch)
        self._memory.table.recentre()

    def embedding(self) -> Embedding:
        """The encoder as it is and the key of every memory: a copy, as large as all keys."""
        weights, optimiser = copy.deepcopy((self._parts.encoder.state_dict(), self._parts.optimiser.state_dict()))
        table, slots = self._memory.table, self._memory.filled_slots()
        rows = self._memory.rows_of(slots)
        return Embedding(weights, optimiser, slots, table.keys[rows], table.keyed_at[rows])

    def restore(self, embedding: Embedding) -> None:
        """Go back to an encoder and its keys, bit for bit; nothing was written to the memory since.

        The search is centred on them anew.
        """
        self._parts.encoder.load_state_dict(embedding.weights)
        load_optimiser(self._parts.optimiser, embedding.optimiser)
        table = self._memory.table
        table.place_keys(self._memory.rows_of(embedding.slots), embedding.keys, embedding.keyed_at)
        table.recentre()

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes."""
        return {"changed_at": self.changed_at, "next": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        self.changed_at, self._next = state["changed_at"], state["next"]


def _above_chance(gains: Tensor, spells: Tensor) -> bool:
    """Whether the mean of gains `[n]` is more than two standard errors above zero.

    Those of one spell, int `[n]`, are not independent of one another: the standard error is that of clusters. Returns
    look ahead into the next spell, and spells are few, so that of what gains nothing 5 to 9 in 100 pass.
    """
    numbers, places = spells.unique(return_inverse=True)
    count = len(numbers)
    sums = torch.zeros(count).index_add_(0, places, gains - gains.mean())
    error = (sums.square().sum() * count / (count - 1)).sqrt() / len(gains)
    return bool(gains.mean() > _STANDARD_ERRORS * error)
