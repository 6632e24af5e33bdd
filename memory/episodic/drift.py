"""What holds an encoder near the one that wrote its keys: to its own running mean, or to the keys themselves.

A stored key is compared with queries of an encoder that has moved on. Where inference rests on stored keys, and the
encoder learns from how they did, that is control with a delay of a memory's whole life: the same correction is asked
for again and again until the memory that asks is gone, and the encoder overshoots. The faster it learns, the worse.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Geometry = Literal["cosine", "euclidean"]
"""What a kernel tells keys apart by."""
_LEAST_SPREAD = 0.01
"""Of keys, as a share of their length."""


def drift(keys: Tensor, before: Tensor, geometry: Geometry) -> Tensor:
    """How far keys `[n, key_size]` have come from what they were before, one number.

    mean(1 - cos(f, g))                                 for kernels that compare directions
    mean(|f - g|^2) / mean(|g - mean(g)|^2)             for kernels of Euclidean distance

    Keys that differ by less than a hundredth of their length tell nothing of the spread: a game begins with many
    observations that are the same, and by their spread of nothing the penalty would drown every other gradient. A
    hundredth of their length stands for it.
    """
    if geometry == "cosine":
        return (1.0 - functional.cosine_similarity(keys, before, dim=1)).mean()
    spread = before.var(dim=0, unbiased=False).mean().maximum(_LEAST_SPREAD**2 * before.square().mean())
    return (keys - before).square().mean() / spread.clamp_min(1e-12)


class RunningMean(nn.Module):
    """An encoder whose weights are the running mean of another's; itself it learns nothing.

    Args:
        encoder: from observations `[n, *shape]` to keys; the mean begins as it is.
        updates: over about how many of its updates the mean is taken.
    """

    def __init__(self, encoder: nn.Module, updates: int) -> None:
        super().__init__()
        if updates < 1:
            raise ValueError(f"updates must be at least 1, got {updates}")
        # In a tuple, its parameters are not the mean's too.
        self._followed = (encoder,)
        self._share = 1.0 / updates
        self.mean = copy.deepcopy(encoder).requires_grad_(False)

    @torch.no_grad()
    def follow(self) -> None:
        """Take in the encoder's weights of now."""
        for mean, now in zip(self.mean.parameters(), self._followed[0].parameters(), strict=True):
            mean.lerp_(now, self._share)

    @torch.no_grad()
    def forward(self, observations: Tensor) -> Tensor:
        """Keys `[n, key_size]`, without a graph."""
        keys: Tensor = self.mean(observations)
        return keys


class DriftPenalty:
    """Keeps the encoder near its own running mean, measured in what it makes of observations.

    Adds `weight * drift` to the loss, from what the encoder with the mean of its last weights makes of them. Directions
    in which keys need not move are held; those that the loss insists on are followed, slowly enough for the memory to
    keep up. It needs no memory's observation, only those at hand: one more forward pass of them.

    Args:
        encoder: from observations float32 `[n, *shape]` to keys.
        weight: of the penalty; 0 does without it, and without a copy of the encoder.
        updates: over about how many the running mean is taken; no more than a memory lives.
        geometry: which of the two.
    """

    def __init__(self, encoder: nn.Module, weight: float, updates: int, geometry: Geometry = "cosine") -> None:
        if weight < 0:
            raise ValueError(f"weight must be at least 0, got {weight}")
        self._weight = weight
        self._geometry = geometry
        self._mean = RunningMean(encoder, updates) if weight else None

    def penalise(self, observations: Tensor, keys: Tensor) -> float | None:
        """Follow the encoder by one update and add the penalty's gradient to that of keys `[n, key_size]`.

        Args:
            observations: float32 `[n, *shape]`.
            keys: what the encoder makes of them; a leaf that requires a gradient.

        Returns:
            The drift; None without a weight.
        """
        if self._mean is None:
            return None
        self._mean.follow()
        moved = drift(keys, self._mean(observations), self._geometry)
        (self._weight * moved).backward()
        return moved.item()

    def state_dict(self) -> dict[str, Any]:
        """The running mean of the weights; nothing without a weight."""
        return {} if self._mean is None else {"mean": self._mean.mean.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        if self._mean is not None:
            self._mean.mean.load_state_dict(state["mean"])


class Anchor:
    """Keeps fresh embeddings near the stored keys of the same memories.

    Where memories are embedded anew for their credit, that is a drift penalty for nothing: the stored keys are what the
    encoder made before, and exactly what it must stay comparable with.

    Args:
        weight: of the penalty; 0 does without it.
        geometry: what the kernel tells keys apart by.
    """

    def __init__(self, weight: float, geometry: Geometry = "cosine") -> None:
        if weight < 0:
            raise ValueError(f"weight must be at least 0, got {weight}")
        self._weight = weight
        self._geometry = geometry

    def penalty(self, attached: Tensor, fresh: Tensor, stored: Tensor) -> Tensor | None:
        """`weight * drift` of fresh keys from stored ones, to be added to the loss; None without a weight, or of none.

        Args:
            attached: keys on the graph, whose gradient reaches the encoder, `[n, key_size]`.
            fresh: what the encoder makes of the memories now, `[n, key_size]`.
            stored: what is stored of them, `[n, key_size]`.
        """
        if not self._weight or not len(stored):
            return None
        # Credit may have attached them with the stored keys' numbers.
        on_graph = attached + (fresh - attached).detach()
        return self._weight * drift(on_graph, stored.detach(), self._geometry)
