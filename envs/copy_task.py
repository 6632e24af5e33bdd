"""The algorithmic tasks of Graves et al. 2014, arXiv 1410.5401, section 4: copy, repeat copy and associative recall.

All sequences of a batch have the same length, drawn anew for every batch: nothing is padded. While the answer is due,
inputs are zero.
"""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
import pydantic

from envs.sequence_task import Sequences, SequenceTask


class CopyConfig(pydantic.BaseModel):
    """Copy: random vectors of bits, to be said again. The NTM paper's setting; the Memory Forcing paper's is 12 x 6."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    name: Literal["copy"] = "copy"
    """The task."""
    bits: int = pydantic.Field(default=8, ge=1, lt=2**31)
    """Bits of a vector."""
    min_length: int = pydantic.Field(default=1, ge=1, lt=2**31)
    """Fewest vectors of a sequence."""
    max_length: int = pydantic.Field(default=20, ge=1, lt=2**31)
    """Most vectors of a sequence."""

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> Self:
        _check_range("length", self.min_length, self.max_length)
        return self

    @property
    def title(self) -> str:
        """What the task is called."""
        return f"copy {_span(self.min_length, self.max_length)} x {self.bits}"


class RepeatCopyConfig(pydantic.BaseModel):
    """Repeat copy: random vectors of bits, to be said again as often as is asked for, and then an end marker."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    name: Literal["repeat_copy"] = "repeat_copy"
    """The task."""
    bits: int = pydantic.Field(default=8, ge=1, lt=2**31)
    """Bits of a vector."""
    min_length: int = pydantic.Field(default=1, ge=1, lt=2**31)
    """Fewest vectors of a sequence."""
    max_length: int = pydantic.Field(default=10, ge=1, lt=2**31)
    """Most vectors of a sequence."""
    min_repeats: int = pydantic.Field(default=1, ge=1, lt=2**31)
    """Fewest repetitions."""
    max_repeats: int = pydantic.Field(default=10, ge=1, lt=2**31)
    """Most repetitions."""

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> Self:
        _check_range("length", self.min_length, self.max_length)
        _check_range("repeats", self.min_repeats, self.max_repeats)
        return self

    @property
    def title(self) -> str:
        """What the task is called."""
        lengths, repeats = _span(self.min_length, self.max_length), _span(self.min_repeats, self.max_repeats)
        return f"repeat copy {lengths} x {self.bits} {repeats} times"


