"""The store of one action against the plain Python oracle: random programs, larger runs, growth and bad input."""

import io
import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from memory.episodic import table
from memory.episodic.kernels import InverseDistance, UniformMean
from memory.episodic.store import Store
from memory.episodic.updates import Tabular, maximum
from tests.memory.oracle import OracleStore, assert_recalls_nearest, assert_same_memories, inverse_distance

# Few enough that duplicates and exact matches are frequent; chosen so that any narrower or signed or floating reading
# of a hash makes two of them one: 32 bits, 53 bits, and -1 as a sign that nothing was found.
HASHES = [
    0, 1, 2, 3, 2**31, 2**32, 2**32 + 1, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 3, 2**64 - 2, 2**64 - 1
]  # fmt: skip
GRID = [-1.0, 0.0, 0.5]  # three places a dimension: many distances tie, and float32 holds them all exactly
RULES = {
    "maximum": (maximum, max),
    "tabular": (Tabular(0.25), lambda old, new: old + 0.25 * (new - old)),
    "newest": (lambda old, new: new, lambda old, new: new),
}

places = st.integers(0, 3**4 - 1)
values = st.integers(-8, 8).map(lambda quarters: quarters / 4)
rows = st.lists(st.tuples(places, values, st.sampled_from(HASHES)), min_size=1, max_size=16)


