"""The episodic memory against one plain Python oracle an action, and the recall that it answers with."""

import copy
import dataclasses
import io
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.episodic import neighbours, table
from memory.episodic.kernels import InverseDistance, UniformMean
from memory.episodic.memory import EpisodicMemory
from memory.episodic.recall import Recall
from memory.episodic.store import Store
from memory.episodic.updates import Tabular, maximum
from tests.memory.oracle import OracleStore, assert_recalls_nearest, assert_same_memories, inverse_distance

ACTIONS = 3
KEY_SIZE = 2


def floats(numbers: object) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float32)


def uint64(numbers: object) -> np.ndarray:
    return np.array(numbers, dtype=np.uint64)


def create(
    capacity: int = 6,
    neighbours: int = 4,
    eviction: str = "lru",
    num_actions: int = ACTIONS,
    rounded: bool = False,
) -> EpisodicMemory:
    return EpisodicMemory(
        num_actions,
        capacity,
        KEY_SIZE,
        neighbours=neighbours,
        kernel=InverseDistance(),
        eviction=eviction,
        rounded=rounded,
    )


def with_lengths(*lengths: int, neighbours: int = 4) -> EpisodicMemory:
    """Each action holds so many memories: keys (action, slot), values 10 * action + slot, written at 100 + slot."""
    memory = create(capacity=8, neighbours=neighbours, num_actions=len(lengths))
    for slot in range(max(lengths)):
        actions = [action for action, length in enumerate(lengths) if slot < length]
        memory.write(
            torch.tensor(actions),
            floats([[action, slot] for action in actions]),
            floats([10 * action + slot for action in actions]),
            uint64([slot] * len(actions)),
            maximum,
            written_at=100 + slot,
        )
    return memory


def contents(memory: EpisodicMemory) -> list[tuple[object, ...]]:
    return [(s.hashes.tolist(), s.keys.tolist(), s.values.tolist(), s.written_at.tolist()) for s in memory.stores]


coordinates = st.sampled_from([-1.0, 0.0, 0.5, 2.0])
keys = st.tuples(coordinates, coordinates).map(list)
rows = st.lists(
    st.tuples(st.integers(0, ACTIONS - 1), keys, st.integers(-8, 8).map(float), st.integers(0, 9)), max_size=20
)
queries = st.lists(st.tuples(keys, st.integers(0, ACTIONS - 1)), min_size=1, max_size=4)


@mock.patch.object(table, "_FEWEST_ROUNDED", 0)
@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("eviction", ["lru", "fifo"])
@settings(max_examples=100)
@given(
    capacity=st.integers(1, 6),
    neighbours=st.integers(1, 5),
    rounds=st.lists(st.tuples(rows, queries, st.booleans(), st.booleans()), min_size=1, max_size=4),
)
def test_random_rounds_agree_with_one_oracle_an_action(eviction, rounded, capacity, neighbours, rounds):
    memory = create(capacity, neighbours, eviction, rounded=rounded)
    oracles = [OracleStore(capacity, eviction) for _ in range(ACTIONS)]
    for step, (written_rows, read_rows, touch, refresh_keys) in enumerate(rounds):
        # One row for every action first, so that each can be read.
        batch = [(action, [0.5, 0.5], 1.0, 5) for action in range(ACTIONS)] + written_rows
        actions, batch_keys, values, hashes = zip(*batch, strict=True)
        written = memory.write(
            torch.tensor(actions),
            floats(batch_keys),
            floats(values),
            uint64(hashes),
            Tabular(0.5),
            step,
            refresh_keys=refresh_keys,
        )
        totals = np.zeros(3, dtype=int)
        for action, oracle in enumerate(oracles):
            own = [row for row in batch if row[0] == action]
            _, own_keys, own_values, own_hashes = zip(*own, strict=True)
            totals += oracle.write(
                own_keys, own_values, own_hashes, lambda old, new: old + 0.5 * (new - old), step, refresh_keys
            )
        assert [written.inserted, written.updated, written.evicted] == totals.tolist()
        assert len(memory) == sum(len(oracle) for oracle in oracles)

        recall = memory.read(
            floats([query for query, _ in read_rows]), torch.tensor([action for _, action in read_rows]), touch=touch
        )
        widest = max(min(neighbours, len(oracles[action])) for _, action in read_rows)
        assert recall.indices.shape == (len(read_rows), widest)
        touched: list[list[int]] = [[] for _ in oracles]
        for row, (query, action) in enumerate(read_rows):
            slots = assert_recalls_nearest(recall, row, oracles[action], query, neighbours)
            recalled = [oracles[action].entries[slot].key for slot in slots]
            weights = inverse_distance(query, recalled, [True] * len(slots), 1e-3) + [0.0] * (widest - len(slots))
            np.testing.assert_allclose(recall.weights[row].numpy(), weights, rtol=1e-4, atol=1e-6)
            assert (recall.weights[row, len(slots) :] == 0).all()
            touched[action] += slots
        for oracle, slots in zip(oracles, touched, strict=True):
            if touch and slots:
                oracle.touch(slots)
        for store, oracle in zip(memory.stores, oracles, strict=True):
            assert_same_memories(store, oracle)


