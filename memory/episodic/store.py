"""One action's memories: a bounded table of (key, value) pairs that grows as it fills.

A state that comes back is recognised by the hash of its observation, in a dict: exactly, and without a search. When
the table is full, the memory least recently used (or first inserted) makes place.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from memory.episodic.kernels import Kernel
from memory.episodic.neighbours import Neighbours, nearest
from memory.episodic.recall import Recall
from memory.episodic.table import COLUMNS, Table
from memory.episodic.updates import UpdateRule, Written

_SMALLEST_ALLOCATION = 256


class Store:
    """A bounded set of memories with exact neighbours, exact matches and eviction.

    Costs `4 * key_size + 40` bytes a memory in tables, `2 * key_size + 4` more where keys are rounded, and about 100
    more in the dict of hashes; tables grow by half when full, so at most a third of their rows wait to be filled. A
    memory keeps its slot for as long as it lives.

    Args:
        capacity: most memories held.
        key_size: length of a key.
        eviction: `lru` evicts the memory least recently read or written, `fifo` the one inserted first.
        device: where keys and values live; the hashes stay on the CPU.
        rounded: whether a search chooses its candidates by keys in bfloat16; on the CPU alone. It finds the same
            neighbours.
        table: a table shared with other stores, and `number` the place in it; by default one of its own.

    Raises:
        ValueError: on a capacity or key size below 1, or an unknown eviction.
    """

    def __init__(
        self,
        capacity: int,
        key_size: int,
        *,
        eviction: Literal["lru", "fifo"] = "lru",
        device: torch.device | str = "cpu",
        rounded: bool = False,
        table: Table | None = None,
        number: int = 0,
    ) -> None:
        if capacity < 1 or key_size < 1:
            raise ValueError(f"capacity and key_size must be at least 1, got {capacity} and {key_size}")
        if eviction not in ("lru", "fifo"):
            raise ValueError(f"eviction must be 'lru' or 'fifo', got {eviction!r}")
        self.capacity = capacity
        self.key_size = key_size
        self.eviction = eviction
        self.device = torch.device(device)
        self.number = number
        self.table = table or Table(1, key_size, self.device, counts_use=eviction == "lru", rounded=rounded)
        self._hashes = np.empty(0, dtype=np.uint64)
        self._slot_of: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._slot_of)

    @property
    def keys(self) -> Tensor:
        """The stored keys, `[len, key_size]`; a view, to be changed through `set_keys` only."""
        return self.table.keys[self._filled]

    @property
    def values(self) -> Tensor:
        """The stored values, `[len]`; a view."""
        return self.table.values[self._filled]

    @property
    def written_at(self) -> Tensor:
        """Agent step of each memory's last write, int32 `[len]`; a view."""
        return self.table.written_at[self._filled]

    @property
    def hashes(self) -> np.ndarray:
        """Hash of the observation each memory was written for, uint64 `[len]`; a view."""
        return self._hashes[: len(self)]

    @property
    def nbytes(self) -> int:
        """Bytes held by the tables, rows not yet filled included."""
        # A key, 4 bytes each for norm, value, three times and the number of uses, 8 each for last use and hash.
        exact = 4 * self.key_size + 40
        rounded = 0 if self.table.rounded is None else 2 * self.table.rounded.shape[1]
        return self.table.allocated(self.number) * (exact + rounded)

    def find(self, hashes: np.ndarray) -> Tensor:
        """The slots of exact matches, -1 where there is none: uint64 `[batch]` to int64 `[batch]`."""
        if hashes.dtype != np.uint64 or hashes.ndim != 1:
            raise ValueError(f"hashes must be uint64 [batch], got {hashes.dtype} {list(hashes.shape)}")
        slot_of = self._slot_of
        return torch.tensor([slot_of.get(item, -1) for item in hashes.tolist()], dtype=torch.int64, device=self.device)

    def read(self, queries: Tensor, neighbours: int, kernel: Kernel, touch: bool = True) -> Recall:
        """Recall the nearest memories of each query.

        Args:
            queries: `[batch, key_size]`.
            neighbours: how many to recall; fewer come back while fewer are stored.
            kernel: what weighs them.
            touch: whether being recalled counts as use, for eviction.

        Returns:
            A detached recall of width `min(neighbours, len(self))`.

        Raises:
            ValueError: on queries of another shape or type or that are not finite, `neighbours` below 1, or an empty
                store.
        """
        self.check_queries(queries)
        if neighbours < 1:
            raise ValueError(f"neighbours must be at least 1, got {neighbours}")
        if not len(self):
            raise ValueError("an empty store cannot be read: write to it first")
        with torch.no_grad():
            number = torch.full((len(queries),), self.number, device=self.device)
            found = nearest(self.table, queries, number, neighbours)
            return recalled(self.table, queries, number, found, kernel, touch)

    def write(
        self,
        keys: Tensor,
        values: Tensor,
        hashes: np.ndarray,
        rule: UpdateRule,
        written_at: int,
        refresh_keys: bool = False,
        origins: Tensor | None = None,
    ) -> Written:
        """Write a batch of memories, in the order of its rows.

        Rows whose hash is stored already are updated by `rule`; the others are inserted, the first of each hash, and
        updated by the later ones. The batch makes room once: what it updates or inserts is not evicted by it. A batch
        of more rows than the capacity is written in pieces.

        Args:
            keys: `[batch, key_size]`.
            values: `[batch]`.
            hashes: uint64 `[batch]`.
            rule: how the value of a known memory changes.
            written_at: the agent step, kept with every row written.
            refresh_keys: whether a known memory takes the new key too.
            origins: the agent steps at which the memories were observed and their keys embedded, int `[batch]`; by
                default now.

        Raises:
            ValueError: on other shapes or non-finite numbers; nothing is written then.
        """
        self.check_batch(keys, values, hashes)
        self.table.now = written_at
        if origins is None:
            origins = torch.full((len(hashes),), written_at)
        origins = origins.to(self.table.origins)
        written = Written()
        for start in range(0, len(hashes), self.capacity):
            piece = slice(start, start + self.capacity)
            written += self._write_piece(keys[piece], values[piece], hashes[piece], rule, refresh_keys, origins[piece])
        return written

    def touch(self, slots: Tensor) -> None:
        """Count `slots`, int64 of any shape, as used now; one event, however many they are."""
        self.table.touch(self.rows_of(slots))

    def rows_of(self, slots: Tensor) -> Tensor:
        """The table's rows of `slots`, int64 of any shape."""
        return slots + self._filled.start

    def filled_slots(self) -> Tensor:
        """All slots that hold a memory, int64 `[n]`."""
        return torch.arange(len(self), device=self.device)

    def expire(self, slots: Tensor) -> None:
        """Have the memories in `slots`, int64 `[batch]`, evicted before all others, unless they are used until then."""
        self._check_slots(slots)
        self.table.last_used[self.rows_of(slots)] = -1

    def set_keys(self, slots: Tensor, keys: Tensor) -> None:
        """Replace the keys of distinct `slots` int64 `[batch]` by finite `keys [batch, key_size]`; else ValueError."""
        self._check_slots(slots)
        if keys.shape != (len(slots), self.key_size) or not keys.isfinite().all():
            raise ValueError(f"keys must be finite [{len(slots)}, {self.key_size}], got {list(keys.shape)}")
        self.table.place_keys(self.rows_of(slots), keys)

    def set_values(self, slots: Tensor, values: Tensor) -> None:
        """Replace the values of distinct `slots` int64 `[batch]` by finite `values [batch]`; else ValueError."""
        self._check_slots(slots)
        if values.shape != (len(slots),) or not values.isfinite().all():
            raise ValueError(f"values must be finite [{len(slots)}], got {list(values.shape)}")
        self.values[slots] = values

    def check_queries(self, queries: Tensor) -> None:
        """Raise the ValueError that `read` would for its queries."""
        if queries.ndim != 2 or queries.shape[1] != self.key_size or queries.dtype != torch.float32:
            raise ValueError(
                f"queries must be float32 [batch, {self.key_size}], got {queries.dtype} {list(queries.shape)}"
            )
        if not queries.isfinite().all():
            raise ValueError("queries must be finite, got NaN or infinity")

    def check_batch(self, keys: Tensor, values: Tensor, hashes: np.ndarray) -> None:
        """Raise the ValueError that `write` would."""
        batch = len(hashes)
        if keys.shape != (batch, self.key_size) or values.shape != (batch,):
            raise ValueError(
                f"keys must have shape [{batch}, {self.key_size}] and values [{batch}] beside {batch} hashes, "
                f"got {list(keys.shape)} and {list(values.shape)}"
            )
        if keys.dtype != torch.float32 or values.dtype != torch.float32:
            raise ValueError(f"keys and values must be float32, got {keys.dtype} and {values.dtype}")
        if hashes.dtype != np.uint64 or hashes.ndim != 1:
            raise ValueError(f"hashes must be uint64 [batch], got {hashes.dtype} {list(hashes.shape)}")
        if not (keys.isfinite().all() and values.isfinite().all()):
            raise ValueError("keys and values must be finite, got NaN or infinity")

    def state_dict(self) -> dict[str, Any]:
        """Everything, filled rows only; the tensors are views, to be saved before the next write."""
        return {
            "capacity": self.capacity,
            "key_size": self.key_size,
            "eviction": self.eviction,
            # The next growth, and the move of the centre with it, must come when it would have come.
            "allocated": self.table.allocated(self.number),
            # The norms too: recomputed ones could differ in the last bit, and a continued run with them.
            **{name: getattr(self.table, name)[self._filled] for name in COLUMNS},
            "hashes": self.hashes,
            "clock": self.table.clock,
            "now": self.table.now,
            "centre": self.table.centre,
            "centre_length": self.table.centre_length,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what was saved; stores of one table are loaded together.

        Raises:
            ValueError: where capacity, key size or eviction differ from this store's.
        """
        for name in ("capacity", "key_size", "eviction"):
            if state[name] != getattr(self, name):
                raise ValueError(f"the saved store has {name} {state[name]}, this one {getattr(self, name)}")
        table, rows = self.table, len(state["hashes"])
        table.lengths[self.number] = 0
        table.allocate(self.number, state["allocated"])
        table.lengths[self.number] = rows
        for name in COLUMNS:
            getattr(table, name)[self._filled] = state[name].to(self.device)
        table.clock, table.centre_length, table.now = state["clock"], state["centre_length"], state["now"]
        table.centre = state["centre"].to(self.device, copy=True)
        table.round(self._filled, self.keys - table.centre)
        self._hashes = np.resize(state["hashes"], state["allocated"])
        self._slot_of = {item: slot for slot, item in enumerate(state["hashes"].tolist())}

    @property
    def _filled(self) -> slice:
        return self.table.filled(self.number)

    def _check_slots(self, slots: Tensor) -> None:
        if slots.numel() and not (0 <= slots.min() and slots.max() < len(self)):
            raise ValueError(f"slots must be 0 to {len(self) - 1}, got {slots.tolist()}")

    def _write_piece(
        self, keys: Tensor, values: Tensor, hashes: np.ndarray, rule: UpdateRule, refresh_keys: bool, origins: Tensor
    ) -> Written:
        items = hashes.tolist()
        first_row: dict[int, int] = {}
        for row, item in enumerate(items):
            if item not in self._slot_of:
                first_row.setdefault(item, row)
        known = [slot for slot in map(self._slot_of.get, items) if slot is not None]
        if not any(self.table.lengths):
            self.table.begin_at(keys.mean(dim=0))
        new_slots, evicted = self._make_room(len(first_row), known)
        self._insert(first_row, new_slots, keys, values, origins)
        slots = [self._slot_of[item] for item in items]
        self._update(slots, set(first_row.values()), keys, values, rule, refresh_keys, origins)

        every_row = torch.tensor(slots, dtype=torch.int64, device=self.device) + self._filled.start
        self.table.written_at[every_row] = self.table.now
        ticks = torch.arange(self.table.clock, self.table.clock + len(items), device=self.device)
        if self.eviction == "lru":
            last = torch.tensor([*dict(zip(slots, range(len(slots)), strict=True)).values()], device=self.device)
        else:
            last = torch.tensor([*first_row.values()], dtype=torch.int64, device=self.device)
        self.table.last_used[every_row[last]] = ticks[last]
        self.table.clock += len(items)
        return Written(inserted=len(first_row), updated=len(items) - len(first_row), evicted=evicted)

    def _make_room(self, count: int, known: list[int]) -> tuple[Tensor, int]:
        """Slots for `count` new memories, free ones first, then those of the evicted; and how many were evicted."""
        filled = len(self)
        free = min(count, self.capacity - filled)
        self._allocate(filled + free)
        slots = torch.arange(filled, filled + free, device=self.device)
        if free == count:
            return slots, 0
        age_order = self.table.last_used[self._filled].clone()
        age_order[torch.tensor(known, dtype=torch.int64, device=self.device)] = torch.iinfo(torch.int64).max
        # A stable order among equals costs a full sort; it is paid once an episode, and only by a full store.
        victims = age_order.argsort(stable=True)[: count - free]
        for item in self._hashes[victims.cpu().numpy()].tolist():
            del self._slot_of[item]
        return torch.cat([slots, victims]), count - free

    def _insert(self, first_row: dict[int, int], slots: Tensor, keys: Tensor, values: Tensor, origins: Tensor) -> None:
        chosen = torch.tensor([*first_row.values()], dtype=torch.int64, device=self.device)
        self._hashes[slots.cpu().numpy()] = np.fromiter(first_row, dtype=np.uint64, count=len(first_row))
        self._slot_of.update(zip(first_row, slots.tolist(), strict=True))
        self.table.lengths[self.number] = len(self)
        rows = slots + self._filled.start
        self.table.values[rows] = values[chosen]
        self.table.origins[rows] = origins[chosen]
        self.table.uses[rows] = 0
        self.table.place_keys(rows, keys[chosen], origins[chosen])

    def _update(
        self,
        slots: list[int],
        inserted_rows: set[int],
        keys: Tensor,
        values: Tensor,
        rule: UpdateRule,
        refresh: bool,
        origins: Tensor,
    ) -> None:
        """Apply the rows that did not insert, in order: one vectorised round for each repetition of a slot."""
        rounds: list[list[int]] = []
        repetition: dict[int, int] = {}
        for row, slot in enumerate(slots):
            if row in inserted_rows:
                continue
            index = repetition.get(slot, 0)
            repetition[slot] = index + 1
            if index == len(rounds):
                rounds.append([])
            rounds[index].append(row)
        for rows in rounds:
            known = torch.tensor([slots[row] for row in rows], dtype=torch.int64, device=self.device)
            self.values[known] = rule(self.values[known], values[rows])
            if refresh:
                self.table.place_keys(known + self._filled.start, keys[rows], origins[rows])

    def _allocate(self, rows: int) -> None:
        """Have at least `rows` rows, growing by half so that copying stays a constant share of writing.

        The centre of the search follows the keys on this occasion, at a cost of the same order.
        """
        allocated = self.table.allocated(self.number)
        if rows <= allocated:
            return
        self.table.allocate(
            self.number, min(self.capacity, max(rows, allocated + allocated // 2, _SMALLEST_ALLOCATION))
        )
        self._hashes = np.resize(self._hashes, self.table.allocated(self.number))
        if any(self.table.lengths):
            self.table.recentre()


def recalled(table: Table, queries: Tensor, stores: Tensor, found: Neighbours, kernel: Kernel, touch: bool) -> Recall:
    """What was found for each of `queries [batch, key_size]` in its store, int64 `[batch]`, as a recall."""
    if touch:
        table.touch(found.rows)
    return Recall(
        indices=found.rows - table.starts(stores)[:, None],
        distances=found.distances,
        keys=found.keys,
        values=table.values[found.rows],
        weights=kernel(queries, found.keys, found.distances.isfinite()),
        written_at=table.written_at[found.rows],
    )
