"""Copy, repeat copy and associative recall by every sequence model, to docs/results/copy.csv.

    python -m benchmarks.copy_task                                        DNC, NTM and GRU on copy, ten seeds
    python -m benchmarks.copy_task --presets repeat_copy_dnc --seeds 0    another preset

The curves are those of `benchmarks/sequence_runs.py`. At the end of a run of the copy task, on sequences of one length
each that training has not seen,

    wrong_bits_length_20    bits guessed wrong of a sequence; likewise 40 and 100, longer than any it was trained on

A DNC is measured with as many slots as there are vectors, if it has fewer: none of its parameters depends on their
number.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from pydantic import Field, PositiveInt

import envs
from agents.sequence_model import SequenceModel
from benchmarks.course import Run
from benchmarks.runner import Preset
from benchmarks.sequence_runs import SequenceOptions, add_run, benchmark
from benchmarks.workers import Report
from envs.copy_task import CopyConfig
from memory.neural import DNC
from training.command_line import guarded, parse_overrides
from training.seeding import generators


class CopyOptions(SequenceOptions):
    """What to run, and for how long."""

    presets: tuple[str, ...] = ("copy_dnc", "copy_ntm", "copy_gru")
    """Presets of sequence models, by name."""
    lengths: tuple[PositiveInt, ...] = (20, 40, 100)
    """Lengths of what is copied at the end."""
    sequences: int = Field(default=256, ge=1)
    """Sequences of each of these lengths."""


def record(report: Report, run: Run) -> None:
    """Do one run and add its rows to the table."""
    add_run(report, run, by_length)


def by_length(model: SequenceModel, run: Run) -> dict[str, float]:
    """Wrong bits of a sequence, for each of the lengths."""
    if not isinstance(run.config.env, CopyConfig):
        return {}
    rng = generators(run.config.seed, "evaluation")["evaluation"]
    wrong = {}
    for length in run.options.lengths:
        config = run.config.env.model_copy(update={"min_length": length, "max_length": length})
        if isinstance(model.core, DNC):
            model.core.slots = max(model.core.slots, length)
        sequences = envs.make_task(config, rng).draw(run.options.sequences)
        wrong[f"wrong_bits_length_{length}"] = float(np.mean(model.score(*sequences)["wrong_bits"]))
    return wrong


def main() -> None:
    default = CopyOptions(seeds=tuple(range(10)), out=Path("docs/results/copy.csv"))
    options = parse_overrides(default, sys.argv[1:], "benchmarks.copy_task", __doc__)
    benchmark(options, [Preset(name) for name in options.presets], record, __name__)


if __name__ == "__main__":
    guarded(main)
