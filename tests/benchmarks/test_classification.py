"""The benchmarks of the memory classifier: rows at every beat and at the end, names, divergence, and resuming."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import results
from benchmarks.classification import ClassificationOptions, compare
from tests.digits import make_digits
from training.command_line import UsageError

SMALL = ("--agent.hidden", "8", "--agent.key_size", "4", "--agent.capacity", "64")


@pytest.fixture
def variants(tmp_path):
    small = (*SMALL, "--env.dataset", str(make_digits(tmp_path)))
    return {"frozen": (*small, "--agent.credit", "frozen"), "exact": small}


def options(tmp_path: Path, **given: object) -> ClassificationOptions:
    return ClassificationOptions.model_validate({"seeds": (0,), "out": tmp_path / "table.csv", "jobs": 1, **given})


def rows_of(tmp_path: Path, metric: str) -> list[tuple[str, int]]:
    return [(row.variant, row.steps) for row in results.read(tmp_path / "table.csv") if row.metric == metric]


def test_there_are_rows_at_every_beat_and_at_the_end_and_a_run_is_done_once(tmp_path, variants, capsys):
    compare(options(tmp_path, updates=5, updates_per_row=2), variants)
    expected = [(variant, updates * 32) for variant in variants for updates in (2, 4, 5)]
    for metric in ("validation_accuracy", "milliseconds_per_update", "bytes_per_memory", "diverged"):
        assert sorted(rows_of(tmp_path, metric)) == sorted(expected)
    compare(options(tmp_path, updates=5, updates_per_row=2), variants)
    assert "2 of 2 runs are there, 0 to do" in capsys.readouterr().out
    assert len(rows_of(tmp_path, "diverged")) == len(expected)


def test_a_changed_preset_has_a_name_of_its_own(tmp_path, variants):
    change = {"override": ("agent.temperature=1",), "variant": "hot"}
    compare(options(tmp_path, updates=2, updates_per_row=2, variants=("frozen",), **change), variants)
    assert rows_of(tmp_path, "diverged") == [("frozen+hot", 64)]


def test_a_run_whose_loss_is_not_finite_ends_and_has_diverged(tmp_path, variants):
    variants["wild"] = (*variants["exact"], "--agent.learning_rate", "1e30")
    compare(options(tmp_path, updates=40, updates_per_row=20, variants=("wild",)), variants)
    found = results.read(tmp_path / "table.csv")
    assert [(row.steps, row.value) for row in found if row.metric == "diverged"][-1] == (40 * 32, 1.0)


def test_what_would_make_rows_of_something_else_is_refused(tmp_path, variants):
    with pytest.raises(UsageError, match="no magic; there are frozen, exact"):
        compare(options(tmp_path, variants=("magic",)), variants)
    with pytest.raises(UsageError, match="leave out --num-envs"):
        compare(options(tmp_path, num_envs=16), variants)
    assert not (tmp_path / "table.csv").exists()
