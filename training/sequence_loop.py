"""The loop of sequence models: a batch drawn, a batch learned, one record a step; and what such a run tells of itself.

It can be saved between any two steps, and stands to logging and checkpoints as the loop of agents does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from agents.agent import Metrics
from training.loop import Record
from training.tally import Tally

RECENT_UPDATES = 100
"""Updates that a run's result is the mean of."""


Illustrate = Callable[[np.ndarray, np.ndarray, np.ndarray], Mapping[str, np.ndarray]]
"""From inputs, targets and mask of a batch to pictures, uint8 `[height, width, 3]` by tag."""


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

    Args:
        task: draws the batches.
        model: learns them.
        batch: sequences of each.
        illustrate: makes pictures of one.

    Attributes:
        step: updates so far.
        agent: the model.
        frames_per_step: none pass.
    """

    frames_per_step = 0

    def __init__(self, task: Task, model: Model, batch: int, illustrate: Illustrate = lambda *batch: {}) -> None:
        self.agent = model
        self.step = 0
        self._task = task
        self._batch = batch
        self._illustrate = illustrate
        self._drawn: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

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

    def pictures(self) -> Mapping[str, np.ndarray]:
        """What there is to show of the last batch, uint8 `[height, width, 3]` by tag."""
        return {} if self._drawn is None else self._illustrate(*self._drawn)

    def close(self) -> None:
        """Nothing is held."""

    def _advance(self) -> Record:
        self._drawn = self._task.draw(self._batch)
        metrics = self.agent.learn(*self._drawn)
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
