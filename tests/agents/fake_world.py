"""A world for the agents' tests: small, deterministic, and whole in a deep copy."""

from __future__ import annotations

from typing import Any

import numpy as np
import xxhash

from agents import Agent, Metrics, Transition, WorldSpec


class FakeWorld:
    """Parallel walks along a ring of pictures; actions decide the way, chance the rewards and the ends.

    States come back, rewards reach beyond [-1, 1], episodes are short and end either way, stacked observations slide,
    and the first one of an episode may hold any frames.
    """

    def __init__(
        self,
        num_envs: int = 2,
        shape: tuple[int, ...] = (4, 3, 3),
        frame_stack: int = 4,
        num_actions: int = 3,
        pictures: int = 12,
        end_chance: float = 0.08,
        seed: int = 0,
    ) -> None:
        self.spec = WorldSpec(num_envs, num_actions, shape, observation_high=255.0, frame_stack=frame_stack)
        self.rng = np.random.default_rng(seed)
        self.end_chance = end_chance
        frame = (shape[0] // frame_stack, *shape[1:])
        self.pictures = self.rng.integers(0, 256, (pictures, *frame), dtype=np.uint8)
        self.places = np.zeros(num_envs, dtype=np.int64)
        self.observations = np.zeros((num_envs, *shape), dtype=np.uint8)
        self._begin(np.ones(num_envs, dtype=bool))

    @property
    def state_hashes(self) -> np.ndarray:
        return hash_each(self.observations)

    def step(self, actions: np.ndarray) -> Transition:
        """Act, and begin a new episode where one ended."""
        observations, state_hashes = self.observations, self.state_hashes
        self.places = (self.places + actions + 1) % len(self.pictures)
        newest = self.pictures[self.places]
        self.observations = np.concatenate([observations[:, newest.shape[1] :], newest], axis=1)
        ends = self.rng.random((2, len(actions))) < self.end_chance
        transition = Transition(
            observations=observations,
            state_hashes=state_hashes,
            actions=actions,
            rewards=np.round(self.places / 4 + self.rng.normal(0, 2, len(actions)), 2),
            terminations=ends[0],
            truncations=ends[1] & ~ends[0],
            next_observations=self.observations,
        )
        self._begin(transition.ended)
        return transition

    def _begin(self, mask: np.ndarray) -> None:
        self.observations = self.observations.copy()
        for env in np.flatnonzero(mask):
            stack = self.rng.integers(0, len(self.pictures), self.spec.frame_stack)
            self.observations[env] = self.pictures[stack].reshape(self.observations.shape[1:])
            self.places[env] = stack[-1]


class CueWorld:
    """Parallel corridors: what is shown at the first step alone says which of two actions pays at the last.

    Observations `[2, 1, 1]` are the cue, which is 0 but at the first step, and whether this is the last. Whoever has
    forgotten the cue earns 0 on average, and whoever has not 1. Episodes of different lengths are never in step.
    """

    def __init__(self, num_envs: int = 16, length: int = 5, seed: int = 0) -> None:
        self.spec = WorldSpec(num_envs, 2, (2, 1, 1), observation_high=2.0, frame_stack=1)
        self.rng = np.random.default_rng(seed)
        self.length = length
        self.cues, self.left = np.zeros((2, num_envs), dtype=np.int64)
        self.observations = np.zeros((num_envs, 2, 1, 1), dtype=np.uint8)
        self._begin(np.ones(num_envs, dtype=bool))

    @property
    def state_hashes(self) -> np.ndarray:
        return hash_each(self.observations)

    def step(self, actions: np.ndarray) -> Transition:
        """Act, and begin a new episode where one ended."""
        observations, state_hashes = self.observations, self.state_hashes
        ended = self.left == 1
        self.left = self.left - 1
        self.observations = np.zeros_like(observations)
        self.observations[:, 1, 0, 0] = self.left == 1
        transition = Transition(
            observations=observations,
            state_hashes=state_hashes,
            actions=actions,
            rewards=np.where(ended, np.where(actions == self.cues, 1.0, -1.0), 0.0),
            terminations=ended,
            truncations=np.zeros_like(ended),
            next_observations=self.observations,
        )
        self._begin(ended)
        return transition

    def _begin(self, mask: np.ndarray) -> None:
        self.observations = self.observations.copy()
        self.cues[mask] = self.rng.integers(0, 2, mask.sum())
        self.left[mask] = self.length + self.rng.integers(0, 3, mask.sum())
        self.observations[mask, 0, 0, 0] = self.cues[mask] + 1
        self.observations[mask, 1, 0, 0] = 0


def play(world: FakeWorld, agent: Agent, steps: int) -> list[tuple[list[int], list[Metrics]]]:
    """Let the agent live in the world; the actions it took and the metrics it told, step by step."""
    lived = []
    for _ in range(steps):
        actions = agent.act(world.observations, world.state_hashes)
        agent.observe(world.step(actions))
        lived.append((actions.tolist(), learn_all(agent)))
    return lived


def learn_all(agent: Agent) -> list[Metrics]:
    """Do all the learning that is due."""
    metrics = []
    while (learned := agent.learn()) is not None:
        metrics.append(learned)
    return metrics


def hash_each(observations: np.ndarray) -> np.ndarray:
    return np.array([xxhash.xxh3_64_intdigest(observation.tobytes()) for observation in observations], dtype=np.uint64)


def transition_of(
    observations: Any,
    state_hashes: Any,
    actions: Any,
    rewards: Any,
    next_observations: Any,
    *,
    terminated: bool = False,
    truncated: bool = False,
) -> Transition:
    """A step of one environment, from plain numbers."""
    return Transition(
        observations=np.array([observations], dtype=np.uint8),
        state_hashes=np.array([state_hashes], dtype=np.uint64),
        actions=np.array([actions], dtype=np.int64),
        rewards=np.array([rewards], dtype=np.float64),
        terminations=np.array([terminated]),
        truncations=np.array([truncated]),
        next_observations=np.array([next_observations], dtype=np.uint8),
    )
