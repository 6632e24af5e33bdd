"""Logging of numbers over a run, twice: as JSON lines for scripts, and in TensorBoard for eyes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

from training.run_directory import RunDirectory, finite


class Logger:
    """Writes `metrics.jsonl` and `tensorboard/` of a run, and its options once as a table of text.

    A line of `metrics.jsonl` holds `step` (agent steps), `seconds` (since this logger was made) and the metrics by
    tag; a number that is not finite is null there. Lines are added to those of an earlier logger of the same run.
    """

    def __init__(self, run: RunDirectory) -> None:
        # Costs 0.2 s beyond torch, which those who only want help or an evaluation need not wait for.
        from torch.utils.tensorboard import SummaryWriter

        self._started = time.perf_counter()
        self._lines = run.metrics.open("a", encoding="utf-8", buffering=1)
        self._board = SummaryWriter(str(run.tensorboard), flush_secs=30)
        rows = [f"| {name} | {str(value).replace('|', '&#124;')} |" for name, value in _flatten(run.config())]
        self.log_text(0, {"config": "\n".join(["| option | value |", "|---|---|", *rows])})

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of one log beat, by tag, at this agent step."""
        numbers = {tag: float(value) for tag, value in metrics.items()}
        line = {"step": step, "seconds": round(time.perf_counter() - self._started, 3), **finite(numbers)}
        self._lines.write(json.dumps(line, allow_nan=False) + "\n")
        for tag, number in numbers.items():
            self._board.add_scalar(tag, number, step)

    def log_text(self, step: int, texts: Mapping[str, str]) -> None:
        """Write texts, by tag, to TensorBoard, which shows them as Markdown."""
        for tag, text in texts.items():
            self._board.add_text(tag, text, step)

    def close(self) -> None:
        """Bring everything to the files."""
        self._lines.close()
        self._board.close()

    def __enter__(self) -> Logger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


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


def _flatten(options: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested options as pairs of a dotted name, as on the command line, and a value."""
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
