"""What all sequence tasks share: batches of whole sequences, drawn from a generator that can be saved.

A task is no world to act in: what is to be predicted at each step is known beforehand, and nothing that a model does
changes what comes next.
"""

from __future__ import annotations

import abc
from typing import Any, NamedTuple

import numpy as np


class Sequences(NamedTuple):
    """A batch of sequences of one length, time first."""

    inputs: np.ndarray
    """What is seen, float32 `[time, batch, input_size]`; of a categorical task int64 `[time, batch]`."""
    targets: np.ndarray
    """The bits to be predicted at each step, float32 0 or 1, `[time, batch, target_size]`; of a categorical task the
    class, int64 `[time, batch]`."""
    mask: np.ndarray
    """Which steps count, bool `[time, batch]`; targets are 0 elsewhere."""


class SequenceTask(abc.ABC):
    """Draws batches of sequences.

    Args:
        input_size: length of an input; of a categorical task, how many classes there are of them.
        target_size: bits to be predicted at each step; of a categorical task, how many classes there are.
        rng: where all randomness of the task comes from.

    Attributes:
        generative: whether an input is what was to be predicted the step before, so that a model can go on by itself.
        categorical: whether inputs and targets are each one of a set of classes, such as words, by number.
        same_length: whether all batches are of as many steps.
        words: what the classes are called, by number; None where they have no names.
    """

    generative = False
    categorical = False
    same_length = False
    words: tuple[str, ...] | None = None

    def __init__(self, input_size: int, target_size: int, rng: np.random.Generator) -> None:
        self.input_size = input_size
        self.target_size = target_size
        self.rng = rng

    @abc.abstractmethod
    def draw(self, batch: int) -> Sequences:
        """The next batch."""

    def state_dict(self) -> dict[str, Any]:
        """Where the generator stands, and with it what comes next."""
        return {"rng": self.rng.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another task of the same options stood."""
        self.rng.bit_generator.state = state["rng"]
