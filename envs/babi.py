"""bAbI, word by word (Weston et al. 2015, arXiv 1502.05698): stories are read, and questions about them answered.

A sequence is a whole story with all its questions, as in Graves et al. 2016 and what came after it: each answer is due
where the question has been read, and the story then goes on. Five questions so cost one pass over the story, and not
five. What the answer was is never shown.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pydantic

from envs.babi_stories import ALIKE, TASKS, TWO_HOPS, WORDS, Stories, load_stories, with_first_hops, with_thinking
from envs.sequence_task import Sequences, SequenceTask

_BAND = 1.25
"""How much longer than its shortest story the longest of a batch may be."""


class BabiConfig(pydantic.BaseModel):
    """bAbI: stories of twenty tasks read word by word, and questions about them."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    name: Literal["babi"] = "babi"
    """The task."""
    tasks: tuple[int, ...] = TASKS
    """Which of the twenty tasks, by number; a single one, or more of them jointly."""
    size: Literal["1k", "10k"] = "10k"
    """Questions of each task to train on; tested is on the same 1,000."""
    split: Literal["train", "test"] = "train"
    """Which stories."""
    thinking_steps: int = pydantic.Field(default=0, ge=0, le=100)
    """Steps between a question and its answer, in which a model may go on reading its memory."""
    curriculum: int = pydantic.Field(default=0, ge=0, lt=2**31)
    """Batches until the next task, in the order of `tasks`, joins those that are trained on; 0: all from the start."""
    renaming: bool = False
    """Let people, places, things and animals change places at random in every story that is drawn, where the task draws
    them all alike: stories cannot be learned by heart. Those of the test split stay as they are."""
    first_hops: float = pydantic.Field(default=0.0, ge=0.0, le=1.0)
    """Share of the questions of task 15 that ask, while it is trained on, for the first of their two steps alone: "what
    is emily?" in the place of "what is emily afraid of?"."""
    longest_story: int = pydantic.Field(default=800, ge=1, lt=2**31)
    """Most words of a story that is trained on; longer ones, of tasks 3 and 5, are left out. Tested is on all."""

    @pydantic.field_validator("tasks")
    @classmethod
    def _known(cls, tasks: tuple[int, ...]) -> tuple[int, ...]:
        if not tasks or len(set(tasks)) < len(tasks) or not set(tasks) <= set(TASKS):
            raise ValueError(f"tasks must be different numbers from 1 to 20, got {' '.join(map(str, tasks)) or 'none'}")
        return tasks

    @pydantic.model_validator(mode="after")
    def _has_hops(self) -> BabiConfig:
        if self.first_hops and TWO_HOPS not in self.tasks:
            raise ValueError(
                f"first_hops is for task {TWO_HOPS}, which is not among tasks {' '.join(map(str, self.tasks))}"
            )
        return self

    @property
    def title(self) -> str:
        """What the task is called."""
        if set(self.tasks) == set(TASKS):
            return f"bAbI {self.size}"
        return f"bAbI {self.size} task{'s' * (len(self.tasks) > 1)} {' '.join(map(str, self.tasks))}"


