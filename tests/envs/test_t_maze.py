"""T-mazes against one in plain Python, and what playing them is worth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pydantic
import pytest

from envs import TMazeConfig, make, screens
from envs.array_world import split_mix

RIGHT, UP, LEFT, DOWN = range(4)


class PlainMaze:
    """One maze, on a drawn map."""

    def __init__(self, seed: int, length: int, penalty: float) -> None:
        self.cells = {(x, 0) for x in range(length + 1)} | {(length, 1), (length, -1)}
        self.length, self.penalty = length, penalty
        heads = int(split_mix(np.array([seed], dtype=np.uint64), np.array([0]))[0]) >= 2**63
        self.goal = -1 if heads else 1
        self.x = self.y = self.time = 0

    def look(self) -> list[int]:
        side = self.goal if self.time == 0 else self.y
        return [int(self.x == self.length), int(side == 1), int(side == -1)]

    def step(self, action: int) -> tuple[float, bool]:
        self.time += 1
        x, y = {RIGHT: (1, 0), UP: (0, 1), LEFT: (-1, 0), DOWN: (0, -1)}[action]
        if (self.x + x, self.y + y) in self.cells:
            self.x, self.y = self.x + x, self.y + y
        if self.time == self.length + 1:
            return float(self.y == self.goal), True
        return (-self.penalty if self.x < self.time else 0.0), False


@pytest.mark.parametrize(("length", "penalised"), [(1, True), (4, True), (6, False)])
def test_all_mazes_do_what_one_in_plain_python_does(length: int, penalised: bool) -> None:
    world = make(TMazeConfig(length=length, penalised=penalised), 4)
    rng = np.random.default_rng(0)
    turned: set[tuple[int, ...]] = set()
    for episode in range(40):
        seeds = [4 * episode + env for env in range(4)]
        plain = [PlainMaze(seed, length, 1 / length if penalised else 0.0) for seed in seeds]
        observations, _ = world.reset(seed=seeds)
        for _ in range(length + 1):
            assert world.observation_space.contains(observations)
            assert observations.tolist() == [[[maze.look()]] for maze in plain]
            # Mostly to the right, or the junction would not be seen.
            actions = rng.choice(4, size=4, p=[0.7, 0.1, 0.1, 0.1])
            observations, rewards, terminations, truncations, _ = world.step(actions)
            expected = [maze.step(action) for maze, action in zip(plain, actions.tolist(), strict=True)]
            assert list(zip(rewards.tolist(), terminations.tolist(), strict=True)) == expected
            assert rewards.dtype == np.float64 and not truncations.any()
        assert terminations.all() and observations.tolist() == [[[maze.look()]] for maze in plain]
        turned |= {tuple(maze.look()) for maze in plain}
    assert {(1, 1, 0), (1, 0, 1), (0, 0, 0)} <= turned


def returns(length: int, num_envs: int, play: Callable[[int, np.ndarray], np.ndarray]) -> np.ndarray:
    """Of an episode in each maze, played by time and first observation."""
    world = make(TMazeConfig(length=length), num_envs)
    first, _ = world.reset(seed=0)
    return np.sum([world.step(play(time, first[:, 0, 0]))[1] for time in range(length + 1)], axis=0)


def test_remembering_comes_to_one_and_guessing_to_a_half() -> None:
    def remember(time: int, first: np.ndarray) -> np.ndarray:
        return np.full(len(first), RIGHT) if time < 20 else np.where(first[:, 1] == 1, UP, DOWN)

    def guess(time: int, first: np.ndarray) -> np.ndarray:
        return np.full(len(first), RIGHT) if time < 20 else np.full(len(first), UP)

    assert (returns(20, 2_000, remember) == 1.0).all()
    guessed = returns(20, 2_000, guess)
    assert set(guessed.tolist()) == {0.0, 1.0}
    # Five standard errors of a fair coin.
    assert guessed.mean() == pytest.approx(0.5, abs=5 * 0.5 / np.sqrt(2_000))


def test_never_moving_costs_one() -> None:
    np.testing.assert_allclose(returns(7, 3, lambda time, first: np.full(3, LEFT)), -1.0)


def test_an_episode_depends_on_its_seed_and_actions_alone() -> None:
    alone, among = (make(TMazeConfig(length=5), num_envs) for num_envs in (1, 3))
    actions = np.random.default_rng(0).integers(0, 4, (6, 3))
    for seed in range(20):
        among.reset(seed=[100, 101, 102])
        among.step(np.full(3, RIGHT))
        there = among.reset(seed=[seed], options={"reset_mask": np.array([False, True, False])})
        here = alone.reset(seed=[seed])
        for action in actions[:5]:
            assert np.array_equal(here[0][0], there[0][1]) and here[1]["state_hash"][0] == there[1]["state_hash"][1]
            *step_here, infos_here = alone.step(action[1:2])
            *step_there, infos_there = among.step(action)
            assert all(one[0] == other[1] for one, other in zip(step_here[1:], step_there[1:], strict=True))
            here, there = (step_here[0], infos_here), (step_there[0], infos_there)
        assert step_there[2].tolist() == [True, False, True]


def test_screens_show_what_is_observed() -> None:
    video, plain = screens(TMazeConfig(length=1)), PlainMaze(3, 1, 1.0)
    pictures, looks = [video.reset(3)], [plain.look()]
    for action in (RIGHT, UP):
        pictures.append(video.step(action))
        plain.step(action)
        looks.append(plain.look())
    for picture, look in zip(pictures, looks, strict=True):
        assert picture.shape == (32, 96, 3) and picture.dtype == np.uint8
        assert picture.reshape(32, 3, 32, 3)[5, :, 7].tolist() == [[255 * flag] * 3 for flag in look]


def test_what_a_world_says_of_itself() -> None:
    world = make(TMazeConfig(), 2)
    assert (world.frame_stack, world.frames_per_step, world.reveals_labels) == (1, 1, False)
    assert world.action_names == ("right", "up", "left", "down") and TMazeConfig().title == "TMaze-50"


def test_a_corridor_has_a_length() -> None:
    with pytest.raises(pydantic.ValidationError, match=r"length\n.*greater than or equal to 1"):
        TMazeConfig(length=0)
