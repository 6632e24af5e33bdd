"""Model-Free Episodic Control (Blundell et al. 2016, arXiv 1606.04460).

A table for each action keeps the best return ever obtained from a state. A state seen before is worth what its table
says; another the mean of its nearest neighbours. Nothing has a gradient: the keys are a fixed random projection.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from agents.agent import Metrics, Transition, WorldSpec
from agents.encoders import GaussianProjection
from agents.episodes import Columns, RunningEpisodes, n_step_returns
from agents.exploration import epsilon_greedy
from agents.statistics import MeanMetrics, sampled_recall
from memory.episodic import EpisodicMemory, UniformMean, maximum
from memory.episodic.recollecting import key_space, recollect_actions
from memory.recollection import KeySpace, Recollection


class MFECConfig(BaseModel):
    """Model-Free Episodic Control. The defaults are the paper's Atari setting."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    name: Literal["mfec"] = "mfec"
    """Which agent this is."""
    key_size: int = Field(64, ge=1)
    """Length of a key: the dimensions of the random projection."""
    capacity: int = Field(1_000_000, ge=1)
    """Most memories of one action; the table grows as it fills, about 400 bytes a memory."""
    neighbours: int = Field(11, ge=1)
    """How many nearest memories a state that was never seen is valued by (the paper's k)."""
    eviction: Literal["lru", "fifo"] = "lru"
    """What makes place in a full table: the memory least recently used, or the one inserted first."""
    discount: float = Field(1.0, ge=0.0, le=1.0)
    """Discount for each step."""
    epsilon: float = Field(0.005, ge=0.0, le=1.0)
    """Chance of a random action."""

    @model_validator(mode="after")
    def _can_hold_neighbours(self) -> MFECConfig:
        # An action with fewer memories counts as infinitely good: it would be taken in every new state for ever.
        if self.capacity < self.neighbours:
            raise ValueError(f"capacity must be at least neighbours, {self.neighbours}, got {self.capacity}")
        return self


