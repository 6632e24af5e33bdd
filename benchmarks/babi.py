"""bAbI by every sequence model that has a preset for it, to docs/results/babi.csv.

    python -m benchmarks.babi                                            all twenty tasks jointly, 10k, three seeds
    python -m benchmarks.babi --tasks 1 2 15 20 --steps 5000             a model for each of these tasks alone
    python -m benchmarks.babi --presets babi_dnc --variant masking-deallocation \\
        --override agent.masking=True agent.deallocation=True            DNC-MD of Csordas and Schmidhuber 2019

The curves are those of `benchmarks/sequence_runs.py`, on stories that are trained on. At the end of a run, on all
stories of the official test split,

    error_percent_task_1    wrong words of all words of the answers of a task; likewise of the others
    mean_error_percent      the mean over tasks
    failed_tasks            tasks of which more than 5 % are wrong
    training_stories        stories that were trained on: 60,843 where the 10k file of task 3 is not there, and its 1k
                            file is taken instead

An answer of several words, in tasks 8 and 19, counts for as many, as in Graves et al. 2016. A single task is a world of
its own.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np

import envs
from agents.sequence_model import SequenceModel
from benchmarks.course import Run
from benchmarks.runner import Preset
from benchmarks.sequence_runs import SequenceOptions, add_run, benchmark
from benchmarks.workers import Report
from envs.babi import Babi, BabiConfig
from train import PRESETS
from training.command_line import UsageError, guarded, parse_overrides

FAILED_PERCENT = 5.0
"""A task of which more is wrong has failed."""


NAMES = tuple(sorted(path.stem for path in PRESETS.glob("babi_*.yaml")))
"""Presets of bAbI."""


class BabiOptions(SequenceOptions):
    """What to run, and for how long."""

    presets: tuple[str, ...] = NAMES
    """Presets of sequence models, by name."""
    tasks: tuple[int, ...] = ()
    """Tasks that have a run each; none: one run of every preset for all tasks jointly."""


def record(report: Report, run: Run) -> None:
    """Do one run and add its rows to the table."""
    add_run(report, run, test_errors)


def test_errors(model: SequenceModel, run: Run) -> dict[str, float]:
    """Wrong words of the answers of each task, in percent, on all stories of the test split."""
    config = run.config.env
    assert isinstance(config, BabiConfig)
    task = _task(config.model_copy(update={"split": "test"}))
    wrong, answers = np.zeros(21), np.zeros(21)
    stories = np.arange(len(task))
    for numbers in np.split(stories, stories[:: run.config.num_envs][1:]):
        scores = model.score(*task.take(numbers))
        np.add.at(wrong, task.task_numbers[numbers], scores["wrong_answers"])
        np.add.at(answers, task.task_numbers[numbers], scores["answers"])
    errors = {number: float(100 * wrong[number] / answers[number]) for number in sorted(config.tasks)}
    return {
        **{f"error_percent_task_{number}": error for number, error in errors.items()},
        "mean_error_percent": float(np.mean(list(errors.values()))),
        "failed_tasks": sum(error > FAILED_PERCENT for error in errors.values()),
        "training_stories": len(_task(config)),
    }


def _task(config: BabiConfig) -> Babi:
    with warnings.catch_warnings():
        # What the data lack was told when the training began.
        warnings.simplefilter("ignore")
        task = envs.make_task(config, np.random.default_rng(0))
    assert isinstance(task, Babi)
    return task


def plan(options: BabiOptions) -> list[Preset]:
    """The runs of a seed.

    Raises:
        UsageError: on a preset of another task, or tasks that are asked for twice.
    """
    if others := [name for name in options.presets if not name.startswith("babi_")]:
        raise UsageError(f"--presets: {', '.join(others)} are not of bAbI; there are {', '.join(NAMES)}")
    if options.tasks and any(change.startswith("env.tasks=") for change in options.override):
        raise UsageError("--override: env.tasks are joint tasks, and --tasks has a run for each: give one of them")
    if not options.tasks:
        return [Preset(name) for name in options.presets]
    return [Preset(name, ("--env.tasks", str(task))) for task in options.tasks for name in options.presets]


def main() -> None:
    options = parse_overrides(
        BabiOptions(compiled=0, out=Path("docs/results/babi.csv")), sys.argv[1:], "benchmarks.babi", __doc__
    )
    benchmark(options, plan(options), record, __name__)


if __name__ == "__main__":
    guarded(main)
