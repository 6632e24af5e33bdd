"""A maze with a goal that is never seen: it must be found, and then remembered, since finding it teleports away.

Miconi's grid maze (Miconi, Stanley and Clune 2018, section 4.5; Miconi et al. 2019, section 4.2), all mazes stepped at
once. It is most likely what the agent of Metalearned Neural Memory explored (Munkhdalai et al. 2019).
"""

from __future__ import annotations

from typing import Any, Literal, Self

import gymnasium
import numpy as np
import pydantic

from envs.array_world import ArrayWorld
from envs.world import Infos, Screens, hash_each

GOAL_REWARD = 10.0
_MOVES = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
_TILE = 32
_COLOURS = {"floor": (245, 245, 245), "wall": (70, 70, 80), "goal": (205, 50, 45), "agent": (250, 150, 30)}


class HiddenGoalMazeConfig(pydantic.BaseModel):
    """A maze whose goal is invisible and stays where it is in an episode. The agent sees the walls around it alone."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    name: Literal["hidden_goal_maze"] = "hidden_goal_maze"
    """The world."""
    size: int = pydantic.Field(default=11, ge=5, le=31)
    """Cells along a side, the walls around the maze included; odd. Published: 9, 11 and 13."""
    steps_per_episode: int = pydantic.Field(default=200, ge=1, lt=2**31)
    """Steps after which an episode is truncated; nothing else ends one."""
    wall_penalty: float = pydantic.Field(default=0.0, ge=0.0)
    """What a step into a wall costs; 0 in the newer of the two published versions, 0.1 in the older."""

    @property
    def title(self) -> str:
        """What the world is called."""
        return f"HiddenGoalMaze-{self.size}"

    @pydantic.field_validator("size")
    @classmethod
    def _odd(cls, size: int) -> int:
        if size % 2 == 0:
            raise ValueError(
                f"a maze with a cell in its centre has an odd size, such as {size - 1} or {size + 1}, not {size}"
            )
        return size

    @pydantic.model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.steps_per_episode < self.size:
            raise ValueError(
                f"in a maze of size {self.size} no goal can be counted on within {self.steps_per_episode} steps: "
                f"steps_per_episode should be {self.size} or more"
            )
        return self


def make_hidden_goal_maze(config: HiddenGoalMazeConfig, num_envs: int) -> HiddenGoalMaze:
    """Build `num_envs` mazes."""
    return HiddenGoalMaze(config, num_envs)


def hidden_goal_maze_screens(config: HiddenGoalMazeConfig) -> Screens:
    """Pictures of a whole maze, uint8 `[height, width, 3]`: the agent orange, the goal, which it cannot see, red."""
    maze = make_hidden_goal_maze(config, 1)
    return Screens(maze, lambda _: maze.picture())


class HiddenGoalMaze(ArrayWorld):
    """Mazes of pillars, in which an episode begins in the centre.

    Observations are uint8 `[num_envs, 1, 3, 3]`: 1 where there is a wall in the cells around the agent, which is in the
    middle. Nothing else is told: what it did last, and what that was paid, a recurrent agent must carry on by itself.

    A step to the goal is paid 10 and ends on a free cell drawn at random, the goal excepted. The goal is drawn from all
    free cells but the centre. Episodes are truncated.

    Infos: `state_hash` uint64 `[num_envs]`, of the observation; and where episodes ended `metrics`, means over them:
    `charts/hits`, how often the goal was reached, and `charts/oracle_share`, their share in the hits of an oracle that
    knows the way and is teleported to the same cells.
    """

    def __init__(self, config: HiddenGoalMazeConfig, num_envs: int) -> None:
        space = gymnasium.spaces.Box(0, 1, (1, 3, 3), dtype=np.uint8)
        super().__init__(num_envs, space, list(_MOVES))
        self._walls = maze_walls(config.size)
        self._steps_per_episode = config.steps_per_episode
        self._wall_penalty = config.wall_penalty
        # A place is the number of a free cell, row by row; what it looks like and where it leads to is worked out once.
        self._cells = np.argwhere(~self._walls)
        self._moves = _moves(self._walls)
        self._distances = _distances(self._moves)
        self._patches = np.stack(
            [self._walls[row - 1 : row + 2, column - 1 : column + 2] for row, column in self._cells]
        )
        self._patches = self._patches[:, None].astype(np.uint8)
        self._hashes = hash_each(self._patches)
        # As many cells lie before it as after it: turned half round, a maze is the same.
        self._centre = len(self._cells) // 2
        self._places, self._goals, self._hits = np.zeros((3, num_envs), dtype=np.int64)

    def picture(self) -> np.ndarray:
        """The first maze from above, uint8 `[height, width, 3]`."""
        picture = np.where(self._walls[:, :, None], _COLOURS["wall"], _COLOURS["floor"]).astype(np.uint8)
        picture[tuple(self._cells[self._goals[0]])] = _COLOURS["goal"]
        picture[tuple(self._cells[self._places[0]])] = _COLOURS["agent"]
        return picture.repeat(_TILE, axis=0).repeat(_TILE, axis=1)

    def _start(self, mask: np.ndarray) -> None:
        self._places[mask] = self._centre
        self._hits[mask] = 0
        self._goals[mask] = self._draw_but(np.zeros(self.num_envs, dtype=np.int64), self._centre)[mask]

    def _advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Infos]:
        before = self._places
        self._places = self._moves[before, actions]
        rewards = 0.0 - self._wall_penalty * (self._places == before)
        hit = self._places == self._goals
        if hit.any():
            rewards[hit] += GOAL_REWARD
            self._hits[hit] += 1
            self._places[hit] = self._draw_but(self._hits, self._goals)[hit]
        self._time += 1
        truncations = self._time >= self._steps_per_episode
        observations, infos = self._look()
        if truncations.any():
            infos["metrics"] = self._metrics(truncations)
        return observations, rewards, np.zeros(self.num_envs, dtype=bool), truncations, infos

    def _look(self) -> tuple[np.ndarray, dict[str, Any]]:
        return self._patches[self._places], {"state_hash": self._hashes[self._places]}

    def _draw_but(self, numbers: np.ndarray, excepted: np.ndarray | int) -> np.ndarray:
        """Places drawn from all but one. Number 0 of an episode is its goal, number n where its n-th hit leads to."""
        places = self._draw(numbers, len(self._cells) - 1)
        return places + (places >= excepted)

    def _metrics(self, ended: np.ndarray) -> dict[str, float]:
        hits, oracle_hits = self._hits[ended], self._oracle_hits()[ended]
        return {"charts/hits": float(hits.mean()), "charts/oracle_share": float((hits / oracle_hits).mean())}

    def _oracle_hits(self) -> np.ndarray:
        """How often the goal is reached in the running episodes on shortest ways only, int64 `[num_envs]`."""
        goals = self._goals[:, None]
        teleports = self._draw_but(1 + np.arange(self._steps_per_episode)[None, :], goals)
        starts = np.concatenate([np.full((self.num_envs, 1), self._centre), teleports], axis=1)
        arrivals = self._distances[starts, goals].cumsum(axis=1)
        return (arrivals <= self._steps_per_episode).sum(axis=1)


def maze_walls(size: int) -> np.ndarray:
    """Where a maze has walls, bool `[size, size]`: all around, and in every cell within whose row and column are even.

    The centre is free, whatever its row and column are.
    """
    walls = np.zeros((size, size), dtype=bool)
    walls[::2, ::2] = True
    walls[[0, -1]] = walls[:, [0, -1]] = True
    walls[size // 2, size // 2] = False
    return walls


def _moves(walls: np.ndarray) -> np.ndarray:
    """The place that each action leads to from each, int64 `[places, actions]`; a wall keeps one where one is."""
    places = np.full(walls.shape, -1)
    places[~walls] = np.arange((~walls).sum())
    rows, columns = np.nonzero(~walls)
    reached = np.stack([places[rows + down, columns + right] for down, right in _MOVES.values()], axis=1)
    return np.where(reached >= 0, reached, np.arange(len(rows))[:, None])


def _distances(moves: np.ndarray) -> np.ndarray:
    """Steps on the shortest way from each place to each, int64 `[places, places]`."""
    places = len(moves)
    distances = np.where(np.eye(places, dtype=bool), 0, places)
    while True:
        # A place is a step farther than the nearest of those that it leads to.
        nearer = np.minimum(distances, 1 + np.minimum.reduce([distances[reached] for reached in moves.T]))
        if np.array_equal(nearer, distances):
            return distances
        distances = nearer
