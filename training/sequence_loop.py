"""The loop of sequence models: a batch drawn, a batch learned, one record a step; and what such a run tells of itself.

It can be saved between any two steps, and stands to logging and checkpoints as the loop of agents does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from agents.agent import Metrics
from training.loop import Record
from training.tally import Tally

RECENT_UPDATES = 100
"""Updates that a run's result is the mean of."""


class Task(Protocol):
    """What the loop knows of a sequence task."""

    def draw(self, batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Inputs and targets `[time, batch, ...]`, and which steps count, bool `[time, batch]`."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Where it stands."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        ...


class Model(Protocol):
    """What the loop knows of a sequence model."""

    def learn(self, inputs: np.ndarray, targets: np.ndarray, mask: np.ndarray) -> Metrics:
        """One update on a batch; metrics of the batch as it was predicted before."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes while it is trained."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        ...


class SequenceLoop:
    """Trains a model on a task.

    Attributes:
        step: updates so far.
        agent: the model.
        frames_per_step: none pass.
    """

    frames_per_step = 0

    def __init__(self, task: Task, model: Model, batch: int) -> None:
        self.agent = model
        self.step = 0
        self._task = task
        self._batch = batch

    def run(self, steps: int) -> Iterator[Record]:
        """Go on until `steps` updates are done."""
        while self.step < steps:
            yield self._advance()

    def state_dict(self) -> dict[str, Any]:
        """Where the loop and its task stand; not the model."""
        return {"step": self.step, "task": self._task.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        self.step = state["step"]
        self._task.load_state_dict(state["task"])

    def close(self) -> None:
        """Nothing is held."""

    def _advance(self) -> Record:
        metrics = self.agent.learn(*self._task.draw(self._batch))
        self.step += 1
        return Record(self.step, actions=np.zeros(0, dtype=np.int64), episodes=[], metrics=[metrics])


class SequenceTally(Tally):
    """Counts time and gathers rows of metrics as the tally of agents does; its scores are those of the last updates."""

    def __init__(self, steps_per_row: int) -> None:
        super().__init__(0, steps_per_row)
        self._recent: deque[dict[str, float]] = deque(maxlen=RECENT_UPDATES)

    def add(self, record: Record) -> None:
        super().add(record)
        self._recent += [
            {tag.removeprefix("charts/"): value for tag, value in metrics.items() if tag.startswith("charts/")}
            for metrics in record.metrics
        ]

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "recent_updates": list(self._recent)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._recent = deque(state["recent_updates"], maxlen=RECENT_UPDATES)

    def _counts(self) -> dict[str, float]:
        return {}

    def _scores(self) -> dict[str, float | None]:
        names = self._recent[-1] if self._recent else {}
        means = {name: float(np.mean([one[name] for one in self._recent])) for name in names}
        return {**means, "updates_averaged": len(self._recent)}
