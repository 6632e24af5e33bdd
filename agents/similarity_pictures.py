"""Likeness of every step of a sequence to every step before it, as heat maps (Figure 3 of the article on MNM)."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

WORD_CELL = 12
"""Pixels along a side of a cell that a word stands beside: as high as it is."""
_FONT, _SCALE, _HEIGHT = cv2.FONT_HERSHEY_SIMPLEX, 0.35, 8
_MARGIN = 4
_GAP = 6


def colours(heat: np.ndarray) -> np.ndarray:
    """Numbers from -1 to 1 as colours, float `[..., 3]` of 0 to 255: bright is much, blue less than 0, nan white."""
    strength = np.abs(heat)
    shown = np.stack([np.where(heat < 0, 0.0, strength), strength * 0.6, np.where(heat < 0, strength, 0.2)], axis=-1)
    return 255 * np.where(np.isnan(heat)[..., None], 1.0, shown)


def heat_map(heat: np.ndarray, cell: int, words: Sequence[str] | None = None) -> np.ndarray:
    """Numbers from -1 to 1 in cells of so many pixels, uint8 `[height, width, 3]`.

    Args:
        heat: `[rows, columns]`.
        cell: pixels along a side; `WORD_CELL` or more where there are words.
        words: one for every row, and the same for every column, to stand at both axes.
    """
    cells = colours(heat).round().astype(np.uint8).repeat(cell, axis=0).repeat(cell, axis=1)
    if words is None:
        return cells
    margin = 2 * _MARGIN + max(_width(word) for word in words)
    canvas = np.full((margin + cells.shape[0], margin + cells.shape[1], 3), 255, dtype=np.uint8)
    canvas[margin:, margin:] = cells
    canvas[margin:, :margin] = _labels(words, cell, margin, at_the_right=True)
    # Turned a quarter to the left: read upwards, each from its column.
    canvas[:margin, margin:] = np.rot90(_labels(words, cell, margin, at_the_right=False))
    return canvas


def beside(maps: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures of any heights side by side, with white between and below, uint8 `[height, width, 3]`."""
    height = max(len(each) for each in maps)
    columns = []
    for each in maps:
        columns.append(np.pad(each, ((0, height - len(each)), (0, 0), (0, 0)), constant_values=255))
        columns.append(np.full((height, _GAP, 3), 255, dtype=np.uint8))
    return np.concatenate(columns[:-1], axis=1)


def titled(picture: np.ndarray, title: str) -> np.ndarray:
    """A picture below a line of text, uint8 `[height, width, 3]`."""
    line = np.full((_HEIGHT + 2 * _MARGIN, picture.shape[1], 3), 255, dtype=np.uint8)
    cv2.putText(line, title, (_MARGIN, _HEIGHT + _MARGIN), _FONT, _SCALE, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([line, picture])


def _labels(words: Sequence[str], cell: int, width: int, at_the_right: bool) -> np.ndarray:
    """Words one below the other, each as high as a cell, uint8 `[words * cell, width, 3]`."""
    canvas = np.full((len(words) * cell, width, 3), 255, dtype=np.uint8)
    for row, word in enumerate(words):
        left = width - _MARGIN - _width(word) if at_the_right else _MARGIN
        baseline = row * cell + (cell + _HEIGHT) // 2
        cv2.putText(canvas, word, (left, baseline), _FONT, _SCALE, (0, 0, 0), 1, cv2.LINE_AA)
    return canvas


def _width(word: str) -> int:
    return cv2.getTextSize(word, _FONT, _SCALE, 1)[0][0]
