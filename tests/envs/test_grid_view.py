"""Cells and views of grids against MiniGrid's own."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from minigrid.core.world_object import Box, Door, Key

from envs.grid_view import Cells, partial_symbols


@pytest.mark.parametrize(
    "name",
    [
        "MiniGrid-ObstructedMaze-2Dlhb-v1",
        "MiniGrid-LockedRoom-v0",
        "MiniGrid-LavaGapS7-v0",
        "MiniGrid-MemoryS7-v0",
        "BabyAI-KeyInBox-v0",
        "BabyAI-GoToRedBallGrey-v0",
        "MiniGrid-Dynamic-Obstacles-Random-5x5-v0",
    ],
)
def test_views_of_any_size_are_minigrids(name: str) -> None:
    env: Any = gymnasium.make(name).unwrapped
    cells = Cells(env)
    rng = np.random.default_rng(0)
    for episode in range(4):
        env.reset(seed=episode)
        for action in rng.integers(0, env.action_space.n, 60):
            for size in (3, 5, 7, 9):
                env.agent_view_size = size
                expected = env.gen_obs()["image"].transpose(2, 1, 0)
                assert np.array_equal(partial_symbols(env), expected)
            encoded = np.frombuffer(cells.encode(), dtype=np.uint8).reshape(env.height, env.width, 3)
            assert np.array_equal(encoded, env.grid.encode().transpose(1, 0, 2))
            if env.step(action)[2]:
                break
            if rng.random() < 0.2:
                # Anywhere, or the agent would seldom leave the room that it begins in.
                env.agent_pos = tuple(rng.integers(1, (env.width - 1, env.height - 1)))


def test_cells_that_change_are_encoded_anew() -> None:
    env: Any = gymnasium.make("MiniGrid-Empty-8x8-v0").unwrapped
    env.reset(seed=0)
    cells, door, box = Cells(env), Door("red", is_locked=True), Box("blue")
    kept = cells.encode()
    assert cells.encode() is kept

    def assert_encoded_anew() -> None:
        nonlocal kept
        before, kept = kept, cells.encode()
        assert kept != before
        np.testing.assert_array_equal(np.frombuffer(kept, dtype=np.uint8), env.grid.encode().transpose(1, 0, 2).ravel())

    for column, thing in ((3, door), (4, box), (5, Key("red"))):
        env.grid.set(column, 2, thing)
        assert_encoded_anew()
    door.is_locked = False
    assert_encoded_anew()
    door.is_open = True
    assert_encoded_anew()
    assert cells.boxes == [box]
    env.grid.set(4, 2, None)
    assert_encoded_anew()
    assert cells.boxes == []