def test_each_row_reads_its_own_actions_store():
    memory = with_lengths(4, 4, 4, neighbours=2)
    recall = memory.read(floats([[1, 3], [1, 3], [1, 3]]), torch.tensor([2, 0, 1]))
    assert recall.indices[:, 0].tolist() == [3, 3, 3]
    assert recall.values[:, 0].tolist() == [23, 3, 13]
    assert recall.keys[:, 0].tolist() == [[2, 3], [0, 3], [1, 3]]
    assert recall.distances[:, 0].tolist() == [1, 1, 0]


def filled(lengths: list[int], key_size: int, neighbours: int) -> tuple[EpisodicMemory, np.random.Generator]:
    """A memory whose actions hold so many memories of random keys, and what drew them."""
    random = np.random.default_rng(7)
    memory = EpisodicMemory(
        len(lengths), max(lengths), key_size, neighbours=neighbours, kernel=InverseDistance(), eviction="lru"
    )
    actions = random.permutation(np.repeat(np.arange(len(lengths)), lengths))
    for start in range(0, len(actions), 500):
        piece = actions[start : start + 500]
        keys = torch.from_numpy(random.normal(size=(len(piece), key_size)) + 3).float()
        hashes = np.arange(start, start + len(piece), dtype=np.uint64)
        memory.write(torch.from_numpy(piece), keys, torch.zeros(len(piece)), hashes, maximum, written_at=start)
    return memory, random


def nearest_distances(memory: EpisodicMemory, query: torch.Tensor, action: int, neighbours: int) -> np.ndarray:
    """By subtraction in float64 from every key of an action."""
    keys = memory.stores[action].keys.numpy().astype(np.float64)
    return np.sort(np.linalg.norm(keys - query.numpy().astype(np.float64), axis=1))[:neighbours]


@pytest.mark.parametrize("key_size", [4, 64])
def test_many_and_few_queries_find_the_nearest_in_stores_of_any_length(key_size: int) -> None:
    lengths, neighbours = [3, 40, 2_000, 900], 7
    memory, random = filled(lengths, key_size, neighbours)
    queries = torch.from_numpy(random.normal(size=(40, key_size)) + 3).float()

    # Of one action there is one query, of another 30: the search takes other ways for few than for many.
    actions = np.repeat([0, 1, 2, 3], [1, 4, 30, 5])
    recall = memory.read(queries, torch.from_numpy(actions))
    for query, action, distances in zip(queries, actions, recall.distances, strict=True):
        expected = nearest_distances(memory, query, action, neighbours)
        np.testing.assert_allclose(distances[: len(expected)], expected, rtol=1e-5)
        assert distances[len(expected) :].isinf().all()

    for batch, asked in ((queries, [0, 1, 2, 3]), (queries, [3, 1]), (queries[:3], [2, 3]), (queries[:3], [1])):
        recall = memory.read_each(batch, asked)
        pairs = [(query, action) for query in batch for action in asked]
        for (query, action), distances, slots in zip(pairs, recall.distances, recall.indices, strict=True):
            expected = nearest_distances(memory, query, action, neighbours)
            np.testing.assert_allclose(distances[: len(expected)], expected, rtol=1e-5)
            assert distances[len(expected) :].isinf().all()
            found = memory.stores[action].keys[slots[: len(expected)]]
            np.testing.assert_allclose((found - query).norm(dim=1), expected, rtol=1e-5)


