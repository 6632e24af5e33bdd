"""The benchmark of the copy task: curves, lengths beyond training, and what makes correct predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import copy_task, results, sequence_runs
from benchmarks.workers import Job
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


def test_what_is_no_sequence_task_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = complaint(copy_task.main, capsys, "--presets", "grid_world_mfec", "--out", tmp_path / "copy.csv")
    assert error == "error: --presets: MiniGrid-Empty-8x8-v0 are no sequence tasks\n"
