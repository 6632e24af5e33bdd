"""Mazes with a hidden goal against one in plain Python, and against the published figures."""

from __future__ import annotations

import itertools
from collections import deque

import numpy as np
import pydantic
import pytest
from gymnasium.vector import AutoresetMode

import envs
from envs import HiddenGoalMazeConfig, make, screens
from envs.array_world import split_mix
from envs.hidden_goal_maze import maze_walls

STEPS = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
PICTURE = """\
#########
#.......#
#.#.#.#.#
#.......#
#.#...#.#
#.......#
#.#.#.#.#
#.......#
#########"""


class PlainMaze:
    """One maze, step by step, with a set of free cells and a search for the shortest way."""

    def __init__(self, seed: int, size: int, steps: int, wall_penalty: float) -> None:
        self.centre = (size // 2, size // 2)
        self.free = [
            (row, column)
            for row in range(1, size - 1)
            for column in range(1, size - 1)
            if row % 2 or column % 2 or (row, column) == self.centre
        ]
        self.steps, self.wall_penalty = steps, wall_penalty
        self.draws = (int(split_mix(np.array([seed], dtype=np.uint64), np.array([n]))[0]) for n in itertools.count())
        self.goal = self.other_than(self.centre)
        self.cell, self.time, self.hits = self.centre, 0, 0
        self.teleports: list[tuple[int, int]] = []

    def other_than(self, cell: tuple[int, int]) -> tuple[int, int]:
        others = [one for one in self.free if one != cell]
        return others[(next(self.draws) >> 32) * len(others) >> 32]

    def look(self) -> list[list[int]]:
        row, column = self.cell
        return [[int((row + y, column + x) not in self.free) for x in (-1, 0, 1)] for y in (-1, 0, 1)]

    def step(self, action: int) -> float:
        self.time += 1
        reward = 0.0
        down, right = list(STEPS.values())[action]
        reached = self.cell[0] + down, self.cell[1] + right
        if reached in self.free:
            self.cell = reached
        else:
            reward -= self.wall_penalty
        if self.cell == self.goal:
            reward += 10.0
            self.hits += 1
            self.cell = self.other_than(self.goal)
            self.teleports.append(self.cell)
        return reward

    def distance(self, start: tuple[int, int]) -> int:
        distances = {start: 0}
        queue = deque([start])
        while self.goal not in distances:
            row, column = queue.popleft()
            for down, right in STEPS.values():
                reached = row + down, column + right
                if reached in self.free and reached not in distances:
                    distances[reached] = distances[row, column] + 1
                    queue.append(reached)
        return distances[self.goal]

    def oracle_hits(self) -> int:
        """Walks the way; teleports that were not come to yet are drawn now, so it ends the episode."""
        teleports = itertools.chain(self.teleports, iter(lambda: self.other_than(self.goal), None))
        time, hits, cell = 0, 0, self.centre
        while (time := time + self.distance(cell)) <= self.steps:
            hits += 1
            cell = next(teleports)
        return hits


@pytest.mark.parametrize(("size", "wall_penalty"), [(5, 0.0), (9, 0.1), (11, 0.0)])
def test_all_mazes_do_what_one_in_plain_python_does(size: int, wall_penalty: float) -> None:
    steps = 90
    world = make(HiddenGoalMazeConfig(size=size, steps_per_episode=steps, wall_penalty=wall_penalty), 4)
    rng = np.random.default_rng(0)
    hits = 0
    for episode in range(4):
        seeds = [4 * episode + env for env in range(4)]
        plain = [PlainMaze(seed, size, steps, wall_penalty) for seed in seeds]
        observations, infos = world.reset(seed=seeds)
        for time in range(1, steps + 1):
            assert world.observation_space.contains(observations)
            assert observations.tolist() == [[maze.look()] for maze in plain]
            actions = rng.integers(0, 4, 4)
            observations, rewards, terminations, truncations, infos = world.step(actions)
            assert rewards.tolist() == [maze.step(action) for maze, action in zip(plain, actions.tolist(), strict=True)]
            assert not terminations.any() and truncations.all() == truncations.any() == (time == steps)
            assert ("metrics" in infos) == (time == steps)
        shares = [maze.hits / maze.oracle_hits() for maze in plain]
        assert infos["metrics"] == pytest.approx(
            {"charts/hits": np.mean([maze.hits for maze in plain]), "charts/oracle_share": np.mean(shares)}
        )
        hits += sum(maze.hits for maze in plain)
    assert hits


def test_an_oracles_actions_come_to_what_the_oracle_is_said_to_hit() -> None:
    world = make(HiddenGoalMazeConfig(), 1)
    world.reset(seed=[3])
    plain = PlainMaze(3, 11, 200, 0.0)
    total = 0.0
    for _ in range(200):

        def after(action: int) -> int:
            down, right = list(STEPS.values())[action]
            reached = plain.cell[0] + down, plain.cell[1] + right
            return plain.distance(reached) if reached in plain.free else 1000

        action = min(range(4), key=after)
        plain.step(action)
        _, rewards, _, _, infos = world.step(np.array([action]))
        total += rewards[0]
    assert infos["metrics"] == {"charts/hits": total / 10, "charts/oracle_share": 1.0}


@pytest.mark.parametrize(
    ("size", "steps", "oracle", "random"), [(9, 250, 52.2, 1.76), (11, 200, 32.4, 0.76), (13, 200, 27.4, 0.57)]
)
def test_an_oracle_and_random_play_hit_as_often_as_elsewhere(
    size: int, steps: int, oracle: float, random: float
) -> None:
    episodes = 1_000
    world = make(HiddenGoalMazeConfig(size=size, steps_per_episode=steps), episodes)
    world.reset(seed=7)
    for actions in np.random.default_rng(1).integers(0, 4, (steps, episodes)):
        *_, infos = world.step(actions)
    assert world._oracle_hits().mean() == pytest.approx(oracle, rel=0.03)
    assert infos["metrics"]["charts/hits"] == pytest.approx(random, rel=0.15)
    assert infos["metrics"]["charts/oracle_share"] == pytest.approx(random / oracle, rel=0.2)


def test_walls_are_where_they_are_drawn() -> None:
    drawn = [[cell == "#" for cell in line] for line in PICTURE.splitlines()]
    assert maze_walls(9).tolist() == drawn
    assert maze_walls(11).sum() == 40 + 16


def test_a_goal_stays_and_neither_it_nor_a_teleport_is_where_it_must_not_be() -> None:
    world = make(HiddenGoalMazeConfig(size=5, steps_per_episode=400), 500)
    world.reset(seed=0)
    goals, centre = world._goals.copy(), world._centre
    assert set(goals.tolist()) == set(range(9)) - {centre} and (world._places == centre).all()
    rng = np.random.default_rng(0)
    for _ in range(400):
        world.step(rng.integers(0, 4, 500))
        assert (world._goals == goals).all() and (world._places != goals).all()


def test_an_episode_depends_on_its_seed_and_actions_alone() -> None:
    config = HiddenGoalMazeConfig(size=5, steps_per_episode=30)
    alone, among = (make(config, num_envs) for num_envs in (1, 3))
    actions = np.random.default_rng(0).integers(0, 4, (50, 3))
    among.reset(seed=[1, 2, 3])
    for action in actions[:20]:
        kept, *_ = among.step(action)
    there = among.reset(seed=[77], options={"reset_mask": np.array([False, True, False])})
    np.testing.assert_array_equal(there[0][[0, 2]], kept[[0, 2]])
    here = alone.reset(seed=[77])
    for time, action in enumerate(actions[20:]):
        assert np.array_equal(here[0][0], there[0][1]) and here[1]["state_hash"][0] == there[1]["state_hash"][1]
        *step_here, infos_here = alone.step(action[1:2])
        *step_there, infos_there = among.step(action)
        assert all(one[0] == other[1] for one, other in zip(step_here[1:], step_there[1:], strict=True))
        here, there = (step_here[0], infos_here), (step_there[0], infos_there)
        assert step_there[3].tolist() == [time == 9, time == 29, time == 9]
        if time == 9:
            there = among.reset(seed=[5, 6], options={"reset_mask": step_there[3]})
    assert infos_here["metrics"] == infos_there["metrics"]


def test_what_was_handed_out_stays() -> None:
    world = make(HiddenGoalMazeConfig(), 2)
    observations, _ = world.reset(seed=[1, 2])
    kept = observations.copy()
    for action in range(4):
        world.step(np.full(2, action))
    np.testing.assert_array_equal(observations, kept)
    observations[:] = 9
    assert world.reset(seed=[1, 2])[0].max() == 1


def test_equal_observations_have_equal_hashes() -> None:
    world = make(HiddenGoalMazeConfig(size=9), 50)
    observations, infos = world.reset(seed=0)
    hashes: dict[bytes, int] = {}
    for action in np.random.default_rng(0).integers(0, 4, (200, 50)):
        for observation, state_hash in zip(observations, infos["state_hash"].tolist(), strict=True):
            assert hashes.setdefault(observation.tobytes(), state_hash) == state_hash
        observations, _, _, _, infos = world.step(action)
    assert infos["state_hash"].dtype == np.uint64 and len(set(hashes.values())) == len(hashes) > 10


def test_processes_tell_of_episodes_as_one_does() -> None:
    # Of three environments one process has two.
    num_envs = 3
    config = HiddenGoalMazeConfig(size=5, steps_per_episode=60)
    alone, spread = (envs.make(config, num_envs, workers=count) for count in (0, 2))
    told = []
    for world in (alone, spread):
        world.reset(seed=[1, 2, 3])
        actions = np.random.default_rng(0).integers(0, 4, (60, num_envs))
        for time in range(60):
            *_, truncations, infos = world.step(actions[time])
            assert ("metrics" in infos) == (time == 59)
        _, begun = world.reset(seed=[5] * num_envs, options={"reset_mask": truncations})
        assert "metrics" not in begun
        told.append(infos["metrics"])
        world.close()
    assert told[0]["charts/hits"] > 0 and told[1] == pytest.approx(told[0])


def test_screens_show_the_whole_maze() -> None:
    config = HiddenGoalMazeConfig(size=9)
    video, plain = screens(config), PlainMaze(12, 9, 200, 0.0)
    pictures = [video.reset(12)]
    cells = [plain.cell]
    for action in (3, 3, 0, 0):
        pictures.append(video.step(action))
        plain.step(action)
        cells.append(plain.cell)
    for picture, cell in zip(pictures, cells, strict=True):
        assert picture.shape == (288, 288, 3) and picture.dtype == np.uint8
        tiles = picture.reshape(9, 32, 9, 32, 3)
        colours = tiles[:, 0, :, 0]
        assert (tiles == colours[:, None, :, None]).all()
        agent, goal = colours[cell], colours[plain.goal]
        alike = [(colours == one).all(axis=2) for one in (agent, goal, colours[0, 0])]
        assert [int(one.sum()) for one in alike] == [1, 1, int(maze_walls(9).sum())]
        np.testing.assert_array_equal(alike[2], maze_walls(9))


def test_what_a_world_says_of_itself() -> None:
    world = make(HiddenGoalMazeConfig(), 2)
    assert world.metadata["autoreset_mode"] == AutoresetMode.DISABLED
    assert (world.frame_stack, world.frames_per_step, world.reveals_labels) == (1, 1, False)
    assert world.action_names == ("up", "down", "left", "right")
    assert world.single_observation_space.shape == (1, 3, 3) and world.single_observation_space.high.max() == 1
    assert HiddenGoalMazeConfig().title == "HiddenGoalMaze-11"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"size": 10}, "has an odd size, such as 9 or 11, not 10"),
        ({"size": 3}, "greater than or equal to 5"),
        ({"size": 33}, "less than or equal to 31"),
        ({"steps_per_episode": 10}, "steps_per_episode should be 11 or more"),
        ({"wall_penalty": -1.0}, "greater than or equal to 0"),
    ],
)
def test_bad_options_are_refused_in_a_line(options: dict[str, float], complaint: str) -> None:
    with pytest.raises(pydantic.ValidationError) as caught:
        HiddenGoalMazeConfig.model_validate(options)
    (error,) = caught.value.errors()
    assert complaint in error["msg"] and "\n" not in error["msg"]
