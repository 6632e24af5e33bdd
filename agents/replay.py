"""Replay of single steps that keeps each frame once.

A stack of four frames shares three with the one before it. Keeping only the newest frame of each observation, and
stacking again when a batch is drawn, takes a quarter of the bytes: 7 KB a step on Atari.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

_AT_ONCE = 512
"""Observations of an episode taken at a time: 14 MB of screens."""


class Replay:
    """The last steps of parallel environments: a ring of frames for each, and columns of numbers beside them.

    A row is one observation. `start` and `append` return the rows just filled; a row can be drawn once it is marked
    as complete, until it or a frame of its stack is overwritten. Memory is taken as rows are filled.

    Args:
        capacity: rows of all environments together.
        num_envs: number of environments.
        observation_shape: of one observation, channels first.
        frame_stack: leading channels that slide by one at each step; 1 keeps whole observations.
        columns: name of each column to its type.

    Raises:
        ValueError: if the capacity leaves an environment fewer rows than two stacks.
    """

    def __init__(
        self,
        capacity: int,
        num_envs: int,
        observation_shape: tuple[int, ...],
        frame_stack: int,
        columns: dict[str, Any],
    ) -> None:
        self.rows = capacity // num_envs
        if self.rows < 2 * frame_stack:
            raise ValueError(
                f"a replay of {capacity} steps is too small for {num_envs} environments: each needs {2 * frame_stack}"
            )
        self.frame_stack = frame_stack
        self.newest = np.full(num_envs, -1, dtype=np.int64)
        self.complete = np.zeros((num_envs, self.rows), dtype=bool)
        self.columns = {name: np.zeros((num_envs, self.rows), dtype) for name, dtype in columns.items()}
        self._observation_shape = observation_shape
        frame_shape = (observation_shape[0] // frame_stack, *observation_shape[1:])
        # np.zeros leaves the pages to the system until they are written: a long replay costs nothing at the start.
        self._frames = np.zeros((num_envs, self.rows, *frame_shape), dtype=np.uint8)
        self._offsets = np.arange(1 - frame_stack, 1)
        self._overwritten = np.arange(frame_stack)

    def __len__(self) -> int:
        return int(self.complete.sum())

    @property
    def nbytes(self) -> int:
        """Bytes of the rows filled so far."""
        filled = np.minimum(self.newest + 1, self.rows).sum()
        each = self._frames[0, 0].nbytes + sum(column.itemsize for column in self.columns.values()) + 1
        return int(filled * each)

    def start(self, env: int, observation: np.ndarray) -> None:
        """Begin an episode of one environment: take in all frames of its first observation."""
        for frame in observation.reshape(self.frame_stack, *self._frames.shape[2:]):
            self._advance(np.array([env]), frame[None])

    def append(self, observations: np.ndarray) -> None:
        """Take in the newest frame of the next observation of every environment, `[num_envs, *observation_shape]`."""
        newest = observations[:, -self._frames.shape[2] :]
        self._advance(np.arange(len(observations)), newest)

    def holds(self, env: int, rows: np.ndarray) -> np.ndarray:
        """Whether the rows, by the numbers `newest` counted, are still whole, bool of their shape."""
        return rows - self.frame_stack + 1 > self.newest[env] - self.rows

    def draw(self, rng: np.random.Generator, batch: int) -> tuple[np.ndarray, np.ndarray]:
        """Environment and slot of a uniform draw of complete rows, with replacement, int64 `[batch]` each."""
        flat = rng.choice(np.flatnonzero(self.complete), batch)
        return flat // self.rows, flat % self.rows

    def observations(self, envs: np.ndarray, slots: np.ndarray) -> np.ndarray:
        """The observations in these slots, stacked again, uint8 `[batch, *observation_shape]`."""
        frames = self._frames[envs[:, None], (slots[:, None] + self._offsets) % self.rows]
        return frames.reshape(len(envs), *self._observation_shape)

    def observed_in(self, env: int, rows: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """What was observed in rows of an environment, by the numbers `newest` counted; they must still be whole.

        Yields:
            Some of `rows [n]` at a time: which, and their observations uint8 `[some, *observation_shape]`.
        """
        for start in range(0, len(rows), _AT_ONCE):
            piece = slice(start, start + _AT_ONCE)
            slots = rows[piece] % self.rows
            yield piece, self.observations(np.full(len(slots), env), slots)

    def state_dict(self) -> dict[str, Any]:
        """All filled rows; the frames are views, to be saved before the next step."""
        filled = min(int(self.newest.max()) + 1, self.rows)
        return {
            "newest": self.newest.copy(),
            "frames": self._frames[:, :filled],
            "complete": self.complete[:, :filled],
            "columns": {name: column[:, :filled] for name, column in self.columns.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what was saved.

        Raises:
            ValueError: if it held other frames, or rows that lie elsewhere in this ring: a row's slot is its number
                modulo the ring's length.
        """
        saved = state["frames"]
        filled = min(int(state["newest"].max()) + 1, self.rows)
        if saved.shape != (len(self.newest), filled, *self._frames.shape[2:]):
            raise ValueError(f"the saved replay has frames {list(saved.shape)}, this one {list(self._frames.shape)}")
        self.newest = state["newest"].copy()
        self.complete[:] = False
        self._frames[:, :filled] = saved
        self.complete[:, :filled] = state["complete"]
        for name, column in self.columns.items():
            column[:, :filled] = state["columns"][name]

    def _advance(self, envs: np.ndarray, frames: np.ndarray) -> None:
        self.newest[envs] += 1
        slots = self.newest[envs] % self.rows
        self._frames[envs, slots] = frames
        # The rows just after are the oldest: their stacks reach back to the frame that was overwritten.
        self.complete[envs[:, None], (slots[:, None] + self._overwritten) % self.rows] = False
