"""Pictures by number, 64 to a PNG: written as they come, read one at a time.

A sheet holds eight rows of eight pictures of one size, in the order of their numbers. Encoding a sheet as one picture
costs half the time and a fifth of the bytes of 64 files, 35 us and 200 to 500 bytes for a screen of Atari.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

SIDE = 8
"""Pictures along a side of a sheet."""
PER_SHEET = SIDE * SIDE
_WAITING = 8
"""Sheets that may wait to be written; a caller that is faster than the disk waits with them."""
_FOLDER = 1_000
"""Sheets in a folder."""
_NAME = re.compile(r"\d{9}\.png")
_FAST = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE]


def sheet_path(folder: Path, sheet: int) -> Path:
    """Where a sheet lies."""
    return folder / f"{sheet // _FOLDER:06d}" / f"{sheet:09d}.png"


def read_picture(folder: Path, number: int) -> np.ndarray | None:
    """The picture of a number, uint8 `[height, width, 3]` in red, green and blue; None if it is not there."""
    sheet = _read(sheet_path(folder, number // PER_SHEET))
    if sheet is None:
        return None
    row, column = divmod(number % PER_SHEET, SIDE)
    height, width = sheet.shape[0] // SIDE, sheet.shape[1] // SIDE
    picture = sheet[row * height : (row + 1) * height, column * width : (column + 1) * width]
    return picture if picture.ndim == 3 else np.repeat(picture[:, :, None], 3, axis=2)


class SheetWriter:
    """Writes pictures of ascending numbers, in a thread of its own, and forgets the oldest beyond a size.

    Args:
        folder: of the sheets; made when the first is written.
        most_bytes: that all sheets may have together.
        warn: is told once, in one line, if pictures cannot be written; they are lost then, and the caller goes on.
    """

    def __init__(self, folder: Path, most_bytes: int, warn: Callable[[str], None]) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._warn = warn
        self._sheet: np.ndarray | None = None
        self._number = 0
        self._changed = False
        self._sizes = {int(path.stem): path.stat().st_size for path in self._paths()}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sheets")
        self._writing: list[Future[None]] = []
        self._failed = False

    @property
    def nbytes(self) -> int:
        """Bytes on the disk."""
        return sum(self._sizes.values())

    def add(self, number: int, picture: np.ndarray) -> None:
        """Put a picture, uint8 `[height, width]` or `[height, width, 3]`, in the place of its number."""
        height, width = picture.shape[:2]
        if self._sheet is None or number // PER_SHEET != self._number:
            if self._changed and self._sheet is not None:
                # Nobody else needs it: a copy would cost as much as all that was put in.
                self._hand_over(self._sheet)
            self._number = number // PER_SHEET
            self._sheet = np.zeros((SIDE * height, SIDE * width, *picture.shape[2:]), dtype=np.uint8)
        row, column = divmod(number % PER_SHEET, SIDE)
        self._sheet[row * height : (row + 1) * height, column * width : (column + 1) * width] = picture
        self._changed = True

    def settle(self) -> None:
        """Wait until all pictures so far are on the disk."""
        if self._sheet is not None and self._changed:
            self._hand_over(self._sheet.copy())
        self._wait()

    def go_on_from(self, number: int) -> None:
        """Take back what was written of numbers above this one."""
        self._wait()
        for sheet in [sheet for sheet in self._sizes if sheet > number // PER_SHEET]:
            self._remove(sheet)
        self._number = number // PER_SHEET
        self._sheet = _read(sheet_path(self._folder, self._number))

    def close(self) -> None:
        """Write what is left, and wait until it is on the disk."""
        self.settle()
        self._thread.shutdown()

    def _hand_over(self, sheet: np.ndarray) -> None:
        self._writing = [future for future in self._writing if not future.done()]
        if len(self._writing) >= _WAITING:
            self._writing.pop(0).result()
        self._writing.append(self._thread.submit(self._write, self._number, sheet))
        self._changed = False

    def _wait(self) -> None:
        for future in self._writing:
            future.result()
        self._writing = []

    def _write(self, number: int, sheet: np.ndarray) -> None:
        path = sheet_path(self._folder, number)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            shown = sheet if sheet.ndim == 2 else cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR)
            content = cv2.imencode(".png", shown, _FAST)[1].tobytes()
            # A reader sees the sheet before or the one after.
            unfinished = path.with_suffix(".saving")
            unfinished.write_bytes(content)
            unfinished.replace(path)
            self._sizes[number] = len(content)
            while self.nbytes > self._most_bytes and len(self._sizes) > 1:
                self._remove(min(self._sizes))
        except OSError as error:
            if not self._failed:
                self._failed = True
                self._warn(f"pictures of what is remembered are being lost, training goes on: {error}")

    def _remove(self, sheet: int) -> None:
        sheet_path(self._folder, sheet).unlink(missing_ok=True)
        self._sizes.pop(sheet, None)

    def _paths(self) -> list[Path]:
        return [path for path in self._folder.glob("*/*.png") if _NAME.fullmatch(path.name)]


def _read(path: Path) -> np.ndarray | None:
    """A sheet, uint8 `[8 * height, 8 * width]`, or `[8 * height, 8 * width, 3]`; None if it is not there or damaged."""
    try:
        content = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    except OSError:
        return None
    try:
        sheet = cv2.imdecode(content, cv2.IMREAD_UNCHANGED) if len(content) else None
    except cv2.error:
        return None
    if sheet is None or sheet.dtype != np.uint8 or sheet.shape[2:] not in ((), (3,)) or min(sheet.shape[:2]) < SIDE:
        return None
    return sheet if sheet.ndim == 2 else cv2.cvtColor(sheet, cv2.COLOR_BGR2RGB)
