"""MiniGrid-Memory: what its ends are paid, how much playing it is worth, and when it needs a memory at all."""

from __future__ import annotations

import itertools
from collections import deque
from typing import Any, cast

import gymnasium
import numpy as np
import pytest
from minigrid.core.constants import DIR_TO_VEC, OBJECT_TO_IDX

from envs import GridWorldConfig, make
from envs.grid_view import partial_symbols
from envs.world import World

LEFT, RIGHT, FORWARD = range(3)


def to_the_fork(world: World) -> int:
    """Walk to the end of a memory world's hallway; returns the steps it took, the last one against the wall."""
    (env,) = cast(Any, world)._envs
    for steps in itertools.count(1):
        before = tuple(env.agent_pos)
        world.step(np.array([FORWARD]))
        if tuple(env.agent_pos) == before:
            return steps
    raise AssertionError


@pytest.mark.parametrize(("size", "suffix"), [(7, ""), (9, ""), (11, ""), (13, ""), (13, "Random"), (17, "Random")])
def test_memory_pays_for_the_matching_side_and_ends_on_either(size: int, suffix: str) -> None:
    world = make(GridWorldConfig(id=f"MiniGrid-MemoryS{size}{suffix}-v0", view_size=3, actions=3), 1)
    assert world.action_names == ("left", "right", "forward")
    assert world.single_observation_space.shape == (3, 3, 3)
    paid = []
    for seed in range(12):
        for turn in (LEFT, RIGHT):
            world.reset(seed=[seed])
            steps = to_the_fork(world) + 2
            world.step(np.array([turn]))
            _, rewards, terminations, truncations, _ = world.step(np.array([FORWARD]))
            assert terminations[0] and not truncations[0]
            assert rewards[0] in (0.0, pytest.approx(1 - 0.9 * steps / (5 * size**2)))
            paid.append(rewards[0] > 0)
    assert all(left != right for left, right in zip(paid[::2], paid[1::2], strict=True))
    assert 2 < sum(paid[::2]) < 10


def test_memory_runs_out_of_steps() -> None:
    world = make(GridWorldConfig(id="MiniGrid-MemoryS7-v0", view_size=3, actions=3), 1)
    world.reset(seed=[0])
    for step in range(1, 246):
        _, rewards, terminations, truncations, _ = world.step(np.array([LEFT]))
        assert truncations[0] == (step == 245) and not terminations[0] and rewards[0] == 0


@pytest.mark.parametrize(("view_size", "must_remember"), [(3, True), (None, False)])
def test_the_smallest_memory_needs_one_only_in_a_small_view(view_size: int | None, must_remember: bool) -> None:
    world = make(GridWorldConfig(id="MiniGrid-MemoryS7-v0", view_size=view_size, actions=3), 1)
    (env,) = cast(Any, world)._envs
    seen: dict[str, set[bytes]] = {"key": set(), "ball": set()}
    for seed in range(30):
        world.reset(seed=[seed])
        to_the_fork(world)
        cue = env.grid.get(1, 2).type
        for _ in range(4):
            seen[cue].add(world.step(np.array([LEFT]))[0].tobytes())
    # Two views of the sides, which are told apart by what lies there, and two along the hallway.
    assert (seen["key"] == seen["ball"]) == must_remember


def shortest_walk(env: Any, must_see: bool) -> int:
    """Steps to the matching side, after the cue was seen where it must be, by a search over poses."""
    cue = (1, env.height // 2 - 1)

    def sees(place: tuple[int, int], direction: int) -> bool:
        env.agent_pos, env.agent_dir = place, direction
        in_view = env.relative_coords(*cue)
        shown = partial_symbols(env)[0]
        return in_view is not None and shown[in_view[1], in_view[0]] in (OBJECT_TO_IDX["key"], OBJECT_TO_IDX["ball"])

    place, direction = tuple(map(int, env.agent_pos)), int(env.agent_dir)
    start = (place, direction, not must_see or sees(place, direction))
    steps, queue = {start: 0}, deque([start])
    while True:
        pose = place, direction, seen = queue.popleft()
        if place == env.success_pos and seen:
            return steps[pose]
        if place in (env.success_pos, env.failure_pos):
            continue
        ahead = (place[0] + int(DIR_TO_VEC[direction][0]), place[1] + int(DIR_TO_VEC[direction][1]))
        reached = ahead if env.grid.get(*ahead) is None else place
        for after in ((place, (direction - 1) % 4), (place, (direction + 1) % 4), (reached, direction)):
            known = (*after, seen or sees(*after))
            if known not in steps:
                steps[known] = steps[pose] + 1
                queue.append(known)


@pytest.mark.parametrize(
    ("name", "best", "coin_flip"), [("S7", 0.972, 0.492), ("S9", 0.976, 0.494), ("S17Random", 0.990, 0.498)]
)
def test_what_the_best_play_and_a_coin_flip_come_to(name: str, best: float, coin_flip: float) -> None:
    returns: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(30):
        for must_see in returns:
            env: Any = gymnasium.make(f"MiniGrid-Memory{name}-v0").unwrapped
            env.reset(seed=seed)
            env.agent_view_size = 3
            returns[must_see].append(1 - 0.9 * shortest_walk(env, must_see) / env.max_steps)
    assert np.mean(returns[True]) == pytest.approx(best, abs=0.003)
    assert np.mean(returns[False]) / 2 == pytest.approx(coin_flip, abs=0.002)
