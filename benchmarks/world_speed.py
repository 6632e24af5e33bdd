"""How fast the worlds that ask for a memory are, to docs/results/world_speed.csv.

    python -m benchmarks.world_speed
    python -m benchmarks.world_speed --num_envs 16 --repeats 5

Random play, nothing else: no network, no memory. Episodes that end are begun anew. One world after the other, each in a
process of its own with one thread, so that the speeds of one run can be compared.

    steps_per_second    of all environments together; one row for each repeat, in `seed`

`minigrid-own` is MiniGrid's environment as Gymnasium steps it, one after the other, which ours must be faster than.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gymnasium
import minigrid  # noqa: F401  Registers its environments.
import numpy as np
from minigrid.wrappers import ViewSizeWrapper
from pydantic import BaseModel, ConfigDict, Field

import envs
from benchmarks import results
from benchmarks.results import Row
from benchmarks.runner import Counts, check_table
from benchmarks.workers import Job, Report, work
from envs.grid_world import GridWorldConfig
from envs.hidden_goal_maze import HiddenGoalMazeConfig
from envs.memory_chain import MemoryChainConfig
from envs.t_maze import TMazeConfig
from training.command_line import guarded, parse_overrides

CORRIDOR = "MiniGrid-MemoryS9-v0"
VIEW = 3
WORLDS: dict[str, envs.WorldConfig] = {
    "hidden-goal-maze": HiddenGoalMazeConfig(),
    "t-maze": TMazeConfig(),
    "memory-chain": MemoryChainConfig(),
    "minigrid-memory": GridWorldConfig(id=CORRIDOR, observation="symbolic", view_size=VIEW),
}
"""Ours, by name."""
OTHERS = "minigrid-own"


class WorldSpeedOptions(BaseModel):
    """What to measure."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    num_envs: Counts = (1, 16, 256)
    """Environments side by side."""
    seconds: float = Field(default=2.0, gt=0.0)
    """For which each is stepped, in every repeat."""
    repeats: int = Field(default=3, ge=1)
    """Measurements, after one that is not."""
    out: Path = Path("docs/results/world_speed.csv")
    """Table to add to."""
    machine: str = results.machine_word()
    """One word for the machine."""


def our_step(config: envs.WorldConfig, num_envs: int) -> Callable[[], object]:
    """A step of all environments by random actions, with the beginnings of the episodes it ended."""
    world, rng = envs.make(config, num_envs), np.random.default_rng(0)
    world.reset(seed=0)

    def step() -> None:
        _, _, terminations, truncations, _ = world.step(rng.integers(0, world.single_action_space.n, num_envs))
        ended = terminations | truncations
        if ended.any():
            world.reset(seed=rng.integers(0, 2**31, ended.sum()).tolist(), options={"reset_mask": ended})

    return step


def minigrid_step(num_envs: int) -> Callable[[], object]:
    """The same of MiniGrid's own environments."""
    worlds = [ViewSizeWrapper(gymnasium.make(CORRIDOR, disable_env_checker=True), VIEW) for _ in range(num_envs)]
    rng = np.random.default_rng(0)
    for seed, world in enumerate(worlds):
        world.reset(seed=seed)

    def step() -> None:
        for world, action in zip(worlds, rng.integers(0, 7, num_envs).tolist(), strict=True):
            _, _, terminated, truncated, _ = world.step(action)
            if terminated or truncated:
                world.reset(seed=int(rng.integers(0, 2**31)))

    return step


def measure(report: Report, options: WorldSpeedOptions, name: str, num_envs: int, blank: Row) -> None:
    """Time one world, and add its rows to the table."""
    step = minigrid_step(num_envs) if name == OTHERS else our_step(WORLDS[name], num_envs)
    rows = []
    for repeat in range(-1, options.repeats):
        steps, began = 0, time.perf_counter()
        while (seconds := time.perf_counter() - began) < options.seconds:
            step()
            steps += num_envs
        if repeat >= 0:
            speed = steps / seconds
            rows.append(
                replace(blank, seed=repeat, steps=steps, metric="steps_per_second", value=speed, seconds=seconds)
            )
        report(repeat + 2, f"{steps / seconds:,.0f} steps/s")
    results.add(options.out, rows, run=("world", "agent", "machine", "seed"))


def main() -> None:
    options = parse_overrides(WorldSpeedOptions(), sys.argv[1:], "benchmarks.world_speed", __doc__)
    check_table(options.out)
    jobs = []
    for num_envs in options.num_envs:
        for name in (*WORLDS, OTHERS):
            blank = results.blank(options.out, f"{num_envs} x {name}", "random", options.machine)
            jobs.append(Job(blank.world, options.repeats + 1, measure, (options, name, num_envs, blank)))
    if failed := work(jobs, 1, __name__):
        sys.exit(f"{', '.join(failed)} failed")


if __name__ == "__main__":
    guarded(main)
