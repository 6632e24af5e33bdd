"""Consolidation: the encoder learns in phases, after each of which every memory is embedded anew.

An encoder that learns all the time makes the keys stale that it wrote. One that stands still while the agent plays, and
learns in between from memories alone, never answers by a stale key. What it learned in a phase is kept only where the
newest play, from which it learned nothing, is then answered better by what came before.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch

from agents.agent import Metrics
from agents.learning_memory import LearningMemory
from agents.rec_config import RECConfig
from memory.episodic import EpisodicMemory
from memory.episodic.lessons import Lessons

_JUDGED = 10_000
"""Memories of the newest play by which a phase is judged, at most."""
STANDARD_ERRORS = 2.0
"""So many must lie between what it makes better, on average, and nothing."""


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

    def due(self, step: int) -> bool:
        """Whether it is time for a phase, and there is something to learn from."""
        due = self._config.consolidation_updates > 0 and step >= self._next
        return due and bool(Lessons(self._memory, self._config.consolidation_apart).actions)

    def run(self, step: int) -> Metrics:
        """One phase, at an agent step.

        Raises:
            NonFiniteError: on a loss, gradient or embedding that is not finite.
        """
        memory, parts, config = self._memory, self._parts, self._config
        memory.table.now = step
        lessons = Lessons(memory, config.consolidation_apart)
        judged = lessons.later(_JUDGED, self._rng)
        before = lessons.errors(judged)
        weights, optimiser = copy.deepcopy((parts.encoder.state_dict(), parts.optimiser.state_dict()))
        left = [self._learn(lessons) for _ in range(config.consolidation_updates)]
        self._embed_anew()
        after = lessons.errors(judged)
        better = before - after
        kept = len(better) > 1 and bool(better.mean() > STANDARD_ERRORS * better.std() / len(better) ** 0.5)
        if kept:
            self.changed_at = step
        else:
            parts.encoder.load_state_dict(weights)
            parts.optimiser.load_state_dict(optimiser)
            self._embed_anew()
        while self._next <= step:
            self._next = max(self._next * config.consolidation_growth, self._next + 1)
        metrics = {"consolidation/unexplained": float(np.mean(left)), "consolidation/kept": float(kept)}
        if len(judged):
            variance = memory.table.values[memory.rows_of(judged)].var(correction=0).clamp_min(1e-6)
            for name, errors in (("before", before), ("after", after)):
                metrics[f"consolidation/newest_unexplained_{name}"] = (errors.mean() / variance).item()
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes."""
        return {"changed_at": self.changed_at, "next": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        self.changed_at, self._next = state["changed_at"], state["next"]

    def _learn(self, lessons: Lessons) -> float:
        """One update, and what was left unexplained."""
        memory, parts = self._memory, self._parts
        lesson = lessons.draw(self._config.batch_size, self._config.reinstated, self._rng)
        rows = memory.rows_of(lesson.slots)
        observations = parts.reinstatement.recall(lesson.slots, memory.table.keys[rows])
        keys = parts.encoder(observations)
        left = lessons.unexplained(lesson, keys)
        left.backward()
        parts.follow(keys, {"observations": observations.to(torch.uint8), "returns": memory.table.values[rows]})
        return left.item()

    def _embed_anew(self) -> None:
        self._parts.freshen(self._memory.filled_slots(), {})
        self._memory.table.recentre()