@pytest.mark.parametrize("rounded", [False, True])
@mock.patch.object(table, "_FEWEST_ROUNDED", 0)
def test_no_more_scores_are_made_at_a_time_than_are_allowed(rounded: bool) -> None:
    memory = create(2_000, 5, num_actions=2, rounded=rounded)
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(3_000, KEY_SIZE, generator=generator)
    memory.write(torch.arange(3_000) % 2, keys, keys[:, 0].contiguous(), np.arange(3_000, dtype=np.uint64), maximum, 0)
    queries, actions = keys[:20] + 0.01, torch.arange(20) // 18
    whole = memory.read(queries, actions, touch=False), memory.read_each(queries, [0, 1], touch=False)
    rows = len(memory.table.keys)
    with (
        mock.patch.object(neighbours, "_MOST_SCORES", 3 * rows),
        mock.patch.object(memory.table, "scratch", wraps=memory.table.scratch) as scratch,
    ):
        pieces = memory.read(queries, actions, touch=False), memory.read_each(queries, [0, 1], touch=False)
    widths = [call.args[1] for call in scratch.call_args_list if call.args[0] == rows]
    # Six pieces of 18 queries and seven of 20, and what rounded keys left in doubt.
    assert set(widths) == {3} and len(widths) >= 13 and (rounded or len(widths) == 13)
    for one, other in zip(whole, pieces, strict=True):
        assert one.distances.tolist() == other.distances.tolist() and one.indices.tolist() == other.indices.tolist()


def test_short_rows_are_padded_with_their_nearest_memory():
    memory = with_lengths(1, 2, 5, neighbours=4)
    recall = memory.read(floats([[0, 1], [1, 2], [2, 0]]), torch.tensor([0, 1, 2]))
    infinity = float("inf")
    assert recall.indices.tolist() == [[0, 0, 0, 0], [1, 0, 1, 1], [0, 1, 2, 3]]
    assert recall.distances.tolist() == [[1, infinity, infinity, infinity], [1, 2, infinity, infinity], [0, 1, 2, 3]]
    assert recall.values.tolist() == [[0, 0, 0, 0], [11, 10, 11, 11], [20, 21, 22, 23]]
    assert recall.written_at.tolist() == [[100] * 4, [101, 100, 101, 101], [100, 101, 102, 103]]
    assert recall.keys[1].tolist() == [[1, 1], [1, 0], [1, 1], [1, 1]]
    assert recall.weights[0].tolist() == [1, 0, 0, 0]
    assert recall.weights[1, 2:].tolist() == [0, 0]
    assert recall.estimates()[0] == 0
    # As if the store of one action had been read alone.
    alone = memory.stores[1].read(floats([[1, 2]]), 4, InverseDistance(), touch=False)
    torch.testing.assert_close(recall.weights[1, :2], alone.weights[0])


def test_a_batch_for_one_short_store_is_no_wider_than_it():
    memory = with_lengths(1, 2, 5, neighbours=4)
    assert memory.read(floats([[0, 0], [1, 1]]), torch.tensor([1, 0])).indices.shape == (2, 2)
    assert memory.read(floats([[0, 0]]), torch.tensor([2])).indices.shape == (1, 4)


def test_a_touch_saves_a_memory_in_its_own_store_only():
    memory = with_lengths(8, 8, neighbours=1)
    memory.read(floats([[0, 0]]), torch.tensor([0]))
    memory.read(floats([[1, 0]]), torch.tensor([1]), touch=False)
    memory.write(torch.tensor([0, 1]), torch.zeros(2, 2), torch.zeros(2), uint64([99, 99]), maximum, written_at=200)
    assert [store.find(uint64([99])).item() for store in memory.stores] == [1, 0]


@pytest.mark.parametrize("eviction", ["lru", "fifo"])
def test_a_mixed_batch_equals_one_write_an_action(eviction):
    random = np.random.default_rng(0)
    memory = create(capacity=20, eviction=eviction)
    apart = [Store(20, KEY_SIZE, eviction=eviction) for _ in range(ACTIONS)]
    for step in range(10):
        actions = torch.from_numpy(random.integers(0, ACTIONS, 30))
        batch_keys, values = torch.from_numpy(random.normal(size=(30, 2))).float(), torch.arange(30.0)
        hashes = random.integers(0, 40, 30).astype(np.uint64)
        written = memory.write(actions, batch_keys, values, hashes, Tabular(0.3), step)
        separately = []
        for action, store in enumerate(apart):
            mask = actions == action
            separately.append(
                store.write(batch_keys[mask], values[mask], hashes[mask.numpy()], Tabular(0.3), written_at=step)
            )
        assert written.inserted == sum(one.inserted for one in separately)
        assert written.updated == sum(one.updated for one in separately)
        assert written.evicted == sum(one.evicted for one in separately)
    for store, own in zip(memory.stores, apart, strict=True):
        assert store.hashes.tolist() == own.hashes.tolist()
        assert torch.equal(store.keys, own.keys)
        assert torch.equal(store.values, own.values)
        assert torch.equal(store.written_at, own.written_at)


