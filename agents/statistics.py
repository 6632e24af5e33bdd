"""What an agent reports of its memory between two pieces of learning."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.agent import Metrics
from memory.episodic import EpisodicMemory, Recall

_EVERY = 64
"""Acting steps between two sampled recalls: each costs one more look-up, so one in 64 is under two percent."""


class MeanMetrics:
    """Means of the metrics seen since the last flush."""

    def __init__(self) -> None:
        self._sums: dict[str, list[float]] = {}
        self._calls = 0

    def add(self, metrics: Metrics) -> None:
        """Count these in."""
        for tag, value in metrics.items():
            total = self._sums.setdefault(tag, [0.0, 0])
            total[0] += value
            total[1] += 1

    def due(self) -> bool:
        """True once in 64 calls: whether this acting step is to be sampled."""
        self._calls += 1
        return self._calls % _EVERY == 0

    def flush(self) -> Metrics:
        """The means, and begin anew."""
        means = {tag: total / count for tag, (total, count) in self._sums.items()}
        self._sums = {}
        return means

    def state_dict(self) -> dict[str, Any]:
        """The sums so far."""
        return {"sums": {tag: list(total) for tag, total in self._sums.items()}, "calls": self._calls}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        self._sums = {tag: list(total) for tag, total in state["sums"].items()}
        self._calls = state["calls"]


def recall_metrics(recall: Recall, now: int) -> Metrics:
    """How near, how many and how old the memories behind a batch of actions are; `now` in agent steps."""
    return {
        "memory/neighbour_distance": recall.distances[recall.valid].mean().item(),
        "memory/nearest_distance": recall.distances[:, 0].mean().item(),
        "memory/effective_neighbours": recall.effective_neighbours().mean().item(),
        "memory/recalled_age": (recall.weights * recall.ages(now)).sum(dim=1).mean().item(),
    }


def sampled_recall(memory: EpisodicMemory, keys: Tensor, actions: np.ndarray, now: int) -> Metrics:
    """Look up once more what the actions taken rest on; nothing while an action has no memory."""
    if not min(map(len, memory.stores)):
        return {}
    return recall_metrics(memory.read(keys, torch.from_numpy(actions).to(keys.device), touch=False), now)
