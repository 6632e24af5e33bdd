"""Observations as pictures for the eye."""

from __future__ import annotations

import numpy as np

_LEAST_SIDE = 84
_GAP = 2
MOST_CHANNELS = 4
"""Observations of more channels are no pictures: symbols, one to a channel, say."""


def mosaic(observations: np.ndarray, high: float) -> np.ndarray:
    """Rows and columns of observations as one picture, small ones enlarged, with white gaps between.

    Three channels are red, green and blue; of other numbers, as of a stack of frames, the last is shown in grey.

    Args:
        observations: uint8 `[rows, columns, channels, height, width]`.
        high: the largest value in an observation.

    Returns:
        uint8 `[height, width, 3]`.
    """
    rows, columns, channels, height, width = observations.shape
    if channels == 3:
        shown = observations / high
    else:
        shown = np.repeat(observations[:, :, -1:] / high, 3, axis=2)
    times = -(-_LEAST_SIDE // min(height, width)) if min(height, width) < _LEAST_SIDE else 1
    shown = shown.repeat(times, axis=3).repeat(times, axis=4)
    framed = np.pad(shown, ((0, 0), (0, 0), (0, 0), (0, _GAP), (0, _GAP)), constant_values=1.0)
    picture = framed.transpose(0, 3, 1, 4, 2).reshape(rows * framed.shape[3], columns * framed.shape[4], 3)
    return (255 * picture[:-_GAP, :-_GAP].clip(0.0, 1.0)).round().astype(np.uint8)
