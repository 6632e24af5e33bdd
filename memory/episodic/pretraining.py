"""Pretraining offline: what observations come back from is trained on those that came first, before anything else."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from memory.episodic.reinstatement import Reinstatement


class OfflinePretraining:
    """Gathers observations, then trains a reinstatement on batches of them while the encoder stands still.

    Against pretraining on the stream as it comes, the encoder waits for as many observations only as are gathered,
    however many batches are made of them. Costs their bytes until it is over.

    Args:
        encoder: from observations float32 `[n, *shape]` to keys.
        reinstatement: what is trained.
        shape: of an observation.
        observations: how many are gathered.
        batches: how many are drawn from them, with replacement.
        batch_size: observations in one.
        generator: what draws.

    Raises:
        ValueError: on no observations, batches or batch size.
    """

    def __init__(
        self,
        encoder: nn.Module,
        reinstatement: Reinstatement,
        shape: tuple[int, ...],
        observations: int,
        batches: int,
        batch_size: int,
        generator: torch.Generator,
    ) -> None:
        if min(observations, batches, batch_size) < 1:
            raise ValueError(
                "observations, batches and batch_size must be at least 1, "
                f"got {observations}, {batches} and {batch_size}"
            )
        self._encoder = encoder
        self._reinstatement = reinstatement
        self._shape = shape
        self._wanted = observations
        self._left = batches
        self._batch_size = batch_size
        self._generator = generator
        self._gathered = torch.zeros(0, *shape, dtype=torch.uint8)

    @property
    def is_over(self) -> bool:
        """Whether all batches were learned from."""
        return self._left == 0

    def gather(self, observations: Tensor) -> None:
        """Take of `observations`, uint8 `[n, *shape]`, what is still wanting."""
        if not self.is_over:
            wanted = self._wanted - len(self._gathered)
            self._gathered = torch.cat([self._gathered, observations[:wanted]])

    def learn(self) -> tuple[float, Tensor] | None:
        """Learn from one batch.

        Returns:
            The reconstruction error and the batch's observations; None before enough is gathered, and when it is over.
        """
        if self.is_over or len(self._gathered) < self._wanted:
            return None
        drawn = torch.randint(len(self._gathered), (self._batch_size,), generator=self._generator)
        observations = self._gathered[drawn]
        with torch.no_grad():
            keys = self._encoder(observations.float())
        error = self._reinstatement.learn(keys, observations)
        self._left -= 1
        if self.is_over:
            self._gathered = self._gathered[:0].clone()
        return (math.nan if error is None else error), observations

    @property
    def nbytes(self) -> int:
        """Bytes of what is gathered."""
        return self._gathered.nbytes

    def state_dict(self) -> dict[str, Any]:
        """What is gathered, and how many batches are left."""
        return {"gathered": self._gathered, "left": self._left}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        self._gathered, self._left = state["gathered"].clone(), state["left"]
