"""Checkpoints: a tree of state in, a folder out, and back. Nothing is pickled, nothing half-written is ever read.

    checkpoints/
        latest                      the name of the newest checkpoint
        step_000123000/
            tensors.safetensors     every tensor and array
            tree.json               the tree they hang in, and every other leaf
            manifest.json           step, and size and checksum of the two

A checkpoint is written into a hidden folder beside its place, brought to the disk and renamed, and only then do
`latest` move on and the oldest go. Whatever stops a save, the checkpoints before it stay as they were. Writing takes
a few megabytes of memory, however much is written.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError
from safetensors.torch import load_file

from training.files import sync, write_atomically
from training.state_tree import decode, encode
from training.tensor_file import TensorFile

_FORMAT = 1
_ATTEMPTS = 3
"""How often the checkpoints are listed, should a run in progress have replaced them meanwhile."""
_NAME = re.compile(r"step_(\d+)(\.old)?")


class CheckpointError(Exception):
    """A checkpoint could not be written, or none could be read; the message is one line."""


class Snapshot:
    """A state ready to be written: views of its tensors, so write before they change, or in a forked process.

    Args:
        state: what `state_tree` can hold; what comes back differently is told there.
        step: agent step the state belongs to.

    Raises:
        TypeError: naming the place in the tree of a leaf that cannot be saved.
    """

    def __init__(self, state: dict[str, Any], step: int) -> None:
        if step < 0:
            raise ValueError(f"step must be at least 0, not {step}")
        tensors: list[torch.Tensor] = []
        self.step = step
        self._tree = json.dumps(encode(state, "", tensors), allow_nan=False).encode()
        self._tensors = TensorFile(tensors)

    def write(self, folder: Path, keep: int = 2, between: Callable[[], None] = lambda: None) -> Path:
        """Write a checkpoint and remove the oldest.

        Args:
            folder: holds all checkpoints of a run; made if missing. One process writes to it at a time.
            keep: how many checkpoints remain, this one included; one of the same step is replaced.
            between: called before every few megabytes.

        Returns:
            The folder of the new checkpoint.

        Raises:
            CheckpointError: when the disk is too full or fails; the older checkpoints are left as they were.
        """
        if keep < 1:
            raise ValueError(f"keep must be at least 1, not {keep}")
        place = folder / f"step_{self.step:09d}"
        replaced = folder / f"{place.name}.old"
        temporary = folder / f".saving_{place.name}"
        try:
            folder.mkdir(exist_ok=True)
            for leftover in folder.glob(".saving_*"):
                shutil.rmtree(leftover)
            _check_space(folder, self._tensors.nbytes + len(self._tree))
            self._write_files(temporary, between)
            if place.exists():
                # A folder cannot replace another in one go. In between, the old one is still found under this name.
                shutil.rmtree(replaced, ignore_errors=True)
                os.rename(place, replaced)
            os.rename(temporary, place)
            sync(folder)
            write_atomically(folder / "latest", f"{place.name}\n".encode())
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise CheckpointError(f"cannot save {place}: {error}") from error
        # A folder that cannot be removed now is met again by the next save.
        for surplus in [replaced, *[path for path in _saved(folder) if path != replaced][keep:]]:
            shutil.rmtree(surplus, ignore_errors=True)
        return place

    def _write_files(self, folder: Path, between: Callable[[], None]) -> None:
        """Write a checkpoint's files and wait until they are on the disk."""
        folder.mkdir()
        checksums = {"tensors.safetensors": self._tensors.write(folder / "tensors.safetensors", between)}
        (folder / "tree.json").write_bytes(self._tree)
        sync(folder / "tree.json")
        checksums["tree.json"] = xxhash.xxh3_128_hexdigest(self._tree)
        files = {
            name: {"bytes": (folder / name).stat().st_size, "xxh3_128": checksum}
            for name, checksum in checksums.items()
        }
        manifest = folder / "manifest.json"
        manifest.write_text(json.dumps({"format": _FORMAT, "step": self.step, "files": files}))
        sync(manifest)
        sync(folder)


