"""Requests to stop, from a user or a scheduler."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType

RESUMABLE = 75
"""Exit code of a run that was asked to stop and saved itself (EX_TEMPFAIL of sysexits.h: try again later)."""
LEFT_AT_ONCE = 130
"""Exit code after a Ctrl-C that ended the process on the spot: nothing was saved beyond the last checkpoint."""

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
_SHOW_CURSOR = b"\x1b[?25h"


class StopRequest:
    """Notes signals that ask to stop, as a context manager; what runs inside looks at it between two steps.

    SIGTERM, SIGUSR1 (which schedulers send ahead of a limit), SIGHUP (the terminal is gone) and the first Ctrl-C are
    noted. A second Ctrl-C ends the process on the spot. A signal that the caller has this process ignore (`nohup`; the
    Ctrl-C of a shell's foreground, for what a script runs in the background) stays ignored.

    Attributes:
        signal: the name of the signal that came, or None.
    """

    def __init__(self) -> None:
        self.signal: str | None = None
        self._interrupted = False
        self._handlers: dict[signal.Signals, object] = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self._interrupted:
                # Files are whole at any moment; only the terminal, whose cursor a progress bar hides, would notice.
                if os.isatty(1):
                    os.write(1, _SHOW_CURSOR)
                os._exit(LEFT_AT_ONCE)
            self._interrupted = True
        self.signal = self.signal or signal.Signals(number).name

    def __enter__(self) -> StopRequest:
        heard = [number for number in _STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        self._handlers = {number: signal.signal(number, self._note) for number in heard}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
