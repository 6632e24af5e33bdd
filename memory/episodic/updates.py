"""What happens to the value of a memory that is written again, and what became of a batch of writes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

UpdateRule = Callable[[Tensor, Tensor], Tensor]
"""From the old and the new values of memories that are written again to the values they keep."""


def maximum(old: Tensor, new: Tensor) -> Tensor:
    """Keep the best return ever seen (Blundell et al. 2016, eq. 1)."""
    return torch.maximum(old, new)


@dataclass(frozen=True)
class Tabular:
    """Move towards the new value by `learning_rate` (Pritzel et al. 2017, eq. 4)."""

    learning_rate: float

    def __call__(self, old: Tensor, new: Tensor) -> Tensor:
        return old + self.learning_rate * (new - old)


@dataclass(frozen=True)
class Written:
    """What became of a batch of writes."""

    inserted: int = 0
    updated: int = 0
    evicted: int = 0

    def __add__(self, other: Written) -> Written:
        return Written(self.inserted + other.inserted, self.updated + other.updated, self.evicted + other.evicted)
