"""Rounded keys: what they hold, by how much their scores err, and that what they cannot tell is asked again."""

from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.episodic import neighbours as search
from memory.episodic import table
from memory.episodic.kernels import UniformMean
from memory.episodic.memory import EpisodicMemory
from memory.episodic.rounding import rounded_keys, rounded_queries, score_error
from memory.episodic.store import Store
from memory.episodic.updates import maximum

UNIT = 2.0**-8
"""Half of the distance of 1 to the next bfloat16."""


def scores(keys: torch.Tensor, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of rounded keys, without rounding in float64, and the bound on their difference, each `[keys, queries]`."""
    norms = keys.square().sum(dim=1)
    rounded = torch.mm(rounded_keys(keys, norms), rounded_queries(queries).T).double()
    keys, queries = keys.double(), queries.double()
    exact = keys.square().sum(dim=1, keepdim=True) - 2 * keys @ queries.T
    return rounded, exact, score_error(queries, keys.norm(dim=1, keepdim=True), torch.cdist(keys, queries))


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    key_size=st.sampled_from([1, 2, 3, 16, 64, 128]),
    spread=st.floats(-12, 12).map(lambda power: 10**power),
    shift=st.floats(0, 10),
    nearness=st.sampled_from([0.0, 1e-3, 0.1, 1.0]),
)
def test_scores_of_rounded_keys_err_within_their_bound(
    seed: int, key_size: int, spread: float, shift: float, nearness: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    keys = spread * (torch.randn(40, key_size, generator=generator) + shift)
    queries = keys[:5] + nearness * spread * torch.randn(5, key_size, generator=generator)
    rounded, exact, bound = scores(keys, queries)
    # What is summed in float32 adds its own, which the search counts for itself.
    summing = 2.0**-20 * (keys.norm(dim=1)[:, None] + queries.norm(dim=1)).square().double()
    assert ((rounded - exact).abs() <= bound + summing).all()


def test_the_bound_is_reached_within_a_factor_of_three() -> None:
    """Where every number lies between two bfloat16 and a query in the direction of its key: nothing cancels."""
    keys = torch.full((1, 64), 1 + 0.999 * UNIT)
    queries = torch.full((1, 64), 1 + 0.998 * UNIT)
    rounded, exact, bound = scores(keys, queries)
    assert bound.item() / 3 < (rounded - exact).abs().item() <= bound.item()


def test_squared_norms_are_kept_to_sixteen_bits_and_a_row_without_memory_scores_infinity() -> None:
    norms = torch.tensor([1.0, 3.14159265, 1e30, 1e-30, torch.inf])
    rounded = rounded_keys(torch.zeros(5, 3), norms)
    assert rounded.dtype == torch.bfloat16 and rounded.isnan().sum() == 0
    np.testing.assert_allclose(rounded[:, 3:].double().sum(dim=1), norms, rtol=2.0**-16)
    assert torch.mm(rounded, rounded_queries(torch.full((1, 3), -1e30)).T)[-1].isinf()


def filled(number: int, key_size: int, spread: float, capacity: int = 20_000) -> Store:
    """Memories whose keys lie about (3, 3, ...), their slots the numbers of their hashes."""
    store = Store(capacity, key_size, rounded=True)
    generator = torch.Generator().manual_seed(number)
    for start in range(0, number, 1000):
        size = min(1000, number - start)
        keys = 3 + spread * torch.randn(size, key_size, generator=generator)
        hashes = np.arange(start, start + size, dtype=np.uint64)
        store.write(keys, torch.zeros(size), hashes, maximum, written_at=start)
    return store


def holding(keys: torch.Tensor, rounded: bool) -> Store:
    store = Store(len(keys), keys.shape[1], rounded=rounded)
    store.write(keys, torch.zeros(len(keys)), np.arange(len(keys), dtype=np.uint64), maximum, written_at=0)
    return store


def nearest(store: Store, query: torch.Tensor, number: int) -> np.ndarray:
    """By subtraction in float64 from every key."""
    return np.sort(np.linalg.norm(store.keys.double().numpy() - query.double().numpy(), axis=1))[:number]


def asked_again(store: Store, queries: torch.Tensor, number: int) -> int:
    """How many queries were answered by float32 in the end; all are checked against plain subtraction."""
    with mock.patch.object(search, "nearest", wraps=search.nearest) as again:
        recall = store.read(queries, number, UniformMean())
    for query, distances, slots in zip(queries, recall.distances, recall.indices, strict=True):
        expected = nearest(store, query, number)
        np.testing.assert_allclose(distances, expected, rtol=1e-5)
        found = np.linalg.norm(store.keys[slots].double().numpy() - query.double().numpy(), axis=1)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    return sum(len(call.args[1]) for call in again.call_args_list)


def test_what_rounded_keys_can_tell_they_tell_alone() -> None:
    store = filled(6_000, 16, spread=0.1)
    queries = store.keys[::600] + 0.01
    assert asked_again(store, queries, 10) == 0


def test_where_rounding_hides_who_is_nearer_the_query_is_asked_again() -> None:
    """Six thousand keys at nearly one distance from the query: 1 to 1.001, some sixteen times finer than bfloat16."""
    generator = torch.Generator().manual_seed(3)
    directions = torch.nn.functional.normalize(torch.randn(6_000, 16, generator=generator), dim=1)
    lengths = 1 + 1e-3 * torch.rand(6_000, 1, generator=generator)
    store = holding(directions * lengths, rounded=True)
    queries = torch.cat([torch.zeros(1, 16), store.keys[:2] + 1e-3])
    assert 1 <= asked_again(store, queries, 10) <= 3


@mock.patch.object(table, "_FEWEST_ROUNDED", 0)
@pytest.mark.parametrize("rounded", [False, True])
def test_neighbours_are_exact_among_clusters_far_from_the_centre(rounded: bool) -> None:
    """Errors of scores are of the distance from the centre there, differences between keys far smaller."""
    generator = torch.Generator().manual_seed(0)
    centres = 5 * torch.randn(20, 16, generator=generator)
    keys = centres[torch.randint(0, 20, (2_000,), generator=generator)]
    keys = keys + 1e-3 * torch.randn(2_000, 16, generator=generator)
    asked_again(holding(keys, rounded), keys[:50] + 1e-3 * torch.randn(50, 16, generator=generator), 3)


@pytest.mark.parametrize("key_size", [2, 16])
def test_neighbours_are_exact_around_a_centre_far_from_the_origin(key_size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    keys = 1e4 + 1e-2 * torch.randn(2_000, key_size, generator=generator)
    asked_again(holding(keys, rounded=False), keys[:50] + 3e-3 * torch.randn(50, key_size, generator=generator), 3)


@mock.patch.object(table, "_FEWEST_ROUNDED", 0)
@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("key_size", [1, 2, 16])
@pytest.mark.parametrize("spread", [1e-20, 1e-19, 1e-15, 1e15, 1e18, 1e19, 1.5e19])
def test_neighbours_are_exact_where_products_of_bfloat16_under_or_overflow(
    rounded: bool, key_size: int, spread: float
) -> None:
    generator = torch.Generator().manual_seed(2)
    signs = torch.randn(3_000, key_size, generator=generator).sign() / key_size**0.5
    keys = spread * signs * (1 + 0.01 * torch.randn(3_000, key_size, generator=generator))
    queries = keys[:5] * (1 + 1e-3 * torch.randn(5, key_size, generator=generator))
    recall = holding(keys, rounded).read(queries, 10, UniformMean())
    for query, distances in zip(queries, recall.distances, strict=True):
        expected = np.sort(np.linalg.norm(keys.double().numpy() - query.double().numpy(), axis=1))[:10]
        # Squares below the smallest float32 are 0: as near as subtraction can tell.
        np.testing.assert_allclose(distances, expected, rtol=1e-4, atol=1e-21)


@mock.patch.object(table, "_FEWEST_ROUNDED", 0)
def test_who_is_asked_again_is_asked_in_its_own_store() -> None:
    """Of two stores only the second lies in a shell around the queries."""
    generator = torch.Generator().manual_seed(6)
    memory = EpisodicMemory(2, 2_000, 16, neighbours=5, kernel=UniformMean(), rounded=True)
    far = 3 * torch.randn(2_000, 16, generator=generator)
    shell = torch.nn.functional.normalize(torch.randn(2_000, 16, generator=generator), dim=1)
    actions, hashes = torch.tensor([0, 1]).repeat_interleave(2_000), np.arange(4_000, dtype=np.uint64)
    memory.write(actions, torch.cat([far, shell]), torch.zeros(4_000), hashes, maximum, written_at=0)
    queries = torch.cat([far[:3], 1e-4 * torch.randn(3, 16, generator=generator)])
    actions = torch.tensor([0, 0, 0, 1, 1, 1])
    recall = memory.read(queries, actions)
    for query, action, distances, slots in zip(queries, actions, recall.distances, recall.indices, strict=True):
        store = memory.stores[action]
        expected = nearest(store, query, 5)
        np.testing.assert_allclose(distances, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose((store.keys[slots] - query).norm(dim=1), expected, rtol=1e-5, atol=1e-6)


def test_few_memories_are_searched_by_the_keys_as_they_are() -> None:
    store = filled(table._FEWEST_ROUNDED - 1, 4, spread=1.0)
    with mock.patch.object(search, "rounded_queries", side_effect=AssertionError("rounded")):
        store.read(store.keys[:3].clone(), 5, UniformMean())
    store = filled(table._FEWEST_ROUNDED, 4, spread=1.0)
    with mock.patch.object(search, "rounded_queries", side_effect=AssertionError("rounded")):
        with pytest.raises(AssertionError, match="rounded"):
            store.read(store.keys[:3].clone(), 5, UniformMean())


def test_what_is_rounded_follows_keys_and_centre_through_all_that_changes_them() -> None:
    generator = torch.Generator().manual_seed(5)
    memory = EpisodicMemory(3, 400, 6, neighbours=4, kernel=UniformMean(), rounded=True)

    def check() -> None:
        table = memory.table
        assert table.rounded is not None
        expected = rounded_keys(table.keys - table.centre, table.squared_norms)
        for action, store in enumerate(memory.stores):
            assert torch.equal(table.rounded[table.filled(action)], expected[table.filled(action)])
            empty = slice(table.filled(action).stop, table.span(action).stop)
            assert table.rounded[empty, 6].isinf().all(), len(store)

    for step in range(12):
        actions = torch.randint(0, 3, (150,), generator=generator)
        keys = torch.randn(150, 6, generator=generator) + step
        hashes = torch.randint(0, 900, (150,), generator=generator).numpy().astype(np.uint64)
        memory.write(actions, keys, torch.zeros(150), hashes, maximum, written_at=step, refresh_keys=bool(step % 2))
        check()
    memory.table.move_keys(torch.arange(5), torch.randn(5, 6, generator=generator))
    memory.table.place_keys(torch.arange(5, 9), torch.randn(4, 6, generator=generator))
    check()
    memory.table.recentre()
    check()
    saved = memory.state_dict()
    memory = EpisodicMemory(3, 400, 6, neighbours=4, kernel=UniformMean(), rounded=True)
    memory.load_state_dict(saved)
    check()


def test_a_memory_that_rounds_loads_what_one_that_does_not_has_saved() -> None:
    """So a run goes on on a machine of another kind."""
    store = filled(5_000, 8, spread=1.0)
    plain = Store(20_000, 8)
    plain.load_state_dict(store.state_dict())
    again = Store(20_000, 8, rounded=True)
    again.load_state_dict(plain.state_dict())
    queries = store.keys[::1000] + 0.1
    recalls = [one.read(queries, 7, UniformMean()) for one in (store, plain, again)]
    assert all(torch.equal(recall.indices, recalls[0].indices) for recall in recalls)
    assert all(torch.equal(recall.distances, recalls[0].distances) for recall in recalls)


def test_rounded_keys_are_counted() -> None:
    allocated = filled(700, 32, spread=1.0)
    assert allocated.table.rounded is not None
    plain = Store(20_000, 32)
    plain.load_state_dict(allocated.state_dict())
    assert allocated.nbytes - plain.nbytes == allocated.table.rounded.untyped_storage().nbytes()
