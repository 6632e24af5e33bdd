"""Logging of a run; numbers twice: as JSON lines for scripts, and in TensorBoard for eyes."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from training.run_directory import RunDirectory, finite

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


_LEAST_ROOM = 2**18
"""Bytes that must be free to write to TensorBoard: its writer has a thread that dies noisily on a full disk."""


class Points(Protocol):
    """Points with what is known of each."""

    @property
    def places(self) -> np.ndarray:
        """`[n, dimensions]`."""
        ...

    @property
    def header(self) -> list[str]:
        """What the columns of `known` are called."""
        ...

    @property
    def known(self) -> list[list[str]]:
        """A row for each point."""
        ...

    @property
    def pictures(self) -> np.ndarray:
        """uint8 `[n, side, side, 3]`."""
        ...


class Logger:
    """Writes `metrics.jsonl` and `tensorboard/` of a run, and its options once as a table of text.

    A line of `metrics.jsonl` holds `step` (agent steps), `seconds` (of training so far) and the metrics by tag; a
    number that is not finite is null there. What an earlier logger of the same run wrote of steps after `step` is
    taken back: the run is being continued from there.

    A disk that is full or gone costs the rows it had no room for, not the training: `warn` is told once, and each row
    is a new attempt.

    Pictures, which scripts have no use for, go to TensorBoard only.

    Args:
        run: whose files to write.
        step: agent step the run stands at.
        resumed: whether it had been going before.
        warn: is told what cannot be written, in one line.
    """

    def __init__(self, run: RunDirectory, step: int, resumed: bool, warn: Callable[[str], None]) -> None:
        self._run = run
        self._warn = warn
        self._failed = False
        self._board: SummaryWriter | None = None
        self._purge_step = step + 1 if resumed else None
        self._attempt(lambda: run.forget_metrics_after(step))
        if not resumed:
            rows = [f"| {name} | {str(value).replace('|', '&#124;')} |" for name, value in _flatten(run.config())]
            text = "\n".join(["| option | value |", "|---|---|", *rows])
            self._attempt(lambda: self._tensorboard().add_text("config", text, 0))

    def log(self, step: int, seconds: float, metrics: Mapping[str, float]) -> None:
        """Write the metrics of one log beat, by tag, at this agent step and after so much time."""
        numbers = {tag: float(value) for tag, value in metrics.items()}
        row = {"step": step, "seconds": round(seconds, 3), **finite(numbers)}
        self._attempt(lambda: self._run.add_metrics(json.dumps(row, allow_nan=False)))

        def draw(board: SummaryWriter) -> None:
            for tag, number in numbers.items():
                board.add_scalar(tag, number, step)

        self._draw(draw)

    def log_pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Show pictures, uint8 `[height, width, 3]`, in TensorBoard by tag."""

        def draw(board: SummaryWriter) -> None:
            for tag, picture in pictures.items():
                board.add_image(tag, picture, step, dataformats="HWC")

        if pictures:
            self._draw(draw)

    def log_histograms(self, step: int, histograms: Mapping[str, np.ndarray]) -> None:
        """Show how numbers are distributed, in TensorBoard by tag; those that are none are left out."""
        found = {tag: numbers for tag, numbers in histograms.items() if len(numbers)}

        def draw(board: SummaryWriter) -> None:
            for tag, numbers in found.items():
                board.add_histogram(tag, numbers, step)

        if found:
            self._draw(draw)

    def log_points(self, step: int, tag: str, points: Points) -> None:
        """Show points in TensorBoard's projector, each with what is known of it and its picture."""

        def draw(board: SummaryWriter) -> None:
            import torch

            # The projector takes pictures of one size, in a square of at most 8,192 pixels.
            pictures = torch.from_numpy(points.pictures).permute(0, 3, 1, 2) / 255
            board.add_embedding(points.places, points.known, pictures, step, tag, metadata_header=points.header)

        if len(points.places):
            self._draw(draw)

    def log_outcome(self, step: int, outcome: Mapping[str, float]) -> None:
        """Show what the run came to beside its options, under "HParams"."""
        options = {
            name: value if isinstance(value, bool | int | float) else str(value)
            for name, value in _flatten(self._run.config())
        }

        def draw(board: SummaryWriter) -> None:
            from torch.utils.tensorboard.summary import hparams

            # add_hparams would make a run of its own, and its metrics in the old style are no longer shown.
            for summary in hparams(options, dict(outcome)):
                board._get_file_writer().add_summary(summary)
            for tag, number in outcome.items():
                board.add_scalar(tag, number, step, new_style=True)

        if outcome:
            self._draw(draw)

    def close(self) -> None:
        """Bring everything to the files."""
        if self._board is not None:
            self._attempt(self._board.close)

    def _tensorboard(self) -> SummaryWriter:
        """The writer, made when it is first needed."""
        # Costs 0.2 s beyond torch, which those who only want help or an evaluation need not wait for.
        from torch.utils.tensorboard import SummaryWriter

        if shutil.disk_usage(self._run.path).free < _LEAST_ROOM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._run.tensorboard))
        if self._board is None:
            self._board = SummaryWriter(str(self._run.tensorboard), flush_secs=30, purge_step=self._purge_step)
            self._purge_step = None
        return self._board

    def _draw(self, draw: Callable[[SummaryWriter], object]) -> None:
        def attempt() -> None:
            board = self._tensorboard()
            try:
                draw(board)
            except OSError:
                # A writer that failed does not recover.
                self._board = None
                raise

        self._attempt(attempt)

    def _attempt(self, write: Callable[[], object]) -> None:
        try:
            write()
        except OSError as error:
            if not self._failed:
                self._failed = True
                self._warn(f"metrics are being lost, training goes on: {error}")

    def __enter__(self) -> Logger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _flatten(options: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested options as pairs of a dotted name, as on the command line, and a value."""
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
