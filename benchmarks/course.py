"""Training runs that go on from where they were cut off: what the benchmarks of returns and of sequence tasks share."""

from __future__ import annotations

import abc
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from assembly import RunConfig
from benchmarks import results
from benchmarks.results import Row
from benchmarks.runner import CommonOptions, name_of
from benchmarks.workers import Report
from training.checkpoint import CheckpointError, load
from training.files import LOCK, locked
from training.loop import TrainingLoop
from training.saver import Saver
from training.sequence_loop import SequenceLoop
from training.tally import Averages

SECONDS_PER_SAVE = 120.0
"""At least that long passes between two saves of a run."""


class CourseOptions(CommonOptions):
    """What the benchmarks have in common whose runs can go on."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the runs; all presets of a seed come before the next seed."""
    jobs: int = Field(default=2, ge=1)
    """Runs at a time, each in a process of its own."""
    unfinished: Path = Path("runs/unfinished")
    """Folder of what is saved of the runs under way."""


@dataclass(frozen=True)
class Run:
    """All that a worker must know."""

    config: RunConfig
    blank: Row
    """A row of the run, but for what is measured."""
    options: Any
    """The benchmark's."""
    code: str = field(default_factory=lambda: results.code())
    """That was loaded when the run was planned, which all workers follow, whatever is edited meanwhile."""


class Course(abc.ABC):
    """A run under way, with its rows so far: all of it can be saved, wherever `train` yields.

    Args:
        run: which one.
        loop: agent and world, or model and task.
    """

    def __init__(self, run: Run, loop: TrainingLoop | SequenceLoop) -> None:
        self._run = run
        self._loop = loop
        self._averages = Averages()
        self._measurements: list[tuple[int, str, float, float]] = []
        self._seconds_before, self._began = 0.0, time.perf_counter()
        self._identity = {
            "code": run.code,
            "config": run.config.model_dump_json(),
            "steps_per_row": run.options.steps_per_row,
        }

    @abc.abstractmethod
    def train(self) -> Iterator[tuple[int, str]]:
        """Go on to the end; yields the step, and in words how it stands."""

    @abc.abstractmethod
    def conclude(self) -> None:
        """Measure what there is to measure when training has ended."""

    @property
    def name(self) -> str:
        """A folder's."""
        return re.sub(r"[^\w.-]+", "_", f"{self._run.blank.experiment} {name_of(self._run.blank)}")

    @property
    def seconds(self) -> float:
        """Time that the run has taken, with its parts before it was cut off."""
        return self._seconds_before + time.perf_counter() - self._began

    def measure(self, values: Mapping[str, float]) -> None:
        """Have rows of some metrics at this step."""
        self._measurements += [(self._loop.step, name, float(value), self.seconds) for name, value in values.items()]

    def rows(self) -> Sequence[Row]:
        """All that was measured so far."""
        return [
            replace(self._run.blank, steps=steps, metric=name, value=value, seconds=seconds)
            for steps, name, value, seconds in self._measurements
        ]

    def resume(self, folder: Path) -> None:
        """Become what was last saved of a run of the same configuration and code, if anything was."""
        if all(path.name == LOCK for path in folder.iterdir()):
            return
        if not self._run.code:
            print(f"the code is of no commit, and what {folder} holds may be of another: the run begins anew")
            return
        try:
            _, state = load(folder)
        except CheckpointError as error:
            print(f"{error}: the run begins anew")
            return
        if state["identity"] == self._identity:
            self.load_state_dict(state)
        else:
            print(f"what {folder} holds is of other code or other options: the run begins anew")

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes while the run goes, and what it is a run of."""
        return {
            "identity": self._identity,
            "agent": self._loop.agent.state_dict(),
            "loop": self._loop.state_dict(),
            "torch_rng": torch.get_rng_state(),
            "averages": self._averages.state_dict(),
            "measurements": [list(measurement) for measurement in self._measurements],
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        self._loop.load_state_dict(state["loop"])
        self._loop.agent.load_state_dict(state["agent"])
        torch.set_rng_state(state["torch_rng"])
        self._averages.load_state_dict(state["averages"])
        self._measurements = [(steps, name, value, seconds) for steps, name, value, seconds in state["measurements"]]
        self._seconds_before = state["seconds"]
        self._began = time.perf_counter()


def complete(course: Course, report: Report, unfinished: Path, out: Path) -> None:
    """Do a run, or what is left of it, and add its rows to a table.

    Raises:
        BlockingIOError: if another process is doing it.
    """
    folder = unfinished / course.name
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder), Saver(folder, keep=1, warn=print) as saver:
        course.resume(folder)
        saved = course.seconds
        for step, words in course.train():
            report(step, words)
            if course.seconds - saved >= SECONDS_PER_SAVE:
                saver.save(course.state_dict(), step)
                saved = course.seconds
    course.conclude()
    results.add(out, course.rows())
    shutil.rmtree(folder, ignore_errors=True)
