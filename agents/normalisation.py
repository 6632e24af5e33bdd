"""Observations brought to a mean of 0 and a deviation of 1, number by number, as they are come by."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_SMALLEST_VARIANCE = 1e-4
"""Added to the variance: what hardly ever varies is not scaled up beyond a hundredfold."""
_LARGEST = 10.0
"""No normalised number is further from 0."""


class RunningNormalisation(nn.Module):
    """Subtracts the mean of all observations so far and divides by their deviation.

    What is rarely seen, one kind of object among twenty planes of zeros and ones, is then as loud as what is always
    there, when it is seen. Learns only when it is told to: between two updates of an agent it is one function. Its
    numbers are buffers, and saved with the network that it is a part of.

    Args:
        shape: of an observation.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        for name, start in (("mean", torch.zeros(shape)), ("variance", torch.ones(shape)), ("count", torch.zeros(()))):
            self.register_buffer(name, start.double())
        self.mean: Tensor
        self.variance: Tensor
        self.count: Tensor

    def forward(self, observations: Tensor) -> Tensor:
        """Normalised observations `[batch, *shape]`; before the first `update`, the observations."""
        deviation = (self.variance + _SMALLEST_VARIANCE).sqrt().float()
        return ((observations - self.mean.float()) / deviation).clamp(-_LARGEST, _LARGEST)

    @torch.no_grad()
    def update(self, observations: Tensor) -> None:
        """Take in observations `[batch, *shape]` (Chan, Golub and LeVeque 1983, equations 2.1)."""
        new = observations.double()
        count, distance = len(new), new.mean(dim=0) - self.mean
        total = self.count + count
        squares = self.variance * self.count + new.var(dim=0, correction=0) * count
        self.variance.copy_((squares + distance.square() * self.count * count / total) / total)
        self.mean += distance * count / total
        self.count += count
