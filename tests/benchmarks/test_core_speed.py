"""The benchmark of cores: rows of every core and repeat, and memories of one size."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import core_speed, results
from tests.benchmarks.in_process import do_here
from tests.programs import run


def test_every_core_has_rows_of_every_repeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_speed, "work", do_here)
    out = tmp_path / "core_speed.csv"
    sizes = ("--lengths", 2, "--width", 4, "--slots", 12, "--hidden", 3, "--batch", 2, "--repeats", 2)
    for _ in range(2):
        run(core_speed.main, "--out", out, "--compiled", "False", *sizes)
    rows = results.read(out)
    assert {row.agent for row in rows} == {"gru", "lstm", "ntm", "dnc", "mnm-p", "mnm-g"}
    for name in core_speed.CORES:
        mine = [row for row in rows if row.agent == name]
        assert [row.seed for row in mine if row.metric == "milliseconds_per_step"] == [0, 1]
        once = {row.metric: row.value for row in mine}
        assert once["milliseconds_per_step"] > 0 and once["parameters"] > 0
        assert once["memory_numbers"] == (0 if name in ("gru", "lstm") else 48)
