"""The table of counts says what plain loops over pixels and their neighbours say."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks import pixel_counts, results
from tests.programs import run


def neighbourhood(image: np.ndarray, row: int, column: int, neighbours: int) -> tuple[int, ...]:
    found = []
    for down, right in pixel_counts.nearest(neighbours):
        at = row + down, column + right
        found.append(int(image[at]) if 0 <= at[0] and 0 <= at[1] < image.shape[1] else 0)
    return tuple(found)


def looped_score(train: np.ndarray, test: np.ndarray, neighbours: int) -> float:
    counts: Counter[tuple[tuple[int, ...], int]] = Counter()
    for image in train:
        for row, column in np.ndindex(*image.shape):
            counts[neighbourhood(image, row, column, neighbours), int(image[row, column])] += 1
    nats = 0.0
    for image in test:
        for row, column in np.ndindex(*image.shape):
            context, pixel = neighbourhood(image, row, column, neighbours), int(image[row, column])
            seen = counts[context, 0] + counts[context, 1]
            nats -= math.log((counts[context, pixel] + 0.5) / (seen + 1))
    return nats / len(test)


@pytest.mark.parametrize("neighbours", [1, 4, 9])
def test_it_is_what_plain_loops_count(neighbours: int) -> None:
    draw = np.random.default_rng(neighbours)
    train, test = (draw.integers(2, size=(count, 9, 8), dtype=np.uint8) for count in (6, 3))
    assert pixel_counts.score(train, test, neighbours) == pytest.approx(looped_score(train, test, neighbours))


def test_neighbours_are_the_nearest_and_come_before() -> None:
    assert pixel_counts.nearest(4) == [(-1, 0), (0, -1), (-1, -1), (-1, 1)]
    places = pixel_counts.nearest(20)
    assert len(set(places)) == 20 and all(place < (0, 0) for place in places)
    farthest = max(math.hypot(*place) for place in places)
    left_out = {place for place in pixel_counts.nearest(24) if place not in places}
    assert all(math.hypot(*place) >= farthest for place in left_out)


def test_what_is_not_yet_seen_does_not_count() -> None:
    image = np.zeros((1, 9, 9), dtype=np.uint8)
    before = pixel_counts.contexts(image, 20)
    image[0, 4, 4] = 1
    changed = np.flatnonzero(pixel_counts.contexts(image, 20) != before)
    assert len(changed) == 20 and changed.min() > 4 * 9 + 4


def test_its_scores_stand_in_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = {
        split: np.random.default_rng(number).integers(2, size=(3, 28, 28), dtype=np.uint8)
        for number, split in enumerate(("train", "test"))
    }
    monkeypatch.setattr(pixel_counts, "load", images.__getitem__)
    run(pixel_counts.main, "--out", tmp_path / "sequential_mnist.csv", "--neighbours", 3)
    rows = {row.metric: row for row in results.read(tmp_path / "sequential_mnist.csv")}
    nats = pixel_counts.score(images["train"], images["test"], 3)
    assert rows["test_nll_nats"].value == pytest.approx(nats)
    assert rows["test_bits_per_dimension"].value == pytest.approx(nats / math.log(2) / 784)
    assert {(row.agent, row.variant) for row in rows.values()} == {("counts", "neighbours-3")}
