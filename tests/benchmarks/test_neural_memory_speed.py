"""The benchmark of speed: rows of every repeat, quotients of medians, and a clear word where the rival is missing."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import neural_memory_speed, results
from benchmarks.neural_memory_speed import speedups
from benchmarks.results import Row
from tests.benchmarks.in_process import do_here
from tests.programs import complaint, run

BLANK = Row("speed", "tiny", "dnc", "", 0, 3, "milliseconds_per_step", 0.0, 0.0, "here", "unknown", "2026-01-01")


def test_every_size_has_rows_of_every_repeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neural_memory_speed, "work", do_here)
    sizes = ("--slots", 3, 4, "--lengths", 2, 5, "--width", 2, "--batch", 2, "--hidden", 3, "--repeats", 2)
    out = tmp_path / "speed.csv"
    for _ in range(2):
        run(neural_memory_speed.main, "--out", out, "--against", "False", "--compiled", "False", *sizes)
    rows = results.read(out)
    assert sorted({row.world for row in rows}) == [
        "3 x 2 4 heads batch 2 length 2",
        "3 x 2 4 heads batch 2 length 5",
        "4 x 2 4 heads batch 2 length 2",
    ]
    assert sorted((row.metric, row.seed) for row in rows if row.world.startswith("4 x")) == [
        ("milliseconds_per_step", 0),
        ("milliseconds_per_step", 1),
        ("peak_megabytes", 0),
    ]
    assert all(row.value > 0 for row in rows if row.metric == "milliseconds_per_step")


def test_a_speedup_is_the_quotient_of_medians() -> None:
    times = {"": [1.0, 2.0, 90.0], "compiled": [0.5, 0.5, 0.5], "pypi": [10.0, 1.0, 11.0]}
    rows = [replace(BLANK, variant=name, value=value) for name, values in times.items() for value in values]
    assert {row.variant: row.value for row in speedups(rows, BLANK)} == {"": 5.0, "compiled": 20.0}
    assert speedups([row for row in rows if row.variant != "pypi"], BLANK) == []


def test_a_rival_that_is_not_installed_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    error = complaint(neural_memory_speed.main, capsys, "--out", tmp_path / "speed.csv")
    assert "the public DNC is not installed: pip install --no-deps --target FOLDER dnc" in error
