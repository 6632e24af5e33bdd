"""Training runs of sequence models as rows of a table: what the benchmarks of sequence tasks share.

A run is a preset with its overrides and a seed. Its curve, each the mean over the updates since the row before, on
batches that were predicted before they were learned from, is

    wrong_bits_per_sequence    bits guessed wrong of a sequence; in a task of words error_percent, of all answers
    nats_per_sequence          negative log likelihood of a sequence
    correct_predictions        updates so far, each counted by the share of its sequences without a wrong bit

and at its end come `updates_per_second`, beside whatever else the machine was doing, and what the benchmark measures.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from pydantic import Field

import envs
from agents.sequence_model import SequenceModel
from assembly import RunConfig, make_sequence_loop
from benchmarks import results
from benchmarks.results import Row
from benchmarks.runner import CommonOptions, Preset, do_missing, missing, prepare
from benchmarks.workers import Report
from training.command_line import UsageError
from training.tally import Averages

CURVE = ("wrong_bits_per_sequence", "error_percent", "nats_per_sequence")
"""What of a batch's metrics is there is a row."""


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
    """Do one run and add its rows to the table."""
    torch.set_num_threads(run.config.threads)
    results.add(run.options.out, list(rows_of(run, report, measure)))


def rows_of(run: Run, report: Report, measure: Measure) -> Iterator[Row]:
    """Train, and measure at every beat and at the end."""
    loop = make_sequence_loop(run.config)
    averages, correct, began = Averages(), 0.0, time.perf_counter()

    def measured(name: str, value: float) -> Row:
        seconds = time.perf_counter() - began
        return replace(run.blank, steps=loop.step, metric=name, value=value, seconds=seconds)

    for step in loop.run(run.config.steps):
        (metrics,) = step.metrics
        averages.add({name: metrics[f"charts/{name}"] for name in CURVE if f"charts/{name}" in metrics})
        correct += metrics["charts/correct_sequences"]
        if loop.step % run.options.steps_per_row == 0 or loop.step == run.config.steps:
            means = averages.flush()
            for name, mean in means.items():
                yield measured(name, mean)
            yield measured("correct_predictions", correct)
            report(loop.step, ", ".join(f"{name.replace('_', ' ')} {mean:.4g}" for name, mean in means.items()))
    yield measured("updates_per_second", loop.step / (time.perf_counter() - began))
    assert isinstance(loop.agent, SequenceModel)
    for name, value in measure(loop.agent, run).items():
        yield measured(name, value)