class AssociativeRecallConfig(pydantic.BaseModel):
    """Associative recall: items of some vectors each; one of them is shown again, and the item after it is due."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    name: Literal["associative_recall"] = "associative_recall"
    """The task."""
    bits: int = pydantic.Field(default=6, ge=1, lt=2**31)
    """Bits of a vector."""
    vectors_per_item: int = pydantic.Field(default=3, ge=1, lt=2**31)
    """Vectors of an item."""
    min_items: int = pydantic.Field(default=2, ge=2, lt=2**31)
    """Fewest items of a sequence."""
    max_items: int = pydantic.Field(default=6, ge=2, lt=2**31)
    """Most items of a sequence."""

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> Self:
        _check_range("items", self.min_items, self.max_items)
        return self

    @property
    def title(self) -> str:
        """What the task is called."""
        items = _span(self.min_items, self.max_items)
        return f"associative recall {items} of {self.vectors_per_item} x {self.bits}"


class Copy(SequenceTask):
    """Copy: inputs are the bits and a last channel that marks the end of what is to be copied.

    Of a sequence of `n` vectors, `2 n + 1` steps: the vectors, the mark, and then the answer.
    """

    def __init__(self, config: CopyConfig, rng: np.random.Generator) -> None:
        super().__init__(config.bits + 1, config.bits, rng)
        self._lengths = config.min_length, config.max_length
        self.same_length = config.min_length == config.max_length

    def draw(self, batch: int) -> Sequences:
        length = int(self.rng.integers(*self._lengths, endpoint=True))
        vectors = _bits(self.rng, length, batch, self.target_size)
        return _answered(vectors, mark=1.0, answer=vectors)


class RepeatCopy(SequenceTask):
    """Repeat copy: as copy, but the mark is the number of repetitions, less its mean over its standard deviation.

    The last bit of the answer is its end marker. Of `n` vectors, `r` times: `n + 1 + r n + 1` steps.
    """

    def __init__(self, config: RepeatCopyConfig, rng: np.random.Generator) -> None:
        super().__init__(config.bits + 1, config.bits + 1, rng)
        self._lengths = config.min_length, config.max_length
        self._repeats = config.min_repeats, config.max_repeats
        self.same_length = config.min_length == config.max_length and config.min_repeats == config.max_repeats

    def draw(self, batch: int) -> Sequences:
        length = int(self.rng.integers(*self._lengths, endpoint=True))
        repeats = int(self.rng.integers(*self._repeats, endpoint=True))
        vectors = _bits(self.rng, length, batch, self.target_size - 1)
        answer = np.zeros((repeats * length + 1, batch, self.target_size), dtype=np.float32)
        answer[:-1, :, :-1] = np.tile(vectors, (repeats, 1, 1))
        answer[-1, :, -1] = 1.0
        counts = np.arange(self._repeats[0], self._repeats[1] + 1)
        # Where the number is always the same, there is nothing to tell.
        mark = (repeats - counts.mean()) / (counts.std() or 1.0)
        return _answered(vectors, float(mark), answer)


class AssociativeRecall(SequenceTask):
    """Associative recall: inputs are the bits, a channel that marks where an item begins, and one for the query.

    A mark stands before every item, and one of the other kind on either side of the query. Of items of `k` vectors,
    `n` of them: `(k + 1) n + k + 2 + k` steps, the answer the last `k`.
    """

    def __init__(self, config: AssociativeRecallConfig, rng: np.random.Generator) -> None:
        super().__init__(config.bits + 2, config.bits, rng)
        self._items = config.min_items, config.max_items
        self.same_length = config.min_items == config.max_items
        self._vectors = config.vectors_per_item

    def draw(self, batch: int) -> Sequences:
        count, size, bits = int(self.rng.integers(*self._items, endpoint=True)), self._vectors, self.target_size
        items = _bits(self.rng, count * size, batch, bits).reshape(count, size, batch, bits)
        asked = self.rng.integers(count - 1, size=batch)
        shown = np.zeros((count, size + 1, batch, self.input_size), dtype=np.float32)
        shown[:, 0, :, bits] = 1.0
        shown[:, 1:, :, :bits] = items
        query = np.zeros((size + 2, batch, self.input_size), dtype=np.float32)
        query[[0, -1], :, bits + 1] = 1.0
        every = np.arange(batch)
        query[1:-1, :, :bits] = items[asked, :, every].swapaxes(0, 1)
        answer = items[asked + 1, :, every].swapaxes(0, 1)
        return _due(np.concatenate([shown.reshape(-1, batch, self.input_size), query]), answer)


def _bits(rng: np.random.Generator, length: int, batch: int, bits: int) -> np.ndarray:
    return rng.integers(2, size=(length, batch, bits)).astype(np.float32)


def _answered(vectors: np.ndarray, mark: float, answer: np.ndarray) -> Sequences:
    """Vectors `[length, batch, bits]`, a mark in a channel of its own, and then the answer."""
    shown = np.pad(vectors, ((0, 1), (0, 0), (0, 1)))
    shown[-1, :, -1] = mark
    return _due(shown, answer)


def _due(shown: np.ndarray, answer: np.ndarray) -> Sequences:
    """What is shown `[steps, batch, input_size]`, and then the answer `[steps, batch, target_size]` is due."""
    before, after = len(shown), len(answer)
    mask = np.zeros((before + after, shown.shape[1]), dtype=bool)
    mask[before:] = True
    return Sequences(
        inputs=np.pad(shown, ((0, after), (0, 0), (0, 0))),
        targets=np.pad(answer, ((before, 0), (0, 0), (0, 0))),
        mask=mask,
    )


def _span(least: int, most: int) -> str:
    return f"{least}" if least == most else f"{least}-{most}"


def _check_range(of: str, least: int, most: int) -> None:
    if least > most:
        raise ValueError(f"min_{of} must be at most max_{of}, got {least} and {most}")
