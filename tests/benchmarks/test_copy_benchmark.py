"""The benchmark of the copy task: curves, lengths beyond training, and what makes correct predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import copy_task, course, results, sequence_runs
from benchmarks.workers import Job
from tests.benchmarks.cut_off import cut_off_at
from tests.programs import complaint, run

SMALL = ("env.bits=2", "env.max_length=2", "agent.hidden=4")


def do_here(jobs: Sequence[Job], *_: object) -> None:
    for job in jobs:
        job.function(lambda steps, words: None, *job.arguments)


def test_rows_of_a_curve_and_of_lengths_beyond_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequence_runs, "do_missing", do_here)
    out = tmp_path / "copy.csv"
    sizes = ("--seeds", 0, "--steps", 5, "--steps_per_row", 2, "--lengths", 2, 40, "--sequences", 3, "--compiled", 0)
    given = ("--out", out, *sizes, "--variant", "small", "--override", *SMALL)
    run(copy_task.main, "--presets", "copy_dnc", "copy_gru", *given)
    for agent in ("dnc", "gru"):
        rows = [row for row in results.read(out) if row.agent == agent]
        assert {row.world for row in rows} == {"copy 1-2 x 2"} and {row.variant for row in rows} == {"small"}
        for metric in ("wrong_bits_per_sequence", "nats_per_sequence", "correct_predictions"):
            assert [row.steps for row in rows if row.metric == metric] == [2, 4, 5]
        last = {row.metric: row.value for row in rows}
        assert 0 <= last["correct_predictions"] <= 5 and last["updates_per_second"] > 0
        # Guessing gets half of them wrong: 2 of 4 bits, and 40 of 80, in more slots than it was trained with.
        assert last["wrong_bits_length_2"] <= 4 and 20 < last["wrong_bits_length_40"] < 60


@pytest.mark.parametrize("changed", [False, True])
def test_a_run_that_is_cut_off_goes_on_unless_it_is_another(
    changed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(course, "SECONDS_PER_SAVE", 0.0)

    def rows(folder: str, rows: int, rate: float = 1e-3) -> list[results.Row]:
        monkeypatch.setattr(sequence_runs, "do_missing", cut_off_at(rows))
        out, unfinished = tmp_path / folder / "copy.csv", tmp_path / folder / "unfinished"
        sizes = ("--steps", 6, "--steps_per_row", 2, "--lengths", 2, "--sequences", 3, "--compiled", 0)
        small = ("--seeds", 0, "--variant", "small", "--override", *SMALL, f"agent.learning_rate={rate}")
        run(copy_task.main, "--presets", "copy_gru", "--out", out, "--unfinished", unfinished, *sizes, *small)
        assert not list(unfinished.iterdir())
        return results.read(out)

    whole = rows("whole", 3)
    with pytest.raises(KeyboardInterrupt):
        rows("parts", 1, rate=2e-3 if changed else 1e-3)
    parts = rows("parts", 2 + changed)
    assert ("the run begins anew" in capsys.readouterr().out) is changed
    assert len(parts) == len(whole) == 11
    for mine, its in zip(parts, whole, strict=True):
        if mine.metric != "updates_per_second":
            assert replace(mine, seconds=0.0) == replace(its, seconds=0.0)


def test_what_is_no_sequence_task_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = complaint(copy_task.main, capsys, "--presets", "grid_world_mfec", "--out", tmp_path / "copy.csv")
    assert error == "error: --presets: MiniGrid-Empty-8x8-v0 are no sequence tasks\n"
