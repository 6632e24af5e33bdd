"""Paired comparisons: against scipy's own test of pairs, and by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks import paired, results
from tests.programs import complaint, run


def table(tmp_path: Path, values: dict[str, list[float]]) -> Path:
    path = tmp_path / "some.csv"
    for variant, finals in values.items():
        for seed, value in enumerate(finals):
            blank = replace(results.blank(path, "room", "dnc", "cpu", variant=variant, seed=seed), metric="score")
            results.add(path, [replace(blank, steps=2, value=value), replace(blank, steps=1, value=-99.0)])
    return path


def test_the_interval_is_that_of_the_t_test_of_pairs() -> None:
    first, second = np.random.default_rng(0).normal(size=(2, 7))
    expected = stats.ttest_rel(second, first).confidence_interval(0.95)
    found = paired.compare(dict(enumerate(first)), dict(enumerate(second)))
    assert found.mean == pytest.approx((second - first).mean())
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx(tuple(expected))
    assert (found.seeds, found.better) == (7, (second > first).sum())


def test_seeds_that_one_lacks_do_not_count() -> None:
    found = paired.compare({0: 1.0, 1: 5.0}, {1: 7.0, 2: 100.0})
    assert (found.seeds, found.better, found.mean, found.half_width) == (1, 1, 2.0, math.inf)
    with pytest.raises(ValueError, match="no seed in common"):
        paired.compare({0: 1.0}, {1: 1.0})


def test_the_last_rows_of_a_table_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table(tmp_path, {"": [1.0, 2.0, 3.0], "new": [2.0, 4.0, 6.0]})
    run(paired.main, "some", "score", "dnc", "dnc:new", "--folder", tmp_path)
    # Differences 1, 2 and 3: t of 0.975 with two degrees of freedom is 4.303, and the error 1 / sqrt(3).
    assert capsys.readouterr().out == "room: +2.00 (-0.48 to +4.48), more in 3 of 3 seeds\n"


def test_what_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table(tmp_path, {"": [1.0]})
    said = complaint(paired.main, capsys, "some", "score", "dnc", "dnc:old", "--folder", tmp_path)
    assert "no world where 'dnc' and 'dnc:old' have a last 'score' of the same seed" in said
