"""Encoders and decoders of a pair: from observations to keys, and from keys to what may have been observed."""

from __future__ import annotations

from typing import Literal

import numpy as np
from torch import Tensor, nn

from agents.encoders import SMALLEST_SCREEN, Encoder, Initialisation, Precision, initialise

Architecture = Literal["dense", "convolutional", "nature"]

_CHANNELS = (16, 32)
_SMALLEST_SIDE = 4


class Scale(nn.Module):
    """Divides by the largest value there can be."""

    def __init__(self, high: float) -> None:
        super().__init__()
        self.high = high

    def forward(self, observations: Tensor) -> Tensor:
        return observations / self.high


def make_encoder(
    architecture: Architecture,
    shape: tuple[int, ...],
    high: float,
    hidden: int,
    key_size: int,
    initialisation: Initialisation = "torch",
    precision: Precision = "float32",
) -> nn.Module:
    """From observations uint8 or float32 `[n, *shape]`, channels first, to keys `[n, key_size]`.

    Args:
        architecture: `dense` has one hidden layer of `hidden` units (as in Hansen 2017); `convolutional` two layers
            that halve the sides, and then one of `hidden` units; `nature` the three of Mnih et al. 2015, as NEC has
            them, and no hidden layer.
        shape: of an observation.
        high: the largest value in one.
        hidden: units of the hidden layer.
        key_size: length of a key.
        initialisation: as of `Encoder`.
        precision: as of `Encoder`, for `nature` alone.

    Raises:
        ValueError: on observations too small for convolutions.
    """
    encoder = _make_encoder(architecture, shape, high, hidden, key_size, precision)
    initialise(encoder, initialisation)
    return encoder


def _make_encoder(
    architecture: Architecture,
    shape: tuple[int, ...],
    high: float,
    hidden: int,
    key_size: int,
    precision: Precision,
) -> nn.Module:
    if architecture == "dense":
        return nn.Sequential(Scale(high), nn.Flatten(), *dense(int(np.prod(shape)), hidden, key_size))
    channels, height, width = _checked(shape, architecture)
    if architecture == "nature":
        return Encoder(shape, high, key_size, precision)
    return nn.Sequential(
        Scale(high),
        nn.Conv2d(channels, _CHANNELS[0], kernel_size=4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(_CHANNELS[0], _CHANNELS[1], kernel_size=4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        *dense(_CHANNELS[1] * (height // 4) * (width // 4), hidden, key_size),
    )


def make_decoder(architecture: Architecture, shape: tuple[int, ...], hidden: int, key_size: int) -> nn.Sequential:
    """From keys `[n, key_size]` to logits of pixels `[n, prod(shape)]`; the encoder the other way round."""
    if architecture == "dense":
        return dense(key_size, hidden, int(np.prod(shape)))
    channels, height, width = _checked(shape, architecture)
    if architecture == "nature":
        return _nature_decoder(channels, (height, width), key_size)
    small, middle = (height // 4, width // 4), (height // 2, width // 2)
    return nn.Sequential(
        *dense(key_size, hidden, _CHANNELS[1] * small[0] * small[1]),
        nn.ReLU(),
        nn.Unflatten(1, (_CHANNELS[1], *small)),
        _doubling(_CHANNELS[1], _CHANNELS[0], middle),
        nn.ReLU(),
        _doubling(_CHANNELS[0], channels, (height, width)),
        nn.Flatten(),
    )


def dense(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """One hidden layer."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def _nature_decoder(channels: int, sides: tuple[int, int], key_size: int) -> nn.Sequential:
    largest = [(side - 8) // 4 + 1 for side in sides]
    middle = [(side - 4) // 2 + 1 for side in largest]
    smallest = [side - 2 for side in middle]
    # Strides leave out the last rows and columns, which are put back.
    left_out = [((sides[axis] - 8) % 4, (largest[axis] - 4) % 2) for axis in (0, 1)]
    return nn.Sequential(
        nn.Linear(key_size, 64 * smallest[0] * smallest[1]),
        nn.ReLU(),
        nn.Unflatten(1, (64, *smallest)),
        nn.ConvTranspose2d(64, 64, kernel_size=3),
        nn.ReLU(),
        nn.ConvTranspose2d(64, 32, kernel_size=4, stride=2, output_padding=(left_out[0][1], left_out[1][1])),
        nn.ReLU(),
        nn.ConvTranspose2d(32, channels, kernel_size=8, stride=4, output_padding=(left_out[0][0], left_out[1][0])),
        nn.Flatten(),
    )


def _doubling(channels: int, to_channels: int, sides: tuple[int, int]) -> nn.ConvTranspose2d:
    # Halving loses the odd row or column, which is put back.
    odd = (sides[0] % 2, sides[1] % 2)
    return nn.ConvTranspose2d(channels, to_channels, kernel_size=4, stride=2, padding=1, output_padding=odd)


def _checked(shape: tuple[int, ...], architecture: Architecture) -> tuple[int, int, int]:
    smallest = SMALLEST_SCREEN if architecture == "nature" else _SMALLEST_SIDE
    if len(shape) != 3 or min(shape[1:]) < smallest:
        raise ValueError(
            f"{architecture}: its convolutions need observations [channels, height, width] of at least {smallest} x "
            f"{smallest}, got {list(shape)}; take the dense architecture"
        )
    channels, height, width = shape
    return channels, height, width
