"""Jobs in processes of their own, some at a time: one that fails or is killed takes none of the others with it.

Every job has a fresh process, so that its peak memory and its random state are its own. All are forked from a server
that has loaded the code once: whatever is edited while a long benchmark runs, all its jobs run the same code.
"""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from training.command_line import UsageError

Report = Callable[[int, str], None]
"""What a job calls with its steps so far and a few words on how it goes, as often as it likes."""

_REPORT_SECONDS = 1.0
_PLAIN_SECONDS = 60.0


@dataclass(frozen=True)
class Job:
    """A function of this module's importers to be called as `function(report, *arguments)`; all must pickle."""

    name: str
    steps: int
    function: Callable[..., None]
    arguments: tuple[Any, ...]


def work(jobs: Sequence[Job], processes: int, preload: str) -> list[str]:
    """Do the jobs, in order, at most `processes` of them at a time.

    Args:
        jobs: what to do.
        processes: how many at a time.
        preload: module that imports all the jobs need.

    Returns:
        The names of the jobs that failed; why has been printed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload])
    waiting, running, failed = list(jobs), list[_Running](), list[str]()
    with _Display(len(jobs)) as display:
        try:
            while waiting or running:
                while waiting and len(running) < processes:
                    running.append(_start(waiting.pop(0), context))
                    display.begin(running[-1])
                wait([one.connection for one in running], timeout=_REPORT_SECONDS)
                for one in list(running):
                    _listen(one)
                    if one.open:
                        continue
                    running.remove(one)
                    if one.error:
                        failed.append(one.job.name)
                    display.end(one)
                display.show(running)
        finally:
            for one in running:
                one.process.terminate()
    return failed


@dataclass
class _Running:
    job: Job
    process: BaseProcess
    connection: Connection
    started: float = field(default_factory=time.perf_counter)
    steps: int = 0
    words: str = ""
    error: str = ""
    open: bool = True
    task: TaskID | None = None

    @property
    def line(self) -> str:
        share = self.steps / self.job.steps
        return f"{self.job.name}: {share:.0%}, {self.steps:,}/{self.job.steps:,} steps{self.words and ', '}{self.words}"


def _start(job: Job, context: multiprocessing.context.ForkServerContext) -> _Running:
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_do, args=(sender, job.function, job.arguments), daemon=True)
    process.start()
    # The worker's copy must be the only one, or its end would go unnoticed.
    sender.close()
    return _Running(job, process, receiver)


def _do(connection: Connection, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """What a worker does, until it is done or its parent is gone."""
    # Ctrl-C reaches every process of a terminal; the parent is the one that answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_without_parent, args=(connection,), daemon=True).start()
    next_report, last = 0.0, (0, "")

    def report(steps: int, words: str) -> None:
        nonlocal next_report, last
        last = steps, words
        if time.perf_counter() >= next_report:
            next_report = time.perf_counter() + _REPORT_SECONDS
            connection.send(last)

    try:
        function(report, *arguments)
        connection.send(last)
    except Exception as error:
        connection.send(f"error: {error}" if isinstance(error, UsageError) else traceback.format_exc())
        sys.exit(1)


def _end_without_parent(connection: Connection) -> None:
    """Wait until nobody can hear this process any more, and end it: its parent was killed, and would start it anew."""
    heard = select.poll()
    # Errors are told of whatever is asked for; of a pipe that is written to, the only one is that its reader is gone.
    heard.register(connection.fileno(), 0)
    heard.poll()
    os._exit(1)


def _listen(one: _Running) -> None:
    """Take in what a worker has to say; once it is gone, `open` is false, and `error` empty if all went well."""
    try:
        while one.connection.poll():
            message = one.connection.recv()
            if isinstance(message, str):
                one.error = message
            else:
                one.steps, one.words = message
    except EOFError:
        one.open = False
        one.connection.close()
        one.process.join()
        if one.process.exitcode and not one.error:
            one.error = f"the process ended with exit code {one.process.exitcode}"


class _Display:
    """Bars in a terminal; anywhere else a line for each job that begins or ends, and one of each a minute."""

    def __init__(self, total: int) -> None:
        self._console = Console(file=sys.stdout)
        self._live = self._console.is_terminal and not self._console.is_dumb_terminal
        self._bars = Progress(
            BarColumn(16),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=self._console,
            disable=not self._live,
        )
        self._all = self._bars.add_task("jobs", total=total)
        self._next = time.perf_counter() + _PLAIN_SECONDS

    def begin(self, one: _Running) -> None:
        self._print(f"begins: {one.job.name}")
        one.task = self._bars.add_task(one.job.name, total=one.job.steps)

    def show(self, running: Sequence[_Running]) -> None:
        for one in running:
            if one.task is not None:
                words = one.words and f", {one.words}"
                self._bars.update(one.task, completed=one.steps, description=f"{one.job.name}{words}")
        if not self._live and time.perf_counter() >= self._next:
            self._next = time.perf_counter() + _PLAIN_SECONDS
            for one in running:
                self._print(one.line)

    def end(self, one: _Running) -> None:
        seconds = time.perf_counter() - one.started
        if one.error:
            self._print(f"FAILED after {seconds:.0f} s: {one.job.name}\n{one.error.rstrip()}")
        else:
            self._print(f"done in {seconds:.0f} s: {one.job.name}{one.words and ', '}{one.words}")
        if one.task is not None:
            self._bars.remove_task(one.task)
        self._bars.advance(self._all)

    def _print(self, text: str) -> None:
        if self._live:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(time.strftime("%H:%M:%S"), text, flush=True)

    def __enter__(self) -> _Display:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()
