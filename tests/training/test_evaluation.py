from __future__ import annotations

import numpy as np
import pytest
import xxhash

from envs.grid_world import GridWorldConfig, make_grid_world
from training.evaluation import play_games
from training.loop import Episode

ACTIONS = 3
SEEDS = [901, 17, 44, 5, 300, 17, 12, 78, 63, 2]


def _draw(*numbers: int) -> int:
    """A number that looks random, and is the same whenever it is asked for."""
    return xxhash.xxh32_intdigest(",".join(map(str, numbers)).encode())


def _length(seed: int) -> int:
    """From 1 to 40 steps: whoever counts the games that end first gets the short ones."""
    return 1 + _draw(seed) % 40


def _reward(seed: int, time: int, action: int) -> float:
    return float(_draw(seed, time, action) % 100 - 50)


def _policy(seed: int, time: int) -> int:
    return _draw(7, seed, time) % ACTIONS


def _play_alone(seed: int) -> tuple[Episode, list[int]]:
    actions = [_policy(seed, time) for time in range(_length(seed))]
    return Episode(sum(_reward(seed, time, action) for time, action in enumerate(actions)), len(actions)), actions


class ClockWorld:
    """The observation is the episode's seed and time; an episode ends after a time that its seed draws."""

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.seed, self.time = np.zeros((2, num_envs), dtype=np.int64)
        self.ended = np.ones(num_envs, dtype=bool)

    def reset(self, *, seed, options=None):
        mask = np.ones(self.num_envs, dtype=bool) if options is None else options["reset_mask"]
        assert len(seed) == mask.sum()
        self.seed[mask], self.time[mask], self.ended[mask] = seed, 0, False
        return self._look()

    def step(self, actions):
        assert not self.ended.any(), "an ended episode was not reset"
        states = zip(self.seed, self.time, actions, strict=True)
        rewards = np.array([_reward(seed, time, action) for seed, time, action in states])
        self.time += 1
        self.ended = self.time == [_length(seed) for seed in self.seed]
        truncated = self.ended & (self.seed % 2 == 0)
        observations, infos = self._look()
        return observations, rewards, self.ended & ~truncated, truncated, infos

    def _look(self):
        observations = np.stack([self.seed, self.time], axis=1)
        return observations, {"state_hash": (1000 * self.seed + self.time).astype(np.uint64)}


class ClockAgent:
    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []
        self.epsilons: set[float] = set()

    def act(self, observations, state_hashes, epsilon=None):
        np.testing.assert_array_equal(state_hashes, 1000 * observations[:, 0] + observations[:, 1])
        self.asked += map(tuple, observations.tolist())
        self.epsilons.add(epsilon)
        return np.array([_policy(*observation) for observation in observations.tolist()])


@pytest.mark.parametrize("num_envs", [1, 2, 3, 7, 10, 25])
def test_every_game_is_played_once_from_begin_to_end_whatever_the_number_of_environments(num_envs):
    alone = [_play_alone(seed) for seed in SEEDS]
    agent = ClockAgent()
    watched: dict[int, list[int]] = {game: [] for game in range(len(SEEDS))}

    episodes = play_games(agent, ClockWorld(num_envs), SEEDS, 0.25, [lambda one: watched[one.game].append(one.action)])

    assert episodes == [episode for episode, _ in alone]
    assert watched == {game: actions for game, (_, actions) in enumerate(alone)}
    # Environments that idle do not disturb the agent.
    assert sorted(agent.asked) == sorted((seed, time) for seed in SEEDS for time in range(_length(seed)))
    assert agent.epsilons == {0.25}


def test_the_order_of_the_games_is_that_of_their_seeds():
    forwards = play_games(ClockAgent(), ClockWorld(4), SEEDS, 0.0)
    backwards = play_games(ClockAgent(), ClockWorld(4), SEEDS[::-1], 0.0)
    assert forwards == backwards[::-1]


def test_games_in_a_real_world_do_not_depend_on_the_number_of_environments():
    class HashAgent:
        def act(self, observations, state_hashes, epsilon=None):
            return (state_hashes % np.uint64(3)).astype(np.int64)

    config = GridWorldConfig(id="MiniGrid-Dynamic-Obstacles-5x5-v0", observation="symbolic", view="full")
    results = []
    for num_envs in (1, 4):
        world = make_grid_world(config, num_envs)
        results.append(play_games(HashAgent(), world, range(100, 109), 0.0))
        world.close()
    assert results[0] == results[1]
    assert len({episode.length for episode in results[0]}) > 1, "the games must differ for this to test anything"


class CountingAgent:
    """Acts by how often it has acted in the game, which is the time that `ClockWorld` shows."""

    def act(self, observations, state_hashes, epsilon=None):
        raise AssertionError("an agent that has a player was asked without it")

    def player(self, num_games):
        return CountingPlayer(num_games)


class CountingPlayer:
    def __init__(self, num_games):
        self.times = np.zeros(num_games, dtype=np.int64)
        self.rewards = np.zeros(num_games)

    def act(self, observations, epsilon):
        assert epsilon == 0.25
        np.testing.assert_array_equal(self.times, observations[:, 1])
        self.actions = np.array([_policy(seed, time) for (seed, _), time in zip(observations, self.times, strict=True)])
        self.expected = [
            _reward(seed, time, action) for (seed, time), action in zip(observations, self.actions, strict=True)
        ]
        return self.actions

    def observe(self, rewards, ended):
        np.testing.assert_array_equal(rewards, self.expected)
        self.times = np.where(ended, 0, self.times + 1)


@pytest.mark.parametrize("num_envs", [1, 3, 10, 25])
def test_an_agent_that_acts_by_more_than_it_sees_plays_through_a_player_of_its_own(num_envs):
    episodes = play_games(CountingAgent(), ClockWorld(num_envs), SEEDS, 0.25)
    assert episodes == [_play_alone(seed)[0] for seed in SEEDS]
