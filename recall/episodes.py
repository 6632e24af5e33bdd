"""Which episode of a training an agent step was in."""

from __future__ import annotations

import bisect
from typing import Any

import numpy as np


class TrainingEpisodes:
    """The first agent steps of episodes of a training, in parallel environments; numbered as they began.

    All of them are known, unless it began to be watched later than the training: `begin_after`.
    """

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self._firsts = [[env + 1] for env in range(num_envs)]
        self._numbers = [[env] for env in range(num_envs)]
        self._next = num_envs

    def begin(self, first: int) -> int:
        """An episode begins at this agent step; its number."""
        env = (first - 1) % self.num_envs
        self._firsts[env].append(first)
        self._numbers[env].append(self._next)
        self._next += 1
        return self._next - 1

    def begin_after(self, episodes: int) -> None:
        """Know nothing of so many episodes, those under way included."""
        self._firsts = [[] for _ in range(self.num_envs)]
        self._numbers = [[] for _ in range(self.num_envs)]
        self._next = episodes

    def of(self, step: int) -> tuple[int, int] | tuple[None, None]:
        """The number of the episode that an agent step, 1 or more, was in, and the step within it, from 0.

        None for both where nobody watched yet when it began.
        """
        env = (step - 1) % self.num_envs
        place = bisect.bisect_right(self._firsts[env], step) - 1
        if place < 0:
            return None, None
        return self._numbers[env][place], (step - self._firsts[env][place]) // self.num_envs

    def state_dict(self) -> dict[str, Any]:
        """All episodes so far; 16 bytes each."""
        return {
            "firsts": [np.array(firsts) for firsts in self._firsts],
            "numbers": [np.array(numbers) for numbers in self._numbers],
            "next": self._next,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        self._firsts = [firsts.tolist() for firsts in state["firsts"]]
        self._numbers = [numbers.tolist() for numbers in state["numbers"]]
        self._next = state["next"]
