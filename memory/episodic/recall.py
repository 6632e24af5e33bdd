"""What a memory answers to a query: which memories came back, how near, how old, with what weight, what they say."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Recall:
    """The answer to a batch of queries; the only thing that passes from a memory to an agent.

    A row that found fewer neighbours than the widest row of its batch is padded by repeating its nearest memory at an
    infinite distance and weight 0: every entry points at a real memory.
    """

    indices: Tensor
    """Slots in the store that was read, int64 `[batch, neighbours]`."""
    distances: Tensor
    """Euclidean distance of each key to its query, ascending, `[batch, neighbours]`."""
    keys: Tensor
    """Stored keys, `[batch, neighbours, key_size]`."""
    values: Tensor
    """Stored values, `[batch, neighbours]`."""
    weights: Tensor
    """Kernel weights, rows summing to 1, `[batch, neighbours]`."""
    written_at: Tensor
    """Agent step at which each memory was last written, int32 `[batch, neighbours]`."""

    @property
    def valid(self) -> Tensor:
        """False where an entry is padding, bool `[batch, neighbours]`."""
        return self.distances.isfinite()

    def estimates(self) -> Tensor:
        """Weighted mean of the values, `[batch]` (Pritzel et al. 2017, eq. 1)."""
        return (self.weights * self.values).sum(dim=1)

    def effective_neighbours(self) -> Tensor:
        """How many memories the answer really rests on, `1 / sum(w^2)`, `[batch]`."""
        return 1.0 / self.weights.square().sum(dim=1)

    def ages(self, now: int) -> Tensor:
        """Agent steps since each memory was last written, int32 `[batch, neighbours]`."""
        return now - self.written_at
