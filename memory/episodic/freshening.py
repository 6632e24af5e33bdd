"""Freshening: stored keys are replaced by what the encoder of today makes of the observations behind them.

Proposed in Hansen 2017, section 4. It does good where what comes back is nearer to the truth than the stored key is
stale, and harm elsewhere: `staleness` measures which. Memories that cannot be freshened well may be let go instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from memory.episodic.reinstatement import Reinstatement
from memory.episodic.store import Store
from memory.episodic.table import Slots

Uncertainty = Callable[[Tensor], Tensor]


class NotFiniteError(ValueError):
    """What the encoder makes of a memory's observation is not finite; it was not stored."""


_AT_ONCE = 512
"""Memories whose observations are held at a time: 58 MB of stacks of Atari frames."""


class Freshening:
    """Embeds memories anew, in turn or on demand.

    Args:
        memory: whose keys are replaced.
        encoder: from observations float32 `[n, *shape]` to keys.
        reinstatement: how observations come back.
        budget: most memories embedded anew in one sweep.
        uncertainty: how far each key `[n, key_size]` is from being trusted, `[n]`; with it, only the surer half of the
            memories at hand is freshened, since a wrong observation makes a wrong key.
    """

    def __init__(
        self,
        memory: Slots,
        encoder: nn.Module,
        reinstatement: Reinstatement,
        budget: int,
        uncertainty: Uncertainty | None = None,
    ) -> None:
        if budget < 1:
            raise ValueError(f"budget must be at least 1, got {budget}")
        self._memory = memory
        self._encoder = encoder
        self._reinstatement = reinstatement
        self._budget = budget
        self._uncertainty = uncertainty
        self._next = 0

    @torch.no_grad()
    def freshen(self, slots: Tensor, fresh: Tensor | None = None) -> int:
        """Embed the memories in distinct `slots`, int64 `[n]`, anew; how many were.

        Where that was done already for another end, `fresh [n, key_size]` saves doing it again.
        """
        keys = self._memory.table.keys[self._memory.rows_of(slots)]
        if self._uncertainty is not None and len(slots):
            uncertainty = self._uncertainty(keys)
            trusted = uncertainty <= uncertainty.median()
            slots, keys = slots[trusted], keys[trusted]
            fresh = None if fresh is None else fresh[trusted]
        if fresh is None:
            pieces = zip(slots.split(_AT_ONCE), keys.split(_AT_ONCE), strict=True)
            fresh = torch.cat([self._encoder(self._reinstatement.recall(*piece)) for piece in pieces])
        if not fresh.isfinite().all():
            raise NotFiniteError("fresh keys must be finite, got NaN or infinity")
        self._memory.table.place_keys(self._memory.rows_of(slots), fresh)
        return len(slots)

    def sweep(self) -> int:
        """Embed the next memories in turn anew, as many as the budget allows; how many were."""
        filled = self._memory.filled_slots()
        if not len(filled):
            return 0
        # Slots come in order, and new ones between them: a turn goes by slot, and not by how many were passed.
        passed = torch.searchsorted(filled, self._next)
        turn = filled[(torch.arange(min(self._budget, len(filled))) + passed) % len(filled)]
        self._next = int(turn[-1]) + 1
        return self.freshen(turn)

    def state_dict(self) -> dict[str, Any]:
        """Where the sweep stands."""
        return {"next": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        self._next = state["next"]


class UncertainFirst:
    """Lets go of the memories whose observation is least certain to come back, in the place of the oldest.

    The uncertain are looked for among ten times as many drawn at random, so that the cost does not grow with the store;
    the newest are as likely to go as the oldest.

    Args:
        store: that makes way.
        uncertainty: how far each key `[n, key_size]` is from being trusted, `[n]`.
        generator: what draws.
    """

    def __init__(self, store: Store, uncertainty: Uncertainty, generator: torch.Generator) -> None:
        self._store = store
        self._uncertainty = uncertainty
        self._generator = generator

    @torch.no_grad()
    def make_way(self, count: int) -> None:
        """Have what must go for `count` new memories be the least certain of those drawn."""
        count -= self._store.capacity - len(self._store)
        if count <= 0:
            return
        drawn = torch.randperm(len(self._store), generator=self._generator)[: 10 * count]
        uncertainty = self._uncertainty(self._store.keys[drawn])
        self._store.expire(drawn[uncertainty.topk(min(count, len(drawn))).indices])
