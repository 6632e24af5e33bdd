"""What an on-policy agent lived through since its last update, and how much better it was than expected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import DTypeLike

from memory.neural import map_states, named_tensors, with_tensors

State = TypeVar("State", bound=tuple[Any, ...])


class Rollout(Generic[State]):
    """So many steps of every environment, and the core's state where each window of back-propagation begins.

    Args:
        steps: of each environment.
        window: steps through which gradients flow; `steps` must be a multiple of it.
        num_envs: environments.
        columns: shape and type of what is kept of one step of one environment, by name.

    Attributes:
        columns: arrays `[steps, num_envs, *shape]` by name.
        states: before the first step of each window, of all environments.
        length: steps taken in so far.

    Raises:
        ValueError: where the windows do not fill the rollout.
    """

    def __init__(
        self, steps: int, window: int, num_envs: int, columns: Mapping[str, tuple[tuple[int, ...], DTypeLike]]
    ) -> None:
        if steps % window:
            raise ValueError(f"a rollout must be a multiple of its windows, got {steps} and {window} steps")
        self.steps = steps
        self.window = window
        self.columns = {name: np.zeros((steps, num_envs, *shape), dtype) for name, (shape, dtype) in columns.items()}
        self.states: list[State] = []
        self.length = 0

    def append(self, state: State, **step: np.ndarray) -> None:
        """Take in a step of every environment, each column `[num_envs, *shape]`, and the core's state before it."""
        if self.length % self.window == 0:
            self.states.append(state)
        for name, column in self.columns.items():
            column[self.length] = step[name]
        self.length += 1

    def clear(self) -> None:
        """Begin anew."""
        self.states = []
        self.length = 0

    def first_states(self) -> State:
        """The states that the sequences of `in_windows` begin in, `[windows * num_envs, ...]`."""
        return map_states(lambda *windows: torch.cat(windows), *self.states)

    def in_windows(self, array: np.ndarray) -> np.ndarray:
        """The sequences that a column `[steps, num_envs, ...]` falls into, `[window, windows * num_envs, ...]`."""
        windows = array.reshape(-1, self.window, *array.shape[1:]).swapaxes(0, 1)
        return windows.reshape(self.window, -1, *array.shape[2:])

    def state_dict(self) -> dict[str, Any]:
        """The steps so far."""
        return {
            "columns": {name: column[: self.length] for name, column in self.columns.items()},
            "states": [named_tensors(state) for state in self.states],
        }

    def load_state_dict(self, state: dict[str, Any], like: State) -> None:
        """Become what was saved; `like` is a state of the core that it is of."""
        self.states = [with_tensors(like, tensors) for tensors in state["states"]]
        self.length = len(next(iter(state["columns"].values())))
        for name, column in self.columns.items():
            column[: self.length] = state["columns"][name]


def generalised_advantages(
    rewards: np.ndarray,
    values: np.ndarray,
    next_values: np.ndarray,
    terminations: np.ndarray,
    ended: np.ndarray,
    discount: float,
    gae_lambda: float,
) -> np.ndarray:
    """Generalised advantage estimates (Schulman et al. 2016, arXiv 1506.02438, equation 16), each `[time, batch]`.

    Sums of the temporal-difference errors to come, each further one weighing `discount * gae_lambda` as much. They go
    as far as the rollout and the episode. A time limit is not the end of the world: where an episode was truncated
    the last error counts the value of what it led to, and where it terminated that is worth nothing.

    Args:
        rewards: that each step brought.
        values: of what was observed before.
        next_values: of what each step led to; where an episode ended, of its true last observation.
        terminations: where there is nothing beyond.
        ended: where the next step is of another episode, for either reason.
        discount: for each step.
        gae_lambda: 0: the error of one step, which leans on the values; 1: returns, which leave that to chance.
    """
    errors = rewards + discount * np.where(terminations, 0.0, next_values) - values
    advantages = np.zeros_like(errors)
    later = np.zeros_like(errors[0])
    for time in reversed(range(len(errors))):
        later = errors[time] + discount * gae_lambda * np.where(ended[time], 0.0, later)
        advantages[time] = later
    return advantages
