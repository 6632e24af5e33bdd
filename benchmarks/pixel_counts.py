"""What a table of counts makes of MNIST pixel by pixel, to docs/results/sequential_mnist.csv.

    python -m benchmarks.pixel_counts

The simplest model that is any good, for those of `benchmarks/sequential_mnist.py` to be held against: a pixel is as
likely white as it was in the training images wherever its nearest neighbours, of those that come before it, were as
they are. One table for all places of the image; beyond its edge all is black. Nothing is drawn, so one seed is all.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from benchmarks import results
from benchmarks.runner import check_table
from benchmarks.sequential_mnist import likelihood
from envs.sequential_mnist import SequentialMNISTConfig, make_sequential_mnist
from training.command_line import guarded, parse_overrides

SIDE = 28
PSEUDOCOUNT = 0.5
"""Pixels of either colour that every context is taken to have been seen with."""
_REACH = 6
"""How far away the farthest neighbour may be, in rows or columns."""
_MOST = 24
"""Neighbours whose table still fits: 2^24 contexts."""


class PixelCountsOptions(BaseModel):
    """What to count."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    neighbours: tuple[Annotated[int, Field(ge=1, le=_MOST)], ...] = (8, 20)
    """Pixels that one is predicted from; a table for each number."""
    out: Path = Path("docs/results/sequential_mnist.csv")
    """Table to add to."""
    machine: str = results.machine_word()
    """One word for the machine."""


def nearest(neighbours: int) -> list[tuple[int, int]]:
    """Rows and columns from a pixel to its nearest neighbours of those that come before it, row by row."""
    places = [
        (row, column) for row in range(-_REACH, 1) for column in range(-_REACH, _REACH + 1) if row < 0 or column < 0
    ]
    return sorted(places, key=lambda place: (math.hypot(*place), place))[:neighbours]


def contexts(images: np.ndarray, neighbours: int) -> np.ndarray:
    """Of every pixel, which of the possible neighbourhoods it is in: int32 below 2^neighbours, `[n, height, width]`.

    Args:
        images: 0 or 1, uint8 `[n, height, width]`.
        neighbours: pixels that count.
    """
    height, width = images.shape[1:]
    padded = np.pad(images, ((0, 0), (_REACH, 0), (_REACH, _REACH)))
    found = np.zeros(images.shape, dtype=np.int32)
    for row, column in nearest(neighbours):
        top, left = _REACH + row, _REACH + column
        found = 2 * found + padded[:, top : top + height, left : left + width]
    return found


def score(train: np.ndarray, test: np.ndarray, neighbours: int) -> float:
    """Negative log likelihood of a test image in nats, by the counts of training images; both as for `contexts`."""
    seen, size = contexts(train, neighbours).ravel(), 1 << neighbours
    times = np.bincount(seen, minlength=size) + 2 * PSEUDOCOUNT
    white = (np.bincount(seen[train.ravel() == 1], minlength=size) + PSEUDOCOUNT) / times
    chances = white[contexts(test, neighbours)]
    return float(-np.log(np.where(test == 1, chances, 1 - chances)).sum() / len(test))


def load(split: str) -> np.ndarray:
    """All images of the static split, as for `contexts`."""
    config = SequentialMNISTConfig.model_validate({"split": split})
    task = make_sequential_mnist(config, np.random.default_rng(0))
    return task.draw(len(task)).targets[:, :, 0].T.astype(np.uint8).reshape(-1, SIDE, SIDE)


def main() -> None:
    options = parse_overrides(PixelCountsOptions(), sys.argv[1:], "benchmarks.pixel_counts", __doc__)
    check_table(options.out)
    train, test = load("train"), load("test")
    for neighbours in options.neighbours:
        began = time.perf_counter()
        nats = score(train, test, neighbours)
        variant = f"neighbours-{neighbours}"
        blank = results.blank(options.out, SequentialMNISTConfig().title, "counts", options.machine, variant=variant)
        blank = replace(blank, seconds=time.perf_counter() - began)
        measured = likelihood(nats, SIDE**2)
        results.add(options.out, [replace(blank, metric=name, value=value) for name, value in measured.items()])
        print(f"{neighbours} neighbours: {nats:.2f} nats a test image", flush=True)


if __name__ == "__main__":
    guarded(main)
