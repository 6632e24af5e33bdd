"""Staleness: how far stored keys are from what the encoder would make of the same observations now.

Measured on a probe: a part of the memories whose true observations are kept for nothing else. Every number compares
the memory as it is stored with the same memory freshly embedded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from xxhash import xxh3_64_intdigest

from memory.episodic.kernels import Kernel
from memory.episodic.reinstatement import Reinstatement
from memory.episodic.table import Slots

PROBED = 500
"""Memories that a probe usually has; their screens take 14 MB."""

_AT_ONCE = 64
"""Queries weighed at a time: of 500 memories with keys of 128 numbers, kernels may hold 16 MB for them."""

Decide = Callable[[Tensor, Tensor], Tensor]
"""From kernel weights `[n, n]` and values `[n]` to what is decided, `[n]`."""


class Probe:
    """The true observations of some memories: of those in the slots of the lowest hashes.

    Every slot has the same chance to be among them, and one chance only: where some memories are rewritten all the time
    and others last, a new draw at each write would fill the probe with the former. A slot stays with the probe when its
    memory is evicted for another. Costs the bytes of those observations, and a look the forward pass of all of them.

    Args:
        memory: what is probed.
        shape: of an observation.
        count: most memories whose observations are kept.
        generator: what draws the seed of the hashes.
    """

    def __init__(self, memory: Slots, shape: tuple[int, ...], count: int, generator: torch.Generator) -> None:
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        self._memory = memory
        self._observations = torch.zeros(count, *shape, dtype=torch.uint8)
        self._place_of: dict[int, int] = {}
        self._seed = int(torch.randint(2**62, (), generator=generator))
        # Hash and slot, found when they are asked for: most slots are turned away, and that must not cost a search.
        self._highest: tuple[int, int] | None = None

    def remember(self, slots: Tensor, observations: Tensor) -> None:
        """Keep what belongs to the probe of observations uint8 `[n, *shape]` just embedded for distinct `slots`."""
        for slot, observation in zip(slots.tolist(), observations, strict=True):
            place = self._place_of[slot] if slot in self._place_of else self._place_for(slot)
            if place is not None:
                self._observations[place] = observation

    @property
    def slots(self) -> Tensor:
        """The memories probed, int64 `[n]`."""
        return torch.tensor([*self._place_of], dtype=torch.int64)

    @property
    def observations(self) -> Tensor:
        """Those of the memories probed, uint8 `[n, *shape]`."""
        return self._observations[[*self._place_of.values()]]

    def forget(self, slots: Tensor) -> None:
        """Let go of `slots`, int64 `[n]`, whose keys are now of observations that nobody has."""
        self._highest = None
        for slot in slots.tolist():
            place = self._place_of.pop(slot, None)
            if place is not None:
                # Places are taken from the first: the last one moves up.
                last = len(self._place_of)
                self._observations[place] = self._observations[last]
                for other, at in self._place_of.items():
                    if at == last:
                        self._place_of[other] = place

    def _place_for(self, slot: int) -> int | None:
        """A place that is free, or of the slot of the highest hash if that of this one is lower."""
        place = len(self._place_of)
        if place == len(self._observations):
            self._highest = self._highest or max(map(self._rank, self._place_of))
            if self._highest < self._rank(slot):
                return None
            place = self._place_of.pop(self._highest[1])
        self._place_of[slot] = place
        self._highest = None
        return place

    def _rank(self, slot: int) -> tuple[int, int]:
        return xxh3_64_intdigest(slot.to_bytes(8, "little"), self._seed), slot

    @torch.no_grad()
    def staleness(
        self,
        encoder: nn.Module,
        reinstatement: Reinstatement | None,
        kernel: Kernel,
        neighbours: int = 10,
        decide: Decide | None = None,
        nearest_alone: bool = False,
    ) -> dict[str, float]:
        """All instruments, by name; empty while the probe holds fewer than twice `neighbours`.

        `key_drift`: mean distance of stored keys to fresh ones, over the median distance of two fresh ones.
        `key_age`: mean time since they were embedded, agent steps.
        `error_ratio`: distance of the embedding of what comes back to the fresh one, over that of the stored key.
        All three also of the quarters by that age, `_quarter_1` being the newest; and what `compared` gives. Distances
        are such as the kernel tells keys apart by.

        Args:
            encoder: from observations float32 `[n, *shape]` to keys.
            reinstatement: to say what freshening by it would do; None leaves that out.
            kernel: what weighs memories.
            neighbours: of which recall is measured.
            decide: what an agent does with the answer; None leaves decisions out.
            nearest_alone: whether it answers by the nearest alone, not by all that it holds.
        """
        slots = self.slots.to(self._memory.table.keys.device)
        if len(slots) < 2 * neighbours:
            return {}
        table, rows = self._memory.table, self._memory.rows_of(slots)
        stored, values, ages = table.keys[rows], table.values[rows], (table.now - table.keyed_at[rows]).float()
        fresh = kernel.comparable(encoder(self.observations.to(stored.device).float()))
        compared_to = kernel.comparable(stored)
        drift = (fresh - compared_to).norm(dim=1)
        apart = torch.pdist(fresh).median().clamp_min(1e-12)
        metrics = {
            "key_drift": float(drift.mean() / apart),
            "key_age": float(ages.mean()),
            **compared(fresh, stored, values, kernel, neighbours, decide, nearest_alone),
        }
        error = None
        # Where nothing has drifted there is nothing to compare the error with.
        if reinstatement is not None and metrics["key_drift"] > 1e-6:
            error = (kernel.comparable(encoder(reinstatement.recall(slots, stored))) - fresh).norm(dim=1)
            metrics["error_ratio"] = float(error.sum() / drift.sum())
        for number, quarter in enumerate(ages.argsort(stable=True).chunk(4), start=1):
            metrics[f"key_drift_quarter_{number}"] = float(drift[quarter].mean() / apart)
            metrics[f"key_age_quarter_{number}"] = float(ages[quarter].mean())
            if error is not None:
                metrics[f"error_ratio_quarter_{number}"] = float(
                    error[quarter].sum() / drift[quarter].sum().clamp_min(1e-12)
                )
        return metrics

    @property
    def nbytes(self) -> int:
        """Bytes of the observations, of all that there is place for."""
        return self._observations.nbytes

    def state_dict(self) -> dict[str, Any]:
        """The observations kept, and whose they are."""
        return {
            "observations": self._observations,
            "slots": np.array([*self._place_of], dtype=np.int64),
            "places": np.array([*self._place_of.values()], dtype=np.int64),
            "seed": self._seed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        self._observations.copy_(state["observations"])
        self._place_of = dict(zip(state["slots"].tolist(), state["places"].tolist(), strict=True))
        self._seed = state["seed"]
        self._highest = None


def compared(
    fresh: Tensor,
    stored: Tensor,
    values: Tensor,
    kernel: Kernel,
    neighbours: int,
    decide: Decide | None = None,
    nearest_alone: bool = False,
) -> dict[str, float]:
    """How what is recalled differs between a memory's fresh and stored keys, asked by the fresh keys themselves.

    Args:
        fresh: what the keys should be, `[n, key_size]`; each is a query too, to all but its own memory.
        stored: what they are.
        values: `[n]`.
        kernel: what weighs memories.
        neighbours: of which recall is measured.
        decide: what is done with the answer.
        nearest_alone: whether only those neighbours are weighed, each time the nearest by the keys that are asked, or
            all. A mean over all hardly tells of neighbours that are the wrong ones.

    Returns:
        `neighbour_recall`: share of the nearest by fresh keys that are among the nearest by stored ones.
        `kernel_shift`: total variation between the two distributions of weights, 0 to 1.
        `value_shift`: mean absolute difference of the estimates, in standard deviations of the values; left out where
            decisions are taken otherwise, for values may be no quantities there.
        `decision_flips`: share of the answers on which another decision is taken, where it is known how one is.
        `self_rank`: mean reciprocal rank of its own stored key for each fresh one, 1 where none comes before it.
    """
    itself = torch.eye(len(fresh), dtype=torch.bool, device=fresh.device)
    # Before the kernel sees them, distances must be those it would tell keys apart by.
    near = [kernel.comparable(keys) for keys in (fresh, stored)]
    nearest = [_distances(near[0], keys).masked_fill(itself, torch.inf) for keys in near]
    found = [distances.topk(neighbours, dim=1, largest=False).indices for distances in nearest]
    recall = (found[0][:, :, None] == found[1][:, None, :]).any(dim=2).float().mean()
    weighed = [torch.zeros_like(itself).scatter(1, those, True) if nearest_alone else ~itself for those in found]
    weights = [_weights(kernel, fresh, keys, valid) for keys, valid in zip((fresh, stored), weighed, strict=True)]
    to_stored = _distances(near[0], near[1])
    ranks = 1 + (to_stored < to_stored.diagonal()[:, None]).sum(dim=1)
    metrics = {
        "neighbour_recall": float(recall),
        "kernel_shift": float(0.5 * (weights[0] - weights[1]).abs().sum(dim=1).mean()),
        "self_rank": float(ranks.float().reciprocal().mean()),
    }
    if decide is None:
        estimates = [weight @ values for weight in weights]
        metrics["value_shift"] = float((estimates[0] - estimates[1]).abs().mean() / values.std().clamp_min(1e-12))
    else:
        metrics["decision_flips"] = float((decide(weights[0], values) != decide(weights[1], values)).float().mean())
    return metrics


def _weights(kernel: Kernel, queries: Tensor, keys: Tensor, valid: Tensor) -> Tensor:
    """What a kernel makes of those of `keys [m, key_size]` that are `valid [n, m]` for each of the queries."""
    pieces = zip(queries.split(_AT_ONCE), valid.split(_AT_ONCE), strict=True)
    return torch.cat([kernel(some, keys[None], those) for some, those in pieces])


def _distances(queries: Tensor, keys: Tensor) -> Tensor:
    # By subtraction: a matrix product rounds away what tells keys apart that are far from the origin.
    return torch.cdist(queries, keys, compute_mode="donot_use_mm_for_euclid_dist")
