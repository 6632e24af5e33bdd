"""Random play: the floor every score is measured from."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from agents.agent import Metrics, Transition, WorldSpec


class RandomConfig(BaseModel):
    """Uniformly random actions."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    name: Literal["random"] = "random"
    """Which agent this is."""


class RandomAgent:
    """Chooses uniformly among the actions, and learns nothing."""

    def __init__(self, num_actions: int, rng: np.random.Generator) -> None:
        self.num_actions = num_actions
        self.rng = rng

    def act(self, observations: np.ndarray, state_hashes: np.ndarray, epsilon: float | None = None) -> np.ndarray:
        return self.rng.integers(0, self.num_actions, len(observations))

    def observe(self, transition: Transition) -> None:
        pass

    def learn(self) -> Metrics | None:
        return None

    def state_dict(self) -> dict[str, Any]:
        return {"rng": self.rng.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rng.bit_generator.state = state["rng"]


def make_random(config: RandomConfig, world: WorldSpec, rng: np.random.Generator, device: str) -> RandomAgent:
    """Build the agent for a world."""
    return RandomAgent(world.num_actions, rng)
