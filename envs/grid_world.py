"""Grid worlds: MiniGrid and BabyAI, small enough that every state can be told apart.

The environments are MiniGrid's own, stepped one after the other. Only the partial view that MiniGrid makes at every
step is switched off, and the view that was asked for made instead (`grid_view`): it is nine tenths of MiniGrid's time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Self, cast

import gymnasium
import numpy as np
import pydantic
import xxhash
from minigrid.core.constants import COLOR_NAMES, COLOR_TO_IDX, OBJECT_TO_IDX, STATE_TO_IDX
from minigrid.core.world_object import Floor, WorldObj
from minigrid.minigrid_env import MiniGridEnv

from envs.grid_view import Cells, partial_symbols
from envs.world import Infos, Screens, World, hash_each, misspelt

_DIRECTIONS = 4
# One plane for each object, each colour, and each state: a door's three, or the agent's four directions.
_PLANES = tuple(
    np.arange(count, dtype=np.uint8)[:, None, None] for count in (len(OBJECT_TO_IDX), len(COLOR_TO_IDX), _DIRECTIONS)
)
_VIDEO_TILE_SIZE = 32

assert len(STATE_TO_IDX) < _DIRECTIONS


class GridWorldConfig(pydantic.BaseModel):
    """A MiniGrid or BabyAI environment. The agent sees the grid alone: neither the mission's text nor a compass."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    name: Literal["grid_world"] = "grid_world"
    """The world."""
    id: str = "MiniGrid-Empty-8x8-v0"
    """The environment, as registered: MiniGrid-DoorKey-6x6-v0, BabyAI-GoToRedBall-v0, ..."""
    observation: Literal["symbolic", "one_hot", "pixels"] = "symbolic"
    """A cell's object, colour and state as three numbers, as 21 planes of 0 and 1, or as a picture."""
    view: Literal["partial", "full"] = "partial"
    """What the agent sees in front of it, turned so that it looks up; or all of the grid, and itself in it."""
    view_size: int | None = pydantic.Field(default=None, ge=3, le=99)
    """Cells along a side of the partial view, odd; 3 in worlds that are to need memory. Empty: the environment's, 7."""
    tile_size: int = pydantic.Field(default=8, ge=4, le=256)
    """Pixels along a cell's side, for pixels."""
    state_hash: Literal["state", "observation"] = "state"
    """What counts as the same state: the environment's own (tells apart what looks alike), or what the agent sees."""
    layouts: int = pydantic.Field(default=0, ge=0, lt=2**31)
    """Layouts that episodes are drawn from (in a small world two can be alike); 1: always the same, 0: no limit."""
    tiles: bool = False
    """Lay floor tiles of random colours wherever nothing is, others in every episode: most of what is seen then
    means nothing. Nothing can be put on a tile, so that moving obstacles stay where they are."""
    actions: int | None = pydantic.Field(default=None, ge=2, lt=2**31)
    """Offer the first of its actions only; 3: left, right and forward. Empty: all that the environment has."""
    max_steps: int | None = pydantic.Field(default=None, ge=1, lt=2**31)
    """Steps after which an episode is truncated (the reward for success falls with them); empty: the environment's."""

    @property
    def title(self) -> str:
        """What the world is called."""
        return f"{self.id} tiled" if self.tiles else self.id

    @pydantic.field_validator("id")
    @classmethod
    def _known(cls, name: str) -> str:
        # MiniGrid registers some (WFC) whose patterns its package lacks.
        known = [one for one in gymnasium.registry if one.startswith(("MiniGrid-", "BabyAI-")) and "-WFC-" not in one]
        if name not in known:
            raise ValueError(misspelt("grid world", name, known))
        return name

    @pydantic.field_validator("view_size")
    @classmethod
    def _odd(cls, size: int | None) -> int | None:
        if size is not None and size % 2 == 0:
            raise ValueError(
                f"the agent stands in the middle of its view: odd, such as {size - 1} or {size + 1}, not {size}"
            )
        return size

    @pydantic.model_validator(mode="after")
    def _seen(self) -> Self:
        if self.view_size is not None and self.view == "full":
            raise ValueError("view_size is of the partial view: leave it out where view is full")
        return self


def make_grid_world(config: GridWorldConfig, num_envs: int) -> GridWorldVectorEnv:
    """Build `num_envs` environments of this kind.

    Raises:
        ValueError: if more actions are asked for than it has.
    """
    return GridWorldVectorEnv(config, num_envs)


def grid_world_screens(config: GridWorldConfig) -> Screens:
    """Pictures of the whole grid, uint8 `[height, width, 3]`, the agent's field of view lit."""
    seen = {"observation": "pixels", "view": "full", "tile_size": _VIDEO_TILE_SIZE}
    return Screens(make_grid_world(config.model_copy(update=seen), 1), lambda channels: channels.transpose(1, 2, 0))


