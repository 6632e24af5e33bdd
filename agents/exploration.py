"""Choosing among action values: epsilon-greedy with ties broken at random, and epsilon's schedule."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LinearSchedule:
    """`first` until step `begin`, `last` from step `end` on, a straight line between."""

    first: float
    last: float
    begin: int
    end: int

    def __call__(self, step: int) -> float:
        if step >= self.end:
            return self.last
        if step <= self.begin:
            return self.first
        share = (step - self.begin) / (self.end - self.begin)
        return self.first + share * (self.last - self.first)


def epsilon_greedy(action_values: np.ndarray, epsilon: float, rng: np.random.Generator) -> np.ndarray:
    """The best action of each row of `action_values [batch, actions]`, or with chance `epsilon` any; int64 `[batch]`.

    Equal values are broken at random: an order among actions would otherwise decide every unseen state.
    """
    best = action_values == action_values.max(axis=1, keepdims=True)
    greedy = (rng.random(action_values.shape) * best).argmax(axis=1)
    uniform = rng.integers(0, action_values.shape[1], len(greedy))
    return np.where(rng.random(len(greedy)) < epsilon, uniform, greedy)
