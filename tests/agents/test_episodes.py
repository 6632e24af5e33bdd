"""Running episodes against lists of steps, and N-step returns against the definition, summed term by term."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.episodes import RunningEpisodes, n_step_returns

DISCOUNTS = [0.0, 0.5, 0.99, 1.0]
NUMBERS = st.floats(-100, 100, width=32)
COLUMNS: dict[str, tuple[tuple[int, ...], Any]] = {
    "keys": ((2,), np.float32),
    "hashes": ((), np.uint64),
    "actions": ((), np.int64),
}


def returns_by_definition(rewards: list[float], values: list[float], discount: float, steps: int | None) -> list[float]:
    length = len(rewards)
    result = []
    for t in range(length):
        end = length if steps is None else min(t + steps, length)
        total = 0.0
        for j in range(t, end):
            total += discount ** (j - t) * rewards[j]
        result.append(total + discount ** (end - t) * values[end])
    return result


@given(
    rewards=st.lists(NUMBERS, min_size=1, max_size=30),
    data=st.data(),
    discount=st.sampled_from(DISCOUNTS),
    steps=st.none() | st.integers(1, 40),
)
def test_returns_are_sums_of_discounted_rewards_and_of_the_value_they_lead_to(
    rewards: list[float], data: st.DataObject, discount: float, steps: int | None
) -> None:
    values = data.draw(st.lists(NUMBERS, min_size=len(rewards) + 1, max_size=len(rewards) + 1))
    result = n_step_returns(np.array(rewards), np.array(values), discount, steps)
    assert result.dtype == np.float64
    expected = returns_by_definition(rewards, values, discount, steps)
    np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        # By hand, with discount 0.5: rewards 1, 2, 4 and values 10, 20, 30, then 80 of the last state.
        (1, [1 + 10, 2 + 15, 4 + 40]),
        (2, [1 + 1 + 7.5, 2 + 2 + 20, 4 + 40]),
        (3, [1 + 1 + 1 + 10, 2 + 2 + 20, 4 + 40]),
        (None, [1 + 1 + 1 + 10, 2 + 2 + 20, 4 + 40]),
    ],
)
def test_a_truncated_episode_bootstraps_from_the_value_of_its_last_state(
    steps: int | None, expected: list[float]
) -> None:
    result = n_step_returns(np.array([1.0, 2.0, 4.0]), np.array([10.0, 20.0, 30.0, 80.0]), 0.5, steps)
    assert result.tolist() == expected


def steps_of(num_envs: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "keys": rng.standard_normal((num_envs, 2), dtype=np.float32),
        "hashes": rng.integers(0, 2**64, num_envs, dtype=np.uint64),
        "actions": rng.integers(0, 5, num_envs),
    }


def assert_episode(episode: dict[str, np.ndarray], steps: list[dict[str, np.ndarray]], env: int) -> None:
    """The episode holds just these steps of one environment, in order."""
    assert set(episode) == set(COLUMNS)
    for name, (shape, dtype) in COLUMNS.items():
        expected = [step[name][env] for step in steps]
        assert episode[name].dtype == dtype
        np.testing.assert_array_equal(episode[name], np.reshape(expected, (len(steps), *shape)))


def test_an_episode_grows_far_beyond_the_first_allocation_and_keeps_every_step() -> None:
    episodes = RunningEpisodes(2, COLUMNS)
    steps = [steps_of(2, seed) for seed in range(1000)]
    for step in steps:
        episodes.append(**step)
    assert_episode(episodes.pop(1), steps, env=1)
    assert_episode(episodes.pop(0), steps, env=0)


@given(st.lists(st.sets(st.integers(0, 2)), max_size=300))
def test_environments_end_their_episodes_independently(ends: list[set[int]]) -> None:
    episodes = RunningEpisodes(3, COLUMNS)
    running: list[list[dict[str, np.ndarray]]] = [[], [], []]
    for seed, ended in enumerate(ends):
        step = steps_of(3, seed)
        episodes.append(**step)
        for env in range(3):
            running[env].append(step)
        for env in ended:
            assert_episode(episodes.pop(env), running[env], env)
            running[env] = []
    assert episodes.lengths.tolist() == [len(steps) for steps in running]


def test_a_popped_episode_is_not_touched_by_the_next_one() -> None:
    episodes = RunningEpisodes(1, COLUMNS)
    first, second = steps_of(1, 0), steps_of(1, 1)
    episodes.append(**first)
    popped = episodes.pop(0)
    episodes.append(**second)
    assert_episode(popped, [first], env=0)
    assert_episode(episodes.pop(0), [second], env=0)


@pytest.mark.parametrize("length", [0, 1, 127, 128, 129, 300])
@pytest.mark.parametrize("used_before", [False, True])
def test_running_episodes_go_on_after_a_state_round_trip(length: int, used_before: bool) -> None:
    episodes = RunningEpisodes(2, COLUMNS)
    early = [steps_of(2, seed) for seed in range(5)]
    for step in early:
        episodes.append(**step)
    episodes.pop(1)
    middle = [steps_of(2, 100 + seed) for seed in range(length)]
    for step in middle:
        episodes.append(**step)

    restored = RunningEpisodes(2, COLUMNS)
    if used_before:
        for seed in range(400):
            restored.append(**steps_of(2, 1000 + seed))
    restored.load_state_dict(episodes.state_dict())
    late = [steps_of(2, 500 + seed) for seed in range(200)]
    for step in late:
        restored.append(**step)
    assert_episode(restored.pop(0), early + middle + late, env=0)
    assert_episode(restored.pop(1), middle + late, env=1)


def test_a_saved_state_is_not_touched_by_later_steps() -> None:
    episodes = RunningEpisodes(1, COLUMNS)
    first = steps_of(1, 0)
    episodes.append(**first)
    state = episodes.state_dict()
    episodes.pop(0)
    episodes.append(**steps_of(1, 1))
    restored = RunningEpisodes(1, COLUMNS)
    restored.load_state_dict(state)
    assert_episode(restored.pop(0), [first], env=0)
