"""Every agent that learns does so in an empty room, by its preset; the best there is to reach is found by search."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import envs
from assembly import RunConfig, make_agent, make_world
from envs import GridWorldConfig
from training.loop import TrainingLoop
from training.seeding import EpisodeSeeds

PRESETS = Path(__file__).parents[2] / "configs"
ROOM = GridWorldConfig(id="MiniGrid-Empty-8x8-v0", observation="one_hot", view="full")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """So small are the networks that threads cost more than they bring."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def best_return() -> float:
    """Breadth-first search through the states of the room, each reached again by its actions from the start."""
    world = envs.make(ROOM, num_envs=1)
    seen: set[int] = set()
    ways: list[list[int]] = [[]]
    while True:
        longer: list[list[int]] = []
        for way in ways:
            for action in range(int(world.single_action_space.n)):
                world.reset(seed=[0])
                for step in [*way, action]:
                    _, rewards, terminations, _, infos = world.step(np.array([step]))
                if terminations[0]:
                    return float(rewards[0])
                state = int(infos["state_hash"][0])
                if state not in seen:
                    seen.add(state)
                    longer.append([*way, action])
        ways = longer


def returns_of_last_episodes(preset: str, seed: int, episodes: int = 20) -> float:
    """Mean return of the last episodes of a training run."""
    content = yaml.safe_load((PRESETS / f"{preset}.yaml").read_text(encoding="utf-8"))
    config = RunConfig.model_validate({**content, "seed": seed})
    assert config.env == ROOM
    world = make_world(config)
    returns: list[float] = []
    for record in TrainingLoop(world, make_agent(config, world), EpisodeSeeds(seed)).run(config.steps):
        returns += [episode.episode_return for episode in record.episodes]
    return float(np.mean(returns[-episodes:]))


def test_the_best_return_takes_eleven_actions_from_whatever_seed() -> None:
    assert best_return() == pytest.approx(1 - 0.9 * 11 / 256)
    world = envs.make(ROOM, num_envs=2)
    _, infos = world.reset(seed=[1, 2])
    assert infos["state_hash"][0] == infos["state_hash"][1], "the room is not the same in every episode"


def test_random_play_is_far_from_the_best_return() -> None:
    """So that the tests below cannot be passed by chance."""
    assert returns_of_last_episodes("grid_world_random", seed=0) < 0.4


def test_mfec_reaches_95_percent_of_the_best_return() -> None:
    assert returns_of_last_episodes("grid_world_mfec", seed=0) >= 0.95 * best_return()


def test_nec_reaches_95_percent_of_the_best_return() -> None:
    assert returns_of_last_episodes("grid_world_nec", seed=0) >= 0.95 * best_return()


def test_rec_reaches_95_percent_of_the_best_return() -> None:
    assert returns_of_last_episodes("grid_world_rec", seed=0) >= 0.95 * best_return()


def test_dqn_learns() -> None:
    assert returns_of_last_episodes("grid_world_dqn", seed=2) >= 0.8


@pytest.mark.slow
def test_recurrent_ppo_learns() -> None:
    """In more steps than the others, each of which it learns from but once it was taken."""
    assert returns_of_last_episodes("grid_world_recurrent_ppo", seed=0) >= 0.8
