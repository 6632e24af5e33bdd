"""What is in a grid, and what of it lies before an agent: as MiniGrid tells it, in a fraction of MiniGrid's time.

For a view MiniGrid copies the cells before the agent into a grid of their own, turns that up to four times, and asks
each cell several times whether the next ones are seen behind it. Here the cells are picked where they lie, and a line
of them is a number of bits, of which it is worked out once what is seen past it.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable

import numpy as np
from minigrid.core.constants import DIR_TO_VEC, OBJECT_TO_IDX
from minigrid.core.world_object import Wall, WorldObj
from minigrid.minigrid_env import MiniGridEnv

_EMPTY = (OBJECT_TO_IDX["empty"], 0, 0)
_UNSEEN = (OBJECT_TO_IDX["unseen"], 0, 0)
_OUTSIDE = Wall()


class Cells:
    """The cells of an environment's grid, encoded anew only after something has changed in them.

    What most cells hold does never change, but for the cell that it is in: whether the same things lie where they lay
    is told by comparing places in memory, 1 us for 300 cells. Things that have a state, such as doors, are asked anew.

    Attributes:
        env: the environment.
        boxes: the boxes that lay in the grid when it was last encoded, row by row.
    """

    def __init__(self, env: MiniGridEnv) -> None:
        self.env = env
        self.boxes: list[WorldObj] = []
        self._things: list[WorldObj | None] = []
        self._changing: list[WorldObj] = []
        self._states: list[tuple[int, int, int]] = []
        self._encoded = b""

    def encode(self) -> bytes:
        """Object, colour and state of each cell, row by row; as MiniGrid's `Grid.encode` has them."""
        things = self.env.grid.grid
        if things != self._things:
            present = [thing for thing in things if thing is not None]
            self._things = things.copy()
            self._changing = [thing for thing in present if type(thing).encode is not WorldObj.encode]
            self.boxes = [thing for thing in present if thing.type == "box"]
        elif [thing.encode() for thing in self._changing] == self._states:
            return self._encoded
        self._states = [thing.encode() for thing in self._changing]
        self._encoded = bytes(
            itertools.chain.from_iterable(_EMPTY if thing is None else thing.encode() for thing in things)
        )
        return self._encoded


def partial_symbols(env: MiniGridEnv) -> np.ndarray:
    """Object, colour and state of the cells before the agent, turned so that it looks up.

    The agent stands in the middle of the lowest line; in its place lies what it carries. Cells that are hidden by
    others are unseen.

    Returns:
        uint8 `[3, agent_view_size, agent_view_size]`; what MiniGrid's `gen_obs` has as an image, channels first.
    """
    size = env.agent_view_size
    column, row = env.agent_pos
    pick = _window(size, env.width, env.height, int(env.agent_dir), int(column), int(row))
    cells = pick((*env.grid.grid, _OUTSIDE))
    symbols: list[int] = []
    lines = [cells[start : start + size] for start in range(0, size * size, size)]
    for line, seen in zip(lines, _seen(lines, size, env.see_through_walls), strict=True):
        for place, cell in enumerate(line):
            symbols += _UNSEEN if not seen >> place & 1 else _EMPTY if cell is None else cell.encode()
    start = 3 * (size * (size - 1) + size // 2)
    symbols[start : start + 3] = _EMPTY if env.carrying is None else env.carrying.encode()
    return np.array(symbols, dtype=np.uint8).reshape(size, size, 3).transpose(2, 0, 1).copy()


def _seen(lines: list[tuple[WorldObj | None, ...]], size: int, through_walls: bool) -> list[int]:
    """Which cells of each line are seen, as bits, the lowest of the leftmost cell."""
    if through_walls:
        return [2**size - 1] * size
    seen = []
    reached = 1 << size // 2
    for line in reversed(lines):
        clear = 0
        for place, cell in enumerate(line):
            if cell is None or cell.see_behind():
                clear |= 1 << place
        here, reached = _past(size, reached, clear)
        seen.append(here)
    return seen[::-1]


@functools.cache
def _past(size: int, reached: int, clear: int) -> tuple[int, int]:
    """What is seen of a line, and of the one above it, from the cells that are reached and those that hide nothing.

    Sight goes on from cell to cell, to the right and then to the left, and from each of them up. As in MiniGrid, the
    last cell in either direction does not pass it on.
    """
    above = 0
    for places, step in ((range(size - 1), 1), (range(size - 1, 0, -1), -1)):
        for place in places:
            if (reached & clear) >> place & 1:
                reached |= 1 << place + step
                above |= 1 << place + step | 1 << place
    return reached, above


@functools.cache
def _window(
    size: int, width: int, height: int, direction: int, column: int, row: int
) -> Callable[[tuple[WorldObj | None, ...]], tuple[WorldObj | None, ...]]:
    """Picks the cells that lie before an agent out of all cells, line by line; the one after the last lies outside.

    One is kept for each place and direction that an agent was ever seen in: some hundred bytes.
    """
    ahead_x, ahead_y = map(int, DIR_TO_VEC[direction])
    places = []
    for line in range(size):
        for place in range(size):
            ahead, aside = size - 1 - line, place - size // 2
            x = column + ahead * ahead_x - aside * ahead_y
            y = row + ahead * ahead_y + aside * ahead_x
            places.append(y * width + x if 0 <= x < width and 0 <= y < height else width * height)
    return operator.itemgetter(*places)