def save(folder: Path, state: dict[str, Any], step: int, keep: int = 2) -> Path:
    """Write a checkpoint and wait for it; see `Snapshot`."""
    return Snapshot(state, step).write(folder, keep)


def load(folder: Path) -> tuple[int, dict[str, Any]]:
    """Read the newest checkpoint that is whole, of those up to the one that `latest` names.

    Warns of each that is damaged or missing where it was looked for, and of later ones that are passed over.

    Returns:
        Its step, and the state.

    Raises:
        CheckpointError: when there is none.
    """
    for _ in range(_ATTEMPTS):
        named, paths = _listed(folder)
        damages: list[str] = []
        for path in paths:
            try:
                step, state = _read(path)
            except CheckpointError as error:
                damages.append(str(error))
                continue
            for damage in [*_oddities(folder, named, paths, step), *damages]:
                warnings.warn(f"{damage}; falling back to {path}", stacklevel=2)
            return step, state
        if all(path.exists() for path in paths):
            break
        # Whoever trains has replaced them all since they were listed.
    raise CheckpointError(f"no good checkpoint in {folder}: {'; '.join(damages) or 'it holds none'}")


def set_aside_after(folder: Path, step: int) -> None:
    """Rename checkpoints of later steps, which the run that goes on from `step` will come to by itself.

    They would count among those that are kept, and what is damaged would push out what is good.
    """
    for path in _saved(folder):
        if _step(path) > step:
            os.replace(path, path.with_name(f"set_aside_{path.name}_{os.getpid()}"))


def _oddities(folder: Path, named: int, paths: list[Path], step: int) -> list[str]:
    """What is not as a save leaves it."""
    if named >= 0 and all(_step(path) != named for path in paths):
        return [f"{folder / 'latest'} names step {named}, and there is none"]
    later = [path.name for path in paths if _step(path) > max(named, step)]
    return [f"{folder / 'latest'} names step {named}: {', '.join(later)} passed over"] if later and named >= 0 else []


def _check_space(folder: Path, content: int) -> None:
    needed = content + 2**20
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise CheckpointError(f"no room for a checkpoint in {folder}: it needs {needed} bytes and {free} are available")


def _read(path: Path) -> tuple[int, dict[str, Any]]:
    try:
        manifest = json.loads((path / "manifest.json").read_bytes())
        if manifest["format"] != _FORMAT:
            raise CheckpointError(f"checkpoint {path} has format {manifest['format']}, not {_FORMAT}")
        for name, expected in manifest["files"].items():
            size = (path / name).stat().st_size
            if size != expected["bytes"]:
                raise ValueError(f"{name} has {size} bytes, not {expected['bytes']}")
            if _checksum(path / name) != expected["xxh3_128"]:
                raise ValueError(f"the checksum of {name} is wrong")
        if manifest["step"] != _step(path):
            raise ValueError(f"its manifest names step {manifest['step']}")
        tree = json.loads((path / "tree.json").read_bytes())
        return manifest["step"], decode(tree, load_file(path / "tensors.safetensors"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"checkpoint {path} is damaged: {type(error).__name__}: {error}") from error


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()


def _step(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else -1


def _saved(folder: Path) -> list[Path]:
    """All checkpoints in the order to try them."""
    return _listed(folder)[1]


def _listed(folder: Path) -> tuple[int, list[Path]]:
    """The step that `latest` names, -1 if it names none, and all checkpoints in the order to try them.

    First the one it names, then those before it, newest first. Those of later steps come last: a run that fell back to
    an older checkpoint left them behind.
    """
    while True:
        named = _named(folder)
        paths = [path for path in folder.glob("step_*") if _NAME.fullmatch(path.name)]
        if _named(folder) == named:  # Else a save was completed in between.
            break
    newest = named if any(_step(path) == named for path in paths) else max(map(_step, paths), default=-1)
    return named, sorted(paths, key=lambda path: (_step(path) > newest, -_step(path), path.suffix))


def _named(folder: Path) -> int:
    """The step that `latest` names, or -1."""
    try:
        return _step(folder / (folder / "latest").read_text().strip())
    except (OSError, ValueError):
        return -1
