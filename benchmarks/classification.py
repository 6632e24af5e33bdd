"""Runs of the memory classifier as rows of a table: what the benchmarks of credit, bytes and freshening share.

At every beat a run leaves a row of each metric:

    validation_accuracy       of the memory as it is then, on images kept apart
    milliseconds_per_update   since the beat before, evaluation left out
    bytes_per_memory          key, tables, and what the observation comes back from
    key_drift and others      the instruments of memory/episodic/staleness.py
    diverged                  1 where the loss is not finite, accuracy is ten points below the best it had, or no better
                              than twice chance; else 0

`seconds` is the time spent learning. A run whose loss is not finite ends there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from pydantic import Field

from agents.agent import NonFiniteError
from agents.memory_classifier import MemoryClassifier
from assembly import RunConfig, make_agent, make_world
from benchmarks import results
from benchmarks.results import Row
from benchmarks.runner import CommonOptions, Preset, do_missing, missing, prepare
from benchmarks.workers import Report
from envs.mnist import MNISTConfig, load_images
from training.command_line import UsageError
from training.loop import TrainingLoop
from training.seeding import EpisodeSeeds

IMAGES = 32
"""Of an update."""
VALIDATION_IMAGES = 2_000
DIVERGED = 0.1
"""How far accuracy falls below its best in a run that counts as diverged."""


class ClassificationOptions(CommonOptions):
    """What to compare, and for how long."""

    variants: tuple[str, ...] = ()
    """Which, by the names in this script; without any, all."""
    seeds: tuple[int, ...]
    """A run of every variant for each."""
    updates: int = Field(default=3_000, ge=1)
    """Updates of a run."""
    updates_per_row: int = Field(default=250, ge=1)
    """Updates between two rows."""
    jobs: int = Field(default=2, ge=1)
    """Runs at the same time, each on its own core; times are comparable only where they were done like this."""


@dataclass(frozen=True)
class Run:
    """All that a worker must know."""

    config: RunConfig
    blank: Row
    updates_per_row: int
    out: Path


def compare(options: ClassificationOptions, variants: Mapping[str, tuple[str, ...]]) -> None:
    """Do the runs of variants, overrides by name, that the table lacks; exit with code 1 if some failed."""
    if unknown := set(options.variants) - variants.keys():
        raise UsageError(f"--variants: no {', '.join(sorted(unknown))}; there are {', '.join(variants)}")
    if options.num_envs or options.device != "cpu":
        raise UsageError(
            f"this benchmark is of updates of {IMAGES} images on the CPU: leave out --num-envs and --device"
        )
    runs = [
        Run(
            config,
            replace(blank, variant="+".join(filter(None, [variant, blank.variant]))),
            options.updates_per_row,
            options.out,
        )
        for seed in options.seeds
        for variant in options.variants or variants
        for config, blank in prepare(
            options, [Preset("mnist_memory_classifier", variants[variant])], seed, options.updates * IMAGES
        )
    ]
    do_missing(missing(runs, record, options.out), len(runs), options.out, options.jobs, __name__)


def record(report: Report, run: Run) -> None:
    """Do one run and add its rows to the table."""
    torch.set_num_threads(run.config.threads)
    results.add(run.out, list(rows_of(run, report)))


def rows_of(run: Run, report: Report) -> Iterator[Row]:
    """Train, and measure at every beat."""
    world = make_world(run.config)
    agent = make_agent(run.config, world)
    assert isinstance(agent, MemoryClassifier) and isinstance(run.config.env, MNISTConfig)
    images, labels = load_images(run.config.env.dataset, "validation")
    images, labels = images[:VALIDATION_IMAGES, None], labels[:VALIDATION_IMAGES]
    loop = TrainingLoop(world, agent, EpisodeSeeds(run.config.seed)).run(run.config.steps)
    seconds, updates, best, failed = 0.0, 0, 0.0, False
    last_row = (seconds, updates)
    total = run.config.steps // IMAGES
    while updates < total and not failed:
        began = time.perf_counter()
        try:
            next(loop)
        except NonFiniteError:
            failed = True
        seconds += time.perf_counter() - began
        updates += 1
        if updates % run.updates_per_row == 0 or updates == total or failed:
            accuracy = float((classify(agent, images) == labels).mean())
            best = max(best, accuracy)
            measured = {
                "validation_accuracy": accuracy,
                "milliseconds_per_update": 1000 * (seconds - last_row[0]) / (updates - last_row[1]),
                "bytes_per_memory": agent.nbytes / len(agent.store),
                **agent.staleness(),
                "diverged": float(failed or accuracy < max(best - DIVERGED, 2 / agent.num_classes)),
            }
            # The last row says that the run is whole, also of one that failed.
            steps = run.config.steps if failed else updates * IMAGES
            for name, value in measured.items():
                yield replace(run.blank, steps=steps, metric=name, value=value, seconds=seconds)
            last_row = (seconds, updates)
            report(updates * IMAGES, f"accuracy {accuracy:.3f}")
    world.close()


def classify(agent: MemoryClassifier, images: np.ndarray) -> np.ndarray:
    """The classes of images, in pieces."""
    nothing = np.zeros(0, dtype=np.uint64)
    return np.concatenate([agent.act(piece, nothing, epsilon=0.0) for piece in np.array_split(images, 8)])
