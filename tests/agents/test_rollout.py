"""Rollouts: advantages against sums written out step by step, and windows against the steps they are of."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from agents.rollout import Rollout, generalised_advantages


class OneTensor(NamedTuple):
    number: Tensor


@settings(max_examples=80)
@given(
    time=st.integers(1, 12),
    batch=st.integers(1, 3),
    discount=st.sampled_from([0.0, 0.9, 1.0]),
    gae_lambda=st.sampled_from([0.0, 0.8, 1.0]),
    end_chance=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 1000),
)
def test_advantages_are_discounted_sums_of_errors_up_to_the_end_of_the_episode(
    time: int, batch: int, discount: float, gae_lambda: float, end_chance: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rewards, values, next_values = rng.normal(size=(3, time, batch))
    ended = rng.random((time, batch)) < end_chance
    terminations = ended & (rng.random((time, batch)) < 0.5)
    advantages = generalised_advantages(rewards, values, next_values, terminations, ended, discount, gae_lambda)
    for sequence in range(batch):
        for start in range(time):
            expected, weight = 0.0, 1.0
            for step in range(start, time):
                bootstrap = 0.0 if terminations[step, sequence] else next_values[step, sequence]
                error = rewards[step, sequence] + discount * bootstrap - values[step, sequence]
                expected += weight * error
                weight *= discount * gae_lambda
                if ended[step, sequence]:
                    break
            assert advantages[start, sequence] == pytest.approx(expected, abs=1e-9)


def test_with_lambda_one_they_are_returns_less_values() -> None:
    """One episode that goes on beyond the rollout, and one that a time limit ends within it; by hand."""
    rewards = np.array([[1.0, 1.0], [2.0, 2.0], [4.0, 4.0]])
    values = np.array([[10.0, 10.0], [20.0, 20.0], [30.0, 30.0]])
    next_values = np.array([[20.0, 20.0], [30.0, 8.0], [16.0, 16.0]])
    ended = np.array([[False, False], [False, True], [False, False]])
    advantages = generalised_advantages(rewards, values, next_values, np.zeros_like(ended), ended, 0.5, 1.0)
    np.testing.assert_allclose(advantages[:, 0], [1 + 1 + 1 + 2 - 10, 2 + 2 + 4 - 20, 4 + 8 - 30])
    np.testing.assert_allclose(advantages[:, 1], [1 + 1 + 2 - 10, 2 + 4 - 20, 4 + 8 - 30])


def filled(steps: int, window: int, num_envs: int) -> Rollout[OneTensor]:
    """Every number in it says of which step and environment it is."""
    rollout = Rollout[OneTensor](steps, window, num_envs, {"marks": ((2,), np.int64)})
    for step in range(steps):
        marks = np.stack([np.full(num_envs, step), np.arange(num_envs)], axis=1)
        rollout.append(OneTensor(torch.from_numpy(marks)), marks=marks)
    return rollout


@pytest.mark.parametrize(("steps", "window", "num_envs"), [(6, 6, 3), (6, 2, 3), (6, 1, 2), (8, 4, 1)])
def test_each_sequence_is_consecutive_steps_of_one_environment_from_the_state_before_them(
    steps: int, window: int, num_envs: int
) -> None:
    rollout = filled(steps, window, num_envs)
    sequences = rollout.in_windows(rollout.columns["marks"])
    begun = rollout.first_states().number.numpy()
    assert sequences.shape == (window, steps // window * num_envs, 2)
    for sequence in range(sequences.shape[1]):
        first, env = begun[sequence]
        assert sequences[:, sequence].tolist() == [[first + step, env] for step in range(window)]
    assert sorted(map(tuple, begun.tolist())) == [
        (start, env) for start in range(0, steps, window) for env in range(num_envs)
    ]


def test_a_rollout_begins_anew() -> None:
    rollout = filled(4, 2, 1)
    rollout.clear()
    for step in range(4):
        marks = np.array([[step + 10, 0]])
        rollout.append(OneTensor(torch.from_numpy(marks)), marks=marks)
    assert rollout.columns["marks"][:, 0, 0].tolist() == [10, 11, 12, 13]
    assert rollout.first_states().number[:, 0].tolist() == [10, 12]


def test_windows_that_do_not_fill_it_are_refused() -> None:
    with pytest.raises(ValueError, match="a rollout must be a multiple of its windows, got 6 and 4 steps"):
        Rollout[OneTensor](6, 4, 1, {})
