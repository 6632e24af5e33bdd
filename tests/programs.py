"""Running train.py and evaluate.py inside the tests' process: a process of their own takes seconds to start."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from training.command_line import guarded

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"


def run(main: Callable[[], None], *arguments: object) -> None:
    """Run a program as with these arguments on its command line."""
    with mock.patch.object(sys, "argv", ["program.py", *map(str, arguments)]):
        guarded(main)


def complaint(main: Callable[[], None], capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a program that must refuse its arguments in one line; returns that line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run(main, *arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 2, error
    assert error.startswith("error: ") and error.count("\n") == 1 and error.endswith("\n"), error
    assert "Traceback" not in error
    return error


def only_run(root: Path) -> Path:
    """The run directory under a root that holds one."""
    (path,) = root.iterdir()
    return path