def grid_key(place: int, key_size: int) -> list[float]:
    """The place's digits in base 3, one a dimension, looked up on the grid."""
    return [GRID[place // 3**dimension % 3] for dimension in range(key_size)]


def floats(numbers: object) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float32)


def uint64(numbers: object) -> np.ndarray:
    return np.array(numbers, dtype=np.uint64)


class StorePrograms(RuleBasedStateMachine):
    """Random programs: whatever the store is asked, the oracle is asked too, and both must agree after every step."""

    eviction: str

    @initialize(capacity=st.integers(1, 12), key_size=st.integers(1, 4))
    def create(self, capacity: int, key_size: int) -> None:
        self.key_size = key_size
        self.store = Store(capacity, key_size, eviction=self.eviction)
        self.oracle = OracleStore(capacity, self.eviction)
        self.steps = 0

    def keys(self, places: list[int]) -> list[list[float]]:
        return [grid_key(place, self.key_size) for place in places]

    def slots(self, numbers: list[int]) -> list[int]:
        """Distinct filled slots."""
        return sorted({number % len(self.oracle) for number in numbers})

    @rule(rows=rows, value_rule=st.sampled_from(sorted(RULES)), refresh_keys=st.booleans())
    def write(self, rows: list[tuple[int, float, int]], value_rule: str, refresh_keys: bool) -> None:
        places, values, hashes = zip(*rows, strict=True)
        keys = self.keys(places)
        store_rule, oracle_rule = RULES[value_rule]
        self.steps += 3
        written = self.store.write(
            floats(keys), floats(values), uint64(hashes), store_rule, self.steps, refresh_keys=refresh_keys
        )
        expected = self.oracle.write(keys, values, hashes, oracle_rule, self.steps, refresh_keys)
        assert (written.inserted, written.updated, written.evicted) == expected

    @rule(rows=rows, bad=st.sampled_from([np.nan, np.inf, -np.inf]), in_key=st.booleans())
    def fail_to_write(self, rows: list[tuple[int, float, int]], bad: float, in_key: bool) -> None:
        places, values, hashes = zip(*rows, strict=True)
        keys, last_values = floats(self.keys(places)), floats(values)
        if in_key:
            keys[-1, -1] = bad
        else:
            last_values[-1] = bad
        with pytest.raises(ValueError, match="finite"):
            self.store.write(keys, last_values, uint64(hashes), maximum, self.steps)

    @precondition(lambda self: len(self.oracle))
    @rule(places=st.lists(places, min_size=1, max_size=3), neighbours=st.integers(1, 14), touch=st.booleans())
    def read(self, places: list[int], neighbours: int, touch: bool) -> None:
        queries = self.keys(places)
        recall = self.store.read(floats(queries), neighbours, InverseDistance(), touch=touch)
        found = min(neighbours, len(self.oracle))
        assert recall.indices.shape == recall.distances.shape == recall.weights.shape == (len(queries), found)
        touched = []
        for row, query in enumerate(queries):
            slots = assert_recalls_nearest(recall, row, self.oracle, query, neighbours)
            keys = [self.oracle.entries[slot].key for slot in slots]
            weights = inverse_distance(query, keys, [True] * found, 1e-3)
            np.testing.assert_allclose(recall.weights[row].numpy(), weights, rtol=1e-4, atol=1e-6)
            touched += slots
        if touch:
            self.oracle.touch(touched)

    @precondition(lambda self: len(self.oracle))
    @rule(changes=st.lists(st.tuples(st.integers(0, 11), places), min_size=1, max_size=4))
    def set_keys(self, changes: list[tuple[int, int]]) -> None:
        slots = self.slots([number for number, _ in changes])
        keys = self.keys([place for _, place in changes[: len(slots)]])
        self.store.set_keys(torch.tensor(slots), floats(keys))
        for slot, key in zip(slots, keys, strict=True):
            self.oracle.entries[slot].key = key

    @precondition(lambda self: len(self.oracle))
    @rule(changes=st.lists(st.tuples(st.integers(0, 11), values), min_size=1, max_size=4))
    def set_values(self, changes: list[tuple[int, float]]) -> None:
        slots = self.slots([number for number, _ in changes])
        values = [value for _, value in changes[: len(slots)]]
        self.store.set_values(torch.tensor(slots), floats(values))
        for slot, value in zip(slots, values, strict=True):
            self.oracle.entries[slot].value = value

    @precondition(lambda self: len(self.oracle))
    @rule(numbers=st.lists(st.integers(0, 11), min_size=1, max_size=4))
    def expire(self, numbers: list[int]) -> None:
        slots = self.slots(numbers)
        self.store.expire(torch.tensor(slots))
        for slot in slots:
            self.oracle.entries[slot].inserted = self.oracle.entries[slot].used = -1

    @rule()
    def save_and_load(self) -> None:
        fresh = Store(self.oracle.capacity, self.key_size, eviction=self.eviction)
        fresh.load_state_dict(self.store.state_dict())
        self.store = fresh

    @invariant()
    def same_memories(self) -> None:
        assert_same_memories(self.store, self.oracle)
        assert self.store.find(uint64(HASHES)).tolist() == [self.oracle.find(wanted) for wanted in HASHES]


class LeastRecentlyUsedPrograms(StorePrograms):
    eviction = "lru"


class FirstInFirstOutPrograms(StorePrograms):
    eviction = "fifo"


for machine in (LeastRecentlyUsedPrograms, FirstInFirstOutPrograms):
    machine.TestCase.settings = settings(max_examples=500, stateful_step_count=20)
TestLeastRecentlyUsedPrograms = LeastRecentlyUsedPrograms.TestCase
TestFirstInFirstOutPrograms = FirstInFirstOutPrograms.TestCase


def filled(number: int, key_size: int = 2, *, capacity: int | None = None, eviction: str = "lru") -> Store:
    """A store of `number` random memories, whose hashes are 0, 1, 2, ..., written one event after the other."""
    generator = torch.Generator().manual_seed(number)
    store = Store(capacity or number, key_size, eviction=eviction)
    for slot in range(number):
        key, value = torch.randn(1, key_size, generator=generator), torch.randn(1, generator=generator)
        store.write(key, value, uint64([slot]), maximum, written_at=slot)
    return store


def contents(store: Store) -> tuple[object, ...]:
    return store.hashes.tolist(), store.keys.tolist(), store.values.tolist(), store.written_at.tolist()


# -- Larger random runs ------------------------------------------------------------------------------------------------


@pytest.fixture(params=[False, True], ids=["float32", "rounded"])
def rounded(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether rounded keys choose the candidates, however few memories there are."""
    monkeypatch.setattr(table, "_FEWEST_ROUNDED", 0)
    return bool(request.param)


@pytest.mark.parametrize("eviction", ["lru", "fifo"])
def test_long_run_of_a_medium_store_agrees_with_oracle(eviction, rounded):
    random = np.random.default_rng(1)
    store, oracle = Store(150, 3, eviction=eviction, rounded=rounded), OracleStore(150, eviction)
    evicted = 0
    for step in range(40):
        size = int(random.integers(1, 60))
        hashes = random.integers(0, 400, size).astype(np.uint64) * np.uint64(2**55 + 1)
        keys = random.normal(size=(size, 3)).astype(np.float32)
        values = random.normal(size=size).astype(np.float32)
        written = store.write(torch.from_numpy(keys), torch.from_numpy(values), hashes, maximum, step)
        expected = oracle.write(keys.tolist(), values.tolist(), hashes.tolist(), max, step)
        assert (written.inserted, written.updated, written.evicted) == expected
        evicted += written.evicted

        queries = random.normal(size=(3, 3)).astype(np.float32)
        recall = store.read(torch.from_numpy(queries), 11, UniformMean())
        touched = [
            slot
            for row, query in enumerate(queries.tolist())
            for slot in assert_recalls_nearest(recall, row, oracle, query, 11)
        ]
        oracle.touch(touched)
        assert_same_memories(store, oracle)
    assert evicted > 200, "the run is meant to evict often"


def nearest(keys: np.ndarray, queries: np.ndarray, neighbours: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices and distances of the nearest keys, by brute force in float64."""
    differences = queries[:, None, :].astype(np.float64) - keys[None, :, :].astype(np.float64)
    distances = np.sqrt((differences**2).sum(2))
    indices = np.argsort(distances, axis=1)[:, :neighbours]
    return indices, np.take_along_axis(distances, indices, 1)


def write_rows(store: Store, keys: np.ndarray, start: int, stop: int) -> None:
    """Append `keys[start:stop]`: the hash and the slot of each is its row."""
    hashes = np.arange(start, stop, dtype=np.uint64)
    store.write(torch.from_numpy(keys[start:stop]), torch.zeros(stop - start), hashes, maximum, written_at=0)


@pytest.mark.parametrize("neighbours", [7, 50])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_neighbours_are_exact_while_the_store_grows(offset, neighbours, rounded):
    """Far from the origin squared norms cancel: at 1e3 float32 knows them to about 1, and a neighbour is no further."""
    random = np.random.default_rng(2)
    keys = (offset + random.normal(size=(9013, 16))).astype(np.float32)
    store = Store(10_000, 16, rounded=rounded)
    for start, stop in itertools.pairwise((0, 1, 50, 256, 1056, 2080, 5000, 9013)):
        write_rows(store, keys, start, stop)
        # Strangers, a query very near to a key (its distance cancels worst), and one near the newest key.
        queries = (offset + random.normal(size=(6, 16))).astype(np.float32)
        queries[0] = keys[stop // 2] + 1e-3
        queries[1] = keys[stop - 1] + 1e-1
        recall = store.read(torch.from_numpy(queries), neighbours, InverseDistance())
        indices, distances = nearest(keys[:stop], queries, neighbours)
        np.testing.assert_allclose(recall.distances.numpy(), distances, rtol=1e-5)
        assert recall.indices.tolist() == indices.tolist()
        weights = 1 / (distances**2 + 1e-3)
        np.testing.assert_allclose(recall.weights.numpy(), weights / weights.sum(1, keepdims=True), rtol=1e-4)
    assert len(store) == 9013


def test_many_queries_at_once_are_answered_like_each_alone(rounded):
    random = np.random.default_rng(7)
    keys, queries = random.normal(size=(2, 9000, 4)).astype(np.float32)
    store = Store(9000, 4, rounded=rounded)
    write_rows(store, keys, 0, 9000)
    together = store.read(torch.from_numpy(queries[:4500]), 3, UniformMean())
    for row in (0, 1700, 3800, 4499):
        indices, distances = nearest(keys, queries[row : row + 1], 3)
        assert together.indices[row].tolist() == indices[0].tolist()
        np.testing.assert_allclose(together.distances[row].numpy(), distances[0], rtol=1e-5)


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_a_loaded_store_finds_the_same_neighbours(offset, rounded):
    """Whatever the search keeps beside the keys has to come back too, bit for bit, or a continued run would differ."""
    random = np.random.default_rng(8)
    keys = (offset + random.normal(size=(3000, 16))).astype(np.float32)
    saved, loaded = Store(4000, 16, rounded=rounded), Store(4000, 16, rounded=rounded)
    write_rows(saved, keys, 0, 3000)
    loaded.load_state_dict(saved.state_dict())
    queries = torch.from_numpy((offset + random.normal(size=(8, 16))).astype(np.float32))
    before, after = saved.read(queries, 20, InverseDistance()), loaded.read(queries, 20, InverseDistance())
    assert after.indices.tolist() == before.indices.tolist() == nearest(keys, queries.numpy(), 20)[0].tolist()
    assert torch.equal(after.distances, before.distances)
    assert torch.equal(after.weights, before.weights)


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_queries_equal_to_stored_keys_lie_at_distance_zero(offset, rounded):
    random = np.random.default_rng(3)
    keys = (offset + random.normal(size=(9000, 16))).astype(np.float32)
    store = Store(9000, 16, rounded=rounded)
    write_rows(store, keys, 0, 9000)
    store.set_values(torch.arange(9000), torch.arange(9000.0))
    slots = random.choice(9000, 300, replace=False)

    recall = store.read(torch.from_numpy(keys[slots]), 50, InverseDistance())
    assert recall.indices[:, 0].tolist() == slots.tolist()
    np.testing.assert_allclose(recall.distances[:, 0].numpy(), np.zeros(300), atol=1e-6)
    # A memory at distance zero weighs 1 / 0.001 before normalisation, the others far less: it decides the estimate.
    assert recall.values[:, 0].tolist() == slots.tolist()
    assert (recall.weights[:, 0] > 0.9).all()


@pytest.mark.parametrize(
    ("early", "late"),
    [
        pytest.param((0.0, 1.0), (1e3, 1.0), id="keys-moved-away"),
        pytest.param((0.0, 1.0), (10.0, 0.01), id="keys-moved-away-and-drew-together"),
        pytest.param((-1e3, 1.0), (1e3, 1.0), id="two-distant-clusters"),
    ],
)
def test_neighbours_stay_exact_when_the_embedding_drifts(early, late, rounded):
    """No single point is near all keys: what was chosen when the first were written may be far from the later ones."""
    random = np.random.default_rng(6)
    keys = np.concatenate([mean + spread * random.normal(size=(2000, 16)) for mean, spread in (early, late)])
    keys = keys.astype(np.float32)
    store = Store(4000, 16, rounded=rounded)
    for start in range(0, 4000, 500):
        write_rows(store, keys, start, start + 500)
    for mean, spread in (early, late):
        queries = (mean + spread * random.normal(size=(8, 16))).astype(np.float32)
        recall = store.read(torch.from_numpy(queries), 50, UniformMean())
        np.testing.assert_allclose(recall.distances.numpy(), nearest(keys, queries, 50)[1], rtol=1e-5)


def test_distances_to_far_away_queries_are_exact(rounded):
    random = np.random.default_rng(4)
    keys = random.normal(size=(3000, 16)).astype(np.float32)
    queries = (1e3 * random.normal(size=(8, 16))).astype(np.float32)
    store = Store(3000, 16, rounded=rounded)
    write_rows(store, keys, 0, 3000)
    recall = store.read(torch.from_numpy(queries), 50, UniformMean())
    _, distances = nearest(keys, queries, 50)
    np.testing.assert_allclose(recall.distances.numpy(), distances, rtol=1e-6)


def test_neighbours_follow_keys_that_were_set(rounded):
    random = np.random.default_rng(5)
    keys = random.normal(size=(2000, 8)).astype(np.float32)
    store = Store(2000, 8, rounded=rounded)
    write_rows(store, keys, 0, 2000)
    slots = random.choice(2000, 700, replace=False)
    keys[slots] += 5
    store.set_keys(torch.from_numpy(slots), torch.from_numpy(keys[slots]))
    queries = (2.5 + random.normal(size=(8, 8))).astype(np.float32)
    recall = store.read(torch.from_numpy(queries), 20, UniformMean())
    assert recall.indices.tolist() == nearest(keys, queries, 20)[0].tolist()


# -- Eviction, told step by step ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("eviction", "touch", "expected"), [("lru", True, 1), ("lru", False, 0), ("fifo", True, 0)])
def test_only_a_touching_read_saves_a_memory_and_only_from_lru(eviction, touch, expected):
    store = filled(3, eviction=eviction)
    store.read(store.keys[:1].clone(), 1, UniformMean(), touch=touch)
    store.write(torch.zeros(1, 2), torch.zeros(1), uint64([99]), maximum, written_at=3)
    assert store.find(uint64([99])).item() == expected


@pytest.mark.parametrize(("eviction", "expected"), [("lru", 1), ("fifo", 0)])
def test_an_update_is_a_use_but_not_an_insertion(eviction, expected):
    store = filled(3, eviction=eviction)
    store.write(torch.zeros(1, 2), torch.zeros(1), uint64([0]), maximum, written_at=3)
    store.write(torch.zeros(1, 2), torch.zeros(1), uint64([99]), maximum, written_at=4)
    assert store.find(uint64([99])).item() == expected


@pytest.mark.parametrize("eviction", ["lru", "fifo"])
def test_a_batch_never_evicts_what_it_updates(eviction):
    """Hash 0 is the first to go by either rule, but the last row of the batch updates it."""
    store = filled(3, eviction=eviction)
    kept = store.keys[0].tolist()
    written = store.write(torch.zeros(3, 2), torch.full((3,), 9.0), uint64([7, 8, 0]), maximum, written_at=3)
    assert (written.inserted, written.updated, written.evicted) == (2, 1, 2)
    assert store.hashes.tolist() == [0, 7, 8]
    assert store.keys[0].tolist() == kept
    assert store.values[0] == 9


def test_a_batch_larger_than_the_store_keeps_its_last_rows():
    store = Store(4, 1)
    numbers = torch.arange(10.0)
    written = store.write(numbers[:, None], numbers, np.arange(10, dtype=np.uint64), maximum, written_at=0)
    assert (written.inserted, written.updated, written.evicted) == (10, 0, 6)
    assert store.hashes.tolist() == [8, 9, 6, 7]
    assert store.values.tolist() == [8, 9, 6, 7]


def test_an_empty_batch_changes_nothing():
    store = filled(3)
    before = contents(store)
    written = store.write(torch.zeros(0, 2), torch.zeros(0), uint64([]), maximum, written_at=9)
    assert (written.inserted, written.updated, written.evicted) == (0, 0, 0)
    assert contents(store) == before
    assert store.find(uint64([])).tolist() == []


def test_written_memories_do_not_share_storage_with_the_batch():
    keys, values, hashes = torch.zeros(2, 2), torch.zeros(2), uint64([1, 2])
    store = Store(2, 2)
    store.write(keys, values, hashes, maximum, written_at=0)
    keys += 1
    values += 1
    hashes += np.uint64(1)
    assert contents(store) == ([1, 2], [[0, 0], [0, 0]], [0, 0], [0, 0])


def test_a_recall_stays_as_it_was_when_its_memories_change():
    store = filled(3)
    recall = store.read(torch.zeros(1, 2), 3, UniformMean())
    keys, values, written_at = recall.keys.clone(), recall.values.clone(), recall.written_at.clone()
    store.write(torch.full((3, 2), 9.0), torch.full((3,), 9.0), uint64([7, 8, 9]), maximum, written_at=9)
    assert torch.equal(recall.keys, keys)
    assert torch.equal(recall.values, values)
    assert torch.equal(recall.written_at, written_at)


# -- Bytes and files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 700, 1025, 5000, 20_000])
def test_a_store_of_a_million_takes_the_bytes_of_what_it_holds(number):
    """A small first block is allowed; after that at most half of what is held may be empty."""
    key_size = 32
    store = Store(1_000_000, key_size)
    assert store.nbytes < 2**20
    generator = torch.Generator().manual_seed(0)
    for start in range(0, number, 512):
        size = min(512, number - start)
        hashes = np.arange(start, start + size, dtype=np.uint64)
        store.write(torch.randn(size, key_size, generator=generator), torch.zeros(size), hashes, maximum, written_at=0)
    exact = Store(number, key_size)
    exact.load_state_dict({**store.state_dict(), "capacity": number})

    allocated = store.keys.untyped_storage().nbytes()
    assert allocated <= store.nbytes
    assert allocated <= max(2 * number, 1024) * key_size * 4
    held = number * (key_size * 4 + 4 + 8 + 8)  # key, value, hash and written_at are the least a memory takes
    assert held <= store.nbytes <= max(2 * number, 1024) * held


def test_a_saved_store_holds_only_the_filled_rows():
    full, growing = filled(1_300, 32), filled(1_300, 32, capacity=1_000_000)
    assert growing.nbytes > full.nbytes, "the growing store should own empty rows that are not to be saved"
    sizes = []
    for store in (full, growing):
        tables = [item for item in store.state_dict().values() if isinstance(item, torch.Tensor | np.ndarray)]
        sizes.append(sum(table.nbytes for table in tables))
    assert sizes[0] == sizes[1] >= 1_300 * (32 * 4 + 4 + 8 + 8)


@pytest.mark.parametrize("eviction", ["lru", "fifo"])
def test_a_loaded_store_continues_as_the_saved_one_would(eviction):
    """Through a file, into a store that held other memories: recency must survive, the two stores be independent."""
    saved = filled(6, eviction=eviction)
    saved.read(saved.keys[1:2].clone(), 2, UniformMean())
    file = io.BytesIO()
    torch.save(saved.state_dict(), file)
    file.seek(0)
    loaded = filled(4, capacity=6, eviction=eviction)
    loaded.load_state_dict(torch.load(file, weights_only=False))
    assert contents(loaded) == contents(saved)
    assert loaded.find(np.arange(7, dtype=np.uint64)).tolist() == [0, 1, 2, 3, 4, 5, -1]

    before = contents(saved)
    for store in (loaded, saved):
        for number in (10, 11, 12):
            store.write(torch.ones(1, 2), torch.ones(1), uint64([number]), maximum, written_at=number)
        if store is loaded:
            assert contents(saved) == before
    assert contents(loaded) == contents(saved)


def test_stores_loaded_from_one_state_are_independent():
    store = filled(3)
    twin = Store(3, 2)
    twin.load_state_dict(store.state_dict())
    before = contents(store)
    twin.set_keys(torch.tensor([0]), torch.full((1, 2), 5.0))
    twin.set_values(torch.tensor([1]), torch.full((1,), 5.0))
    twin.write(torch.ones(1, 2), torch.ones(1), uint64([7]), maximum, written_at=7)
    assert contents(store) == before


@pytest.mark.parametrize(
    ("other", "word"),
    [
        (lambda: Store(4, 2), "capacity"),
        (lambda: Store(3, 3), "key_size"),
        (lambda: Store(3, 2, eviction="fifo"), "eviction"),
    ],
)
def test_loading_into_a_different_store_is_refused(other: Callable[[], Store], word: str):
    store = other()
    with pytest.raises(ValueError, match=word):
        store.load_state_dict(filled(3).state_dict())
    assert len(store) == 0


# -- Bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"capacity": 0, "key_size": 2}, "capacity"),
        ({"capacity": -1, "key_size": 2}, "capacity"),
        ({"capacity": 2, "key_size": 0}, "key_size"),
        ({"capacity": 2, "key_size": 2, "eviction": "random"}, "lru"),
    ],
)
def test_impossible_stores_are_refused(arguments, word):
    with pytest.raises(ValueError, match=word):
        Store(**arguments)


NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"keys": torch.zeros(3, 3)}, r"\b2\b"),
        ({"keys": torch.zeros(3)}, r"\b2\b"),
        ({"keys": torch.zeros(2, 2)}, r"\b[23]\b"),
        ({"keys": torch.zeros(3, 2, dtype=torch.float64)}, "float32"),
        ({"keys": torch.zeros(3, 2, dtype=torch.int64)}, "float32"),
        ({"keys": floats([[0, 0], [0, 0], [0, NAN]])}, "finite"),
        ({"keys": floats([[0, 0], [0, 0], [-INFINITY, 0]])}, "finite"),
        ({"values": torch.zeros(2)}, r"\b3\b"),
        ({"values": torch.zeros(3, 1)}, r"\b3\b"),
        ({"values": torch.zeros(3, dtype=torch.float64)}, "float32"),
        ({"values": floats([0, NAN, 0])}, "finite"),
        ({"values": floats([0, 0, INFINITY])}, "finite"),
        ({"hashes": uint64([0, 1])}, r"\b3\b"),
        ({"hashes": uint64([[0], [1], [2]])}, r"\b3\b"),
        ({"hashes": np.array([0, 1, 2])}, "uint64"),
        ({"hashes": np.array([0.0, 1.0, 2.0])}, "uint64"),
    ],
)
@pytest.mark.parametrize("capacity", [2, 4], ids=["in-pieces", "in-one-piece"])
def test_a_refused_write_changes_nothing(capacity, arguments, word):
    store = filled(2, capacity=capacity)
    before = contents(store)
    good = {"keys": torch.ones(3, 2), "values": torch.ones(3), "hashes": uint64([0, 7, 8])}
    with pytest.raises(ValueError, match=word):
        store.write(**{**good, **arguments}, rule=maximum, written_at=9)
    assert contents(store) == before
    assert store.find(uint64([0, 1, 7, 8])).tolist() == [0, 1, -1, -1]


