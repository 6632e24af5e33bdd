"""The memory of an episodic agent: one store for each action."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from memory.episodic.kernels import Kernel
from memory.episodic.neighbours import nearest, without
from memory.episodic.recall import Recall
from memory.episodic.store import Store, recalled
from memory.episodic.table import Table
from memory.episodic.updates import UpdateRule, Written


class EpisodicMemory:
    """A store for each action, read and written by batches of mixed actions.

    Args:
        num_actions: number of stores.
        capacity: most memories of one action.
        key_size: length of a key.
        neighbours: most memories recalled for a query.
        kernel: what weighs them.
        eviction: `lru` or `fifo`, as in `Store`.
        device: where keys and values live.
        rounded: whether a search chooses its candidates by keys in bfloat16, as in `Store`.

    Raises:
        ValueError: on a number of actions or neighbours below 1, and what `Store` raises.
    """

    def __init__(
        self,
        num_actions: int,
        capacity: int,
        key_size: int,
        *,
        neighbours: int,
        kernel: Kernel,
        eviction: Literal["lru", "fifo"] = "lru",
        device: torch.device | str = "cpu",
        rounded: bool = False,
    ) -> None:
        if num_actions < 1 or neighbours < 1:
            raise ValueError(f"num_actions and neighbours must be at least 1, got {num_actions} and {neighbours}")
        self.capacity = capacity
        self.neighbours = neighbours
        self.kernel = kernel
        self.table = Table(num_actions, key_size, device, counts_use=eviction == "lru", rounded=rounded)
        self.stores = [
            Store(capacity, key_size, eviction=eviction, device=device, table=self.table, number=action)
            for action in range(num_actions)
        ]

    @property
    def known_actions(self) -> list[int]:
        """The actions that have a memory."""
        return [action for action, store in enumerate(self.stores) if len(store)]

    def __len__(self) -> int:
        return sum(map(len, self.stores))

    @property
    def nbytes(self) -> int:
        """Bytes held by the tables of all stores."""
        return sum(store.nbytes for store in self.stores)

    @torch.no_grad()
    def read_each(self, queries: Tensor, actions: list[int], touch: bool = True) -> Recall:
        """Recall for every query from the stores of several actions, by one search.

        Args:
            queries: `[batch, key_size]`.
            actions: those to ask.
            touch: whether being recalled counts as use.

        Returns:
            A recall of `batch * len(actions)` rows, the actions of the first query first.

        Raises:
            ValueError: if there are no actions, or the store of one is empty, and as `Store.read` for the queries.
        """
        if not actions or not all(len(self.stores[action]) for action in actions):
            raise ValueError(f"actions must name stores that hold memories, got {actions}")
        self.stores[0].check_queries(queries)
        stores = torch.tensor(actions, device=queries.device).repeat(len(queries))
        queries = queries.repeat_interleave(len(actions), dim=0)
        found = nearest(self.table, queries, stores, self.neighbours, shared=True)
        return recalled(self.table, queries, stores, found, self.kernel, touch)

    @torch.no_grad()
    def read(
        self,
        queries: Tensor,
        actions: Tensor,
        touch: bool = True,
        neighbours: int | None = None,
        apart_from: Tensor | None = None,
    ) -> Recall:
        """Recall for each of `queries [batch, key_size]` from the store of its own action, int64 `[batch]`.

        Args:
            queries: what is asked.
            actions: of which action.
            touch: whether being recalled counts as use.
            neighbours: how many to recall, where not as many as usual.
            apart_from: a slot that each query must not recall unless its store holds nothing else, int64 `[batch]`, as
                `slots_of` has them; -1 for none.

        Raises:
            ValueError: if a store that is asked is empty, or there is not one known action for each query.
        """
        self._check_actions(actions, len(queries))
        self.stores[0].check_queries(queries)
        if not all(len(self.stores[action]) for action in actions.unique().tolist()):
            raise ValueError("an empty store cannot be read: write to it first")
        neighbours = neighbours or self.neighbours
        if apart_from is None:
            found = nearest(self.table, queries, actions, neighbours)
        else:
            one_more = nearest(self.table, queries, actions, neighbours + 1)
            rows = torch.where(apart_from >= 0, self.rows_of(apart_from.clamp_min(0)), -1)
            found = without(one_more, rows, neighbours)
        return recalled(self.table, queries, actions, found, self.kernel, touch)

    def slots_of(self, actions: Tensor, hashes: np.ndarray) -> Tensor:
        """Where states are stored for their actions, int64 `[batch]`; -1 where they are not.

        Unlike those of a store, these slots tell apart memories of different actions: `action * capacity + slot`.

        Args:
            actions: int64 `[batch]`.
            hashes: uint64 `[batch]`.
        """
        slots = torch.full((len(hashes),), -1, device=actions.device)
        for action in actions.unique().tolist():
            mine = actions == action
            found = self.stores[action].find(hashes[mine.cpu().numpy()])
            slots[mine] = torch.where(found >= 0, found + action * self.capacity, found)
        return slots

    def rows_of(self, slots: Tensor) -> Tensor:
        """The table's rows of slots that tell actions apart, int64 `[n]`."""
        return self.rows(slots // self.capacity, slots % self.capacity)

    def filled_slots(self) -> Tensor:
        """All slots that hold a memory, in the order of the actions, int64 `[n]`."""
        device = self.table.keys.device
        return torch.cat(
            [
                torch.arange(len(store), device=device) + action * self.capacity
                for action, store in enumerate(self.stores)
            ]
        )

    def exact(self, hashes: np.ndarray, touch: bool = True) -> tuple[Tensor, Tensor]:
        """The values of states stored before, by their hash, in every action's store.

        Args:
            hashes: uint64 `[batch]`.
            touch: whether a match counts as use.

        Returns:
            Values, 0 where there is no match, and whether there is one, bool; each `[batch, actions]`.
        """
        slots = torch.stack([store.find(hashes) for store in self.stores], dim=1)
        known = slots >= 0
        values = torch.zeros(slots.shape, device=slots.device)
        actions = known.nonzero()[:, 1]
        rows = self.rows(actions, slots[known])
        values[known] = self.table.values[rows]
        if touch:
            self.table.touch(rows)
        return values, known

    def rows(self, actions: Tensor, slots: Tensor) -> Tensor:
        """The table's rows of `slots [batch, ...]` of the stores of `actions`, int64 `[batch]`."""
        return slots + self.table.starts(actions).view(-1, *[1] * (slots.ndim - 1))

    def write(
        self,
        actions: Tensor,
        keys: Tensor,
        values: Tensor,
        hashes: np.ndarray,
        rule: UpdateRule,
        written_at: int,
        refresh_keys: bool = False,
        origins: Tensor | None = None,
    ) -> Written:
        """Write each of a batch of memories to the store of its action, int64 `[batch]`; see `Store.write`.

        Raises:
            ValueError: before anything is written, if there is not one known action for each memory, or as the store.
        """
        self._check_actions(actions, len(hashes))
        self.stores[0].check_batch(keys, values, hashes)
        written = Written()
        for action in actions.unique().tolist():
            rows = (actions == action).nonzero().squeeze(1)
            written += self.stores[action].write(
                keys[rows],
                values[rows],
                hashes[rows.cpu().numpy()],
                rule,
                written_at,
                refresh_keys,
                None if origins is None else origins[rows.to(origins.device)],
            )
        return written

    def state_dict(self) -> dict[str, Any]:
        """The stores' states."""
        return {"stores": [store.state_dict() for store in self.stores]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what was saved.

        Raises:
            ValueError: if it had another number of actions, or stores of another shape.
        """
        if len(state["stores"]) != len(self.stores):
            raise ValueError(f"the saved memory has {len(state['stores'])} actions, this one {len(self.stores)}")
        for store, saved in zip(self.stores, state["stores"], strict=True):
            store.load_state_dict(saved)

    def _check_actions(self, actions: Tensor, batch: int) -> None:
        if actions.shape != (batch,) or actions.dtype != torch.int64:
            raise ValueError(f"actions must be int64 [{batch}], got {actions.dtype} {list(actions.shape)}")
        if batch and not (0 <= actions.min() and actions.max() < len(self.stores)):
            raise ValueError(f"actions must be 0 to {len(self.stores) - 1}, got {actions.tolist()}")
