"""What a memory should do, in plain Python: one row at a time, float64 distances to every entry, no tensors.

The tests run the real memory and this oracle side by side. Everything here is written for obviousness; nothing is fast.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from memory.episodic.recall import Recall
from memory.episodic.store import Store

Vector = Sequence[float]
ScalarRule = Callable[[float, float], float]


@dataclass
class Entry:
    """One memory, and the events (counted by the oracle) of its insertion and of its last use."""

    hash: int
    key: Vector
    value: float
    written_at: int
    inserted: int
    used: int


class OracleStore:
    """The memories of one action, by slot."""

    def __init__(self, capacity: int, eviction: str):
        self.capacity = capacity
        self.eviction = eviction
        self.entries: list[Entry] = []
        self.events = 0

    def __len__(self) -> int:
        return len(self.entries)

    def find(self, wanted: int) -> int:
        """The slot that holds this hash, or -1."""
        for slot, entry in enumerate(self.entries):
            if entry.hash == wanted:
                return slot
        return -1

    def write(
        self,
        keys: Sequence[Vector],
        values: Sequence[float],
        hashes: Sequence[int],
        rule: ScalarRule,
        written_at: int,
        refresh_keys: bool = False,
    ) -> tuple[int, int, int]:
        """Write the rows in order; return how many were inserted, updated and evicted."""
        counts = (0, 0, 0)
        for start in range(0, len(hashes), self.capacity):
            piece = slice(start, start + self.capacity)
            written = self._write_piece(keys[piece], values[piece], hashes[piece], rule, written_at, refresh_keys)
            counts = (counts[0] + written[0], counts[1] + written[1], counts[2] + written[2])
        return counts

    def _write_piece(
        self,
        keys: Sequence[Vector],
        values: Sequence[float],
        hashes: Sequence[int],
        rule: ScalarRule,
        written_at: int,
        refresh_keys: bool,
    ) -> tuple[int, int, int]:
        inserted = updated = evicted = 0
        for key, value, wanted in zip(keys, values, hashes, strict=True):
            self.events += 1
            slot = self.find(wanted)
            if slot >= 0:
                entry = self.entries[slot]
                entry.value = rule(entry.value, value)
                entry.written_at = written_at
                entry.used = self.events
                if refresh_keys:
                    entry.key = key
                updated += 1
                continue
            entry = Entry(wanted, key, value, written_at, inserted=self.events, used=self.events)
            if len(self.entries) < self.capacity:
                self.entries.append(entry)
            else:
                self.entries[self._slot_to_evict(protected=set(hashes))] = entry
                evicted += 1
            inserted += 1
        return inserted, updated, evicted

    def _slot_to_evict(self, protected: set[int]) -> int:
        candidates = []
        for slot, entry in enumerate(self.entries):
            if entry.hash not in protected:
                candidates.append((entry.used if self.eviction == "lru" else entry.inserted, slot))
        return min(candidates)[1]

    def touch(self, slots: Iterable[int]) -> None:
        """A read recalled these slots: to the least recently used rule, that is one more use."""
        self.events += 1
        for slot in slots:
            self.entries[slot].used = self.events

    def distances(self, query: Vector) -> list[float]:
        """The Euclidean distance of every entry, by slot."""
        return [math.dist(query, entry.key) for entry in self.entries]


def inverse_distance(query: Vector, keys: Sequence[Vector], valid: Sequence[bool], delta: float) -> list[float]:
    """The weights of 1 / (squared distance + delta), zero where not valid."""
    scores = [1 / (math.dist(query, key) ** 2 + delta) if real else 0.0 for key, real in zip(keys, valid, strict=True)]
    return [score / sum(scores) for score in scores]


def cosine_softmax(query: Vector, keys: Sequence[Vector], valid: Sequence[bool], temperature: float) -> list[float]:
    """The weights of exp(cosine / temperature), zero where not valid."""
    scores = []
    for key, real in zip(keys, valid, strict=True):
        cosine = sum(q * k for q, k in zip(query, key, strict=True)) / (math.hypot(*query) * math.hypot(*key))
        scores.append(math.exp(cosine / temperature) if real else 0.0)
    return [score / sum(scores) for score in scores]


def uniform_mean(valid: Sequence[bool]) -> list[float]:
    """Equal weights, zero where not valid."""
    return [float(real) / sum(valid) for real in valid]


def rescaled(value: float) -> float:
    """sign(v) (sqrt(|v| + 1) - 1), as lessons rescale values."""
    return math.copysign(math.sqrt(abs(value) + 1) - 1, value)


def assert_same_memories(store: Store, oracle: OracleStore) -> None:
    """The store holds exactly the oracle's memories, each in the oracle's slot."""
    assert len(store) == len(oracle)
    assert store.hashes.dtype == np.uint64
    assert store.hashes.tolist() == [entry.hash for entry in oracle.entries]
    assert store.written_at.tolist() == [entry.written_at for entry in oracle.entries]
    assert store.keys.tolist() == [list(entry.key) for entry in oracle.entries]
    np.testing.assert_allclose(store.values.numpy(), [entry.value for entry in oracle.entries], rtol=1e-5, atol=1e-6)


def assert_recalls_nearest(recall: Recall, row: int, oracle: OracleStore, query: Vector, neighbours: int) -> list[int]:
    """One row of a recall holds the nearest memories of the oracle, then padding; return the slots it recalled.

    Of memories at the same distance any may come back, each once.
    """
    distances = oracle.distances(query)
    real = min(neighbours, len(oracle))
    recalled = recall.indices[row].tolist()
    slots = recalled[:real]
    assert len(set(slots)) == real
    assert all(0 <= slot < len(oracle) for slot in slots)
    assert recalled[real:] == [slots[0]] * (len(recalled) - real)

    found = recall.distances[row].tolist()
    np.testing.assert_allclose(found[:real], sorted(distances)[:real], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found[:real], [distances[slot] for slot in slots], rtol=1e-5, atol=1e-5)
    assert found[:real] == sorted(found[:real])
    assert found[real:] == [math.inf] * (len(found) - real)
    assert recall.valid[row].tolist() == [True] * real + [False] * (len(found) - real)

    entries = [oracle.entries[slot] for slot in recalled]
    assert recall.keys[row].tolist() == [list(entry.key) for entry in entries]
    assert recall.written_at[row].tolist() == [entry.written_at for entry in entries]
    np.testing.assert_allclose(recall.values[row].numpy(), [entry.value for entry in entries], rtol=1e-5, atol=1e-6)
    return slots
