"""The benchmark of the copy task: curves, lengths beyond training, and what makes correct predictions."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import copy_task, results, sequence_runs
from tests.benchmarks.in_process import do_here, saved_and_cut_off_at
from tests.programs import complaint, run

SMALL = ("env.bits=2", "env.max_length=2", "agent.hidden=4")


def test_rows_of_a_curve_and_of_lengths_beyond_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequence_runs, "do_missing", do_here)
    out = tmp_path / "copy.csv"
    sizes = ("--seeds", 0, "--steps", 5, "--steps_per_row", 2, "--lengths", 2, 40, "--sequences", 3, "--compiled", 0)
    given = ("--out", out, "--unfinished", tmp_path / "unfinished", *sizes, "--variant", "small", "--override", *SMALL)
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


@pytest.mark.parametrize("changed", ["", "--steps_per_row", "agent.learning_rate", "code"])
def test_a_run_that_is_cut_off_goes_on_unless_it_is_another(
    changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def curve(folder: str, reports: int, change: str = "", code: str = "as it is") -> list[results.Row]:
        monkeypatch.setattr(sequence_runs, "do_missing", saved_and_cut_off_at(reports, monkeypatch))
        monkeypatch.setattr(results, "code", lambda: code)
        out, unfinished = tmp_path / folder / "copy.csv", tmp_path / folder / "unfinished"
        sizes = ("--steps", 8, "--steps_per_row", 1 if change == "--steps_per_row" else 2, "--lengths", 2)
        rate = "agent.learning_rate=2e-3" if change == "agent.learning_rate" else "agent.learning_rate=1e-3"
        small = ("--seeds", 0, "--compiled", 0, "--sequences", 3, "--variant", "small", "--override", *SMALL, rate)
        run(copy_task.main, "--presets", "copy_gru", "--out", out, "--unfinished", unfinished, *sizes, *small)
        assert not list(unfinished.iterdir())
        return results.read(out)

    code = "" if changed == "code" else "as it is"
    whole = curve("whole", 5)
    with pytest.raises(SystemExit):
        curve("parts", 2, change=changed, code=code)
    # It would be cut off, were more rows left than that.
    left = 5 if changed else 3
    parts = curve("parts", left, code=code)
    assert ("the run begins anew" in capsys.readouterr().out) is bool(changed)
    assert len(parts) == len(whole) == 14
    for mine, its in zip(parts, whole, strict=True):
        if mine.metric != "updates_per_second":
            assert replace(mine, seconds=0.0) == replace(its, seconds=0.0)


def test_a_run_is_done_by_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequence_runs, "do_missing", do_here)
    unfinished = tmp_path / "unfinished"
    small = ("--seeds", 0, "--steps", 2, "--compiled", 0, "--lengths", 2, "--variant", "small", "--override", *SMALL)
    arguments = ("--presets", "copy_gru", "--out", tmp_path / "copy.csv", "--unfinished", unfinished, *small)
    folder = unfinished / "copy_copy_1-2_x_2_gru_small_seed_0"
    folder.mkdir(parents=True)
    code = (
        "import sys; from pathlib import Path; from training.files import locked\n"
        f"with locked(Path({str(folder)!r})): print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=results.REPOSITORY,
    )  # fmt: skip
    assert other.stdout is not None and other.stdout.readline() == b"held\n"
    with pytest.raises(BlockingIOError, match="another process"):
        run(copy_task.main, *arguments)
    other.communicate()
    run(copy_task.main, *arguments)
    assert results.read(tmp_path / "copy.csv")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--seeds",), "no run is asked for: a list, such as --seeds, is empty"),
        (("--lengths", 0), "--lengths"),
        (("--override", "seed=3", "--variant", "x"), "--override: seed has an option of its own, --seeds"),
        (("--override", "=3", "--variant", "x"), "NAME=VALUE"),
        (("--override", "help=1", "--variant", "x"), "NAME=VALUE"),
        (("--out", "{tmp}"), "is a folder, and must be the name of a table"),
        (("--out", "{tmp}/file/copy.csv"), "--out: cannot write to"),
        (("--unfinished", "{tmp}/file"), "--unfinished: cannot write to"),
    ],
)
def test_mistakes_are_told_before_anything_runs(
    arguments: tuple[object, ...], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    given = [str(argument).replace("{tmp}", str(tmp_path)) for argument in arguments]
    safe = ("--out", tmp_path / "copy.csv", "--unfinished", tmp_path / "unfinished")
    assert words in complaint(copy_task.main, capsys, *safe, *given)


def test_what_is_no_sequence_task_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = complaint(copy_task.main, capsys, "--presets", "grid_world_mfec", "--out", tmp_path / "copy.csv")
    assert error == "error: --presets: MiniGrid-Empty-8x8-v0 are no sequence tasks\n"
