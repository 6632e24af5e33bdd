"""The benchmark of bAbI: errors of every task against plain loops, joint and single runs, and clear refusals."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from assembly import RunConfig
from benchmarks import babi, results, sequence_runs
from benchmarks.course import Run
from envs.babi_stories import WORDS
from envs.mnist import DATA_VARIABLE
from tests.benchmarks.in_process import do_here
from tests.envs.babi_data import write
from tests.programs import complaint, run


class Guessing:
    """A model that answers every question with one word."""

    def __init__(self, word: str) -> None:
        self.word = WORDS.index(word)

    def score(self, inputs: np.ndarray, targets: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
        return {"wrong_answers": ((targets != self.word) & mask).sum(0), "answers": mask.sum(0)}


@pytest.fixture(autouse=True)
def _stories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    monkeypatch.setattr(sequence_runs, "do_missing", do_here)
    write(tmp_path)


def curve(rows: Sequence[results.Row], metric: str) -> list[int]:
    return [row.steps for row in rows if row.metric == metric]


def test_errors_are_of_words_and_of_tasks(tmp_path: Path) -> None:
    config = RunConfig.model_validate(
        {"env": {"name": "babi", "tasks": (1, 8, 19)}, "agent": {"name": "lstm"}, "num_envs": 2}
    )
    blank = results.Row("babi", "bAbI", "lstm", "", 0, 0, "", 0.0, 0.0, "cpu2", "unknown", "2026-01-01")
    planned = Run(config, blank, babi.BabiOptions(out=tmp_path / "babi.csv"))
    for word, wrong in (("milk", (100, 0, 100)), ("n", (100, 100, 0)), ("w", (100, 100, 100))):
        errors = babi.test_errors(Guessing(word), planned)  # type: ignore[arg-type]
        assert tuple(errors[f"error_percent_task_{task}"] for task in (1, 8, 19)) == wrong
        assert errors["mean_error_percent"] == pytest.approx(sum(wrong) / 3)
        assert errors["failed_tasks"] == sum(one > 5 for one in wrong)
        assert errors["training_stories"] == 4


def test_a_run_for_each_task_alone_and_none_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "babi.csv"
    small = ("--override", "agent.hidden=4", "agent.embedding=2", "agent.compiled=0", "--variant", "small")
    files = ("--out", out, "--unfinished", tmp_path / "unfinished")
    given = (*files, "--seeds", 0, "--steps", 5, "--steps_per_row", 2, "--num_envs", 2, *small)
    run(babi.main, "--presets", "babi_lstm", "babi_dnc", "--tasks", 1, 8, *given)
    rows = results.read(out)
    for agent, task in itertools.product(("lstm", "dnc"), (1, 8)):
        mine = [row for row in rows if (row.agent, row.world) == (agent, f"bAbI 10k task {task}")]
        assert {row.variant for row in mine} == {"small"}
        for metric in ("error_percent", "nats_per_sequence", "correct_predictions"):
            assert curve(mine, metric) == [2, 4, 5]
        last = {row.metric: row.value for row in mine}
        # One question each is tested on.
        assert last[f"error_percent_task_{task}"] == last["mean_error_percent"] in (0, 100)
        assert last["failed_tasks"] == last["mean_error_percent"] / 100
        assert last["training_stories"] == {1: 2, 8: 1}[task]
    asked = list[int]()
    monkeypatch.setattr(sequence_runs, "do_missing", lambda jobs, total, *_: asked.extend((len(jobs), total)))
    run(babi.main, "--presets", "babi_lstm", "babi_dnc", "--tasks", 1, 8, *given)
    assert asked == [0, 4]


def test_a_preset_of_another_task_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = complaint(babi.main, capsys, "--presets", "copy_dnc", "--out", tmp_path / "babi.csv")
    assert error.startswith("error: --presets: copy_dnc are not of bAbI; there are babi_dnc, babi_lstm")
    error = complaint(babi.main, capsys, "--tasks", "21", "--out", tmp_path / "babi.csv")
    assert "tasks must be different numbers from 1 to 20, got 21" in error


def test_tasks_alone_and_jointly_at_once_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    joint = ("--override", "env.tasks=2", "--variant", "two", "--out", tmp_path / "babi.csv")
    assert "give one of them" in complaint(babi.main, capsys, "--tasks", "1", *joint)


def test_all_presets_of_babi_are_in_it() -> None:
    planned = {preset.name for preset in babi.plan(babi.BabiOptions(out=Path("babi.csv")))}
    assert planned == {"babi_dnc", "babi_lstm", "babi_mnm"}
