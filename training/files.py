"""Writing files that are either whole or absent, whatever stops the process, and folders that one process holds."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

LOCK = ".lock"
"""A file in a folder that a process holds, or held."""


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's list of names, are on the disk. Costs milliseconds on an SSD."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes) -> None:
    """Put a file in place of another: a reader, or a restart after a power cut, sees the old one or the new one."""
    temporary = path.with_name(f".{path.name}.saving")
    try:
        temporary.write_bytes(content)
        sync(temporary)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run's folder for this process, which alone may write to it; the lock goes with the process.

    Raises:
        BlockingIOError: if another process holds it.
        OSError: if the folder cannot be written.
    """
    # A child that was writing a checkpoint for a killed run holds on for a moment.
    lock = FileLock(folder / LOCK, timeout=5.0)
    try:
        lock.acquire()
    except Timeout:
        raise BlockingIOError(f"{folder} is being trained by another process") from None
    try:
        yield
    finally:
        lock.release()
