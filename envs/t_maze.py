"""The passive T-maze: which way to turn at a corridor's end is told at its beginning, and nowhere else.

Bakker 2001 in the form of Ni et al. 2023 (When Do Transformers Shine in RL?, section 5), whose penalty takes away what
is hard about exploring it: what is left is to remember one bit over the length of the corridor.
"""

from __future__ import annotations

from typing import Any, Literal

import gymnasium
import numpy as np
import pydantic

from envs.array_world import ArrayWorld, observation_screens
from envs.world import Infos, Screens, hash_each

_MOVES = {"right": (1, 0), "up": (0, 1), "left": (-1, 0), "down": (0, -1)}
_ALONG, _ACROSS = np.array(list(_MOVES.values())).T


class TMazeConfig(pydantic.BaseModel):
    """A corridor that ends in a junction. On which side the goal is was told in the first observation alone."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    name: Literal["t_maze"] = "t_maze"
    """The world."""
    length: int = pydantic.Field(default=50, ge=1, lt=2**31)
    """Steps from the beginning of the corridor to the junction; an episode is one step longer."""
    penalised: bool = True
    """Whether a step costs 1 / length that leaves the agent behind where it could be; without, only the goal is paid
    for, and random play hardly ever comes to it."""

    @property
    def title(self) -> str:
        """What the world is called."""
        return f"TMaze-{self.length}"


def make_t_maze(config: TMazeConfig, num_envs: int) -> TMaze:
    """Build `num_envs` mazes."""
    return TMaze(config, num_envs)


def t_maze_screens(config: TMazeConfig) -> Screens:
    """Pictures of what is observed, uint8 `[height, width, 3]`."""
    return observation_screens(make_t_maze(config, 1))


class TMaze(ArrayWorld):
    """T-mazes of one length.

    Observations are uint8 `[num_envs, 1, 1, 3]`: whether the agent is at the junction or beyond, and whether up is, and
    down is. In an episode's first observation that is where the goal is; later, which way the agent has turned. In the
    corridor all are 0.

    Actions are right, up, left and down; one that leads into a wall does nothing. An episode terminates with step
    `length + 1`, which is paid 1 if it leads to the goal. Before, each that leaves the agent behind where it could be
    costs `1 / length`. The best return is 1; without memory 0.5; of never moving -1.

    Infos: `state_hash` uint64 `[num_envs]`, of the observation.
    """

    def __init__(self, config: TMazeConfig, num_envs: int) -> None:
        super().__init__(num_envs, gymnasium.spaces.Box(0, 1, (1, 1, 3), dtype=np.uint8), list(_MOVES))
        self._length = config.length
        self._penalty = 1 / config.length if config.penalised else 0.0
        # Steps along the corridor; 1 up and -1 down, where the agent is and where the goal is.
        self._along, self._across, self._goals = np.zeros((3, num_envs), dtype=np.int64)

    def _start(self, mask: np.ndarray) -> None:
        self._along[mask] = self._across[mask] = 0
        self._goals[mask] = 1 - 2 * self._draw(np.zeros(self.num_envs, dtype=np.int64), 2)[mask]

    def _advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Infos]:
        at_junction = self._along == self._length
        # Nobody who has turned moves any more: there is but one step at the junction.
        self._across = np.where(at_junction, _ACROSS[actions], 0)
        self._along = np.clip(self._along + _ALONG[actions], 0, self._length)
        self._time += 1
        terminations = self._time > self._length
        paid = np.where(self._across == self._goals, 1.0, 0.0)
        behind = 0.0 - self._penalty * (self._along < self._time)
        observations, infos = self._look()
        rewards = np.where(terminations, paid, behind)
        return observations, rewards, terminations, np.zeros(self.num_envs, dtype=bool), infos

    def _look(self) -> tuple[np.ndarray, dict[str, Any]]:
        side = np.where(self._time == 0, self._goals, self._across)
        flags = np.stack([self._along == self._length, side > 0, side < 0], axis=1)
        observations = flags[:, None, None].astype(np.uint8)
        return observations, {"state_hash": hash_each(observations)}
