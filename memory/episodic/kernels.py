"""Kernels: from a query and its neighbours' keys to the weight each neighbour has in the answer.

All are differentiable in the query and the keys, so that the same weights serve acting and learning.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional


class Kernel(Protocol):
    """A rule that weighs neighbours."""

    def __call__(self, queries: Tensor, keys: Tensor, valid: Tensor) -> Tensor:
        """Weights `[batch, neighbours]` that sum to 1 in each row and are 0 where `valid` is False.

        `queries [batch, key_size]`, `keys [batch, neighbours, key_size]`, `valid` bool `[batch, neighbours]` with at
        least one True a row. Keys that are the same for all queries may come as `[1, neighbours, key_size]`.
        """
        ...

    def comparable(self, keys: Tensor) -> Tensor:
        """Keys `[n, key_size]` such that the nearer two are, the more alike they are to this kernel."""
        ...


class InverseDistance:
    """`1 / (|h - h_i|^2 + delta)`, normalised (Pritzel et al. 2017, eq. 2 and 5)."""

    def __init__(self, delta: float = 1e-3) -> None:
        if not delta > 0:
            raise ValueError(f"delta must be positive (a query may equal a key), got {delta}")
        self.delta = delta

    def __call__(self, queries: Tensor, keys: Tensor, valid: Tensor) -> Tensor:
        squared_distances = (queries[:, None] - keys).square().sum(dim=2)
        kernel = (squared_distances + self.delta).reciprocal().masked_fill(~valid, 0.0)
        return kernel / kernel.sum(dim=1, keepdim=True)

    def comparable(self, keys: Tensor) -> Tensor:
        return keys


class CosineSoftmax:
    """Softmax of the cosine similarity divided by a temperature (Hansen 2017 normalises cosine similarities)."""

    def __init__(self, temperature: float = 0.1) -> None:
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.temperature = temperature

    def __call__(self, queries: Tensor, keys: Tensor, valid: Tensor) -> Tensor:
        if len(keys) == 1:
            similarities = self.similarities(queries, keys[0])
        else:
            similarities = functional.cosine_similarity(queries[:, None], keys, dim=2)
        return self.weights(similarities.masked_fill(~valid, -torch.inf))

    def comparable(self, keys: Tensor) -> Tensor:
        return functional.normalize(keys, dim=1)

    def similarities(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Cosines of queries `[batch, key_size]` and the keys of all of them `[n, key_size]`: `[batch, n]`."""
        # Dividing the product is several times cheaper than normalising thousands of keys before it.
        return functional.normalize(queries, dim=1) @ keys.T / keys.norm(dim=1).clamp_min(1e-12)

    def weights(self, similarities: Tensor) -> Tensor:
        """What similarities `[batch, n]` weigh; -inf weighs nothing."""
        return torch.softmax(similarities / self.temperature, dim=1)


class UniformMean:
    """Every neighbour counts the same (Blundell et al. 2016, eq. 2)."""

    def __call__(self, queries: Tensor, keys: Tensor, valid: Tensor) -> Tensor:
        counted = valid.to(keys.dtype)
        return counted / counted.sum(dim=1, keepdim=True)

    def comparable(self, keys: Tensor) -> Tensor:
        return keys
