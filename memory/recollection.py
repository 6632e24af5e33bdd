"""A recall laid open for the eye: why one observation has the action values it has, memory by memory.

A memory that answers by weighing its entries can be laid open as a `Recollection`: what each of them adds to the value
of an action. A memory without entries, such as a network that is rewritten, cannot; of it can be told which earlier
moments a read is like, as `SimilarMoments`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Recollection:
    """What the value of each action rests on, for one observation.

    The value of an action is its `rest` plus the sum of `weights * values` over the memories that speak for it. Of each
    action's memories the heaviest are listed, the heaviest first; the others are in its rest. Arrays are `[memories]`
    unless said otherwise.
    """

    action_values: np.ndarray
    """The agent's own, by which it acts, `[actions]`; inf for an action that is to be tried first."""
    rest: np.ndarray
    """What no listed memory accounts for, float64 `[actions]`."""
    actions: np.ndarray
    """The action each memory speaks for."""
    slots: np.ndarray
    """Where it is kept, among the memories of its action."""
    weights: np.ndarray
    values: np.ndarray
    distances: np.ndarray
    """Of the stored key from the query, in the kernel's own measure."""
    origins: np.ndarray
    """The agent step whose observation the memory is of."""
    written_at: np.ndarray
    """The agent step of its last write."""
    keyed_at: np.ndarray
    """The agent step at which its key was embedded."""
    uses: np.ndarray
    """How often it was recalled before."""
    fresh_distances: np.ndarray | None = None
    """What the distances would be if the keys were embedded anew; None where the agent cannot tell."""
    reconstructions: np.ndarray | None = None
    """What a decoder makes of the stored keys, uint8 `[memories, *shape]`; None where none is learned."""

    def explained_values(self) -> np.ndarray:
        """The action values as the memories and the rest account for them, float64 `[actions]`."""
        return self.rest + spoken_for(self.actions, self.weights, self.values, len(self.rest))


@dataclass(frozen=True)
class SimilarMoments:
    """Which earlier moments of its episode an agent recalls at one observation, the most similar first.

    They speak for no action, and nothing is claimed of what an action's value owes to them. Arrays are `[moments]`
    unless said otherwise.
    """

    action_values: np.ndarray
    """By which the agent acts, `[actions]`: of a policy, the chance of each action."""
    ages: np.ndarray
    """Steps of the episode since each, int64: 1 is the step before."""
    similarities: np.ndarray
    """Of the key that is read now to the one that was written then, from -1 to 1."""
    value_similarities: np.ndarray
    """Of what is read now to the value that was written then, likewise."""


@dataclass(frozen=True)
class KeySpace:
    """Some memories as points: where their keys lie, and what is stored there. Arrays are `[memories]` if not said."""

    keys: np.ndarray
    """float32 `[memories, key_size]`."""
    origins: np.ndarray
    keyed_at: np.ndarray
    actions: np.ndarray | None = None
    """None of memories that speak for no action."""
    values: np.ndarray | None = None
    """None of values that are no numbers."""


def spoken_for(actions: np.ndarray, weights: np.ndarray, values: np.ndarray, num_actions: int) -> np.ndarray:
    """What memories `[n]` add to the value of each action, float64 `[num_actions]`."""
    return np.bincount(actions, weights.astype(np.float64) * values, minlength=num_actions)


def heaviest(actions: np.ndarray, weights: np.ndarray, distances: np.ndarray, most: int) -> np.ndarray:
    """The places of the `most` heaviest memories of each action, int64; by action and weight, then by distance."""
    order = np.lexsort((distances, -weights, actions))
    sorted_actions = actions[order]
    rank = np.arange(len(order)) - np.searchsorted(sorted_actions, sorted_actions)
    return order[rank < most]
