"""The folder of one run, complete in itself: what was asked for, with what it ran, and what came of it.

<root>/<name>__<YYYYmmdd-HHMMSS>/
    config.yaml         every option, defaults included
    versions.json       of Python, the libraries and this repository, and the command line; of every resume too
    metrics.jsonl       one line a log beat
    tensorboard/
    checkpoints/
    result.json         the scores, once there are any
    evaluations/        one file for each time that whole games were played with it
    recalls/            what was remembered, in some episodes
    faults/             what was being learned from when a number ceased to be finite
    .lock               held by the process that trains
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import itertools
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from training.files import locked, write_atomically

_LIBRARIES = ("torch", "gymnasium", "ale-py", "minigrid", "numpy")
_REPOSITORY = Path(__file__).resolve().parents[1]


class RunDirectory:
    """Names of a run's files; `create` makes a new one, `open` finds one that is there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics = path / "metrics.jsonl"
        self.tensorboard = path / "tensorboard"
        self.checkpoints = path / "checkpoints"
        self.result = path / "result.json"
        self.evaluations = path / "evaluations"
        self.recalls = path / "recalls"
        self.faults = path / "faults"

    @classmethod
    def create(cls, root: Path, name: str, config: dict[str, Any], command: Sequence[str]) -> RunDirectory:
        """Make the folder of a new run under `root` and write down how it was started.

        Args:
            config: every option by name, of plain YAML values.
            command: the command line, as in `sys.argv`.

        Raises:
            ValueError: if the name is no plain name of a folder.
        """
        if Path(name).name != name or name in ("", ".."):
            raise ValueError(f"the name of a run must be a plain folder name, not {name!r}")
        description = _yaml(config)
        run = cls(_new_folder(root, f"{name}__{datetime.now():%Y%m%d-%H%M%S}"))
        run.tensorboard.mkdir()
        run.checkpoints.mkdir()
        write_json(run.path / "versions.json", {**_versions(), "command": list(command)})
        # Last, because it is what makes the folder a run.
        write_atomically(run.path / "config.yaml", description)
        return run

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """Find an earlier run.

        Raises:
            FileNotFoundError: if there is nothing at `path`.
            ValueError: if it is no run. Both name the runs nearest by.
        """
        if not path.exists():
            raise FileNotFoundError(f"no run at {path}{_nearest(path.name, path.parent)}")
        if path.is_file() and _is_run(path.parent):
            raise ValueError(f"{path} is a file of a run: name its folder, {path.parent}")
        if not _is_run(path):
            runs = _nearest(path.name, path) if path.is_dir() else ""
            raise ValueError(f"{path} is not a run (no config.yaml){runs or _nearest(path.name, path.parent)}")
        return cls(path)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process, which alone may write to it; the lock goes with the process.

        Raises:
            BlockingIOError: if another process holds it.
            OSError: if the folder cannot be written.
        """
        with locked(self.path):
            yield

    def note_resume(self, config: dict[str, Any], step: int, command: Sequence[str]) -> None:
        """Write down that the run goes on from a step, by which command and with which options.

        The result of the run so far is removed: it is going to be another.

        Raises:
            OSError: if that cannot be written; the run is none the worse for it.
        """
        path = self.path / "versions.json"
        try:
            versions = dict(json.loads(path.read_text(encoding="utf-8")))
            resumes = list(versions.get("resumes", []))
        except (OSError, ValueError, TypeError):
            # Damaged: where a run came from must not keep it from going on.
            versions, resumes = {}, []
        now = {"step": step, "date": f"{datetime.now():%Y-%m-%d %H:%M:%S}", **_versions(), "command": list(command)}
        write_json(path, {**versions, "resumes": [*resumes, now]})
        write_atomically(self.path / "config.yaml", _yaml(config))
        self.result.unlink(missing_ok=True)

    def add_metrics(self, line: str) -> None:
        """Add a line to metrics.jsonl, all of it or, where the disk is full, nothing."""
        with self.metrics.open("ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            content = f"{line}\n".encode()
            if file.write(content) < len(content):
                file.truncate(before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.metrics))

    def forget_metrics_after(self, step: int) -> None:
        """Remove the lines of later steps from metrics.jsonl, and what a killed process left of a line."""
        kept = []
        for line in self.metrics.read_bytes().splitlines(keepends=True) if self.metrics.exists() else []:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                if json.loads(line)["step"] <= step:
                    kept.append(line.rstrip(b"\n") + b"\n")
        write_atomically(self.metrics, b"".join(kept))

    def config(self) -> dict[str, Any]:
        """The options of the run, as it was started or last resumed."""
        return yaml.safe_load((self.path / "config.yaml").read_text(encoding="utf-8"))

    def write_result(self, result: dict[str, Any]) -> None:
        """Write the scores, in place of earlier ones. Numbers that are not finite become null."""
        write_json(self.result, result)


def _yaml(config: dict[str, Any]) -> bytes:
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode()


def finite(value: Any) -> Any:
    """The same value as JSON can hold it: numpy and torch scalars as numbers, what is not finite as None."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file in one go, indented for reading."""
    write_atomically(path, (json.dumps(finite(content), indent=2, allow_nan=False) + "\n").encode())


def _new_folder(root: Path, name: str) -> Path:
    """Make `root/name`, or `root/name-2` and so on: of runs started in the same second, each gets its own."""
    root.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        path = root / (name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise AssertionError("unreachable")


def _is_run(path: Path) -> bool:
    return (path / "config.yaml").is_file()


def _nearest(name: str, folder: Path) -> str:
    """The end of a message: the runs in a folder whose names are most like this one."""
    runs = [path.name for path in folder.iterdir() if _is_run(path)] if folder.is_dir() else []
    nearest = difflib.get_close_matches(name, runs, n=3, cutoff=0.0)
    return f"; nearest in {folder}: {', '.join(nearest)}" if nearest else ""


def _versions() -> dict[str, Any]:
    versions: dict[str, Any] = {"python": sys.version.split()[0], "platform": platform.platform()}
    for library in _LIBRARIES:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            versions[library] = None
    return {**versions, **_commit()}


def _commit() -> dict[str, Any]:
    """The commit these sources are at, and whether tracked files differ from it; None where git cannot tell."""
    unknown = {"git_commit": None, "git_dirty": None}
    try:
        top, commit = _git("rev-parse", "--show-toplevel", "HEAD").split("\n")
        # Installed inside somebody else's repository, these sources are not what its commit describes.
        if Path(top).resolve() != _REPOSITORY:
            return unknown
        return {"git_commit": commit, "git_dirty": bool(_git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError, ValueError):
        return unknown


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(_REPOSITORY), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