@pytest.mark.parametrize(
    ("queries", "neighbours", "word"),
    [
        (torch.zeros(1, 2), 0, "neighbours"),
        (torch.zeros(1, 2), -1, "neighbours"),
        (torch.zeros(1, 3), 1, r"\b2\b"),
        (torch.zeros(2), 1, r"\b2\b"),
        (torch.zeros(1, 2, dtype=torch.float64), 1, "float32"),
        (floats([[0, NAN]]), 1, "finite"),
    ],
)
def test_unanswerable_reads_are_refused(queries, neighbours, word):
    with pytest.raises(ValueError, match=word):
        filled(2).read(queries, neighbours, UniformMean())


def test_an_empty_store_cannot_be_read():
    with pytest.raises(ValueError, match="empty"):
        Store(2, 2).read(torch.zeros(1, 2), 1, UniformMean())


def test_hashes_to_find_must_be_uint64():
    with pytest.raises(ValueError, match="uint64"):
        filled(2).find(np.array([0, 1]))


@pytest.mark.parametrize("slot", [-1, 2, 5])
def test_only_filled_slots_can_be_set(slot):
    """The store may own empty rows behind the filled ones: writing there, or from the end, would go unnoticed."""
    store = filled(2, capacity=8)
    before = contents(store)
    with pytest.raises((ValueError, IndexError)):
        store.set_keys(torch.tensor([slot]), torch.ones(1, 2))
    with pytest.raises((ValueError, IndexError)):
        store.set_values(torch.tensor([slot]), torch.ones(1))
    assert contents(store) == before


def test_only_finite_keys_and_values_of_the_right_shape_can_be_set():
    store = filled(2)
    before = contents(store)
    with pytest.raises(ValueError, match="finite"):
        store.set_keys(torch.tensor([0]), floats([[0, NAN]]))
    with pytest.raises(ValueError, match="finite"):
        store.set_values(torch.tensor([0]), floats([INFINITY]))
    with pytest.raises(ValueError, match=r"\b2\b"):
        store.set_keys(torch.tensor([0]), torch.zeros(1, 3))
    assert contents(store) == before
