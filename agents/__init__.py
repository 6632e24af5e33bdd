"""The agents: one file each, read top to bottom. `agent` holds the protocol they share.

And the sequence model, which acts on nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from agents.agent import Agent, Metrics, NonFiniteError, TaskSpec, Transition, WorldSpec
from agents.dqn import DQNConfig, make_dqn
from agents.memory_classifier import MemoryClassifierConfig, make_memory_classifier
from agents.mfec import MFECConfig, make_mfec
from agents.nec import NECConfig, make_nec
from agents.random_agent import RandomAgent, RandomConfig, make_random
from agents.rec import make_rec
from agents.rec_config import RECConfig
from agents.recollecting_ppo import make_recurrent_ppo
from agents.recurrent_ppo import RecurrentPPOConfig
from agents.sequence_model import make_sequence_model
from agents.sequence_model_config import SequenceModelConfig

AgentConfig = Annotated[
    RandomConfig
    | MFECConfig
    | NECConfig
    | RECConfig
    | DQNConfig
    | RecurrentPPOConfig
    | MemoryClassifierConfig
    | SequenceModelConfig,
    Field(discriminator="name"),
]

_MAKERS: dict[str, Callable[[Any, WorldSpec, np.random.Generator, str], Agent]] = {
    "random": make_random,
    "mfec": make_mfec,
    "nec": make_nec,
    "rec": make_rec,
    "dqn": make_dqn,
    "recurrent_ppo": make_recurrent_ppo,
    "memory_classifier": make_memory_classifier,
}


def make(config: AgentConfig, world: WorldSpec, rng: np.random.Generator, device: str) -> Agent:
    """Build an agent for a world; network weights are drawn from torch's global generator.

    Raises:
        ValueError: if it does not fit the world; and of a sequence model, which does not act.
    """
    if isinstance(config, SequenceModelConfig):
        raise ValueError(f"{config.name} is a sequence model: it does not act")
    return _MAKERS[config.name](config, world, rng, device)


__all__ = [
    "Agent",
    "AgentConfig",
    "Metrics",
    "NonFiniteError",
    "RandomAgent",
    "SequenceModelConfig",
    "TaskSpec",
    "Transition",
    "WorldSpec",
    "make",
    "make_sequence_model",
]
