"""What NEC and its kin share: how they act by their dictionaries, write them, and replay."""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from agents.agent import WorldSpec
from agents.encoders import multiplies_bfloat16
from agents.episodes import RunningEpisodes
from agents.exploration import LinearSchedule
from agents.replay import Replay
from memory.episodic import EpisodicMemory, InverseDistance

OwnMemory = Literal["counts", "answers", "left_out"]


class EpisodicQConfig(BaseModel):
    """How an agent acts by its dictionaries and writes them: what NEC and its kin share."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    key_size: int = Field(128, ge=1)
    """Length of a key: the network's output."""
    capacity: int = Field(500_000, ge=1)
    """Most memories of one action; the dictionary grows as it fills, about 650 bytes a memory, and 260 more
    on processors that multiply bfloat16, for a search by rounded keys."""
    neighbours: int = Field(50, ge=1)
    """How many nearest memories answer a query (the paper's p)."""
    kernel_delta: float = Field(1e-3, gt=0.0)
    """Added to squared distances in the kernel."""
    eviction: Literal["lru", "fifo"] = "lru"
    """What makes place in a full dictionary: the memory least recently used (read or written), or inserted first."""
    discount: float = Field(0.99, ge=0.0, le=1.0)
    """Discount for each step."""
    n_step: int = Field(100, ge=1)
    """Rewards summed in a return before it bootstraps (the paper's N)."""
    tabular_learning_rate: float = Field(0.1, gt=0.0, le=1.0)
    """How far the value of a state written again moves to its new return (the paper's alpha)."""
    refresh_keys_on_revisit: bool = False
    """Whether a state written again also takes its new key."""
    value_learning_rate: float = Field(0.05, ge=0.0, le=1.0)
    """Share of the error that a value is corrected by, for each state of an update that recalls it with weight 1; below
    the tabular rate in the paper. Times batch_size it must be below 2, or what all of them recall would diverge."""
    batch_size: int = Field(32, ge=1)
    """States in an update."""
    steps_per_update: int = Field(4, ge=1)
    """Agent steps for each update."""
    own_memory: OwnMemory = "counts"
    """What the memory of a replayed state itself does when the state is learned on: it counts like any other, answers
    without credit, or is left out (as in neighbourhood components analysis, Goldberger et al. 2004)."""
    replay_capacity: int = Field(100_000, ge=1)
    """Steps kept for updates; each keeps its newest frame only."""
    learning_starts: int = Field(50_000, ge=0)
    """Agent steps before the first update."""
    epsilon_first: float = Field(1.0, ge=0.0, le=1.0)
    """Chance of a random action until `epsilon_begin`."""
    epsilon_last: float = Field(0.001, ge=0.0, le=1.0)
    """Chance of a random action from `epsilon_end` on."""
    epsilon_begin: int = Field(5_000, ge=0)
    """Agent step at which epsilon begins to fall."""
    epsilon_end: int = Field(25_000, ge=1)
    """Agent step at which it reaches its last value."""
    updates_per_probe: int = Field(1_000, ge=1)
    """Updates between two looks at how stale the memory is."""

    @model_validator(mode="after")
    def _corrects_no_value_beyond_its_target(self) -> Self:
        if self.value_learning_rate * self.batch_size >= 2:
            raise ValueError(
                f"value_learning_rate times batch_size must be below 2, got {self.value_learning_rate:g} times "
                f"{self.batch_size}: a value that a whole batch recalls would be corrected so far that it diverges"
            )
        return self


def make_memory(config: EpisodicQConfig, num_actions: int, device: str) -> EpisodicMemory:
    """A dictionary for each action."""
    return EpisodicMemory(
        num_actions,
        config.capacity,
        config.key_size,
        neighbours=config.neighbours,
        kernel=InverseDistance(config.kernel_delta),
        eviction=config.eviction,
        device=device,
        rounded=multiplies_bfloat16(device),
    )


def acting_parts(config: EpisodicQConfig, world: WorldSpec) -> dict[str, Any]:
    """Running episodes, replay and exploration, by the names of NEC's arguments."""
    columns = {
        "keys": ((config.key_size,), np.float32),
        "hashes": ((), np.uint64),
        "actions": ((), np.int64),
        "acted_at": ((), np.int64),
        "rewards": ((), np.float64),
        "state_values": ((), np.float64),
        "exact_hits": ((), bool),
        "rows": ((), np.int64),
    }
    replayed = {"actions": np.int64, "returns": np.float32}
    if config.own_memory != "counts":
        replayed["hashes"] = np.uint64
    return {
        "episodes": RunningEpisodes(world.num_envs, columns),
        "replay": Replay(
            config.replay_capacity,
            world.num_envs,
            world.observation_shape,
            world.frame_stack,
            replayed,
        ),
        "epsilon": LinearSchedule(config.epsilon_first, config.epsilon_last, config.epsilon_begin, config.epsilon_end),
    }
