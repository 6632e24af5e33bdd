"""Atari games side by side, each in an emulator of its own, so that the next episode begins while the others play on.

To begin an episode by its seed an emulator loads the game anew, about 0.1 s; in Ms Pac-Man that is as much time as its
steps take. One vector environment of many games would wait for it. Emulators that can be exchanged need not: whoever
knows the seeds of the next episodes tells them, spare emulators begin those in the background, and when their turn
comes, they take the place of one whose game has ended.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import cast

import numpy as np
from ale_py import AtariVectorEnv
from gymnasium.spaces import Box

Parts = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]
_Begun = tuple[AtariVectorEnv, np.ndarray, np.ndarray]


class Emulators:
    """A number of games, and spare emulators for as many as are expected.

    Args:
        make: builds an emulator of one game, with a thread of its own.
        number: of games.
    """

    def __init__(self, make: Callable[[], AtariVectorEnv], number: int) -> None:
        self._make = make
        self._threads = ThreadPoolExecutor(os.cpu_count(), "emulator")
        self._playing = list(self._threads.map(lambda _: make(), range(number)))
        self._idle: list[AtariVectorEnv] = []
        self._expected: dict[int, Future[_Begun]] = {}
        space = cast(Box, self.any.single_observation_space)
        self._observations = np.zeros((number, *space.shape), dtype=np.uint8)
        self._lives = np.zeros(number, dtype=np.int32)

    @property
    def any(self) -> AtariVectorEnv:
        """One of them: what does not change is the same in all."""
        return self._playing[0]

    def expect(self, seeds: Sequence[int]) -> None:
        """Begin the episodes of these seeds in the background, and no others that wait."""
        for seed in self._expected.keys() - set(seeds):
            self._idle.append(self._expected.pop(seed).result()[0])
        for seed in seeds:
            if seed not in self._expected:
                emulator = self._idle.pop() if self._idle else None
                self._expected[seed] = self._threads.submit(self._begun, emulator, seed)

    def begin(self, games: np.ndarray, seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Begin episodes in some games, by their numbers; observations and lives of all, those of the others as before.

        Raises:
            What the emulator raises.
        """
        begun: dict[int, Future[_Begun]] = {}
        for game, seed in zip(games.tolist(), seeds, strict=True):
            if seed in self._expected:
                begun[game] = self._expected.pop(seed)
                self._idle.append(self._playing[game])
            else:
                begun[game] = self._threads.submit(self._begun, self._playing[game], seed)
        # Whoever was given the arrays before may still hold them.
        self._observations, self._lives = self._observations.copy(), self._lives.copy()
        for game, future in begun.items():
            self._playing[game], self._observations[game], self._lives[game] = future.result()
        return self._observations, self._lives

    def step(self, actions: np.ndarray) -> Parts:
        """Act in every game, int64 `[number]`: observations, points, terminations, truncations and lives."""
        for emulator, action in zip(self._playing, actions[:, None], strict=True):
            emulator.send(action)
        received = [emulator.recv() for emulator in self._playing]
        observations, points, terminations, truncations = (
            np.concatenate([one[part] for one in received]) for part in range(4)
        )
        self._observations, self._lives = observations, np.concatenate([one[4]["lives"] for one in received])
        return observations, points, terminations, truncations, self._lives

    def close(self) -> None:
        """Wait for what goes on in the background, and let the threads go."""
        self._threads.shutdown(cancel_futures=True)

    def _begun(self, emulator: AtariVectorEnv | None, seed: int) -> _Begun:
        emulator = emulator or self._make()
        observations, infos = emulator.reset(seed=np.array([seed]))
        return emulator, observations[0], infos["lives"][0]
