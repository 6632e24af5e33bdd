"""A rival to freshening that needs few observations: all stored keys are moved as some known ones have moved."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from memory.episodic.freshening import NotFiniteError
from memory.episodic.staleness import Probe
from memory.episodic.table import Slots


class DriftMap:
    """An affine map from stored keys to fresh ones, fitted on a few memories and applied to all.

    Fitted by ridge regression on memories whose observations are kept for nothing else, and applied to the keys that
    were there at the last move; younger ones have drifted less, and come next. A move costs one pass of the kept
    observations and one product of all keys with a matrix. The idea is known from class prototypes ("semantic drift
    compensation", Yu et al. 2020).

    Args:
        memory: whose keys are moved.
        encoder: from observations float32 `[n, *shape]` to keys.
        probe: has the observations; another than staleness is measured by, which would look better than it is.
        ridge: how strongly the map is held to moving all keys alike, in mean variances of a key's numbers.
    """

    def __init__(self, memory: Slots, encoder: nn.Module, probe: Probe, ridge: float = 0.1) -> None:
        self._memory = memory
        self._encoder = encoder
        self._probe = probe
        self._ridge = ridge
        self._moved_at = -1

    @torch.no_grad()
    def remember(self, slots: Tensor, observations: Tensor) -> None:
        """Keep some of observations uint8 `[n, *shape]` just stored in distinct `slots`, int64 `[n]`.

        Those embedded before the last move, which they missed, are embedded anew: an episode is written when it ends.
        """
        self._probe.remember(slots, observations)
        table, rows = self._memory.table, self._memory.rows_of(slots)
        missed = table.keyed_at[rows] <= self._moved_at
        if missed.any():
            table.place_keys(rows[missed], self._encoder(observations[missed.cpu()].to(rows.device).float()))

    @torch.no_grad()
    def move(self) -> int:
        """Move the keys that were there at the last move; how many.

        Raises:
            NotFiniteError: on keys that are not finite; nothing is moved then.
        """
        table, since = self._memory.table, self._moved_at
        self._moved_at = table.now
        rows = self._memory.rows_of(self._memory.filled_slots())
        rows = rows[table.keyed_at[rows] <= since]
        known = self._memory.rows_of(self._probe.slots.to(rows.device))
        old = table.keyed_at[known] <= since
        if not old.any():
            return 0
        observations = self._probe.observations[old.cpu()].to(rows.device)
        moved = self._mapped(table.keys[rows], table.keys[known[old]], self._encoder(observations.float()))
        if not moved.isfinite().all():
            raise NotFiniteError("moved keys must be finite, got NaN or infinity")
        table.move_keys(rows, moved)
        return len(rows)

    @property
    def nbytes(self) -> int:
        """Bytes of the observations kept."""
        return self._probe.nbytes

    def state_dict(self) -> dict[str, Any]:
        """The observations kept, and when keys were last moved."""
        return {"probe": self._probe.state_dict(), "moved_at": self._moved_at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        self._probe.load_state_dict(state["probe"])
        self._moved_at = state["moved_at"]

    def _mapped(self, keys: Tensor, stored: Tensor, fresh: Tensor) -> Tensor:
        """Keys `[n, key_size]` as the map from `stored` to `fresh`, `[m, key_size]`, moves them."""
        mean_stored, mean_fresh = stored.mean(dim=0), fresh.mean(dim=0)
        spread = stored - mean_stored
        scatter = spread.T @ spread
        held = self._ridge * scatter.diagonal().mean().clamp_min(1e-12) * torch.eye(len(scatter), device=keys.device)
        # What is beyond a common shift: the identity is what ridge regression falls back to.
        turn, _ = torch.linalg.solve_ex(scatter + held, spread.T @ (fresh - mean_fresh - spread))
        centred = keys - mean_stored
        return centred + centred @ turn + mean_fresh