def test_a_loaded_memory_continues_as_the_saved_one_would():
    saved = with_lengths(8, 0, 3, neighbours=1)
    saved.read(floats([[0, 0]]), torch.tensor([0]))  # now the memory in slot 1 is the least recently used
    file = io.BytesIO()
    torch.save(saved.state_dict(), file)
    file.seek(0)
    loaded = with_lengths(1, 2, 3, neighbours=1)
    loaded.load_state_dict(torch.load(file, weights_only=False))
    assert contents(loaded) == contents(saved)
    assert len(loaded) == 11

    before = contents(saved)
    for memory in (loaded, saved):
        memory.write(torch.tensor([0, 1]), torch.ones(2, 2), torch.ones(2), uint64([99, 99]), maximum, written_at=200)
        if memory is loaded:
            assert contents(saved) == before
    assert contents(loaded) == contents(saved)
    assert loaded.stores[0].find(uint64([99])).item() == 1


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lambda: create(num_actions=2), id="fewer-actions"),
        pytest.param(lambda: create(num_actions=4), id="more-actions"),
        pytest.param(lambda: create(capacity=7), id="capacity"),
        pytest.param(lambda: create(eviction="fifo"), id="eviction"),
    ],
)
def test_loading_into_a_different_memory_is_refused(other):
    memory = other()
    with pytest.raises(ValueError, match=r"actions|capacity|eviction"):
        memory.load_state_dict(create().state_dict())


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        ({"actions": torch.tensor([0, 1, 3])}, "actions"),
        ({"actions": torch.tensor([0, 1, -1])}, "actions"),
        ({"actions": torch.tensor([0, 1])}, "actions"),
        ({"actions": torch.tensor([0.0, 1.0, 2.0])}, "actions"),
        ({"keys": floats([[1, 1], [1, 1], [1, float("nan")]])}, "finite"),
        ({"keys": torch.ones(3, 3)}, r"\b2\b"),
        ({"keys": torch.ones(3, 2, dtype=torch.float64)}, "float32"),
        ({"values": floats([1, 1, float("inf")])}, "finite"),
        ({"values": torch.ones(2)}, r"\b3\b"),
        ({"hashes": uint64([0, 50])}, r"\b3\b"),
        ({"hashes": np.array([0, 50, 60])}, "uint64"),
    ],
)
def test_refused_rows_leave_every_store_unchanged(bad, word):
    """The last row is the bad one: by then the stores of the other actions could already have been written."""
    memory = with_lengths(3, 3, 3)
    before = contents(memory)
    good = {
        "actions": torch.tensor([0, 1, 2]),
        "keys": torch.ones(3, 2),
        "values": torch.ones(3),
        "hashes": uint64([0, 50, 60]),
    }
    with pytest.raises(ValueError, match=word):
        memory.write(**{**good, **bad}, rule=maximum, written_at=300)
    assert contents(memory) == before


@pytest.mark.parametrize(
    ("actions", "word"), [([0, 1], "empty"), ([0, 3], "actions"), ([0, -1], "actions"), ([0], "actions")]
)
def test_unanswerable_reads_are_refused(actions, word):
    memory = with_lengths(3, 0, 3)
    with pytest.raises(ValueError, match=word):
        memory.read(torch.zeros(2, 2), torch.tensor(actions))


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        ({"num_actions": 0}, "actions"),
        ({"capacity": 0}, "capacity"),
        ({"neighbours": 0}, "neighbours"),
        ({"eviction": "random"}, "lru"),
    ],
)
def test_impossible_memories_are_refused(bad, word):
    with pytest.raises(ValueError, match=word):
        create(**bad)


def test_a_recall_sums_up_its_neighbours():
    infinity = float("inf")
    recall = Recall(
        indices=torch.tensor([[4, 2, 7], [5, 5, 5]]),
        distances=floats([[0.5, 1.0, 2.0], [3.0, infinity, infinity]]),
        keys=torch.zeros(2, 3, KEY_SIZE),
        values=floats([[10.0, 20.0, 40.0], [8.0, 8.0, 8.0]]),
        weights=floats([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]),
        written_at=torch.tensor([[10, 30, 20], [7, 7, 7]]),
    )
    assert recall.valid.tolist() == [[True, True, True], [True, False, False]]
    assert recall.estimates().tolist() == [20.0, 8.0]
    assert recall.effective_neighbours().tolist() == pytest.approx([1 / 0.375, 1.0])
    assert recall.ages(50).tolist() == [[40, 20, 30], [43, 43, 43]]


