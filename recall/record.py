"""The format of what is recorded, version 2: JSON, JSON lines and PNG, in `recalls/` of a run.

    observations/                   what was observed in training, by agent step; sheets, as in `recall/sheets.py`
    episodes/NAME/episode.json      what the episode is of: see `Heading`
    episodes/NAME/steps.jsonl       a line for each step: see `Line`
    episodes/NAME/pictures/         its own pictures: what was observed in it, and reconstructions

A line of steps.jsonl holds

    time            the step within the episode, from 0
    step            the agent step of a training; null in an evaluation
    picture         number of what was observed, among the episode's own pictures
    action, reward  what was done, and what it brought
    values          of each action; null for one that is to be tried first, whatever it is worth
    rest            what the memories listed do not account for, of each action; null where they account for nothing
    memories        as columns, of two kinds; null for a step that was not looked into, to save time

Every column of `memories` has one entry for each memory. Of memories that are weighed, the heaviest of each action are
listed: `action` it speaks for, `slot`, `weight`, `value`, `distance`, `origin` (the agent step whose observation it is
of, which is also its number in observations/), `episode` and `time` of that step (null where it is not known),
`written_at`, `keyed_at` and `uses`; where the agent can tell, `fresh_distance`; and where it has a decoder,
`reconstruction`, a number among the episode's own pictures. The value of an action is its rest and the sum of
`weight * value` over its memories, to six digits.

Where they are moments of the same episode that speak for no action, the most similar are listed: `time` of the step,
`picture` (number of what was observed then, among the episode's own), `similarity` of the key that is read now to the
one that was written then, and `value_similarity` of what is read to the value that was written. Version 1 had only the
former kind, and is read too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from recall.sheets import read_picture

FORMAT = 2
_NAME = re.compile(r"(training|evaluation)-\d+(-\d+)?")
_TIME = re.compile(rb'"time":\s*(\d+)')
_ORIGINS = re.compile(rb'"origin":\s*\[([\d,\s]+)\]')


class Heading(BaseModel):
    """What a recorded episode is of."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    format: int = FORMAT
    kind: str
    """`training` or `evaluation`."""
    agent: str
    world: str
    actions: list[str]
    """Their names."""
    num_envs: int
    """Environments of the training: an observation's successor is so many agent steps later."""
    number: int
    """Of the episode, in training; of the game, in an evaluation."""
    step: int
    """The agent step it began at; of the checkpoint, in an evaluation."""
    memories: int
    """Most listed for an action; in all, where they speak for none."""
    length: int | None = None
    """Steps recorded; None while it is being written."""
    total: float | None = None
    """Sum of its rewards; None unless it was recorded to its end."""

    @property
    def title(self) -> str:
        """Which episode it is, in words."""
        if self.kind == "training":
            return f"episode {self.number}, from step {self.step:,}"
        return f"evaluation at step {self.step:,}, game {self.number}"

    @property
    def name(self) -> str:
        """The episode's folder."""
        return f"{self.kind}-{self.step:09d}" + (f"-{self.number:03d}" if self.kind == "evaluation" else "")


class Memories(BaseModel):
    """The columns of memories that are weighed; what a later version adds is let through."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    action: list[Annotated[int, Field(ge=0)]]
    slot: list[int]
    weight: list[float]
    value: list[float]
    distance: list[float]
    origin: list[Annotated[int, Field(ge=0)]]
    episode: list[int | None]
    time: list[int | None]
    written_at: list[int]
    keyed_at: list[int]
    uses: list[int]
    fresh_distance: list[float] | None = None
    reconstruction: list[Annotated[int, Field(ge=0)]] | None = None


class Moments(BaseModel):
    """The columns of moments of the same episode that speak for no action; likewise."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    time: list[Annotated[int, Field(ge=0)]]
    picture: list[Annotated[int, Field(ge=0)]]
    similarity: list[float]
    value_similarity: list[float]


