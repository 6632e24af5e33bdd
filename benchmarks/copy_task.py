"""Copy, repeat copy and associative recall by every sequence model, to docs/results/copy.csv.

    python -m benchmarks.copy_task                                        DNC, NTM and GRU on copy, ten seeds
    python -m benchmarks.copy_task --presets repeat_copy_dnc --seeds 0    another preset

A run is a preset with a seed. Its curve, each the mean over the updates since the row before, on batches that were
predicted before they were learned from, is

    wrong_bits_per_sequence    bits guessed wrong of a sequence
    nats_per_sequence          negative log likelihood of a sequence
    correct_predictions        updates so far, each counted by the share of its sequences without a wrong bit

and at its end, on sequences of one length each that training has not seen, of the copy task only,

    wrong_bits_length_20       likewise 40 and 100: longer than any it was trained on

A DNC is measured with as many slots as there are vectors, if it has fewer: none of its parameters depends on their
number. `updates_per_second` is of training, beside whatever else the machine was doing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from pydantic import Field

import envs
from agents.sequence_model import SequenceModel
from benchmarks import results
from benchmarks.results import Row
from benchmarks.runner import CommonOptions, Preset, do_missing, missing, prepare
from benchmarks.workers import Report
from envs.copy_task import CopyConfig
from memory.neural import DNC
from train import RunConfig, make_sequence_loop
from training.command_line import UsageError, guarded, parse_overrides
from training.seeding import generators
from training.tally import Averages

CURVE = ("wrong_bits_per_sequence", "nats_per_sequence")


class CopyOptions(CommonOptions):
    """What to run, and for how long."""

    presets: tuple[str, ...] = ("copy_dnc", "copy_ntm", "copy_gru")
    """Presets of sequence models, by name."""
    seeds: tuple[int, ...] = tuple(range(10))
    """A run of every preset for each."""
    steps: int = Field(default=0, ge=0)
    """Updates of a run; 0 takes the preset's."""
    steps_per_row: int = Field(default=250, ge=1)
    """Updates between two rows of a curve."""
    lengths: tuple[int, ...] = (20, 40, 100)
    """Lengths of what is copied at the end."""
    sequences: int = Field(default=256, ge=1)
    """Sequences of each of these lengths."""
    jobs: int = Field(default=2, ge=1)
    """Runs at the same time, each on its own core."""


@dataclass(frozen=True)
class Run:
    """All that a worker must know."""

    config: RunConfig
    blank: Row
    options: CopyOptions


def record(report: Report, run: Run) -> None:
    """Do one run and add its rows to the table."""
    torch.set_num_threads(run.config.threads)
    results.add(run.options.out, list(rows_of(run, report)))


def rows_of(run: Run, report: Report) -> Iterator[Row]:
    """Train, and measure at every beat and at the end."""
    loop = make_sequence_loop(run.config)
    averages, correct, began = Averages(), 0.0, time.perf_counter()

    def measured(name: str, value: float) -> Row:
        seconds = time.perf_counter() - began
        return replace(run.blank, steps=loop.step, metric=name, value=value, seconds=seconds)

    for step in loop.run(run.config.steps):
        (metrics,) = step.metrics
        averages.add({name: metrics[f"charts/{name}"] for name in CURVE})
        correct += metrics["charts/correct_sequences"]
        if loop.step % run.options.steps_per_row == 0 or loop.step == run.config.steps:
            means = averages.flush()
            for name in CURVE:
                yield measured(name, means[name])
            yield measured("correct_predictions", correct)
            report(loop.step, f"{means['wrong_bits_per_sequence']:.3g} wrong bits")
    yield measured("updates_per_second", loop.step / (time.perf_counter() - began))
    if isinstance(run.config.env, CopyConfig):
        model = loop.agent
        assert isinstance(model, SequenceModel)
        for length in run.options.lengths:
            config = run.config.env.model_copy(update={"min_length": length, "max_length": length})
            yield measured(f"wrong_bits_length_{length}", wrong_bits(model, config, run))


def wrong_bits(model: SequenceModel, config: CopyConfig, run: Run) -> float:
    """Wrong bits of a sequence of one length, the mean of many."""
    rng = generators(run.config.seed, "evaluation")["evaluation"]
    if isinstance(model.core, DNC):
        model.core.slots = max(model.core.slots, config.max_length)
    return float(np.mean(model.score(*envs.make_task(config, rng).draw(run.options.sequences))["wrong_bits"]))


def main() -> None:
    default = CopyOptions(out=Path("docs/results/copy.csv"))
    options = parse_overrides(default, sys.argv[1:], "benchmarks.copy_task", __doc__)
    runs = [
        Run(config, blank, options)
        for seed in options.seeds
        for config, blank in prepare(options, [Preset(name) for name in options.presets], seed, options.steps)
    ]
    if others := {run.blank.world for run in runs if not isinstance(run.config.env, envs.TaskConfig)}:
        raise UsageError(f"--presets: {', '.join(sorted(others))} are no sequence tasks")
    do_missing(missing(runs, record, options.out), len(runs), options.out, options.jobs, __name__)


if __name__ == "__main__":
    guarded(main)