def test_uniform_weights_ignore_padding():
    memory = EpisodicMemory(2, 8, KEY_SIZE, neighbours=4, kernel=UniformMean())
    memory.write(
        torch.tensor([0, 1, 1]), torch.zeros(3, 2), floats([5, 2, 4]), uint64([1, 1, 2]), maximum, written_at=0
    )
    recall = memory.read(torch.ones(2, 2), torch.tensor([0, 1]))
    assert recall.estimates().tolist() == [5, 3]
    assert recall.weights.tolist() == [[1, 0], [0.5, 0.5]]


def test_slots_tell_actions_apart_and_stay_with_their_memories_while_tables_grow() -> None:
    """Three actions grow in turn, so that every row moves; a dict knows what each slot should hold."""
    rng = np.random.default_rng(0)
    memory = EpisodicMemory(3, 700, 2, neighbours=3, kernel=InverseDistance(), eviction="fifo")
    keys_of: dict[int, list[float]] = {}
    for start in range(0, 2_400, 40):
        hashes = np.arange(start, start + 40, dtype=np.uint64)
        actions = torch.from_numpy(rng.integers(0, 3, 40))
        keys = torch.from_numpy(rng.standard_normal((40, 2), dtype=np.float32))
        memory.write(actions, keys, torch.zeros(40), hashes, maximum, written_at=start)
        slots = memory.slots_of(actions, hashes)
        assert torch.equal(slots // 700, actions)
        keys_of.update(zip(slots.tolist(), keys.tolist(), strict=True))
    filled = memory.filled_slots()
    assert sorted(filled.tolist()) == sorted(keys_of) and len(filled) == len(memory) == 2_100
    expected = torch.tensor([keys_of[slot] for slot in filled.tolist()])
    assert torch.equal(memory.table.keys[memory.rows_of(filled)], expected)
    unknown = memory.slots_of(torch.tensor([0, 1]), np.array([9_999, 2_399], dtype=np.uint64))
    assert unknown[0] == -1


@pytest.mark.parametrize("neighbours", [1, 4, 50])
def test_a_query_recalls_its_nearest_memories_apart_from_one(neighbours: int) -> None:
    torch.manual_seed(0)
    lengths = (1, 3, 40)
    memory = create(capacity=40, neighbours=neighbours, num_actions=3)
    for action, length in enumerate(lengths):
        memory.write(
            torch.full((length,), action),
            torch.randn(length, KEY_SIZE),
            torch.randn(length),
            np.arange(length, dtype=np.uint64),
            maximum,
            written_at=1,
        )
    actions = torch.tensor([0, 0, 1, 1, 1, 2, 2, 2, 2])
    excluded = torch.tensor([0, -1, 2, -1, 0, 7, -1, 39, 12])
    apart_from = torch.where(excluded >= 0, excluded + actions * 40, -1)
    queries = memory.table.keys[memory.rows(actions, excluded.clamp_min(0))]
    recall = memory.read(queries, actions, apart_from=apart_from)
    for row, (action, slot) in enumerate(zip(actions.tolist(), excluded.tolist(), strict=True)):
        distances = (memory.stores[action].keys - queries[row]).norm(dim=1)
        allowed = [other for other in range(lengths[action]) if other != slot] or [slot]
        nearest = sorted(allowed, key=lambda other: float(distances[other]))[:neighbours]
        assert recall.indices[row][recall.valid[row]].tolist() == nearest
        weights = 1 / (distances[nearest].square() + 1e-3)
        torch.testing.assert_close(recall.weights[row][recall.valid[row]], weights / weights.sum())


def test_a_recall_stays_what_it_was_after_the_next_search() -> None:
    """All searches write their scores into one tensor."""
    memory = with_lengths(8, 3, 5)
    queries, actions = floats([[0.2, 1.1], [2.0, 3.4]]), [0, 1, 2]
    recalls = [memory.read_each(queries, actions), memory.read(queries, torch.tensor([0, 2]))]
    before = copy.deepcopy(recalls)
    memory.read_each(floats([[5.0, 5.0], [-5.0, 0.0]]), actions)
    for recall, then in zip(recalls, before, strict=True):
        for field in dataclasses.fields(Recall):
            assert torch.equal(getattr(recall, field.name), getattr(then, field.name)), field.name
