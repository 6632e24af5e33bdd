"""What is said to a memory that is a function, beside what was said before: against plain loops."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from memory.neural import recollecting
from memory.neural.recollecting import WrittenMoments, similar_moments, similarities, similarity_maps

TIME, WIDTH = 7, 4
HEADS = pytest.mark.parametrize("heads", [1, 3])


def cosine(first: Any, second: Any) -> float:
    product = sum(one * other for one, other in zip(first, second, strict=True))
    norms = [math.sqrt(sum(number * number for number in each)) for each in (first, second)]
    return product / (norms[0] * norms[1]) if all(norms) else 0.0


def likeness(now: np.ndarray, before: np.ndarray) -> float:
    """Of some vectors to some earlier ones, each `[vectors, width]`."""
    return sum(max(cosine(vector, other) for other in before) for vector in now) / len(now)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


@HEADS
def test_every_moment_is_compared_with_every_other(heads: int) -> None:
    now, before = random(5, 2, WIDTH), random(TIME, heads, WIDTH, seed=1)
    before[3] = 0.0
    found = similarities(now, before)
    for step in range(5):
        for moment in range(TIME):
            assert found[step, moment] == pytest.approx(likeness(now[step], before[moment]))
    assert (found[:, 3] == 0).all() and np.abs(found).max() <= 1
    assert similarities(now, before[:0]).shape == (5, 0)


@HEADS
def test_maps_compare_each_step_with_those_before_it_and_no_other(heads: int) -> None:
    keys, values, read_keys = (random(TIME, heads, WIDTH, seed=seed) for seed in range(3))
    reads = random(TIME, WIDTH, seed=3)
    maps = similarity_maps(keys, values, read_keys, reads)
    pairs = {
        "key_similarity": (keys, keys),
        "value_similarity": (values, values),
        "read_key_similarity": (read_keys, keys),
        "read_value_similarity": (reads[:, None], values),
    }
    assert maps.keys() == pairs.keys()
    for name, (now, written) in pairs.items():
        for step in range(TIME):
            for moment in range(TIME):
                if moment < step:
                    assert maps[name][step, moment] == pytest.approx(likeness(now[step], written[moment]))
                else:
                    assert np.isnan(maps[name][step, moment])


def test_a_key_that_was_written_is_recalled_whichever_head_wrote_it() -> None:
    keys = random(TIME, 2, WIDTH)
    found = similar_moments(np.ones(3), 5 * keys[2, [1, 1]], random(WIDTH), keys, random(TIME, 2, WIDTH), most=1)
    assert found.ages.tolist() == [TIME - 2] and found.similarities[0] == pytest.approx(1.0)


@pytest.mark.parametrize("most", [1, 5, 20])
def test_the_most_similar_moments_are_listed_with_their_ages(most: int) -> None:
    keys, values = random(TIME, 2, WIDTH), random(TIME, 2, WIDTH, seed=1)
    read_key, read = random(2, WIDTH, seed=2), random(WIDTH, seed=3)
    chances = np.array([0.3, 0.7])
    found = similar_moments(chances, read_key, read, keys, values, most)
    assert len(found.ages) == min(most, TIME) and found.action_values is chances
    for age, by_key, by_value in zip(found.ages, found.similarities, found.value_similarities, strict=True):
        assert by_key == pytest.approx(likeness(read_key, keys[TIME - age]))
        assert by_value == pytest.approx(likeness(read[None], values[TIME - age]))
    assert all(first >= second for first, second in pairwise(found.similarities))
    left = set(range(1, TIME + 1)) - set(found.ages.tolist())
    assert all(likeness(read_key, keys[TIME - age]) <= found.similarities[-1] for age in left)


def test_of_moments_that_are_equally_similar_the_latest_come_first() -> None:
    keys = np.tile(random(1, 1, WIDTH), (TIME, 1, 1))
    found = similar_moments(np.ones(1), keys[0], random(WIDTH), keys, keys, most=3)
    assert found.ages.tolist() == [1, 2, 3]


def test_an_episode_without_a_past_recalls_nothing() -> None:
    none = np.zeros((0, 1, WIDTH))
    found = similar_moments(np.ones(2), random(1, WIDTH), random(WIDTH), none, none, most=5)
    assert len(found.ages) == len(found.similarities) == len(found.value_similarities) == 0


@pytest.mark.parametrize("bound", [4, 1_000])
def test_of_every_game_its_running_episode_is_kept(bound: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a list for each game, through a save and a load in the middle."""
    monkeypatch.setattr(recollecting, "MOST_MOMENTS", bound)
    rng, games, heads = np.random.default_rng(0), 3, 2
    moments = WrittenMoments(games, heads, WIDTH)
    lists: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in range(games)]
    longest = 0
    for step in range(120):
        keys, values = rng.normal(size=(2, games, heads, WIDTH)).astype(np.float32)
        ended = rng.random(games) < 0.1
        moments.append(keys.copy(), values.copy(), ended)
        for game in range(games):
            lists[game] = [] if ended[game] else [*lists[game], (keys[game], values[game])][-bound:]
        if step % 17 == 0:
            state = moments.state_dict()
            assert len(state["pairs"]) == max(map(len, lists))
            moments = WrittenMoments(games, heads, WIDTH)
            moments.load_state_dict(state)
            state["pairs"][:], state["lengths"][:] = -1, 0
        for game in range(games):
            found = moments.of(game)
            assert all(one.shape == (len(lists[game]), heads, WIDTH) and one.dtype == np.float32 for one in found)
            for place, pair in enumerate(lists[game]):
                np.testing.assert_array_equal([one[place] for one in found], pair)
        longest = max(longest, *map(len, lists))
    assert longest == min(bound, longest) and longest >= 4


def test_moments_of_other_games_are_not_taken_over() -> None:
    moments = WrittenMoments(2, 1, WIDTH)
    with pytest.raises(ValueError, match=r"pairs must be \[moments, \*\[2, 3, 1, 4\]\], got \[0, 2, 2, 1, 4\]"):
        WrittenMoments(3, 1, WIDTH).load_state_dict(moments.state_dict() | {"pairs": np.zeros((0, 2, 2, 1, WIDTH))})
