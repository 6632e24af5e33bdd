"""A rival to freshening that needs few observations: all stored keys are moved as some known ones have moved."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from memory.episodic.staleness import Probe
from memory.episodic.table import Slots


class DriftMap:
    """An affine map from what the encoder made of observations at the last look to what it makes of them now.

    Fitted on a probe by ridge regression, it is applied to the keys of all memories that were embedded by the last
    look; later ones are left for the next. A look costs two passes of the probe and one product of all keys with a
    matrix. The idea is known from class prototypes ("semantic drift compensation", Yu et al. 2020).

    Args:
        memory: whose keys are moved.
        encoder: from observations float32 `[n, *shape]` to keys.
        probe: has the observations.
        ridge: how strongly the map is held to moving all keys alike, in mean variances of a key's numbers.
    """

    def __init__(self, memory: Slots, encoder: nn.Module, probe: Probe, ridge: float = 0.01) -> None:
        self._memory = memory
        self._encoder = encoder
        self._probe = probe
        self._ridge = ridge
        self._observations: Tensor | None = None
        self._keys = torch.zeros(0)
        self._looked_at = 0

    @torch.no_grad()
    def move(self) -> int:
        """Move what has drifted since the last look, and look again; how many keys were moved.

        Raises:
            ValueError: on keys that are not finite; nothing is moved then.
        """
        table, moved = self._memory.table, 0
        if self._observations is not None:
            now = self._encoder(self._observations.float())
            if not now.isfinite().all():
                raise ValueError("fresh keys must be finite, got NaN or infinity")
            slots = self._memory.filled_slots()
            rows = self._memory.rows_of(slots)
            rows = rows[table.keyed_at[rows] <= self._looked_at]
            table.move_keys(rows, self._mapped(table.keys[rows], self._keys, now))
            moved = len(rows)
        self._observations = self._probe.observations.to(table.keys.device, copy=True)
        self._keys = self._encoder(self._observations.float())
        self._looked_at = table.now
        return moved

    def state_dict(self) -> dict[str, Any]:
        """What was looked at, what came of it, and when."""
        return {"observations": self._observations, "keys": self._keys, "looked_at": self._looked_at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        self._observations, self._keys, self._looked_at = state["observations"], state["keys"], state["looked_at"]

    def _mapped(self, keys: Tensor, then: Tensor, now: Tensor) -> Tensor:
        """Keys `[n, key_size]` as the map from `then` to `now`, `[m, key_size]`, moves them."""
        mean_then, mean_now = then.mean(dim=0), now.mean(dim=0)
        spread = then - mean_then
        scatter = spread.T @ spread
        held = self._ridge * scatter.diagonal().mean().clamp_min(1e-12) * torch.eye(len(scatter), device=keys.device)
        # What is beyond a common shift: the identity is what ridge regression falls back to.
        turn: Tensor = torch.linalg.solve(scatter + held, spread.T @ (now - mean_now - spread))
        centred = keys - mean_then
        return centred + centred @ turn + mean_now
