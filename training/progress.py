"""How far a run is, for whoever watches: a live bar in a terminal, a plain line now and then anywhere else."""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections import deque
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column

_LIVE_SECONDS = 0.25
_PLAIN_SECONDS = 10.0
_WINDOW_SECONDS = 60.0


class Progress:
    """Shows steps, frames, return, speed, memory and the time left, as a context manager.

    The return is the mean of the last 20 episodes; speed and time left are those of the last minute. Between two
    beats, an update costs less than a microsecond.

    Where nothing can be printed, because a terminal was closed or the log's disk is full, nothing is shown.

    Args:
        total_steps: agent steps of the whole run.
        frames_per_step: emulator frames of a step; 0 where there are none.
    """

    def __init__(self, total_steps: int, frames_per_step: int) -> None:
        self._total_steps = total_steps
        self._frames_per_step = frames_per_step
        self._step: int | None = None
        self._memory_size: float | None = None
        self._nats: float | None = None
        self._returns: deque[float] = deque(maxlen=20)
        console = Console(file=sys.stdout)
        self._live = sys.stdout is not None and sys.stdout.isatty() and not console.is_dumb_terminal
        # No thread redraws the bar beside the training: it is drawn in `update`, and takes no time elsewhere.
        numbers = TextColumn("{task.description}", table_column=Column(no_wrap=False))
        self._bar = Bar(BarColumn(12), numbers, console=console, auto_refresh=False)
        self._task = self._bar.add_task("", total=total_steps)
        self._beat_seconds = _LIVE_SECONDS if self._live else _PLAIN_SECONDS
        self._next_beat = 0.0
        self._beats: deque[tuple[float, int]] = deque(maxlen=1 + round(_WINDOW_SECONDS / self._beat_seconds))

    def update(
        self,
        step: int,
        episode_return: float | None = None,
        memory_size: float | None = None,
        nats: float | None = None,
    ) -> None:
        """Note where the run is; what is None stays as it was.

        Args:
            step: agent steps done.
            episode_return: unclipped return of an episode that just ended.
            memory_size: memories held.
            nats: negative log likelihood of a sequence.
        """
        self._step = step
        if episode_return is not None:
            self._returns.append(episode_return)
        if memory_size is not None:
            self._memory_size = memory_size
        if nats is not None:
            self._nats = nats
        now = time.perf_counter()
        if now >= self._next_beat:
            self._next_beat = now + self._beat_seconds
            self._show(now)

    def __enter__(self) -> Progress:
        if self._live:
            with contextlib.suppress(OSError):
                self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._step is not None:
            self._show(time.perf_counter())
        if self._live:
            with contextlib.suppress(OSError):
                self._bar.stop()

    def _show(self, now: float) -> None:
        assert self._step is not None
        self._beats.append((now, self._step))
        line = self._line(self._step)
        with contextlib.suppress(OSError):
            if self._live:
                self._bar.update(self._task, completed=self._step, description=line)
                self._bar.refresh()
            else:
                print(line, flush=True)

    def _line(self, step: int) -> str:
        total = self._total_steps
        parts = [f"{min(step / total, 1.0):.1%}", f"{_short(step)}/{_short(total)} steps"]
        if self._frames_per_step:
            parts.append(f"{_short(step * self._frames_per_step)} frames")
        if self._returns:
            parts.append(f"return {statistics.fmean(self._returns):,.1f}")
        if self._memory_size is not None:
            parts.append(f"{_short(self._memory_size)} memories")
        if self._nats is not None:
            parts.append(f"{self._nats:.3g} nats")
        (then, first), (now, last) = self._beats[0], self._beats[-1]
        if last > first and now > then:
            speed = (last - first) / (now - then)
            parts += [f"{speed:.0f} steps/s", f"{_clock(max(total - step, 0) / speed)} left"]
        return ", ".join(parts)


def _short(number: float) -> str:
    """A count in at most six characters: 999, 12.3k, 1.25M."""
    if number < 1000:
        return f"{number:.0f}"
    for unit, size in (("k", 10**3), ("M", 10**6), ("G", 10**9)):
        if number < 999.5 * size or unit == "G":
            return f"{number / size:.3g}{unit}"
    raise AssertionError("unreachable")


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{second:02d}"