class GridWorldVectorEnv(World):
    """Grid worlds; height and width are the grid's in the full view, `view_size` in the partial one.

    Observations are uint8 `[num_envs, channels, height, width]`, rows from top to bottom:

    - symbolic: MiniGrid's numbers of a cell's object, colour and state (`minigrid.core.constants`). In the full view
      the agent is an object and its direction a state. In the partial view, as in MiniGrid's own, neither its
      position nor its direction is seen, but what it carries lies in its cell; in the full view that is not seen.
    - one_hot: the same as 11 + 6 + 4 planes.
    - pixels: MiniGrid's picture, red, green, blue; `tile_size` pixels a cell. In the full view the cells that the
      agent sees are lit. On an 8 x 8 grid 60 times as slow as symbols in the full view, 12 times in the partial one.

    Infos: `state_hash` uint64 `[num_envs]`, by the option of that name. The hash of the state covers every cell, what
    is hidden in a box, the agent's position, direction and load, and the mission. It leaves out the count of steps
    (which the reward for success depends on), random numbers yet to be drawn, and how far BabyAI has checked off a
    mission of several parts. Where episodes differ in nothing else, equal hashes are the same state.

    An episode's seed draws its layout, its random events and its tiles. With a limited number of layouts,
    `seed % layouts` draws the layout, and the whole seed the rest. An episode that both succeeds and runs out of steps
    is terminated.
    """

    def __init__(self, config: GridWorldConfig, num_envs: int) -> None:
        self._envs = [
            cast(MiniGridEnv, gymnasium.make(config.id, disable_env_checker=True).unwrapped) for _ in range(num_envs)
        ]
        for env in self._envs:
            env.gen_obs = _see_nothing  # type: ignore[method-assign]
            env.agent_view_size = config.view_size or env.agent_view_size
        self._cells = [Cells(env) for env in self._envs]
        self._look, high = _eye(config)
        self._hashes_state = config.state_hash == "state"
        self._layouts, self._tiles = config.layouts, config.tiles
        self._max_steps = config.max_steps
        self._envs[0].reset(seed=0)
        shape = self._look(self._cells[0]).shape
        space = gymnasium.spaces.Box(0, high, shape, dtype=np.uint8)
        num_actions = int(cast(gymnasium.spaces.Discrete, self._envs[0].action_space).n)
        if config.actions is not None and config.actions > num_actions:
            raise ValueError(f"{config.id} has {num_actions} actions: actions cannot be {config.actions}")
        names = [action.name for action in self._envs[0].actions][: config.actions or num_actions]
        super().__init__(num_envs, space, names)
        self._observations = np.zeros((num_envs, *shape), dtype=np.uint8)

    def _begin(self, mask: np.ndarray, seeds: list[int]) -> tuple[np.ndarray, Infos]:
        self._observations = self._observations.copy()
        for index, episode_seed in zip(np.flatnonzero(mask).tolist(), seeds, strict=True):
            env = self._envs[index]
            if self._layouts:
                env.reset(seed=episode_seed % self._layouts)
                env.np_random = np.random.default_rng(episode_seed)
            else:
                env.reset(seed=episode_seed)
            if self._max_steps is not None:
                # After the reset: BabyAI sets a limit of its own there.
                env.max_steps = self._max_steps
            if self._tiles:
                _lay_tiles(env, np.random.default_rng([episode_seed, 1]))
            self._observations[index] = self._look(self._cells[index])
        return self._observations, self._infos()

    def _advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Infos]:
        self._observations = np.empty_like(self._observations)
        rewards = np.zeros(self.num_envs, dtype=np.float64)
        terminations, truncations = np.zeros((2, self.num_envs), dtype=bool)
        for index, (env, action) in enumerate(zip(self._envs, actions.tolist(), strict=True)):
            _, rewards[index], terminated, truncated, _ = env.step(action)
            terminations[index], truncations[index] = terminated, truncated and not terminated
            self._observations[index] = self._look(self._cells[index])
        return self._observations, rewards, terminations, truncations, self._infos()

    def _infos(self) -> Infos:
        if self._hashes_state:
            hashes = [xxhash.xxh3_64_intdigest(_state(cells)) for cells in self._cells]
            return {"state_hash": np.array(hashes, dtype=np.uint64)}
        return {"state_hash": hash_each(self._observations)}


def _lay_tiles(env: MiniGridEnv, rng: np.random.Generator) -> None:
    things = env.grid.grid
    bare = [place for place, thing in enumerate(things) if thing is None]
    for place, colour in zip(bare, rng.choice(COLOR_NAMES, len(bare)).tolist(), strict=True):
        things[place] = Floor(colour)


def _see_nothing() -> dict[str, Any]:
    return {}


def _eye(config: GridWorldConfig) -> tuple[Callable[[Cells], np.ndarray], int]:
    """How to see: a function from an environment's cells to an observation, and the largest value in one."""
    partial = config.view == "partial"
    symbols = (lambda cells: partial_symbols(cells.env)) if partial else _full_symbols
    if config.observation == "symbolic":
        return symbols, max(OBJECT_TO_IDX.values())
    if config.observation == "one_hot":
        return lambda cells: _one_hot(symbols(cells)), 1
    return lambda cells: cells.env.get_frame(tile_size=config.tile_size, agent_pov=partial).transpose(2, 0, 1), 255


def _full_symbols(cells: Cells) -> np.ndarray:
    env = cells.env
    symbols = np.frombuffer(cells.encode(), dtype=np.uint8).reshape(env.height, env.width, 3).transpose(2, 0, 1).copy()
    column, row = env.agent_pos
    symbols[:, row, column] = OBJECT_TO_IDX["agent"], COLOR_TO_IDX["red"], env.agent_dir
    return symbols


def _one_hot(symbols: np.ndarray) -> np.ndarray:
    return np.concatenate([channel == values for channel, values in zip(symbols, _PLANES, strict=True)])


def _state(cells: Cells) -> bytes:
    """All that a state hash covers. MiniGrid's own `hash` leaves out the load, what boxes hold, and the mission."""
    env = cells.env
    encoded = cells.encode()
    pose = bytes((*env.agent_pos, env.agent_dir))
    hidden = [_contents(box.contains) for box in cells.boxes]
    return b"".join((encoded, pose, _contents(env.carrying), *hidden, env.mission.encode()))


def _contents(item: WorldObj | None) -> bytes:
    """An item with all that it holds, closed by a byte that no item has."""
    items: list[int] = []
    while item is not None:
        items.extend(item.encode())
        item = item.contains
    return bytes((*items, 255))
