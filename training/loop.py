"""The training loop: it yields one record a step, and can be saved between any two of them.

Logging, checkpoints and progress live in whoever consumes the records, and never learn of each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from agents.agent import Agent, Metrics, Transition
from training.seeding import EpisodeSeeds

_EXPECTED = 2
"""Episodes that the world is told of before they begin."""


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
    actions: np.ndarray
    """What was done, int64 `[num_envs]`."""
    episodes: list[Episode]
    """Those that ended with this step."""
    metrics: list[Metrics]
    """One for each piece of learning that followed it, and what the world tells of itself."""


class ReplayError(Exception):
    """Running episodes, played again, did not come to where they were."""


class TrainingLoop:
    """Lets an agent live in a world.

    Each episode begins by a seeded reset of its environment alone, so that it can be played again from its seed and
    its actions, and no step of a vector environment is spent on resetting. That is also how a saved loop goes on:
    emulators cannot be saved, so the running episodes are played again, which takes as many steps of the world as the
    longest of them has (at most 27,000 on Atari, seconds as a rule).

    Attributes:
        step: agent steps so far, all environments together.
    """

    def __init__(self, world: VectorEnv, agent: Agent, seeds: EpisodeSeeds) -> None:
        self.world = world
        self.agent = agent
        self.seeds = seeds
        self.step = 0
        self._returns = np.zeros(world.num_envs)
        self._episode_seeds = np.zeros(world.num_envs, dtype=np.int64)
        self._actions: list[list[int]] = [[] for _ in range(world.num_envs)]
        self._observations, self._infos = np.zeros(0), dict[str, Any]()

    @property
    def frames_per_step(self) -> int:
        """Frames that pass in a step of one environment."""
        return self.world.frames_per_step  # type: ignore[attr-defined]

    def close(self) -> None:
        """Let the world go."""
        self.world.close()

    def run(self, steps: int) -> Iterator[Record]:
        """Go on until `steps` agent steps are done, rounded up to a step of every environment."""
        if self.step == 0:
            self._episode_seeds = self.seeds.next(self.world.num_envs)
            self._observations, self._infos = self._reset(np.ones(self.world.num_envs, dtype=bool))
        while self.step < steps:
            yield self._advance()

    def state_dict(self) -> dict[str, Any]:
        """Where the loop stands, the running episodes as their seeds and actions; not the agent."""
        return {
            "step": self.step,
            "seeds": self.seeds.state_dict(),
            "returns": self._returns.copy(),
            "episode_seeds": self._episode_seeds.copy(),
            "actions": [np.array(actions, dtype=np.int64) for actions in self._actions],
            "state_hashes": self._infos["state_hash"].copy() if self.step else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what was saved, by playing the running episodes again.

        Raises:
            ValueError: if it was saved with another seed or another number of environments.
            ReplayError: if the world does not come to where it was: another version of an emulator, say.
        """
        if len(state["returns"]) != self.world.num_envs:
            raise ValueError(f"saved with {len(state['returns'])} environments, this world has {self.world.num_envs}")
        self.seeds.load_state_dict(state["seeds"])
        self.step = state["step"]
        self._returns = state["returns"].copy()
        self._episode_seeds = state["episode_seeds"].copy()
        self._actions = [actions.tolist() for actions in state["actions"]]
        if self.step:
            self._replay()
            if not np.array_equal(self._infos["state_hash"], state["state_hashes"]):
                raise ReplayError("the running episodes, played again, do not come to where they were")

    def _advance(self) -> Record:
        observations, state_hashes = self._observations, self._infos["state_hash"]
        actions = self.agent.act(observations, state_hashes)
        next_observations, rewards, terminations, truncations, infos = self.world.step(actions)
        ended = terminations | truncations
        self.agent.observe(
            Transition(
                observations=observations,
                state_hashes=state_hashes,
                actions=actions,
                rewards=rewards,
                # To the learner a lost life may be an end; the game and its return go on.
                terminations=terminations | infos["life_lost"] if "life_lost" in infos else terminations,
                truncations=truncations,
                next_observations=next_observations,
                labels=infos.get("label"),
            )
        )
        self.step += self.world.num_envs
        self._observations, self._infos = next_observations, infos
        self._returns += rewards
        for taken, action in zip(self._actions, actions.tolist(), strict=True):
            taken.append(action)
        metrics: list[Metrics] = [infos["metrics"]] if "metrics" in infos else []
        episodes = [Episode(float(self._returns[env]), len(self._actions[env])) for env in np.flatnonzero(ended)]
        if episodes:
            self._returns[ended] = 0.0
            self._episode_seeds[ended] = self.seeds.next(len(episodes))
            for env in np.flatnonzero(ended):
                self._actions[env] = []
            self._observations, self._infos = self._reset(ended)
        while (learned := self.agent.learn()) is not None:
            metrics.append(learned)
        return Record(self.step, actions, episodes, metrics)

    def _reset(self, mask: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        begun = self.world.reset(seed=self._episode_seeds[mask], options={"reset_mask": mask})
        self.world.expect(self.seeds.coming(_EXPECTED).tolist())  # type: ignore[attr-defined]
        return begun

    def _replay(self) -> None:
        """Play the running episodes such that all of them come to their last action in the same step of the world."""
        lengths = np.array([len(actions) for actions in self._actions])
        starts = lengths.max() - lengths
        ended = np.ones(self.world.num_envs, dtype=bool)
        for time in range(lengths.max()):
            # An environment whose turn has not come plays what it likes, and begins anew where that ends.
            if (begin := ended | (starts == time)).any():
                self._reset(begin)
            actions = [
                taken[time - start] if time >= start else 0
                for taken, start in zip(self._actions, starts.tolist(), strict=True)
            ]
            self._observations, _, terminations, truncations, self._infos = self.world.step(np.array(actions))
            ended = terminations | truncations
            if (ended & (starts <= time)).any():
                raise ReplayError("a running episode, played again, came to another end")
        if (begin := ended | (lengths == 0)).any():
            self._observations, self._infos = self._reset(begin)
