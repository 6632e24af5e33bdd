"""Episodes while they run, and the returns of their steps once they have ended."""

from __future__ import annotations

from typing import Any

import numpy as np

Columns = dict[str, np.ndarray]

_FIRST_LENGTH = 128


class RunningEpisodes:
    """The steps of the episode each environment is in, one row a step, kept until the episode ends.

    Args:
        num_envs: number of environments.
        columns: name of each column to the shape of one entry and its type.
    """

    def __init__(self, num_envs: int, columns: dict[str, tuple[tuple[int, ...], Any]]) -> None:
        self.lengths = np.zeros(num_envs, dtype=np.int64)
        self._every_env = np.arange(num_envs)
        self._columns = {
            name: np.zeros((num_envs, _FIRST_LENGTH, *shape), dtype) for name, (shape, dtype) in columns.items()
        }

    def append(self, **entries: np.ndarray) -> None:
        """Add one step to every episode: each column's entries `[num_envs, ...]`."""
        if self.lengths.max() == self._allocated:
            for name, column in self._columns.items():
                self._columns[name] = np.concatenate([column, np.zeros_like(column)], axis=1)
        for name, column in self._columns.items():
            column[self._every_env, self.lengths] = entries[name]
        self.lengths += 1

    def pop(self, env: int) -> Columns:
        """The finished episode of one environment, each column `[steps, ...]`; the next one starts empty."""
        length = self.lengths[env]
        self.lengths[env] = 0
        return {name: column[env, :length].copy() for name, column in self._columns.items()}

    def state_dict(self) -> dict[str, Any]:
        """The running episodes."""
        longest = self.lengths.max()
        columns = {name: column[:, :longest].copy() for name, column in self._columns.items()}
        # Rows beyond an episode's end still hold earlier ones: equal states would not look equal.
        beyond = np.arange(longest) >= self.lengths[:, None]
        for column in columns.values():
            column[beyond] = 0
        return {"lengths": self.lengths.copy(), "columns": columns}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        self.lengths = state["lengths"].copy()
        longest = self.lengths.max()
        for name, saved in state["columns"].items():
            column = self._columns[name]
            self._columns[name] = np.zeros((len(column), max(longest, _FIRST_LENGTH), *column.shape[2:]), column.dtype)
            self._columns[name][:, :longest] = saved

    @property
    def _allocated(self) -> int:
        return next(iter(self._columns.values())).shape[1]


def n_step_returns(rewards: np.ndarray, state_values: np.ndarray, discount: float, steps: int | None) -> np.ndarray:
    """Discounted sum of the next `steps` rewards plus the discounted value of the state they lead to.

    Near the end of the episode the sum is shorter and leads to the last state (Pritzel et al. 2017, eq. 3; with `steps`
    None the whole return, as in Blundell et al. 2016).

    Args:
        rewards: `[T]`.
        state_values: `[T + 1]`, the last one that of the state the episode ended in: 0 where it terminated.
        discount: for each step.
        steps: number of rewards summed; None for all of them.

    Returns:
        float64 `[T]`.
    """
    length = len(rewards)
    steps = length if steps is None else min(steps, length)
    # returns_to_end[t] runs over all rewards from t on; the difference of two leaves the first `steps` of them.
    returns_to_end = np.zeros(length + 1)
    for t in range(length - 1, -1, -1):
        returns_to_end[t] = rewards[t] + discount * returns_to_end[t + 1]
    last = np.minimum(np.arange(length) + steps, length)
    discounts = discount ** (last - np.arange(length))
    return returns_to_end[:-1] + discounts * (state_values[last] - returns_to_end[last])
