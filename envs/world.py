"""What all worlds share: episodes that the caller begins, pictures for a video, hashes of observations."""

from __future__ import annotations

import abc
import difflib
from collections.abc import Callable, Collection, Sequence
from typing import Any

import gymnasium
import numpy as np
import xxhash
from gymnasium.vector import AutoresetMode, VectorEnv

Infos = dict[str, Any]


class World(VectorEnv[np.ndarray, np.ndarray, np.ndarray], abc.ABC):
    """A vector environment whose ended episodes wait for the caller's masked reset, so that no step is ever ignored.

    A world is a way to begin episodes and a way to advance them; what a caller can get wrong is caught here.

    Attributes:
        frame_stack: how many leading channels of an observation slide by one at each step; 1: nothing slides.
        reveals_labels: whether infos say what the right action was, as `label`.
        frames_per_step: frames that pass in a step.
        action_names: what the actions are called, in order.
    """

    single_observation_space: gymnasium.spaces.Box
    single_action_space: gymnasium.spaces.Discrete
    frame_stack = 1
    reveals_labels = False
    frames_per_step = 1

    def __init__(self, num_envs: int, observation: gymnasium.spaces.Box, action_names: Sequence[str]) -> None:
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.num_envs = num_envs
        self.single_observation_space = observation
        self.action_names = tuple(action_names)
        self.single_action_space = gymnasium.spaces.Discrete(len(self.action_names))
        self.observation_space = gymnasium.vector.utils.batch_space(observation, num_envs)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)
        self._ended = np.ones(num_envs, dtype=bool)
        self._started = False

    @abc.abstractmethod
    def _begin(self, mask: np.ndarray, seeds: list[int]) -> tuple[np.ndarray, Infos]:
        """Begin episodes where the mask is true; observations and infos of all environments."""

    @abc.abstractmethod
    def _advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Infos]:
        """Act, once in every environment; what `step` returns."""

    def expect(self, seeds: Sequence[int]) -> None:
        """Be told the seeds of the episodes that are to begin next.

        A world in which that takes long may begin them in the background. It changes nothing but time: other seeds may
        come, or none.
        """

    def reset(
        self, *, seed: int | Sequence[int] | np.ndarray | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, Infos]:
        """Begin new episodes; one is a function of its own seed and its actions.

        Args:
            seed: one, 0 or more, for each environment to be reset, in order; or the first of consecutive ones; or
                None, to draw them from `np_random`, which a single number seeds.
            options: `{"reset_mask": bool [num_envs]}`: which environments to reset. Without it: all.

        Returns:
            Observations and infos of all environments, unchanged for those that were not reset.

        Raises:
            ValueError: if the mask or the seeds are of the wrong shape, or a seed is negative.
            RuntimeError: if some environment would have been reset neither now nor ever before.
        """
        mask = (options or {}).get("reset_mask")
        mask = np.ones(self.num_envs, dtype=bool) if mask is None else np.asarray(mask)
        if mask.dtype != bool or mask.shape != (self.num_envs,):
            raise ValueError(f"reset_mask must be bool [{self.num_envs}], not {mask.dtype} {list(mask.shape)}")
        if not (self._started or mask.all()):
            raise RuntimeError("the first reset must be of all environments: leave reset_mask out")
        seeds = self._seeds(seed, int(mask.sum()))
        self._ended = self._ended & ~mask
        self._started = True
        return self._begin(mask, seeds)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Infos]:
        """Act with int `[num_envs]`, once in every environment.

        Returns:
            Observations `[num_envs, ...]` (where an episode ended, its last), rewards float64, terminations and
            truncations bool, and infos, each `[num_envs]`; only `metrics`, where a world has some to tell, are numbers
            by their tag, means over the episodes that ended with this step.

        Raises:
            RuntimeError: if an environment's episode has ended and was not reset.
            ValueError: if there is not one action for each environment, or one that the world does not have.
        """
        if self._ended.any():
            which = np.flatnonzero(self._ended).tolist()
            raise RuntimeError(
                f"no episode runs in environments {which}: reset them before the next step, with "
                'reset(seed=[one each], options={"reset_mask": terminations | truncations})'
            )
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs,) or actions.dtype.kind not in "iu":
            raise ValueError(f"actions must be int [{self.num_envs}], not {actions.dtype} {list(actions.shape)}")
        if actions.min() < 0 or actions.max() >= self.single_action_space.n:
            raise ValueError(f"actions are 0 to {self.single_action_space.n - 1}, not {actions.tolist()}")
        observations, rewards, terminations, truncations, infos = self._advance(actions)
        self._ended = terminations | truncations
        return observations, rewards, terminations, truncations, infos

    def _seeds(self, seed: int | Sequence[int] | np.ndarray | None, count: int) -> list[int]:
        if seed is None:
            seeds = self.np_random.integers(2**31, size=count).tolist()
        elif isinstance(seed, int | np.integer):
            if seed >= 0:
                super().reset(seed=int(seed))
            seeds = list(range(int(seed), int(seed) + count))
        else:
            seeds = [int(one) for one in seed]
        if len(seeds) != count:
            raise ValueError(f"one seed for each environment to be reset: {count}, not {len(seeds)}")
        if any(one < 0 for one in seeds):
            raise ValueError(f"seeds are 0 or more, not {min(seeds)}")
        return seeds


class Screens:
    """The true-colour pictures of one environment, for a video of it.

    A second environment, given the same seed and the same actions, shows the very same episode: the picture is of no
    use to an agent, so the worlds that it learns in do not pay for it.
    """

    def __init__(self, world: World, picture: Callable[[np.ndarray], np.ndarray]) -> None:
        self._world = world
        self._picture = picture

    def reset(self, seed: int) -> np.ndarray:
        """The first picture of the episode of this seed, uint8 `[height, width, 3]`."""
        return self._picture(self._world.reset(seed=[seed])[0][0])

    def step(self, action: int) -> np.ndarray:
        """The picture after an action, uint8 `[height, width, 3]`; RuntimeError once the episode has ended."""
        return self._picture(self._world.step(np.array([action]))[0][0])

    def close(self) -> None:
        """Let the environment go."""
        self._world.close()


def hash_each(observations: np.ndarray) -> np.ndarray:
    """The hashes (XXH3, uint64 `[num_envs]`) of the bytes of observations `[num_envs, ...]`."""
    return np.fromiter(map(xxhash.xxh3_64_intdigest, observations), dtype=np.uint64, count=len(observations))


def misspelt(kind: str, name: str, known: Collection[str]) -> str:
    """One line for a name that is not known, with the nearest that are."""
    lowered = {one.lower(): one for one in known}
    nearest = [lowered[one] for one in difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.5)]
    return f"no {kind} is called {name!r}; " + (f"nearest: {', '.join(nearest)}" if nearest else f"e.g. {min(known)}")
