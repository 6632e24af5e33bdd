"""Recalls of a memory that is a function: what is said to it now, beside all that was said to it before.

Such a memory has no entries that could be listed. What there is to compare are the vectors that passed between
controller and memory: keys and values that were written, keys that were read, and what was read. The article on MNM
("Metalearned Neural Memory: Teaching neural networks how to remember", Microsoft Research, Figure 3) compares the keys
written now with those written before, and the values likewise: where is written, and what. A recall is here the same
comparison for reading: the key read now with the keys written before, and what was read with the values written before.

The article is silent on how alike is measured, on several heads, and on its "top five memory recalls". Here likeness is
the cosine. All heads write to one memory, so that one may read what another wrote: each head counts by the earlier one
that is most like it, and the heads are averaged.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from memory.recollection import SimilarMoments

MOST_MOMENTS = 2_000
"""Steps of an episode that are kept, the last; 256 bytes each, where one head writes keys and values of 32 numbers."""
_LEAST_NORM = 1e-12


def similarities(now: np.ndarray, before: np.ndarray) -> np.ndarray:
    """How alike vectors are to earlier ones, from -1 to 1: `[..., moments_now, moments_before]`.

    Of each vector now it is the largest cosine with any of a moment before, and of several the mean. A vector of zeros
    is like nothing: 0.

    Args:
        now: `[..., moments_now, vectors, width]`.
        before: `[..., moments_before, vectors, width]`, of as many vectors or not.
    """
    cosines = np.einsum("...ihd,...jgd->...ijhg", _unit(now), _unit(before))
    return cosines.max(axis=-1).mean(axis=-1)


def similarities_to_earlier(now: np.ndarray, written: np.ndarray) -> np.ndarray:
    """How alike every step of a sequence is to every step before it, `[time, time]`: nan at what is not before.

    Args:
        now: what was said or answered at each step, `[time, vectors, width]`.
        written: what was written at each, `[time, vectors, width]`.
    """
    time = len(now)
    is_earlier = np.tri(time, k=-1, dtype=bool)
    return np.where(is_earlier, similarities(now, written), np.nan)


def similarity_maps(
    write_keys: np.ndarray, write_values: np.ndarray, read_keys: np.ndarray, reads: np.ndarray
) -> dict[str, np.ndarray]:
    """What a sequence writes and reads beside what it wrote before, each `[time, time]`, nan at what is not before.

    `key_similarity` and `value_similarity` are those of Figure 3: keys and values that are written, with those written
    before. `read_key_similarity` and `read_value_similarity` are recalls: keys that are read with those written before,
    and what was read with the values written before.

    Args:
        write_keys: `[time, heads, width]`.
        write_values: likewise.
        read_keys: likewise.
        reads: what was read, `[time, width]`.
    """
    return {
        "key_similarity": similarities_to_earlier(write_keys, write_keys),
        "value_similarity": similarities_to_earlier(write_values, write_values),
        "read_key_similarity": similarities_to_earlier(read_keys, write_keys),
        "read_value_similarity": similarities_to_earlier(reads[:, None], write_values),
    }


def similar_moments(
    action_values: np.ndarray,
    read_key: np.ndarray,
    read: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    most: int,
) -> SimilarMoments:
    """The moments before whose keys are the most like the one that is read now.

    Args:
        action_values: as `SimilarMoments` has them, `[actions]`.
        read_key: `[heads, width]`.
        read: what the memory answered, `[width]`.
        keys: written at each moment before, the latest last, `[moments, heads, width]`.
        values: for these keys, likewise.
        most: moments to list.
    """
    by_key = similarities(read_key[None], keys)[0]
    by_value = similarities(read[None, None], values)[0]
    # Of moments that are equally alike, the latest.
    listed = np.argsort(-by_key[::-1], kind="stable")[:most]
    places = len(keys) - 1 - listed
    return SimilarMoments(action_values, 1 + listed, by_key[places], by_value[places])


class WrittenMoments:
    """What was written in each of some games, in their running episodes; a game's last `MOST_MOMENTS` steps at most.

    Games are stepped side by side: a step of all costs one copy of their keys and values, and nothing is moved when an
    episode ends.

    Args:
        num_games: side by side.
        heads: pairs of key and value that are written in a step.
        width: of a key, and of a value.

    Attributes:
        lengths: moments that are kept of each game, int64 `[games]`.
    """

    def __init__(self, num_games: int, heads: int, width: int) -> None:
        self.lengths = np.zeros(num_games, dtype=np.int64)
        self._shape = (2, num_games, heads, width)
        self._pairs = deque[np.ndarray](maxlen=MOST_MOMENTS)

    def append(self, keys: np.ndarray, values: np.ndarray, ended: np.ndarray) -> None:
        """Take in a step: what every game wrote, `[games, heads, width]`, and whether it ended there, `[games]`."""
        self._pairs.append(np.stack([keys, values]).astype(np.float32, copy=False))
        self.lengths = np.where(ended, 0, np.minimum(self.lengths + 1, MOST_MOMENTS))
        while len(self._pairs) > self.lengths.max():
            self._pairs.popleft()

    def of(self, game: int) -> tuple[np.ndarray, np.ndarray]:
        """Keys and values of a game's running episode, the latest last, each float32 `[moments, heads, width]`."""
        first = len(self._pairs) - int(self.lengths[game])
        pairs = [step[:, game] for step in list(self._pairs)[first:]]
        keys, values = np.array(pairs, dtype=np.float32).reshape(-1, 2, *self._shape[2:]).swapaxes(0, 1)
        return keys, values

    def state_dict(self) -> dict[str, Any]:
        """All that is kept."""
        pairs = np.array(self._pairs, dtype=np.float32).reshape(-1, *self._shape)
        return {"pairs": pairs, "lengths": self.lengths.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what was saved.

        Raises:
            ValueError: if it was saved of other games, heads or keys.
        """
        if state["pairs"].shape[1:] != self._shape:
            raise ValueError(f"pairs must be [moments, *{list(self._shape)}], got {list(state['pairs'].shape)}")
        self._pairs = deque(state["pairs"].copy(), maxlen=MOST_MOMENTS)
        self.lengths = state["lengths"].copy()


def _unit(vectors: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(norms, _LEAST_NORM)
