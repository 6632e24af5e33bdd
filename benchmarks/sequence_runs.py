"""Training runs of sequence models as rows of a table: what the benchmarks of sequence tasks share.

A run is a preset with its overrides and a seed. Its curve, each the mean over the updates since the row before, on
batches that were predicted before they were learned from, is

    wrong_bits_per_sequence    bits guessed wrong of a sequence; in a task of words error_percent, of all answers
    nats_per_sequence          negative log likelihood of a sequence
    correct_predictions        updates so far, each counted by the share of its sequences without a wrong bit

and at its end come `updates_per_second`, beside whatever else the machine was doing, and what the benchmark measures.

A run that is cut off goes on from where it was last saved when the same command is given at the same commit.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

import envs
from agents.sequence_model import SequenceModel
from assembly import RunConfig, make_sequence_loop
from benchmarks import results
from benchmarks.results import Row
from benchmarks.runner import CommonOptions, Preset, do_missing, missing, name_of, prepare
from benchmarks.workers import Report
from training.checkpoint import CheckpointError, load
from training.command_line import UsageError
from training.saver import Saver
from training.tally import Averages

CURVE = ("wrong_bits_per_sequence", "error_percent", "nats_per_sequence")
"""What of a batch's metrics is there is a row."""
SECONDS_PER_SAVE = 60.0
"""At least that long passes between two saves of a run, each at a row."""


class SequenceOptions(CommonOptions):
    """What the benchmarks of sequence tasks have in common."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """A run of every preset for each; all presets of a seed come before the next seed."""
    steps: int = Field(default=0, ge=0)
    """Updates of a run; 0 takes the preset's."""
    steps_per_row: int = Field(default=250, ge=1)
    """Updates between two rows of a curve."""
    jobs: int = Field(default=2, ge=1)
    """Runs at the same time, each on its own core."""
    compiled: int = Field(default=4, ge=0)
    """Steps of the cores that torch compiles into one call, which takes minutes at the start; 0 takes the preset's."""
    unfinished: Path = Path("runs/unfinished")
    """Folder of what is saved of the runs under way."""


@dataclass(frozen=True)
class Run:
    """All that a worker must know."""

    config: RunConfig
    blank: Row
    options: Any
    """The benchmark's."""


Measure = Callable[[SequenceModel, Run], Mapping[str, float]]
"""What is measured of a trained model, by the names of metrics."""


def benchmark(
    options: SequenceOptions, presets: Sequence[Preset], record: Callable[[Report, Run], None], preload: str
) -> None:
    """Do the runs of every seed and preset that the table does not hold; exit with code 1 if some failed.

    Args:
        options: of the benchmark.
        presets: of sequence models.
        record: does one run, in a process that has loaded the module `preload`.
        preload: its name.

    Raises:
        UsageError: on a mistake in the options.
    """
    runs = [
        Run(_compiled(config, options.compiled), blank, options)
        for seed in options.seeds
        for config, blank in prepare(options, presets, seed, options.steps)
    ]
    if others := {run.blank.world for run in runs if not isinstance(run.config.env, envs.TaskConfig)}:
        raise UsageError(f"--presets: {', '.join(sorted(others))} are no sequence tasks")
    do_missing(missing(runs, record, options.out), len(runs), options.out, options.jobs, preload)


def _compiled(config: RunConfig, steps: int) -> RunConfig:
    if not steps:
        return config
    return config.model_copy(update={"agent": config.agent.model_copy(update={"compiled": steps})})


def add_run(report: Report, run: Run, measure: Measure) -> None:
    """Do one run, or what is left of it, and add its rows to the table."""
    torch.set_num_threads(run.config.threads)
    folder = run.options.unfinished / re.sub(r"[^\w.-]+", "_", f"{run.blank.experiment} {name_of(run.blank)}")
    folder.mkdir(parents=True, exist_ok=True)
    course = Course(run)
    with Saver(folder, keep=1, warn=print) as saver:
        course.resume(folder)
        saved = course.seconds
        for step, words in course.rows():
            report(step, words)
            if course.seconds - saved >= SECONDS_PER_SAVE:
                saver.save(course.state_dict(), step)
                saved = course.seconds
    results.add(run.options.out, course.all_rows(measure))
    shutil.rmtree(folder, ignore_errors=True)


class Course:
    """A run under way, with the rows of its curve so far: all of it can be saved, wherever a row was yielded."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._loop = make_sequence_loop(run.config)
        self._correct = 0.0
        self._measurements: list[tuple[int, str, float, float]] = []
        self._seconds_before, self._began = 0.0, time.perf_counter()
        self._identity = {"commit": run.blank.commit, "config": run.config.model_dump_json()}

    @property
    def seconds(self) -> float:
        """Time that the run has taken, with its parts before it was cut off."""
        return self._seconds_before + time.perf_counter() - self._began

    def rows(self) -> Iterator[tuple[int, str]]:
        """Train on to the end; yields the step of every row, and the row in words."""
        loop, config, averages = self._loop, self._run.config, Averages()
        for step in loop.run(config.steps):
            (metrics,) = step.metrics
            averages.add({name: metrics[f"charts/{name}"] for name in CURVE if f"charts/{name}" in metrics})
            self._correct += metrics["charts/correct_sequences"]
            if loop.step % self._run.options.steps_per_row == 0 or loop.step == config.steps:
                means = averages.flush()
                self._measure({**means, "correct_predictions": self._correct})
                yield loop.step, ", ".join(f"{name.replace('_', ' ')} {mean:.4g}" for name, mean in means.items())

    def all_rows(self, measure: Measure) -> list[Row]:
        """The rows of the curve, and those of the end."""
        assert isinstance(self._loop.agent, SequenceModel)
        self._measure({"updates_per_second": self._loop.step / self.seconds})
        self._measure(measure(self._loop.agent, self._run))
        return [
            replace(self._run.blank, steps=steps, metric=name, value=value, seconds=seconds)
            for steps, name, value, seconds in self._measurements
        ]

    def resume(self, folder: Path) -> None:
        """Become what was last saved of a run of the same configuration and code, if anything was."""
        if not any(folder.iterdir()):
            return
        try:
            _, state = load(folder)
        except CheckpointError as error:
            print(f"{error}: the run begins anew")
            return
        if state["identity"] == self._identity:
            self.load_state_dict(state)
        else:
            print(f"what {folder} holds is of another commit or configuration: the run begins anew")

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes while the run goes, and what it is a run of."""
        return {
            "identity": self._identity,
            "model": self._loop.agent.state_dict(),
            "loop": self._loop.state_dict(),
            "torch_rng": torch.get_rng_state(),
            "correct": self._correct,
            "measurements": [list(measurement) for measurement in self._measurements],
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        self._loop.load_state_dict(state["loop"])
        self._loop.agent.load_state_dict(state["model"])
        torch.set_rng_state(state["torch_rng"])
        self._correct = state["correct"]
        self._measurements = [(steps, name, value, seconds) for steps, name, value, seconds in state["measurements"]]
        self._seconds_before = state["seconds"]
        self._began = time.perf_counter()

    def _measure(self, values: Mapping[str, float]) -> None:
        self._measurements += [(self._loop.step, name, float(value), self.seconds) for name, value in values.items()]
