import csv
import multiprocessing
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from benchmarks import results
from benchmarks.results import COLUMNS, RUN, Row

ROW = Row("atari_1m", "pong", "nec", "", 0, 25_000, "return", -20.5, 12.25, "cpu2", "abc1234", "2026-01-31")


def curve(**changes: object) -> list[Row]:
    row = replace(ROW, **changes)  # type: ignore[arg-type]
    return [replace(row, steps=steps, value=steps / 7) for steps in range(1_000, 51_000, 1_000)]


def add_runs(path: Path, agent: str, runs: int) -> None:
    for seed in range(runs):
        results.add(path, curve(agent=agent, seed=seed))


def test_the_columns_are_those_of_the_plan():
    assert ",".join(COLUMNS) == "experiment,world,agent,variant,seed,steps,metric,value,seconds,machine,commit,date"


def test_what_is_added_is_read_back_and_any_csv_reader_can(tmp_path):
    path = tmp_path / "deep" / "table.csv"
    rows = [ROW, replace(ROW, metric="eval_return", value=1e-3, variant='n-step "20", frozen')]
    assert results.read(path) == []
    results.add(path, rows[:1])
    results.add(path, [replace(row, seed=1) for row in rows])
    assert results.read(path) == [rows[0], *(replace(row, seed=1) for row in rows)]
    with path.open(newline="") as file:
        plain = list(csv.DictReader(file))
    assert plain[2] == {
        "experiment": "atari_1m", "world": "pong", "agent": "nec", "variant": 'n-step "20", frozen', "seed": "1",
        "steps": "25000", "metric": "eval_return", "value": "0.001", "seconds": "12.25", "machine": "cpu2",
        "commit": "abc1234", "date": "2026-01-31",
    }  # fmt: skip


def test_a_run_done_again_takes_the_place_of_its_rows_and_of_no_others(tmp_path):
    path = tmp_path / "table.csv"
    others = [replace(ROW, **{name: 9 if name == "seed" else "other"}) for name in RUN]
    results.add(path, [ROW, *others])
    longer = replace(ROW, steps=50_000)
    results.add(path, [longer])
    assert results.read(path) == [*others, longer]

    elsewhere = replace(longer, machine="h200")
    results.add(path, [elsewhere], (*RUN, "machine"))
    assert results.read(path) == [*others, longer, elsewhere]


def test_done_tells_the_steps_of_each_run(tmp_path):
    path = tmp_path / "table.csv"
    assert results.done(path) == {}
    results.add(path, [*curve(seed=3), *curve(seed=4)[:7]])
    known = results.done(path)
    assert known == {("atari_1m", "pong", "nec", "", 3): 50_000, ("atari_1m", "pong", "nec", "", 4): 7_000}


def test_an_interrupted_write_leaves_the_table_as_it_was(tmp_path):
    path = tmp_path / "table.csv"
    results.add(path, curve(seed=0))
    before = path.read_bytes()
    with mock.patch.object(os, "replace", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        results.add(path, curve(seed=1))
    assert path.read_bytes() == before
    results.add(path, curve(seed=2))
    assert set(results.done(path).values()) == {50_000} and len(results.read(path)) == 100


def test_processes_that_add_at_the_same_time_lose_nothing(tmp_path):
    path, runs = tmp_path / "table.csv", 15
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=add_runs, args=(path, agent, runs)) for agent in ("mfec", "nec")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    rows = results.read(path)
    for agent in ("mfec", "nec"):
        for seed in range(runs):
            own = [row for row in rows if (row.agent, row.seed) == (agent, seed)]
            assert [row.steps for row in own] == list(range(1_000, 51_000, 1_000))
    assert len(rows) == 2 * runs * 50


@pytest.mark.parametrize("line", ["atari_1m,pong,nec", ",".join(["x"] * 12), ",".join(["1"] * 13)])
def test_a_broken_line_is_named(tmp_path, line):
    path = tmp_path / "table.csv"
    results.add(path, [ROW])
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=r"table\.csv:3 is not a row"):
        results.read(path)


def test_another_file_is_not_taken_for_a_table(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("game,score\npong,21\n")
    with pytest.raises(ValueError, match="first line must be experiment,world"):
        results.add(path, [ROW])
    assert path.read_text() == "game,score\npong,21\n"


def test_the_commit_is_dirty_where_the_code_is_and_not_where_results_are(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "REPOSITORY", tmp_path)
    # Whatever repository the folder may lie in is not looked for.
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert (results.commit.__wrapped__(), results.code.__wrapped__()) == ("unknown", "")

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    code = tmp_path / "code.py"
    code.write_text("1\n")
    git("init")
    git("add", ".")
    git("commit", "-m", "one")
    assert results.commit.__wrapped__() == git("rev-parse", "--short", "HEAD")
    first = results.code.__wrapped__()
    (tmp_path / "docs/results").mkdir(parents=True)
    (tmp_path / "docs/results/table.csv").write_text("x")
    (tmp_path / "README.md").write_text("x")
    assert results.code.__wrapped__() == first != ""
    git("add", ".")
    git("commit", "-m", "pages")
    assert results.code.__wrapped__() == first
    assert results.commit.__wrapped__() == git("rev-parse", "--short", "HEAD")
    code.write_text("2\n")
    assert results.commit.__wrapped__() == git("rev-parse", "--short", "HEAD") + "-dirty"
    assert results.code.__wrapped__() == ""
    git("add", ".")
    git("commit", "-m", "two")
    assert results.code.__wrapped__() not in {"", first}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (",".join(COLUMNS).encode() + b"\n\n", ":2 is not a row of results: it has 0 cells, and must have 12"),
        (b"\xfe\xff", "table.csv is not a table of results"),
        (b'"' + b"x" * 200_000, "table.csv is not a table of results"),
    ],
)
def test_what_is_no_table_is_named(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"table\.csv") as told:
        results.read(path)
    assert words in str(told.value)
