"""What a run says of itself while it goes: its episodes, and the means of its metrics."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from training.loop import Record

RECENT_EPISODES = 20
"""Training episodes that a run's return is the mean of."""


class Averages:
    """Means of the metrics of many updates, for one log beat. A metric counts only where it was given."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._last: dict[str, float] = {}

    def add(self, metrics: Mapping[str, float]) -> None:
        """Take in the metrics of one update."""
        for tag, value in metrics.items():
            self._last[tag] = number = float(value)
            self._sums[tag] = self._sums.get(tag, 0.0) + number
            self._counts[tag] = self._counts.get(tag, 0) + 1

    def flush(self) -> dict[str, float]:
        """The means since the last flush, empty if nothing was added; then begin anew."""
        means = {tag: total / self._counts[tag] for tag, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means

    def last(self, tag: str) -> float | None:
        """The newest value of a metric, from before the last flush too; None if it was never given."""
        return self._last.get(tag)

    def state_dict(self) -> dict[str, dict[str, float]]:
        """What was added so far."""
        return {"sums": dict(self._sums), "counts": dict(self._counts), "last": dict(self._last)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        self._sums, self._counts, self._last = dict(state["sums"]), dict(state["counts"]), dict(state["last"])


class Tally:
    """Counts episodes and time over all parts of a run, and gathers a row of metrics at every log beat.

    Args:
        frames_per_step: frames that pass in a step of one environment.
        steps_per_row: agent steps between two rows.
    """

    def __init__(self, frames_per_step: int, steps_per_row: int) -> None:
        self.episodes = 0
        self.recent: deque[float] = deque(maxlen=RECENT_EPISODES)
        self.averages = Averages()
        self._frames_per_step = frames_per_step
        self._steps_per_row = steps_per_row
        self._step = self._row_step = self._timed_from = 0
        self._seconds_before = 0.0
        self._began = self._row_began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Time spent so far, in the parts of the run before a resume too."""
        return self._seconds_before + time.perf_counter() - self._began

    def add(self, record: Record) -> None:
        """Take in what a step brought."""
        self._step = record.step
        for episode in record.episodes:
            self.episodes += 1
            self.recent.append(episode.episode_return)
            self.averages.add(
                {"charts/episodic_return": episode.episode_return, "charts/episodic_length": episode.length}
            )
        for metrics in record.metrics:
            self.averages.add(metrics)

    def due(self) -> bool:
        """Whether a step at which a row is due was reached since the last row."""
        return self._step // self._steps_per_row > self._row_step // self._steps_per_row

    def row(self) -> dict[str, float]:
        """The means of all metrics since the last row, by tag."""
        now = time.perf_counter()
        speed = (self._step - self._timed_from) / (now - self._row_began)
        self.averages.add({"charts/steps_per_second": speed, **self._counts()})
        self._row_began = now
        self._row_step = self._timed_from = self._step
        return self.averages.flush()

    def result(self) -> dict[str, float | None]:
        """What the run came to."""
        return {
            "steps": self._step,
            **self._scores(),
            "seconds": self.seconds,
            "steps_per_second": self._step / self.seconds,
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything but the speed of the row under way, which is measured from the resume on."""
        return {
            "episodes": self.episodes,
            "recent": list(self.recent),
            "averages": self.averages.state_dict(),
            "step": self._step,
            "row_step": self._row_step,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        self.episodes = state["episodes"]
        self.recent = deque(state["recent"], maxlen=RECENT_EPISODES)
        self.averages.load_state_dict(state["averages"])
        self._step, self._row_step, self._timed_from = state["step"], state["row_step"], state["step"]
        self._seconds_before = state["seconds"]
        self._began = self._row_began = time.perf_counter()

    def _counts(self) -> dict[str, float]:
        return {"charts/frames": self._step * self._frames_per_step, "charts/episodes": self.episodes}

    def _scores(self) -> dict[str, float | None]:
        return {
            "frames": self._step * self._frames_per_step,
            "episodes": self.episodes,
            "return_last_episodes": float(np.mean(self.recent)) if self.recent else None,
            "return_std_last_episodes": float(np.std(self.recent)) if self.recent else None,
            "episodes_averaged": len(self.recent),
        }
