"""Saving checkpoints while training goes on.

A forked child sees the state as it was at the moment of the fork and writes it, while the parent trains; the system
copies only the pages that training changes meanwhile. So a save holds up training for as long as a fork takes (tens
of milliseconds with gigabytes of memory), and neither doubles memory nor sees a half-changed state.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from training.checkpoint import CheckpointError, Snapshot

# Elsewhere than on Linux, system libraries do not survive a fork.
_CAN_FORK = sys.platform == "linux"


class Saver:
    """Writes the checkpoints of a run, one at a time, as a context manager that waits for the last.

    A save that fails is told to `warn` and costs nothing but itself: the run is worth more than one of its
    checkpoints, and the older ones are as they were.

    Args:
        folder: holds the checkpoints.
        keep: how many remain.
        warn: is told of failures, one line each.
        background: whether to write in a child; elsewhere than on Linux never.
    """

    def __init__(self, folder: Path, keep: int, warn: Callable[[str], None], background: bool = True) -> None:
        self._folder = folder
        self._keep = keep
        self._warn = warn
        self._background = background and _CAN_FORK
        self._child: tuple[int, int] | None = None

    def save(self, state: dict[str, Any], step: int) -> None:
        """Begin to save a state; waits for the save before it to end."""
        self.finish()
        snapshot = Snapshot(state, step)
        if not self._background:
            self._write(snapshot)
            return
        parent = os.getpid()
        try:
            reader, writer = os.pipe()
            with contextlib.ExitStack() as pipe, warnings.catch_warnings():
                pipe.callback(os.close, reader)
                pipe.callback(os.close, writer)
                # The child calls nothing that other threads of the parent might have held a lock of.
                warnings.simplefilter("ignore", DeprecationWarning)
                child = os.fork()
                pipe.pop_all()
        except OSError:
            # No room for another process, or no file left to open: training waits.
            self._write(snapshot)
            return
        if child == 0:
            _write_and_leave(snapshot, self._folder, self._keep, writer, parent)
        os.close(writer)
        self._child = child, reader

    def save_now(self, state: dict[str, Any], step: int) -> bool:
        """Save a state and wait; whether it is saved."""
        self.finish()
        return self._write(Snapshot(state, step))

    def finish(self) -> None:
        """Wait for the save that is under way, if one is."""
        if self._child is None:
            return
        child, reader = self._child
        self._child = None
        with os.fdopen(reader) as messages:
            message = messages.read()
        _, status = os.waitpid(child, 0)
        if status and not message:
            message = (
                f"the process that wrote a checkpoint to {self._folder} died ({os.waitstatus_to_exitcode(status)})"
            )
        if message:
            self._warn(message)

    def _write(self, snapshot: Snapshot) -> bool:
        try:
            snapshot.write(self._folder, self._keep)
        except CheckpointError as error:
            self._warn(str(error))
            return False
        return True

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.finish()


def _write_and_leave(snapshot: Snapshot, folder: Path, keep: int, writer: int, parent: int) -> NoReturn:
    """What the child does. It leaves without cleaning up, since all it could clean up is the parent's."""
    status = 1
    try:
        # A finaliser could touch what only the parent may, such as the threads of an emulator.
        gc.disable()
        # Signals to the whole group mean the parent, which waits for the child.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)

        def leave_if_orphaned() -> None:
            # What is left of a killed run must not write into it beside the run that was resumed.
            if os.getppid() != parent:
                os._exit(1)

        snapshot.write(folder, keep, leave_if_orphaned)
        status = 0
    except BaseException as error:
        os.write(writer, f"{'' if isinstance(error, CheckpointError) else type(error).__name__ + ': '}{error}".encode())
    finally:
        os._exit(status)