class MFEC:
    """Episodic control over whole returns.

    In a state that it was not taken in, an action with fewer memories than `neighbours` counts as infinitely good, so
    that each is tried first (the paper is silent). A batch of parallel environments reads one memory; each writes its
    episode when it ends.
    """

    def __init__(
        self,
        projection: GaussianProjection,
        memory: EpisodicMemory,
        episodes: RunningEpisodes,
        rng: np.random.Generator,
        *,
        discount: float,
        epsilon: float,
    ) -> None:
        self.projection = projection
        self.memory = memory
        self.episodes = episodes
        self.rng = rng
        self.discount = discount
        self.epsilon = epsilon
        self.step = 0
        self.statistics = MeanMetrics()
        self._finished: list[Columns] = []

    def act(self, observations: np.ndarray, state_hashes: np.ndarray, epsilon: float | None = None) -> np.ndarray:
        training = epsilon is None
        keys = self.projection(observations)
        action_values, exact = self._action_values(keys, state_hashes, touch=training)
        actions = epsilon_greedy(action_values, self.epsilon if epsilon is None else epsilon, self.rng)
        if training:
            self._acting_on = {
                "keys": keys.cpu().numpy(),
                "exact_hits": exact[np.arange(len(actions)), actions],
                "known_states": exact.any(axis=1),
            }
            if self.statistics.due():
                self.statistics.add(sampled_recall(self.memory, keys, actions, self.step))
        return actions

    def observe(self, transition: Transition) -> None:
        self.step += len(transition.actions)
        self.episodes.append(
            **self._acting_on,
            hashes=transition.state_hashes,
            actions=transition.actions,
            acted_at=transition.steps(self.step),
            rewards=transition.rewards,
        )
        self._finished += [self.episodes.pop(env) for env in np.flatnonzero(transition.ended).tolist()]

    def learn(self) -> Metrics | None:
        """Write one finished episode into the memory."""
        if not self._finished:
            return None
        episode = self._finished.pop(0)
        steps = len(episode["rewards"])
        returns = n_step_returns(episode["rewards"], np.zeros(steps + 1), self.discount, steps=None)
        written = self.memory.write(
            torch.from_numpy(episode["actions"]),
            torch.from_numpy(episode["keys"]).to(self.projection.matrix.device),
            torch.from_numpy(returns).to(self.projection.matrix.device, torch.float32),
            episode["hashes"],
            maximum,
            written_at=self.step,
            origins=torch.from_numpy(episode["acted_at"]),
        )
        return {
            "memory/size": len(self.memory),
            "memory/megabytes": self.memory.nbytes / 2**20,
            "memory/inserted": written.inserted,
            "memory/updated": written.updated,
            "memory/evictions": written.evicted,
            "memory/exact_hit_rate": float(episode["exact_hits"].mean()),
            "memory/known_state_rate": float(episode["known_states"].mean()),
            **self.statistics.flush(),
        }

    def recollect(self, observation: np.ndarray, state_hash: np.uint64, most: int, env: int = 0) -> Recollection:
        """What acting on one observation would rest on: its neighbours' values, or that of an exact match alone."""
        query, hashes = self.projection(observation[None]), np.array([state_hash])
        [values], _ = self._action_values(query, hashes, touch=False)
        exact = np.array([store.find(hashes).item() for store in self.memory.stores])
        return recollect_actions(self.memory, query, values, np.isfinite(values), most, exact)

    def key_space(self, most: int) -> KeySpace:
        """Some memories of all actions, as points."""
        slots = self.memory.filled_slots()
        return key_space(self.memory.table, self.memory.rows_of(slots), slots // self.memory.capacity, most)

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "rng": self.rng.bit_generator.state,
            "projection": self.projection.matrix,
            "memory": self.memory.state_dict(),
            "episodes": self.episodes.state_dict(),
            "statistics": self.statistics.state_dict(),
            "finished": list(self._finished),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.rng.bit_generator.state = state["rng"]
        self.projection.matrix.copy_(state["projection"])
        self.memory.load_state_dict(state["memory"])
        self.episodes.load_state_dict(state["episodes"])
        self.statistics.load_state_dict(state["statistics"])
        self._finished = list(state["finished"])

    def _action_values(self, keys: torch.Tensor, hashes: np.ndarray, touch: bool) -> tuple[np.ndarray, np.ndarray]:
        """Value of each action (eq. 2), and where it is an exact match's, each `[batch, actions]`."""
        tried = np.array([len(store) >= self.memory.neighbours for store in self.memory.stores])
        values = np.full((len(hashes), len(tried)), np.inf)
        if tried.any():
            recall = self.memory.read_each(keys, np.flatnonzero(tried).tolist(), touch)
            values[:, tried] = recall.estimates().unflatten(0, (len(keys), -1)).cpu().numpy()
        exact_values, exact = (answer.cpu().numpy() for answer in self.memory.exact(hashes, touch))
        values[exact] = exact_values[exact]
        return values, exact


def make_mfec(config: MFECConfig, world: WorldSpec, rng: np.random.Generator, device: str) -> MFEC:
    """Build the agent for a world."""
    return MFEC(
        GaussianProjection(int(np.prod(world.observation_shape)), config.key_size, rng, device),
        EpisodicMemory(
            world.num_actions,
            config.capacity,
            config.key_size,
            neighbours=config.neighbours,
            kernel=UniformMean(),
            eviction=config.eviction,
            device=device,
        ),
        RunningEpisodes(
            world.num_envs,
            {
                "keys": ((config.key_size,), np.float32),
                "exact_hits": ((), bool),
                "known_states": ((), bool),
                "hashes": ((), np.uint64),
                "actions": ((), np.int64),
                "acted_at": ((), np.int64),
                "rewards": ((), np.float64),
            },
        ),
        rng,
        discount=config.discount,
        epsilon=config.epsilon,
    )
