"""Keys rounded to bfloat16, by which a search chooses its candidates where the processor multiplies them.

A product of few queries takes as long as reading the keys does: rounded ones are half as long, and multiplied by
instructions of their own. They are rounded after the centre was taken from them, so that an error is relative to what
tells keys apart, and a bound holds on what rounding does to a score (`score_error`).
"""

from __future__ import annotations

import torch
from torch import Tensor

_UNIT = 2.0**-8
"""By how much a number may change when it is rounded to bfloat16, relative to it."""
_TWO_PIECES = 2.0**-16
"""The same, of a number that is kept as a sum of two."""
SMALLEST_REACH, LARGEST_REACH = 1e-12, 1e15
"""Distances from the centre between which the bound holds: processors take the smallest bfloat16 for 0 (keys of 1e-19
were seen to go wrong), and squares of the largest overflow."""


def rounded_keys(centred: Tensor, squared_norms: Tensor) -> Tensor:
    """What a product takes of keys `[n, key_size]`, less the centre, and of their squared norms `[n]`.

    Returns:
        bfloat16 `[n, key_size + 2]`; the last two add up to the squared norm.
    """
    rounded = squared_norms.to(torch.bfloat16)
    # Where there is no memory it is infinite, and infinity less itself is no number.
    rest = torch.where(rounded.isinf(), 0.0, squared_norms - rounded)
    return torch.cat([centred.to(torch.bfloat16), rounded[:, None], rest[:, None].to(torch.bfloat16)], dim=1)


def rounded_queries(centred: Tensor) -> Tensor:
    """What it takes of queries `[batch, key_size]`, less the centre: bfloat16 `[batch, key_size + 2]`.

    Its product with rounded keys is their score, `|k - c|^2 - 2 (q - c) (k - c)`.
    """
    return torch.cat([-2.0 * centred, centred.new_ones(len(centred), 2)], dim=1).to(torch.bfloat16)


def score_error(centred: Tensor, reaches: Tensor, farthest: Tensor) -> Tensor:
    """The most by which rounding to bfloat16, before the product and after it, may change a score.

    It holds where reaches lie between `SMALLEST_REACH` and `LARGEST_REACH`. What the product is summed in adds its own.

    Args:
        centred: queries, less the centre, `[batch, key_size]`.
        reaches: the farthest from the centre that a key lies, for each query, `[..., batch]`.
        farthest: the farthest from its query that it lies, `[..., batch]`.

    Returns:
        `[..., batch]`.
    """
    lengths = centred.norm(dim=1)
    moved = (centred - centred.to(torch.bfloat16)).norm(dim=1)
    # By Cauchy and Schwarz; a score is the squared distance of query and key less that of query and centre.
    before = 2.0 * reaches * (moved + (lengths + moved) * _UNIT) + _TWO_PIECES * reaches.square()
    return before + _UNIT * (torch.maximum(lengths, farthest).square() + before)
