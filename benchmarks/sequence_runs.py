"""Training runs of sequence models as rows of a table: what the benchmarks of sequence tasks share.

A run is a preset with its overrides and a seed. Its curve, each the mean over the updates since the row before, on
batches that were predicted before they were learned from, is

    wrong_bits_per_sequence    bits guessed wrong of a sequence; in a task of words error_percent, of all answers
    nats_per_sequence          negative log likelihood of a sequence
    correct_predictions        updates so far, each counted by the share of its sequences without a wrong bit
    forcing                    nats a sequence pays to discriminators; 0 while they are below their gates
    hidden_accuracy            running accuracy of the discriminator of hidden states, and memory_accuracy of memories

and at its end come `updates_per_second`, beside whatever else the machine was doing, and what the benchmark measures.

A run that is cut off goes on from where it was last saved when the same command is given, and the code is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from pydantic import Field

import envs
from agents.sequence_model import SequenceModel
from assembly import RunConfig, make_sequence_loop
from benchmarks.course import Course, CourseOptions, Run, complete
from benchmarks.runner import Preset, check_folder, do_missing, missing, prepare
from benchmarks.workers import Report
from training.command_line import UsageError

CURVE = (
    "charts/wrong_bits_per_sequence",
    "charts/error_percent",
    "charts/nats_per_sequence",
    "losses/forcing",
    "forcing/hidden_accuracy",
    "forcing/memory_accuracy",
)
"""What of a batch's metrics is there is a row."""


class SequenceOptions(CourseOptions):
    """What the benchmarks of sequence tasks have in common."""

    steps: int = Field(default=0, ge=0)
    """Updates of a run; 0 takes the preset's."""
    steps_per_row: int = Field(default=250, ge=1)
    """Updates between two rows of a curve."""
    compiled: int = Field(default=4, ge=0)
    """Steps of the cores that torch compiles into one call, which takes minutes at the start; 0 takes the preset's."""


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
    check_folder(options.unfinished, "--unfinished")
    do_missing(missing(runs, record, options.out), len(runs), options.out, options.jobs, preload)


def _compiled(config: RunConfig, steps: int) -> RunConfig:
    if not steps:
        return config
    return config.model_copy(update={"agent": config.agent.model_copy(update={"compiled": steps})})


def add_run(report: Report, run: Run, measure: Measure) -> None:
    """Do one run, or what is left of it, and add its rows to the table."""
    torch.set_num_threads(run.config.threads)
    complete(SequenceCourse(run, measure), report, run.options.unfinished, run.options.out)


class SequenceCourse(Course):
    """A run of a sequence model under way; it can be saved at every row of its curve."""

    def __init__(self, run: Run, measure: Measure) -> None:
        loop = make_sequence_loop(run.config)
        super().__init__(run, loop)
        assert isinstance(loop.agent, SequenceModel)
        self._measure_model, self._model = measure, loop.agent
        self._correct = 0.0

    def train(self) -> Iterator[tuple[int, str]]:
        loop, steps = self._loop, self._run.config.steps
        for step in loop.run(steps):
            (metrics,) = step.metrics
            self._averages.add({name.rpartition("/")[2]: metrics[name] for name in CURVE if name in metrics})
            self._correct += metrics["charts/correct_sequences"]
            if loop.step % self._run.options.steps_per_row == 0 or loop.step == steps:
                means = self._averages.flush()
                self.measure({**means, "correct_predictions": self._correct})
                yield loop.step, ", ".join(f"{name.replace('_', ' ')} {mean:.4g}" for name, mean in means.items())

    def conclude(self) -> None:
        self.measure({"updates_per_second": self._loop.step / self.seconds})
        self.measure(self._measure_model(self._model, self._run))

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "correct": self._correct}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._correct = state["correct"]
