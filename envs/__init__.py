"""The worlds: vector environments whose ended episodes are reset by the caller. `world` holds what they share.

And the sequence tasks, in which nothing is acted on; `sequence_task` holds what those share.
"""

from __future__ import annotations

import functools
from typing import Annotated

import numpy as np
import pydantic

from envs.atari import AtariConfig, atari_screens, make_atari
from envs.babi import BabiConfig, make_babi
from envs.copy_task import (
    AssociativeRecall,
    AssociativeRecallConfig,
    Copy,
    CopyConfig,
    RepeatCopy,
    RepeatCopyConfig,
)
from envs.dictionary import Dictionary, DictionaryConfig
from envs.grid_world import GridWorldConfig, grid_world_screens, make_grid_world
from envs.hidden_goal_maze import HiddenGoalMazeConfig, hidden_goal_maze_screens, make_hidden_goal_maze
from envs.memory_chain import MemoryChainConfig, make_memory_chain, memory_chain_screens
from envs.mnist import MNISTConfig, make_mnist, mnist_screens
from envs.sequence_task import SequenceTask
from envs.sequential_mnist import SequentialMNISTConfig, make_sequential_mnist
from envs.t_maze import TMazeConfig, make_t_maze, t_maze_screens
from envs.workers import WorkerWorld
from envs.world import Screens, World

TaskConfig = (
    CopyConfig | RepeatCopyConfig | AssociativeRecallConfig | DictionaryConfig | SequentialMNISTConfig | BabiConfig
)
WorldConfig = Annotated[
    AtariConfig | GridWorldConfig | HiddenGoalMazeConfig | TMazeConfig | MemoryChainConfig | MNISTConfig | TaskConfig,
    pydantic.Field(discriminator="name"),
]


def make(config: WorldConfig, num_envs: int, workers: int = 0) -> World:
    """Build a world of `num_envs` environments, in this process or spread over several.

    Raises:
        ValueError: if the data of a world cannot be had; and of a sequence task, in which there is nothing to do.
    """
    if workers:
        return WorkerWorld(functools.partial(make, config), num_envs, workers)
    if isinstance(config, AtariConfig):
        return make_atari(config, num_envs)
    if isinstance(config, HiddenGoalMazeConfig):
        return make_hidden_goal_maze(config, num_envs)
    if isinstance(config, TMazeConfig):
        return make_t_maze(config, num_envs)
    if isinstance(config, MemoryChainConfig):
        return make_memory_chain(config, num_envs)
    if isinstance(config, MNISTConfig):
        return make_mnist(config, num_envs)
    return make_grid_world(_acted(config), num_envs)


def make_task(config: TaskConfig, rng: np.random.Generator) -> SequenceTask:
    """Build a sequence task that draws from a generator.

    Raises:
        ValueError: if its data cannot be had.
    """
    if isinstance(config, CopyConfig):
        return Copy(config, rng)
    if isinstance(config, RepeatCopyConfig):
        return RepeatCopy(config, rng)
    if isinstance(config, AssociativeRecallConfig):
        return AssociativeRecall(config, rng)
    if isinstance(config, BabiConfig):
        return make_babi(config, rng)
    if isinstance(config, DictionaryConfig):
        return Dictionary(config, rng)
    return make_sequential_mnist(config, rng)


def screens(config: WorldConfig) -> Screens:
    """Pictures of one environment of a world, for a video: `reset(seed)`, then `step(action)`."""
    if isinstance(config, AtariConfig):
        return atari_screens(config)
    if isinstance(config, HiddenGoalMazeConfig):
        return hidden_goal_maze_screens(config)
    if isinstance(config, TMazeConfig):
        return t_maze_screens(config)
    if isinstance(config, MemoryChainConfig):
        return memory_chain_screens(config)
    if isinstance(config, MNISTConfig):
        return mnist_screens(config)
    return grid_world_screens(_acted(config))


def _acted(config: GridWorldConfig | TaskConfig) -> GridWorldConfig:
    if isinstance(config, GridWorldConfig):
        return config
    raise ValueError(f"{config.title} is a sequence task: there is nothing to act on")