class Line(BaseModel):
    """A step as it must be to be shown."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    time: int = Field(ge=0)
    step: int | None
    picture: int = Field(ge=0)
    action: int = Field(ge=0)
    reward: float
    values: list[float | None] | None
    rest: list[float | None] | None
    memories: Memories | Moments | None

    def check(self, num_actions: int) -> None:
        """Raise ValueError where its parts do not go together."""
        if self.action >= num_actions or (self.memories is None) != (self.values is None):
            raise ValueError("an action that there is none of, or values without memories")
        if self.memories is None or self.values is None:
            return
        columns = [column for column in self.memories.__dict__.values() if column is not None]
        if len(set(map(len, columns))) != 1:
            raise ValueError("columns of memories that do not go together")
        if len(self.values) != num_actions or (self.rest is not None and len(self.rest) != num_actions):
            raise ValueError("not one value for each action")
        if isinstance(self.memories, Moments):
            if self.rest is not None or None in self.values or any(time >= self.time for time in self.memories.time):
                raise ValueError("moments that are not before, or that account for a value")
        elif self.rest is None or any(action >= num_actions for action in self.memories.action):
            raise ValueError("memories of an action that there is none of, or values without a rest")


def episodes_folder(recalls: Path) -> Path:
    """Where the recorded episodes lie."""
    return recalls / "episodes"


def observations_folder(recalls: Path) -> Path:
    """Where the observations of the training lie."""
    return recalls / "observations"


class DamagedError(Exception):
    """A recorded episode, or part of it, cannot be read; the message says which and why."""


@dataclass(frozen=True)
class Steps:
    """The lines of an episode."""

    lines: list[dict[str, Any]]
    damaged: list[int] = field(default_factory=list)
    """Numbers of the lines that cannot be read, from 1."""


@dataclass(frozen=True)
class Recording:
    """All that is recorded of a run, to be read."""

    recalls: Path

    def names(self) -> list[str]:
        """Of the episodes: those of the training by their first step, then those of evaluations."""
        names = [path.name for path in _folders(episodes_folder(self.recalls)) if _NAME.fullmatch(path.name)]
        return sorted(names, key=lambda name: (name.startswith("evaluation"), name))

    def heading(self, name: str) -> Heading:
        """What an episode is of.

        Raises:
            DamagedError: if it is not there, or cannot be read.
        """
        path = self._episode(name) / "episode.json"
        try:
            heading = Heading.model_validate_json(self._read(path))
        except ValidationError as error:
            raise DamagedError(f"{path} is damaged: it is not the heading of an episode") from error
        if heading.format > FORMAT:
            raise DamagedError(f"{path} is of format {heading.format}, and this version reads up to {FORMAT}: update")
        return heading

    def steps(self, name: str) -> Steps:
        """The lines of an episode; those that cannot be read are left out and told of.

        Raises:
            DamagedError: if there are none to be read.
        """
        num_actions = len(self.heading(name).actions)
        return read_lines(self._read(self._episode(name) / "steps.jsonl").split(b"\n"), num_actions)

    def times_by_origin(self, name: str) -> dict[int, list[int]]:
        """At which steps of an episode each memory was listed, by its origin; damaged lines count as far as they go.

        Raises:
            DamagedError: if there are no lines to be read.
        """
        times: dict[int, list[int]] = {}
        # Thirty times as fast as reading the lines, of which a run may have a hundred thousand.
        for line in self._read(self._episode(name) / "steps.jsonl").split(b"\n"):
            time, origins = _TIME.search(line), _ORIGINS.search(line)
            if time and origins:
                for origin in dict.fromkeys(origins[1].split(b",")):
                    times.setdefault(int(origin), []).append(int(time[1]))
        return times

    def observation(self, origin: int) -> np.ndarray | None:
        """What was observed at an agent step of the training, uint8 `[height, width, 3]`; None if it is not kept."""
        return read_picture(observations_folder(self.recalls), origin)

    def picture(self, name: str, number: int) -> np.ndarray | None:
        """One of an episode's own pictures, uint8 `[height, width, 3]`; None if it is not there."""
        return read_picture(self._episode(name) / "pictures", number)

    def nbytes(self) -> int:
        """Bytes on the disk."""
        return sum(path.stat().st_size for path in self.recalls.rglob("*") if path.is_file())

    def _episode(self, name: str) -> Path:
        # A name comes from whoever asks, and must not lead elsewhere.
        if not _NAME.fullmatch(name):
            raise DamagedError(f"{name!r} is not the name of a recorded episode")
        return episodes_folder(self.recalls) / name

    def _read(self, path: Path) -> bytes:
        try:
            if not path.resolve().is_relative_to(self.recalls.resolve()):
                raise DamagedError(f"{path} is a link that leads elsewhere")
            return path.read_bytes()
        except OSError as error:
            raise DamagedError(f"{path} cannot be read: {error.strerror}") from error


def read_lines(lines: Iterable[bytes], num_actions: int) -> Steps:
    """The steps of an episode from the lines of its file; the last one may be in the writing."""
    good, damaged = [], []
    *whole, last = list(lines) or [b""]
    for number, line in enumerate(whole, start=1):
        step = _parsed(line, num_actions)
        if step is None:
            damaged.append(number)
        else:
            good.append(step)
    if (step := _parsed(last, num_actions)) is not None:
        good.append(step)
    return Steps(good, damaged)


def _parsed(line: bytes, num_actions: int) -> dict[str, Any] | None:
    try:
        Line.model_validate_json(line).check(num_actions)
    except ValueError:
        return None
    return json.loads(line)


def _folders(folder: Path) -> Iterator[Path]:
    try:
        # Links are left out: they may lead anywhere.
        yield from (path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    except OSError:
        return
