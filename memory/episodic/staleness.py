"""Staleness: how far stored keys are from what the encoder would make of the same observations now.

Measured on a probe: a part of the memories whose true observations are kept for nothing else. Every number compares
the memory as it is stored with the same memory freshly embedded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from memory.episodic.kernels import Kernel
from memory.episodic.reinstatement import Reinstatement
from memory.episodic.store import Store

Decide = Callable[[Tensor, Tensor], Tensor]
"""From kernel weights `[n, n]` and values `[n]` to what is decided, `[n]`."""


class Probe:
    """The true observations of every `stride`-th slot of a store.

    Costs the bytes of those observations, and a look the forward pass of all of them.

    Args:
        store: the memories.
        shape: of an observation.
        stride: slots for each that is kept.
    """

    def __init__(self, store: Store, shape: tuple[int, ...], stride: int) -> None:
        if stride < 1:
            raise ValueError(f"stride must be at least 1, got {stride}")
        self._store = store
        self._stride = stride
        self._observations = torch.zeros(-(-store.capacity // stride), *shape, dtype=torch.uint8)

    def remember(self, slots: Tensor, observations: Tensor) -> None:
        """Keep what belongs to the probe of observations uint8 `[n, *shape]` just written to `slots`."""
        mine = slots % self._stride == 0
        self._observations[slots[mine] // self._stride] = observations[mine]

    @torch.no_grad()
    def staleness(
        self,
        encoder: nn.Module,
        reinstatement: Reinstatement | None,
        kernel: Kernel,
        neighbours: int = 10,
        decide: Decide | None = None,
    ) -> dict[str, float]:
        """All instruments, by name; empty while the probe holds fewer than twice `neighbours`.

        Args:
            encoder: from observations float32 `[n, *shape]` to keys.
            reinstatement: to say what freshening by it would do; None leaves that out.
            kernel: what weighs memories.
            neighbours: of which recall is measured.
            decide: what an agent does with the answer; None leaves decisions out.
        """
        slots = torch.arange(0, len(self._store), self._stride)
        if len(slots) < 2 * neighbours:
            return {}
        stored, values = self._store.keys[slots], self._store.values[slots]
        fresh = encoder(self._observations[: len(slots)].float())
        drift = (fresh - stored).norm(dim=1)
        apart = torch.pdist(fresh).median().clamp_min(1e-12)
        older = self._store.written_at[slots] <= self._store.written_at[slots].median()
        metrics = {
            "key_drift": float(drift.mean() / apart),
            "key_drift_older_half": float(drift[older].mean() / apart),
            **compared(fresh, stored, values, kernel, neighbours, decide),
        }
        # Where nothing has drifted there is nothing to compare the error with.
        if reinstatement is not None and metrics["key_drift"] > 1e-6:
            mended = encoder(reinstatement.recall(slots, stored))
            metrics["error_ratio"] = float((mended - fresh).norm(dim=1).sum() / drift.sum())
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """The observations kept."""
        return {"observations": self._observations}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        self._observations.copy_(state["observations"])


def compared(
    fresh: Tensor, stored: Tensor, values: Tensor, kernel: Kernel, neighbours: int, decide: Decide | None = None
) -> dict[str, float]:
    """How what is recalled differs between a memory's fresh and stored keys, asked by the fresh keys themselves.

    Args:
        fresh: what the keys should be, `[n, key_size]`; each is a query too, to all but its own memory.
        stored: what they are.
        values: `[n]`.
        kernel: what weighs memories.
        neighbours: of which recall is measured.
        decide: what is done with the answer.

    Returns:
        `neighbour_recall`: share of the nearest by fresh keys that are among the nearest by stored ones.
        `kernel_shift`: total variation between the two distributions of weights, 0 to 1.
        `value_shift`: mean absolute difference of the estimates, in standard deviations of the values.
        `decision_flips`: share of the answers on which another decision is taken, where it is known how one is.
        `self_rank`: mean reciprocal rank of its own stored key for each fresh one, 1 where none comes before it.
    """
    itself = torch.eye(len(fresh), dtype=torch.bool)
    nearest = [torch.cdist(fresh, keys).masked_fill(itself, torch.inf) for keys in (fresh, stored)]
    found = [distances.topk(neighbours, dim=1, largest=False).indices for distances in nearest]
    recall = (found[0][:, :, None] == found[1][:, None, :]).any(dim=2).float().mean()
    weights = [kernel(fresh, keys[None], ~itself) for keys in (fresh, stored)]
    estimates = [weight @ values for weight in weights]
    to_stored = torch.cdist(fresh, stored)
    ranks = 1 + (to_stored < to_stored.diagonal()[:, None]).sum(dim=1)
    metrics = {
        "neighbour_recall": float(recall),
        "kernel_shift": float(0.5 * (weights[0] - weights[1]).abs().sum(dim=1).mean()),
        "value_shift": float((estimates[0] - estimates[1]).abs().mean() / values.std().clamp_min(1e-12)),
        "self_rank": float(ranks.float().reciprocal().mean()),
    }
    if decide is not None:
        metrics["decision_flips"] = float((decide(weights[0], values) != decide(weights[1], values)).float().mean())
    return metrics
