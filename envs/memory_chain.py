"""A chain of steps between some bits and the question for one of them: how long, and how much, is remembered.

`memory_len` and `memory_size` of bsuite (Osband et al. 2020): the first asks for one bit after 1 to 100 steps, the
second for one of up to 40 bits after 2.
"""

from __future__ import annotations

from typing import Any, Literal

import gymnasium
import numpy as np
import pydantic

from envs.array_world import ArrayWorld, observation_screens
from envs.world import Infos, Screens, hash_each

_ON = 255


class MemoryChainConfig(pydantic.BaseModel):
    """Bits that are shown once, at the beginning; at the end one of them is to be told."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    name: Literal["memory_chain"] = "memory_chain"
    """The world."""
    length: int = pydantic.Field(default=10, ge=1, lt=2**31)
    """Steps of an episode; at 1, bits and question are seen at once, and nothing has to be remembered."""
    bits: int = pydantic.Field(default=1, ge=1, lt=2**31)
    """Bits that are shown."""

    @property
    def title(self) -> str:
        """What the world is called."""
        return f"MemoryChain-{self.length}x{self.bits}"


def make_memory_chain(config: MemoryChainConfig, num_envs: int) -> MemoryChain:
    """Build `num_envs` chains."""
    return MemoryChain(config, num_envs)


def memory_chain_screens(config: MemoryChainConfig) -> Screens:
    """Pictures of what is observed, uint8 `[height, width, 3]`."""
    return observation_screens(make_memory_chain(config, 1))


class MemoryChain(ArrayWorld):
    """Chains of one length.

    Observations are uint8 `[num_envs, 1, 4, bits]`, row by row: the share of the episode that is left, 255 being all of
    it; at the last step 255 at the bit that is asked for; at the first 255 where a bit is 1; and at the first 255 where
    it is 0. All else is 0.

    Action 1 says that the bit is 1, action 0 that it is 0; only the last one counts. It terminates the episode and is
    paid 1 if it is right and else -1. A guess comes to 0 in the mean.

    Infos: `state_hash` uint64 `[num_envs]`, of the observation.
    """

    def __init__(self, config: MemoryChainConfig, num_envs: int) -> None:
        space = gymnasium.spaces.Box(0, _ON, (1, 4, config.bits), dtype=np.uint8)
        super().__init__(num_envs, space, ["0", "1"])
        self._length = config.length
        self._bits = np.zeros((num_envs, config.bits), dtype=np.int64)
        self._asked = np.zeros(num_envs, dtype=np.int64)
        self._every_env = np.arange(num_envs)

    def _start(self, mask: np.ndarray) -> None:
        bits = self._bits.shape[1]
        self._asked[mask] = self._draw(np.zeros(self.num_envs, dtype=np.int64), bits)[mask]
        self._bits[mask] = self._draw(1 + np.arange(bits)[None, :], 2)[mask]

    def _advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Infos]:
        self._time += 1
        terminations = self._time == self._length
        right = actions == self._bits[self._every_env, self._asked]
        rewards = np.where(terminations, np.where(right, 1.0, -1.0), 0.0)
        observations, infos = self._look()
        return observations, rewards, terminations, np.zeros(self.num_envs, dtype=bool), infos

    def _look(self) -> tuple[np.ndarray, dict[str, Any]]:
        observations = np.zeros((self.num_envs, *self.single_observation_space.shape), dtype=np.uint8)
        left, asked, ones, zeros = observations[:, 0].transpose(1, 0, 2)
        left[:] = (_ON * (self._length - self._time) // self._length)[:, None]
        asked[self._every_env, self._asked] = np.where(self._time == self._length - 1, _ON, 0)
        first = self._time[:, None] == 0
        ones[:] = np.where(first & (self._bits == 1), _ON, 0)
        zeros[:] = np.where(first & (self._bits == 0), _ON, 0)
        return observations, {"state_hash": hash_each(observations)}
