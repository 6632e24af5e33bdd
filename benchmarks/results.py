"""The tidy table of results: one row a measurement, one CSV file an experiment, written by many processes.

    experiment,world,agent,variant,seed,steps,metric,value,seconds,machine,commit,date

`steps` are agent steps, `seconds` those since the run began, `variant` what differs from the paper's setting. Curves
are rows of growing `steps`. The file is always whole: all rows of a run appear in it at once, or none does.
"""

from __future__ import annotations

import csv
import fcntl
import functools
import hashlib
import io
import math
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from training.files import write_atomically

REPOSITORY = Path(__file__).resolve().parents[1]
RUN = ("experiment", "world", "agent", "variant", "seed")
"""The columns that tell one run from another."""
RUN_ON_MACHINE = (*RUN, "machine")
"""The same where the machine is what is measured."""


@dataclass(frozen=True)
class Row:
    """One measurement."""

    experiment: str
    world: str
    agent: str
    variant: str
    seed: int
    steps: int
    metric: str
    value: float
    seconds: float
    machine: str
    commit: str
    date: str

    def run(self, columns: Sequence[str] = RUN) -> tuple[str | int, ...]:
        """What tells the row's run from others."""
        return tuple(getattr(self, column) for column in columns)


COLUMNS = tuple(field.name for field in fields(Row))


def read(path: Path) -> list[Row]:
    """All rows, in the order of the file; none if there is no file.

    Raises:
        ValueError: naming the line that is not a row.
    """
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = csv.reader(file)
            if (header := next(lines, None)) is None or tuple(header) != COLUMNS:
                raise ValueError(f"{path} is not a table of results: its first line must be {','.join(COLUMNS)}")
            return [_row(cells, f"{path}:{lines.line_num}") for cells in lines]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a table of results: {error}") from error


def add(path: Path, rows: Sequence[Row], run: Sequence[str] = RUN) -> None:
    """Add all rows of one run or of several, in place of earlier rows of the same runs.

    The file is written anew and renamed, which costs milliseconds for tens of thousands of rows, once a run: a
    process killed on the way leaves the file as it was. Others who add to a file of the same folder wait.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.parent):
        replaced = {row.run(run) for row in rows}
        kept = [row for row in read(path) if row.run(run) not in replaced]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(_cells(row) for row in [*kept, *rows])
        write_atomically(path, text.getvalue().encode())


def done(path: Path, run: Sequence[str] = RUN) -> dict[tuple[str | int, ...], int]:
    """The runs there are, and how many steps each of them went."""
    steps: dict[tuple[str | int, ...], int] = {}
    for row in read(path):
        steps[row.run(run)] = max(row.steps, steps.get(row.run(run), 0))
    return steps


def machine_word() -> str:
    """The default word for this machine: its number of cores."""
    return f"cpu{os.cpu_count()}"


@functools.cache
def commit() -> str:
    """The short hash of the commit, with `-dirty` where files outside docs/results differ from it; or `unknown`.

    Asked once: the code that runs is what was loaded, whatever is committed meanwhile.
    """
    try:
        dirty = _git("status", "--porcelain", "--", ".", ":(exclude)docs/results")
        return _git("rev-parse", "--short", "HEAD") + ("-dirty" if dirty else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


@functools.cache
def code() -> str:
    """What tells apart the code that a run follows, whatever else is committed; empty where it is of no commit."""
    beside = ("docs", "tests", "README.md")
    try:
        if _git("status", "--porcelain", "--", ".", *(f":(exclude){name}" for name in beside)):
            return ""
        entries = _git("ls-tree", "HEAD").splitlines()
    except (OSError, subprocess.SubprocessError):
        return ""
    followed = [entry for entry in entries if entry.partition("\t")[2] not in beside]
    return hashlib.sha256("\n".join(followed).encode()).hexdigest()


def blank(out: Path, world: str, agent: str, machine: str, *, variant: str = "", seed: int = 0, steps: int = 0) -> Row:
    """A row of the table `out`, by the code and on the day of now, that lacks nothing but what is measured."""
    date = datetime.now(UTC).date().isoformat()
    return Row(out.stem, world, agent, variant, seed, steps, "", math.nan, 0.0, machine, commit(), date)


def _git(*arguments: str) -> str:
    # Without optional locks: whoever commits meanwhile is not to find the index taken.
    command = ["git", "--no-optional-locks", "-C", str(REPOSITORY), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()


def _row(cells: list[str], place: str) -> Row:
    if len(cells) != len(COLUMNS):
        raise ValueError(f"{place} is not a row of results: it has {len(cells)} cells, and must have {len(COLUMNS)}")
    try:
        named = dict(zip(COLUMNS, cells, strict=True))
        numbers = {"seed": int(named["seed"]), "steps": int(named["steps"])}
        measures = {"value": float(named["value"]), "seconds": float(named["seconds"])}
    except ValueError as error:
        raise ValueError(f"{place} is not a row of results: {error}") from error
    return Row(**(named | numbers | measures))  # type: ignore[arg-type]


def _cells(row: Row) -> list[str | int]:
    return [f"{cell:.7g}" if isinstance(cell, float) else cell for cell in astuple(row)]


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    # The folder is what is locked: the file itself is replaced, and a lock on what was replaced keeps nobody out.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
