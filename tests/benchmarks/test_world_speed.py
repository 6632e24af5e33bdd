"""The benchmark of worlds: rows of every world and repeat."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import results, world_speed
from tests.benchmarks.in_process import do_here
from tests.programs import run


def test_every_world_has_rows_of_every_repeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world_speed, "work", do_here)
    out = tmp_path / "world_speed.csv"
    for _ in range(2):
        run(world_speed.main, "--out", out, "--num_envs", 1, 3, "--seconds", 0.02, "--repeats", 2)
    rows = results.read(out)
    names = [*world_speed.WORLDS, "minigrid-own"]
    assert [(row.world, row.seed) for row in rows] == [
        (f"{num_envs} x {name}", repeat) for num_envs in (1, 3) for name in names for repeat in (0, 1)
    ]
    for row in rows:
        assert row.value == pytest.approx(row.steps / row.seconds) and row.seconds >= 0.02
