"""Every way of assigning credit through a memory, on MNIST, to docs/results/credit_assignment.csv.

    python -m benchmarks.credit_assignment                                  all variants, ten seeds, 5,000 updates each
    python -m benchmarks.credit_assignment --variants exact frozen --seeds 0 1

The paper's setting (Hansen 2017): the 5,000 images seen last, batches of 32, one hidden layer of 256, Adam at 1e-4. At
every beat a row of each metric:

    validation_accuracy       of the memory as it is then, on images kept apart
    milliseconds_per_update   since the beat before, evaluation left out
    bytes_per_memory          key, tables, and what the observation comes back from
    key_drift and others      the instruments of memory/episodic/staleness.py

`seconds` is the time spent learning. A run whose loss is not finite ends there, with `diverged` as 1.
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

from agents.agent import NonFiniteError
from agents.memory_classifier import MemoryClassifier
from benchmarks import results
from benchmarks.results import Row
from benchmarks.runner import CommonOptions, Preset, do_missing, missing, prepare
from benchmarks.workers import Report
from envs.mnist import MNISTConfig, load_images
from train import RunConfig, make_agent, make_world
from training.command_line import UsageError, guarded, parse_overrides
from training.loop import TrainingLoop
from training.seeding import EpisodeSeeds

IMAGES = 32
"""Of an update."""
VALIDATION_IMAGES = 2_000

VARIANTS: dict[str, tuple[str, ...]] = {
    # The plain ones: what the paper compares, what bounds it from below and from above.
    "frozen": ("--agent.credit", "frozen"),
    "true-observations": ("--agent.reinstatement", "raw"),
    "exact": (),
    "approximate": ("--agent.credit", "approximate"),
    "synthetic": ("--agent.credit", "synthetic", "--agent.label_conditioned", "False"),
    # Beyond the paper.
    "synthetic-label": ("--agent.credit", "synthetic", "--agent.synthetic_uses", "156"),
    "exact-vae": ("--agent.reinstatement", "variational_autoencoder"),
    "lossless-sampled-500": ("--agent.reinstatement", "lossless", "--agent.sampled", "500"),
    "exact-sampled-500": ("--agent.sampled", "500"),
    "approximate-trust": ("--agent.credit", "approximate", "--agent.trust", "0.9"),
    "approximate-sweep": ("--agent.credit", "approximate", "--agent.freshening", "sweep"),
    "lossless-approximate-sweep": (
        *("--agent.credit", "approximate", "--agent.reinstatement", "lossless", "--agent.sampled", "500"),
        *("--agent.freshening", "sweep"),
    ),
    "hybrid-lossless-sampled-500": (
        *("--agent.credit", "hybrid", "--agent.reinstatement", "lossless", "--agent.sampled", "500"),
    ),
}


class CreditAssignmentOptions(CommonOptions):
    """What to compare, and for how long."""

    variants: tuple[str, ...] = tuple(VARIANTS)
    """Mechanisms, by the names in this script."""
    seeds: tuple[int, ...] = tuple(range(10))
    """A run of every variant for each."""
    updates: int = Field(default=5_000, ge=1)
    """Updates of a run."""
    updates_per_row: int = Field(default=250, ge=1)
    """Updates between two rows."""
    jobs: int = Field(default=1, ge=1)
    """Runs at the same time; more than one makes times incomparable."""


@dataclass(frozen=True)
class Run:
    """All that a worker must know."""

    config: RunConfig
    blank: Row
    updates_per_row: int
    out: Path


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
    seconds, row_seconds, updates, diverged = 0.0, 0.0, 0, False
    while updates < run.config.steps // IMAGES and not diverged:
        began = time.perf_counter()
        try:
            next(loop)
        except NonFiniteError:
            diverged = True
        seconds += time.perf_counter() - began
        row_seconds += time.perf_counter() - began
        updates += 1
        if updates % run.updates_per_row == 0 or diverged:
            accuracy = float((classify(agent, images) == labels).mean())
            measured = {
                "validation_accuracy": accuracy,
                "milliseconds_per_update": 1000 * row_seconds / run.updates_per_row,
                "bytes_per_memory": agent.nbytes / len(agent.store),
                **agent.probe.staleness(agent.encoder, agent.reinstatement, agent.kernel),
                "diverged": float(diverged),
            }
            # The last row says that the run is whole, also of one that diverged.
            steps = run.config.steps if diverged else updates * IMAGES
            for name, value in measured.items():
                yield replace(run.blank, steps=steps, metric=name, value=value, seconds=seconds)
            row_seconds = 0.0
            report(updates * IMAGES, f"accuracy {accuracy:.3f}")
    world.close()


def classify(agent: MemoryClassifier, images: np.ndarray) -> np.ndarray:
    """The classes of images, in pieces."""
    nothing = np.zeros(0, dtype=np.uint64)
    return np.concatenate([agent.act(piece, nothing, epsilon=0.0) for piece in np.array_split(images, 8)])


def main() -> None:
    default = CreditAssignmentOptions(threads=2, out=Path("docs/results/credit_assignment.csv"))
    options = parse_overrides(default, sys.argv[1:], "benchmarks.credit_assignment", __doc__)
    if unknown := set(options.variants) - VARIANTS.keys():
        raise UsageError(f"--variants: no {', '.join(sorted(unknown))}; there are {', '.join(VARIANTS)}")
    runs = [
        Run(config, replace(blank, variant=variant), options.updates_per_row, options.out)
        for seed in options.seeds
        for variant in options.variants
        for config, blank in prepare(
            options, [Preset("mnist_memory_classifier", VARIANTS[variant])], seed, options.updates * IMAGES
        )
    ]
    do_missing(missing(runs, record, options.out), len(runs), options.out, options.jobs, "benchmarks.runner")


if __name__ == "__main__":
    guarded(main)
