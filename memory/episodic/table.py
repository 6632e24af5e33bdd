"""The rows behind the stores: one table, in which the rows of each store lie together.

Together, a store is searched by a product with rows that are its own; side by side, what the products leave of all
stores is compared by a single top-k.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from memory.episodic.rounding import rounded_keys

BLOCK = 256
"""Rows are allocated in blocks of this many, each of one store, so that one call multiplies each by the queries of its
store. Of 128 rows such a product takes a third longer, of more hardly less."""
COLUMNS = ("keys", "squared_norms", "values", "written_at", "keyed_at", "origins", "uses", "last_used")
"""What is kept of each memory."""
_FEWEST_ROUNDED = 4_096
"""Memories from which on rounded keys choose; among fewer, more candidates cost what the product saves."""


class Table:
    """Rows of several stores, each allocated in whole blocks and grown when they are full.

    Attributes:
        keys: `[rows, key_size]`.
        squared_norms: squared distances of the keys to `centre`, inf in rows that are not filled, `[rows]`.
        rounded: keys and squared norms as `rounded_keys` has them, `[rows, key_size + 2]`; None without.
        values: `[rows]`.
        written_at: agent step of the last write, int32 `[rows]`.
        keyed_at: agent step at which the key was embedded, int32 `[rows]`.
        origins: agent step whose observation the memory is of, int32 `[rows]`.
        uses: how often it was recalled since it was inserted, int32 `[rows]`.
        now: the agent step it is.
        last_used: tick of the last use, or of the insertion, by which memories are evicted, int64 `[rows]`.
        centre: a point near the keys, `[key_size]`.
        centre_length: its distance from the origin.
        lengths: filled rows of each store.
        owners: the store that each block is of, int64 `[rows / BLOCK]`.
        clock: the next tick.
        counts_use: whether being read makes a row younger; without, rows age from their insertion on.
    """

    def __init__(
        self, num_stores: int, key_size: int, device: torch.device | str, *, counts_use: bool, rounded: bool
    ) -> None:
        self.counts_use = counts_use
        self.keys = torch.zeros(0, key_size, device=device)
        self.squared_norms = torch.zeros(0, device=device)
        # GPUs may sum products of bfloat16 in it, too, which the bound does not allow for.
        rounded = rounded and torch.device(device).type == "cpu"
        self.rounded = torch.zeros(0, key_size + 2, dtype=torch.bfloat16) if rounded else None
        self.values = torch.zeros(0, device=device)
        self.written_at = torch.zeros(0, dtype=torch.int32, device=device)
        self.keyed_at = torch.zeros(0, dtype=torch.int32, device=device)
        self.origins = torch.zeros(0, dtype=torch.int32, device=device)
        self.uses = torch.zeros(0, dtype=torch.int32, device=device)
        self.now = 0
        self.last_used = torch.zeros(0, dtype=torch.int64, device=device)
        self.centre = torch.zeros(key_size, device=device)
        self.centre_length = 0.0
        self.lengths = [0] * num_stores
        self.clock = 0
        self._starts = [0] * (num_stores + 1)
        self._first_rows = torch.zeros(num_stores, dtype=torch.int64, device=device)
        self.owners = torch.zeros(0, dtype=torch.int64, device=device)
        self._scratch = torch.zeros(0, device=device)

    @property
    def rounding_pays(self) -> bool:
        """Whether rounded keys should choose the candidates of a search."""
        return self.rounded is not None and sum(self.lengths) >= _FEWEST_ROUNDED

    def span(self, store: int) -> slice:
        """All rows allocated to a store."""
        return slice(self._starts[store], self._starts[store + 1])

    def starts(self, stores: Tensor) -> Tensor:
        """The first row of each of `stores`, int64 `[batch]`."""
        return self._first_rows[stores]

    def filled(self, store: int) -> slice:
        """The rows of a store that hold memories."""
        return slice(self._starts[store], self._starts[store] + self.lengths[store])

    def allocated(self, store: int) -> int:
        """Number of rows allocated to a store."""
        return self._starts[store + 1] - self._starts[store]

    def allocate(self, store: int, rows: int) -> None:
        """Give a store `rows` rows, rounded up to whole blocks; every store's rows move."""
        sizes = [self.allocated(other) for other in range(len(self.lengths))]
        sizes[store] = -(-rows // BLOCK) * BLOCK
        starts = [0]
        for size in sizes:
            starts.append(starts[-1] + size)
        moves = [
            (slice(start, start + length), self.filled(other))
            for other, (start, length) in enumerate(zip(starts, self.lengths, strict=False))
        ]
        for name in COLUMNS if self.rounded is None else (*COLUMNS, "rounded"):
            old = getattr(self, name)
            new = old.new_zeros(starts[-1], *old.shape[1:])
            if name == "squared_norms":
                new.fill_(torch.inf)
            if name == "rounded":
                # The first of the two pieces of the squared norm.
                new[:, -2] = torch.inf
            for target, source in moves:
                new[target] = old[source]
            setattr(self, name, new)
        self._starts = starts
        self._first_rows = torch.tensor(starts[:-1], device=self.keys.device)
        self.owners = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes) // BLOCK).to(self.keys.device)

    def begin_at(self, centre: Tensor) -> None:
        """Set the centre `[key_size]` of a table that holds nothing yet."""
        self.centre = centre.clone()
        self.centre_length = centre.norm().item()

    def scratch(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """A tensor to write into and be done with before the next is asked for, of any content: one thread at a time.

        What a search writes is too large for the allocator to keep: taken anew each time, its pages would be mapped and
        cleared again, which takes as long as half the matrix product.
        """
        size = math.prod(shape)
        if len(self._scratch) < size:
            self._scratch = self.keys.new_empty(size)
        return self._scratch.view(dtype)[:size].view(shape)

    def place_keys(self, rows: Tensor, keys: Tensor, embedded_at: Tensor | None = None) -> None:
        """Put `keys [batch, key_size]` into distinct rows, int64 `[batch]`.

        Args:
            rows: where.
            keys: what.
            embedded_at: the agent steps at which that was made, int32 `[batch]`; None: now.
        """
        self.move_keys(rows, keys)
        self.keyed_at[rows] = self.now if embedded_at is None else embedded_at

    def move_keys(self, rows: Tensor, keys: Tensor) -> None:
        """Put `keys [batch, key_size]` into distinct rows, int64 `[batch]`, without making them any younger."""
        self.keys[rows] = keys
        self._measure(rows, keys)

    def recentre(self) -> None:
        """Move the centre to the mean of the stores' means; costs a pass over them."""
        filled = [self.filled(store) for store, length in enumerate(self.lengths) if length]
        self.centre = torch.cat([self.keys[span].mean(dim=0, keepdim=True) for span in filled]).mean(dim=0)
        self.centre_length = self.centre.norm().item()
        for span in filled:
            self._measure(span, self.keys[span])

    def round(self, rows: slice | Tensor, centred: Tensor) -> None:
        """Have what is rounded, if anything is, follow keys less the centre, `[rows, key_size]`, and squared norms."""
        if self.rounded is not None:
            self.rounded[rows] = rounded_keys(centred, self.squared_norms[rows])

    def _measure(self, rows: slice | Tensor, keys: Tensor) -> None:
        """Have all that a search keeps of some rows follow their keys, `[rows, key_size]`, and the centre."""
        centred = keys - self.centre
        self.squared_norms[rows] = centred.square().sum(dim=1)
        self.round(rows, centred)

    def touch(self, rows: Tensor) -> None:
        """Count rows, int64 of any shape, as used now; one tick and one use, however often they are named."""
        self.uses[rows] += 1
        if self.counts_use:
            self.last_used[rows] = self.clock
            self.clock += 1


class Slots(Protocol):
    """Memories known by their slots, whichever rows of a table they are in: a slot is a memory's for life."""

    @property
    def table(self) -> Table:
        """Where they are."""
        ...

    def rows_of(self, slots: Tensor) -> Tensor:
        """The table's rows of `slots`, int64 `[n]`."""
        ...

    def filled_slots(self) -> Tensor:
        """All slots that hold a memory, int64 `[n]`."""
        ...
