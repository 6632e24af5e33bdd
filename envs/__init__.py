"""The worlds: vector environments whose ended episodes are reset by the caller. `world` holds what they share.

And the sequence tasks, in which nothing is acted on; `sequence_task` holds what those share.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, Any

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


_WORLDS: dict[type, tuple[Callable[[Any, int], World], Callable[[Any], Screens]]] = {
    AtariConfig: (make_atari, atari_screens),
    GridWorldConfig: (make_grid_world, grid_world_screens),
    HiddenGoalMazeConfig: (make_hidden_goal_maze, hidden_goal_maze_screens),
    TMazeConfig: (make_t_maze, t_maze_screens),
    MemoryChainConfig: (make_memory_chain, memory_chain_screens),
    MNISTConfig: (make_mnist, mnist_screens),
}
"""What makes each world, and the pictures of it."""
_TASKS: dict[type, Callable[[Any, np.random.Generator], SequenceTask]] = {
    CopyConfig: Copy,
    RepeatCopyConfig: RepeatCopy,
    AssociativeRecallConfig: AssociativeRecall,
    DictionaryConfig: Dictionary,
    SequentialMNISTConfig: make_sequential_mnist,
    BabiConfig: make_babi,
}


def make(config: WorldConfig, num_envs: int, workers: int = 0) -> World:
    """Build a world of `num_envs` environments, in this process or spread over several.

    Raises:
        ValueError: if the data of a world cannot be had; and of a sequence task, in which there is nothing to do.
    """
    if workers:
        return WorkerWorld(functools.partial(make, config), num_envs, workers)
    return _of_world(config)[0](config, num_envs)


def make_task(config: TaskConfig, rng: np.random.Generator) -> SequenceTask:
    """Build a sequence task that draws from a generator.

    Raises:
        ValueError: if its data cannot be had.
    """
    return _TASKS[type(config)](config, rng)


def screens(config: WorldConfig) -> Screens:
    """Pictures of one environment of a world, for a video: `reset(seed)`, then `step(action)`."""
    return _of_world(config)[1](config)


def _of_world(config: WorldConfig) -> tuple[Callable[[Any, int], World], Callable[[Any], Screens]]:
    if type(config) not in _WORLDS:
        raise ValueError(f"{config.title} is a sequence task: there is nothing to act on")
    return _WORLDS[type(config)]
