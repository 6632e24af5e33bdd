"""The training loop: a generator that yields one record a step.

Logging, checkpoints and progress live in whoever consumes the records, and never learn of each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from gymnasium.vector import VectorEnv

from agents.agent import Agent, Metrics, Transition
from training.seeding import EpisodeSeeds


@dataclass(frozen=True)
class Episode:
    """A finished episode: its unclipped return, whatever lives were lost in it, and its length in agent steps."""

    episode_return: float
    length: int


@dataclass(frozen=True)
class Record:
    """What one step of every environment brought."""

    step: int
    """Agent steps so far, all environments together."""
    episodes: list[Episode]
    """Those that ended with this step."""
    metrics: list[Metrics]
    """One for each piece of learning that followed it."""


def training_loop(world: VectorEnv, agent: Agent, seeds: EpisodeSeeds, steps: int) -> Iterator[Record]:
    """Let `agent` live in `world` for `steps` agent steps, rounded up to a step of every environment.

    Each episode begins by a seeded reset of its environment alone, so that it can be played again from its seed and
    its actions, and no step of a vector environment is spent on resetting.
    """
    num_envs = world.num_envs
    returns, lengths = np.zeros(num_envs), np.zeros(num_envs, dtype=np.int64)
    observations, infos = world.reset(seed=seeds.next(num_envs))  # type: ignore[arg-type]
    for step in range(num_envs, steps + num_envs, num_envs):
        state_hashes = infos["state_hash"]
        actions = agent.act(observations, state_hashes)
        next_observations, rewards, terminations, truncations, infos = world.step(actions)
        ended = terminations | truncations
        agent.observe(
            Transition(
                observations=observations,
                state_hashes=state_hashes,
                actions=actions,
                rewards=rewards,
                # To the learner a lost life may be an end; the game and its return go on.
                terminations=terminations | infos["life_lost"] if "life_lost" in infos else terminations,
                truncations=truncations,
                next_observations=next_observations,
                next_state_hashes=infos["state_hash"],
            )
        )
        returns += rewards
        lengths += 1
        episodes = [Episode(float(returns[env]), int(lengths[env])) for env in np.flatnonzero(ended)]
        observations = next_observations
        if episodes:
            returns[ended], lengths[ended] = 0.0, 0
            new_seeds = seeds.next(len(episodes))
            observations, infos = world.reset(seed=new_seeds, options={"reset_mask": ended})  # type: ignore[arg-type]
        metrics = []
        while (learned := agent.learn()) is not None:
            metrics.append(learned)
        yield Record(step, episodes, metrics)
