"""Worlds whose environments are rows of arrays: one step advances all of them, however many there are.

What is random in an episode is drawn by number from its own seed, so that no generator has to be made at a reset (20 us
each) or kept between steps, and an episode does not notice what the others draw.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

from envs.world import Infos, Screens, World

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIERS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SHIFTS = np.uint64(30), np.uint64(27), np.uint64(31)
_HALF = np.uint64(32)
_TILE = 32


class ArrayWorld(World):
    """A world that begins and advances all its environments at once.

    Seeds are taken modulo 2^64.
    """

    def __init__(self, num_envs: int, observation: gymnasium.spaces.Box, action_names: Sequence[str]) -> None:
        super().__init__(num_envs, observation, action_names)
        # Steps of the running episodes.
        self._time = np.zeros(num_envs, dtype=np.int64)
        self._episode_seeds = np.zeros(num_envs, dtype=np.uint64)

    @abc.abstractmethod
    def _start(self, mask: np.ndarray) -> None:
        """Set what an episode begins with where the mask is true; times and seeds are set."""

    @abc.abstractmethod
    def _look(self) -> tuple[np.ndarray, dict[str, Any]]:
        """Observations and infos as things stand; what was handed out is never written to again."""

    def _begin(self, mask: np.ndarray, seeds: list[int]) -> tuple[np.ndarray, Infos]:
        self._episode_seeds[mask] = np.array([seed % 2**64 for seed in seeds], dtype=np.uint64)
        self._time[mask] = 0
        self._start(mask)
        return self._look()

    def _draw(self, numbers: np.ndarray, bound: int) -> np.ndarray:
        """Draws from 0 to `bound - 1`, of each environment's episode those of these numbers.

        Args:
            numbers: int `[num_envs]`, or `[num_envs or 1, n]` for n of each.
            bound: at most 2^32; the smallest draws are likelier than the others by less than `bound / 2^32`.

        Returns:
            int64, in the shape of `numbers`.
        """
        seeds = self._episode_seeds if numbers.ndim == 1 else self._episode_seeds[:, None]
        return ((split_mix(seeds, numbers) >> _HALF) * np.uint64(bound) >> _HALF).astype(np.int64)


def split_mix(seeds: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Random bits: of SplitMix64 begun with a seed, the output of this number.

    The generator is a count in steps of a constant, whose sum with the seed is mixed (Steele, Lea and Flood 2014, with
    the mixing of Stafford's variant 13): any output is had at once, and there is no state to be kept.

    Args:
        seeds: uint64 `[...]`.
        numbers: int `[...]`, from 0, of a shape that seeds can be broadcast with.

    Returns:
        uint64 `[...]`.
    """
    bits = seeds + (numbers.astype(np.uint64) + np.uint64(1)) * _GAMMA
    bits = (bits ^ (bits >> _SHIFTS[0])) * _MULTIPLIERS[0]
    bits = (bits ^ (bits >> _SHIFTS[1])) * _MULTIPLIERS[1]
    return bits ^ (bits >> _SHIFTS[2])


def observation_screens(world: World) -> Screens:
    """Pictures of what is observed, in grey, uint8 `[height, width, 3]`: a square for each number in the only channel.

    Of a world with one environment.
    """
    high = int(world.single_observation_space.high.max())

    def picture(observation: np.ndarray) -> np.ndarray:
        grey = (255 // high * observation[0]).repeat(_TILE, axis=0).repeat(_TILE, axis=1)
        return grey[:, :, None].repeat(3, axis=2)

    return Screens(world, picture)
