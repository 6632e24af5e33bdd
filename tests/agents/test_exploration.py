"""Epsilon's schedule point by point, and epsilon-greedy by the frequencies it must have."""

from __future__ import annotations

import numpy as np
import pytest

from agents.exploration import LinearSchedule, epsilon_greedy

DRAWS = 20_000


def frequencies(action_values: list[float], epsilon: float, seed: int = 0) -> np.ndarray:
    actions = epsilon_greedy(np.tile(action_values, (DRAWS, 1)), epsilon, np.random.default_rng(seed))
    assert actions.dtype == np.int64
    return np.bincount(actions, minlength=len(action_values)) / DRAWS


def within_five_deviations(observed: np.ndarray, expected: list[float]) -> bool:
    probabilities = np.array(expected)
    return bool(np.all(np.abs(observed - probabilities) <= 5 * np.sqrt(probabilities * (1 - probabilities) / DRAWS)))


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 1.0), (99, 1.0), (100, 1.0), (150, 0.8), (250, 0.4), (300, 0.2), (301, 0.2), (10**9, 0.2)],
)
def test_the_schedule_is_a_line_between_two_constants(step: int, expected: float) -> None:
    assert LinearSchedule(first=1.0, last=0.2, begin=100, end=300)(step) == pytest.approx(expected, abs=1e-12)


def test_a_schedule_may_rise() -> None:
    assert LinearSchedule(first=0.0, last=0.5, begin=0, end=10)(5) == pytest.approx(0.25)


@pytest.mark.parametrize(("begin", "end"), [(0, 1), (7, 7), (7, 3)])
def test_a_schedule_without_a_slope_steps_from_first_to_last_at_its_end(begin: int, end: int) -> None:
    schedule = LinearSchedule(first=1.0, last=0.1, begin=begin, end=end)
    assert [schedule(step) for step in (0, end - 1, end, end + 1)] == [1.0, 1.0, 0.1, 0.1]


def test_without_epsilon_the_best_action_is_always_taken() -> None:
    assert frequencies([0.0, 2.0, -1.0], epsilon=0.0).tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("epsilon", [0.1, 0.5, 1.0])
def test_random_actions_are_uniform_over_all_actions_the_best_included(epsilon: float) -> None:
    others = epsilon / 4
    observed = frequencies([0.0, 2.0, -1.0, 1.0], epsilon)
    assert within_five_deviations(observed, [others, 1 - epsilon + others, others, others])


@pytest.mark.parametrize(
    ("action_values", "expected"),
    [
        ([1.0, 0.0, 1.0, 1.0], [1 / 3, 0, 1 / 3, 1 / 3]),
        ([0.0, 0.0], [1 / 2, 1 / 2]),
        ([-3.0, -3.0, -5.0], [1 / 2, 1 / 2, 0]),
        ([np.inf, 7.0, np.inf], [1 / 2, 0, 1 / 2]),
        ([-np.inf, -np.inf, -np.inf], [1 / 3, 1 / 3, 1 / 3]),
        ([-np.inf, -1e30, -np.inf], [0, 1, 0]),
        ([1e30, np.inf, -np.inf], [0, 1, 0]),
    ],
)
def test_ties_are_broken_evenly_infinite_ones_too(action_values: list[float], expected: list[float]) -> None:
    assert within_five_deviations(frequencies(action_values, epsilon=0.0), expected)


def test_each_row_of_a_batch_is_chosen_by_its_own_values() -> None:
    action_values = np.eye(5)[[3, 0, 4, 2]]
    assert epsilon_greedy(action_values, 0.0, np.random.default_rng(0)).tolist() == [3, 0, 4, 2]


def test_rows_of_a_batch_explore_independently() -> None:
    actions = epsilon_greedy(np.tile([1.0, 0.0], (DRAWS, 1)), 0.5, np.random.default_rng(0))
    explored = actions == 1
    both = np.mean(explored[:-1] & explored[1:])
    assert both == pytest.approx(0.25**2, abs=5 * (0.0625 / DRAWS) ** 0.5)
