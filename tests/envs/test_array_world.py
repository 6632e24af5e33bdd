"""Draws by number, against the published generator and plain counting."""

from __future__ import annotations

import numpy as np
import pytest

from envs import HiddenGoalMazeConfig, make
from envs.array_world import split_mix


def outputs(seed: int, count: int) -> list[int]:
    """SplitMix64 as it is published: a state that is stepped, and mixed."""
    state, mixed = seed, []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        bits = state
        bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB % 2**64
        mixed.append(bits ^ (bits >> 31))
    return mixed


def test_draws_are_the_outputs_of_split_mix() -> None:
    # The first outputs from 1234567 that are published with the generator.
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert split_mix(np.array([1234567], dtype=np.uint64), np.arange(3)).tolist() == published
    seeds = np.array([0, 1, 2**31 - 1, 2**64 - 1], dtype=np.uint64)
    drawn = split_mix(seeds[:, None], np.arange(20)[None, :])
    assert drawn.tolist() == [outputs(int(seed), 20) for seed in seeds]


@pytest.mark.parametrize("bound", [2, 3, 64])
def test_draws_below_a_bound_are_uniform_over_seeds_and_over_numbers(bound: int) -> None:
    world = make(HiddenGoalMazeConfig(), 3_000)
    world.reset(seed=1)
    drawn = world._draw(np.arange(40)[None, :], bound)
    assert drawn.shape == (3_000, 40) and drawn.dtype == np.int64
    expected = drawn.size / bound
    counts = np.bincount(drawn.ravel(), minlength=bound)
    # Chi squared has mean bound - 1 and variance 2 (bound - 1).
    assert len(counts) == bound
    assert ((counts - expected) ** 2 / expected).sum() < bound - 1 + 5 * np.sqrt(2 * (bound - 1))
    # Neither neighbouring seeds nor neighbouring numbers go together.
    centred = drawn - (bound - 1) / 2
    for product in (centred[1:] * centred[:-1], centred[:, 1:] * centred[:, :-1]):
        assert abs(product.mean()) < 5 * centred.var() / np.sqrt(product.size)


def test_draws_are_of_the_episode_alone() -> None:
    few, many = (make(HiddenGoalMazeConfig(), num_envs) for num_envs in (1, 5))
    few.reset(seed=[9])
    many.reset(seed=[1, 9, 2, 9, 2**64 + 9])
    drawn = many._draw(np.arange(7)[None, :], 1000)
    for env in (1, 3, 4):
        np.testing.assert_array_equal(drawn[env], few._draw(np.arange(7)[None, :], 1000)[0])
    assert (drawn[0] != drawn[1]).any()
    np.testing.assert_array_equal(many._draw(np.array([0, 1, 2, 3, 4]), 1000), drawn[np.arange(5), np.arange(5)])
