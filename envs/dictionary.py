"""Dictionary recall: pairs of a key and a value are shown, then every key again in another order, and values are due.

What associative recall asks about one item, this asks about all: how many pairs a memory holds is read off directly.
"""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
import pydantic

from envs.sequence_task import Sequences, SequenceTask


class DictionaryConfig(pydantic.BaseModel):
    """Dictionary recall: random pairs of bits, to be looked up by their keys."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    name: Literal["dictionary"] = "dictionary"
    """The task."""
    key_bits: int = pydantic.Field(default=8, ge=1, le=62)
    """Bits of a key; those of a sequence are all different."""
    value_bits: int = pydantic.Field(default=8, ge=1, lt=2**31)
    """Bits of a value."""
    min_pairs: int = pydantic.Field(default=1, ge=1, lt=2**31)
    """Fewest pairs of a sequence."""
    max_pairs: int = pydantic.Field(default=8, ge=1, lt=2**31)
    """Most pairs of a sequence."""

    @pydantic.model_validator(mode="after")
    def _possible(self) -> Self:
        if self.min_pairs > self.max_pairs:
            raise ValueError(f"min_pairs must be at most max_pairs, got {self.min_pairs} and {self.max_pairs}")
        if self.max_pairs > 2**self.key_bits:
            raise ValueError(
                f"max_pairs must be at most {2**self.key_bits}, the different keys of {self.key_bits} bits, "
                f"got {self.max_pairs}"
            )
        return self

    @property
    def title(self) -> str:
        """What the task is called."""
        least, most = self.min_pairs, self.max_pairs
        pairs = f"{least}" if least == most else f"{least}-{most}"
        return f"dictionary {pairs} pairs of {self.key_bits} and {self.value_bits}"


class Dictionary(SequenceTask):
    """Dictionary recall: inputs are the bits of the key, those of the value, and a last channel that marks questions.

    Of `n` pairs, `2 n` steps: each pair in a step of its own, and then each key, the value of which is due in the same
    step. All sequences of a batch have as many pairs, drawn anew for every batch. Bits are shown as -1 and 1, and are 0
    where nothing is shown: the value of a key that is asked for is no value of zeros.
    """

    def __init__(self, config: DictionaryConfig, rng: np.random.Generator) -> None:
        super().__init__(config.key_bits + config.value_bits + 1, config.value_bits, rng)
        self._key_bits = config.key_bits
        self._pairs = config.min_pairs, config.max_pairs
        self.same_length = config.min_pairs == config.max_pairs

    def draw(self, batch: int) -> Sequences:
        pairs = int(self.rng.integers(*self._pairs, endpoint=True))
        numbers = np.stack([self.rng.choice(2**self._key_bits, pairs, replace=False) for _ in range(batch)], axis=1)
        keys = (numbers[..., None] >> np.arange(self._key_bits)) & 1
        values = self.rng.integers(2, size=(pairs, batch, self.target_size))
        asked = self.rng.permuted(np.tile(np.arange(pairs)[:, None], batch), axis=0)[..., None]
        inputs = np.zeros((2 * pairs, batch, self.input_size), dtype=np.float32)
        inputs[:pairs, :, : self._key_bits] = 2 * keys - 1
        inputs[:pairs, :, self._key_bits : -1] = 2 * values - 1
        inputs[pairs:, :, : self._key_bits] = 2 * np.take_along_axis(keys, asked, axis=0) - 1
        inputs[pairs:, :, -1] = 1.0
        targets = np.zeros((2 * pairs, batch, self.target_size), dtype=np.float32)
        targets[pairs:] = np.take_along_axis(values, asked, axis=0)
        mask = np.zeros((2 * pairs, batch), dtype=bool)
        mask[pairs:] = True
        return Sequences(inputs, targets, mask)