class Babi(SequenceTask):
    """bAbI: inputs and targets are words by number (`envs.babi_stories.WORDS`), int64 `[time, batch]`.

    Where an answer is due, the input is the placeholder, number 0, once for each of its words; it also fills up what is
    shorter than the longest story of a batch.

    Stories of a batch are about equally long, or most of its steps would be filled up: lengths fall into bands, each a
    quarter longer than the one before, and a batch is of one band. Every band goes through all its stories in an order
    of its own before one comes again, and all bands do so equally often; a rest that makes no batch waits for the next
    time. When a task joins by the curriculum, all bands begin anew.

    Args:
        config: which stories; longer ones are left out where they are trained on. How they are read, and when a task
            joins.
        stories: all of them.
        rng: where all randomness of the task comes from.

    Attributes:
        task_numbers: which of the twenty tasks each story is of, by length of the stories, int64 `[stories]`.

    Raises:
        ValueError: if no story is left, or none of those that `first_hops` is for.
    """

    categorical = True
    words = WORDS

    def __init__(self, config: BabiConfig, stories: Stories, rng: np.random.Generator) -> None:
        super().__init__(len(WORDS), len(WORDS), rng)
        words = np.diff(stories.starts)
        stories = with_thinking(stories, config.thinking_steps)
        lengths = np.diff(stories.starts)
        order = np.argsort(lengths, kind="stable")
        if config.split == "train":
            order = order[words[order] <= config.longest_story]
        if not len(order):
            raise ValueError(f"longest_story must be at least {words.min()} for this task, got {config.longest_story}")
        self._first_hops = config.first_hops if config.split == "train" else 0.0
        two_hops = words[stories.tasks == TWO_HOPS]
        if self._first_hops and len(two_hops) and two_hops.min() > config.longest_story:
            raise ValueError(
                f"longest_story must be at least {two_hops.min()} where there are first_hops, for the shortest story "
                f"of task {TWO_HOPS}, got {config.longest_story}"
            )
        self._words, self._answers = stories.words, stories.answers
        self._starts, self._lengths = stories.starts[order], lengths[order]
        self.task_numbers = stories.tasks[order]
        self._bands = (np.log(self._lengths / self._lengths[0]) / np.log(_BAND)).astype(np.int64)
        # Of a task whose stories are all too long, none could be drawn until the next one joins.
        self._tasks = [number for number in config.tasks if number in self.task_numbers]
        self._renaming = config.renaming and config.split == "train"
        self._curriculum, self._drawn = config.curriculum, 0
        self._order = self._rest = np.zeros(0, dtype=np.int64)

    def __len__(self) -> int:
        """How many stories there are."""
        return len(self._lengths)

    def draw(self, batch: int) -> Sequences:
        if self._joined(self._drawn) > self._joined(self._drawn - 1):
            self._order = self._rest = self._order[:0]
        while len(self._order) < batch:
            self._order = np.concatenate([self._order, self._batches(batch)])
        chosen, self._order = self._order[:batch], self._order[batch:]
        self._drawn += 1
        sequences, tasks = self.take(chosen), self.task_numbers[chosen]
        if self._first_hops:
            sequences = self._with_first_hops(sequences, tasks)
        return self._renamed(sequences, tasks) if self._renaming else sequences

    def take(self, numbers: np.ndarray) -> Sequences:
        """Stories by their number in order of length, the shortest 0, the same ones every time."""
        lengths = self._lengths[numbers]
        shape = int(lengths.max()), len(numbers)
        inputs, targets = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        for column, (start, length) in enumerate(zip(self._starts[numbers], lengths, strict=True)):
            inputs[:length, column] = self._words[start : start + length]
            targets[:length, column] = self._answers[start : start + length]
        return Sequences(inputs, targets, targets > 0)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "drawn": self._drawn, "order": self._order, "rest": self._rest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._drawn = state["drawn"]
        self._order, self._rest = state["order"].copy(), state["rest"].copy()

    def _with_first_hops(self, sequences: Sequences, tasks: np.ndarray) -> Sequences:
        """The same stories `[time, batch]`, but for questions of task 15 that ask for their first step alone."""
        inputs, targets = sequences.inputs, sequences.targets
        for column in np.flatnonzero(tasks == TWO_HOPS):
            chosen = self.rng.random((targets[:, column] > 0).sum()) < self._first_hops
            inputs[:, column], targets[:, column] = with_first_hops(inputs[:, column], targets[:, column], chosen)
        return Sequences(inputs, targets, targets > 0)

    def _renamed(self, sequences: Sequences, tasks: np.ndarray) -> Sequences:
        """The same stories `[time, batch]`, in each of which words that are alike have changed places."""
        words = np.tile(np.arange(len(WORDS)), (len(tasks), 1))
        for renamed, task in zip(words, tasks, strict=True):
            for alike in ALIKE.get(task, ()):
                renamed[alike] = self.rng.permutation(alike)
        columns = np.arange(len(tasks))
        return sequences._replace(inputs=words[columns, sequences.inputs], targets=words[columns, sequences.targets])

    def _batches(self, batch: int) -> np.ndarray:
        """Those that were left and then all stories once, as batches of a band each in a random order `[n * batch]`.

        All stories are those of the tasks that have joined.
        """
        stories = np.flatnonzero(np.isin(self.task_numbers, self._tasks[: self._joined(self._drawn)]))
        waiting = np.concatenate([self._rest, self.rng.permutation(stories)])
        full, rest = [], []
        for band in range(self._bands[-1] + 1):
            alike = waiting[self._bands[waiting] == band]
            end = len(alike) - len(alike) % batch
            full.append(alike[:end])
            rest.append(alike[end:])
        self._rest = np.concatenate(rest)
        return self.rng.permutation(np.concatenate(full).reshape(-1, batch)).ravel()

    def _joined(self, drawn: int) -> int:
        """How many tasks are trained on after some batches."""
        return min(1 + drawn // self._curriculum, len(self._tasks)) if self._curriculum else len(self._tasks)


def make_babi(config: BabiConfig, rng: np.random.Generator) -> Babi:
    """Build the task.

    Raises:
        ValueError: if the data cannot be had, saying from where and what to do.
    """
    return Babi(config, load_stories(config.size, config.tasks, config.split), rng)
