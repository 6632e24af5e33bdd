"""Recalls of episodic memories, laid open as a `Recollection`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from memory.episodic.memory import EpisodicMemory
from memory.episodic.table import Table
from memory.recollection import KeySpace, Recollection, heaviest, spoken_for


def recollect_actions(
    memory: EpisodicMemory,
    query: Tensor,
    action_values: np.ndarray,
    asked: np.ndarray,
    most: int,
    exact: np.ndarray | None = None,
) -> Recollection:
    """Lay open what the values of actions rest on, in a memory with a store for each.

    Args:
        memory: is left as it is.
        query: `[1, key_size]`.
        action_values: the agent's own, `[actions]`.
        asked: whose store was asked, bool `[actions]`; the values of others stand for themselves.
        most: memories to list for each action.
        exact: slots of the matches that answer alone, int64 `[actions]`; -1 where neighbours answer.
    """
    rest = np.where(asked, 0.0, action_values)
    numbers = torch.from_numpy(np.flatnonzero(asked))
    if not len(numbers):
        none = torch.zeros(0, dtype=torch.int64)
        nothing = dict.fromkeys(("actions", "slots", "weights", "values", "distances"), none)
        return recollection(memory.table, none, nothing, action_values, rest, most)
    recall = memory.read_each(query, numbers.tolist(), touch=False)
    actions = numbers.to(query.device)[:, None].expand_as(recall.indices)
    answered = {
        "slots": recall.indices,
        "weights": recall.weights,
        "values": recall.values,
        "distances": recall.distances,
    }
    for place, slot in enumerate(exact[asked].tolist() if exact is not None else []):
        if slot >= 0:
            row = memory.rows(actions[place, :1], torch.tensor([slot], device=query.device))
            alone = {"slots": slot, "weights": 1.0, "values": memory.table.values[row], "distances": 0.0}
            for name, value in alone.items():
                answered[name][place, 0] = value
            answered["distances"][place, 1:] = torch.inf
    rows = memory.rows(actions[:, 0], answered["slots"]).flatten()
    columns = {name: column.flatten() for name, column in answered.items()}
    return recollection(memory.table, rows, {"actions": actions.flatten(), **columns}, action_values, rest, most)


def key_space(table: Table, rows: Tensor, actions: Tensor, most: int) -> KeySpace:
    """Memories in rows, int64 `[n]`, that speak for actions, int64 `[n]`; of more than `most` some, evenly spaced."""
    chosen = torch.arange(0, len(rows), max(1, -(-len(rows) // most)), device=rows.device)
    columns = {
        name: getattr(table, name)[rows[chosen]].cpu().numpy() for name in ("keys", "values", "origins", "keyed_at")
    }
    return KeySpace(actions=actions[chosen].cpu().numpy(), **columns)


def recollection(
    table: Table,
    rows: Tensor,
    answered: Mapping[str, Tensor],
    action_values: np.ndarray,
    rest: np.ndarray,
    most: int,
) -> Recollection:
    """Lay open what the values of actions rest on.

    Args:
        table: that holds the memories.
        rows: of all memories that answered, int64 `[n]`.
        answered: of each, `[n]`: the `actions` they speak for, the `slots` they are in, the `weights` of their
            `values`, and the `distances` of their keys from the query, where inf marks padding, which is left out.
        action_values: the agent's own, `[actions]`.
        rest: the values of actions that no memory speaks for, `[actions]`.
        most: memories to list for each action.
    """
    real = answered["distances"].isfinite()
    columns = {name: column[real].cpu().numpy() for name, column in answered.items()}
    listed = heaviest(columns["actions"], columns["weights"], columns["distances"], most)
    unlisted = np.setdiff1d(np.arange(len(columns["actions"])), listed)
    others = spoken_for(
        columns["actions"][unlisted], columns["weights"][unlisted], columns["values"][unlisted], len(rest)
    )
    rows = rows[real][torch.from_numpy(listed).to(rows.device)]
    return Recollection(
        action_values=action_values,
        rest=rest + others,
        **{name: column[listed] for name, column in columns.items()},
        **{name: getattr(table, name)[rows].cpu().numpy() for name in ("origins", "written_at", "keyed_at", "uses")},
    )
