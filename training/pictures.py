"""Observations as pictures for the eye."""

from __future__ import annotations

import numpy as np

_LEAST_SIDE = 84
_GAP = 2
MOST_CHANNELS = 4
"""Observations of more channels are no pictures: symbols, one to a channel, say."""


def as_picture(observation: np.ndarray, high: float, frame_stack: int = 1) -> np.ndarray:
    """One observation for the eye, at its own size.

    Args:
        observation: uint8 `[channels, height, width]`. Three channels that are no stack are red, green and blue; of
            up to four others the last is shown; of more, as of symbols, which one is the largest.
        high: the largest value in an observation.
        frame_stack: how many channels are screens, one after the other.

    Returns:
        uint8 `[height, width]`, in grey, or `[height, width, 3]`; a view of the observation where it can be.
    """
    channels = len(observation)
    if channels > MOST_CHANNELS:
        return (observation.argmax(axis=0) * (255 // (channels - 1))).astype(np.uint8)
    shown = np.moveaxis(observation, 0, 2) if _is_colour(channels, frame_stack) else observation[-1]
    if high == 255:
        return shown
    return (255 * (shown / high).clip(0.0, 1.0)).round().astype(np.uint8)


def mosaic(observations: np.ndarray, high: float, frame_stack: int = 1) -> np.ndarray:
    """Rows and columns of observations as one picture, small ones enlarged, with white gaps between.

    Three channels that are no stack are red, green and blue; of others the last is shown in grey.

    Args:
        observations: uint8 `[rows, columns, channels, height, width]`.
        high: the largest value in an observation.
        frame_stack: how many channels are screens, one after the other.

    Returns:
        uint8 `[height, width, 3]`.
    """
    rows, columns, channels, height, width = observations.shape
    screens = observations if _is_colour(channels, frame_stack) else np.repeat(observations[:, :, -1:], 3, axis=2)
    shown = screens / high
    times = -(-_LEAST_SIDE // min(height, width)) if min(height, width) < _LEAST_SIDE else 1
    shown = shown.repeat(times, axis=3).repeat(times, axis=4)
    framed = np.pad(shown, ((0, 0), (0, 0), (0, 0), (0, _GAP), (0, _GAP)), constant_values=1.0)
    picture = framed.transpose(0, 3, 1, 4, 2).reshape(rows * framed.shape[3], columns * framed.shape[4], 3)
    return (255 * picture[:-_GAP, :-_GAP].clip(0.0, 1.0)).round().astype(np.uint8)


def _is_colour(channels: int, frame_stack: int) -> bool:
    return channels == 3 and frame_stack == 1
