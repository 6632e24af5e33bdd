"""The format of what is recorded, version 1: JSON, JSON lines and PNG, in `recalls/` of a run.

    observations/                   what was observed in training, by agent step; sheets, as in `recall/sheets.py`
    episodes/NAME/episode.json      what the episode is of: see `Heading`
    episodes/NAME/steps.jsonl       a line for each step: see `line_of`
    episodes/NAME/pictures/         its own pictures: what was observed in it, and reconstructions

A line of steps.jsonl holds

    time            the step within the episode, from 0
    step            the agent step of a training; null in an evaluation
    picture         number of what was observed, among the episode's own pictures
    action, reward  what was done, and what it brought
    values          of each action; null for one that is to be tried first, whatever it is worth
    rest            what the memories listed do not account for, of each action
    memories        the heaviest of each action, as columns; null for a step that was not looked into, to save time

Every column of `memories` has one entry for each memory: `action` it speaks for, `slot`, `weight`, `value`, `distance`,
`origin` (the agent step whose observation it is of, which is also its number in observations/), `episode` and `time` of
that step (null where it is not known), `written_at`, `keyed_at` and `uses`; where the agent can tell, `fresh_distance`;
and where it has a decoder, `reconstruction`, a number among the episode's own pictures. The value of an action is its
rest and the sum of `weight * value` over its memories, to six digits.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from memory.recollection import Recollection
from recall.sheets import SheetWriter, read_picture

FORMAT = 1
_NAME = re.compile(r"(training|evaluation)-\d+(-\d+)?")
Provenance = Callable[[int], tuple[int | None, int | None]]
"""From an agent step to the training episode it was in, and the step within that; None where that is not known."""


class Heading(BaseModel):
    """What a recorded episode is of."""

    model_config = ConfigDict(frozen=True, extra="ignore")

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
    """Most listed for an action."""
    length: int | None = None
    """Steps; None while the episode runs."""
    total: float | None = None
    """Sum of its rewards; None while the episode runs."""

    @property
    def name(self) -> str:
        """The episode's folder."""
        return f"{self.kind}-{self.step:09d}" + (f"-{self.number:03d}" if self.kind == "evaluation" else "")


def episodes_folder(recalls: Path) -> Path:
    """Where the recorded episodes lie."""
    return recalls / "episodes"


def observations_folder(recalls: Path) -> Path:
    """Where the observations of the training lie."""
    return recalls / "observations"


def line_of(found: Recollection, provenance: Provenance, reconstructions: Sequence[int] | None) -> dict[str, Any]:
    """What a line of steps.jsonl says of a recollection: `values`, `rest` and `memories`."""
    whence = [provenance(origin) for origin in found.origins.tolist()]
    columns: dict[str, list[Any]] = {
        "action": found.actions.tolist(),
        "slot": found.slots.tolist(),
        "weight": _six_digits(found.weights),
        "value": _six_digits(found.values),
        "distance": _six_digits(found.distances),
        "origin": found.origins.tolist(),
        "episode": [episode for episode, _ in whence],
        "time": [time for _, time in whence],
        "written_at": found.written_at.tolist(),
        "keyed_at": found.keyed_at.tolist(),
        "uses": found.uses.tolist(),
    }
    if found.fresh_distances is not None:
        columns["fresh_distance"] = _six_digits(found.fresh_distances)
    if reconstructions is not None:
        columns["reconstruction"] = list(reconstructions)
    return {"values": _six_digits(found.action_values), "rest": _six_digits(found.rest), "memories": columns}


def _six_digits(numbers: np.ndarray) -> list[float | None]:
    """Numbers for JSON, which knows no infinity."""
    return [float(f"{number:.6g}") if math.isfinite(number) else None for number in numbers.tolist()]


class EpisodeWriter:
    """Writes one episode while it runs.

    Args:
        recalls: folder of all that is recorded of a run.
        heading: of the episode.
        warn: is told of what cannot be written.
    """

    def __init__(self, recalls: Path, heading: Heading, warn: Callable[[str], None]) -> None:
        self.heading = heading
        self.folder = episodes_folder(recalls) / heading.name
        self.folder.mkdir(parents=True)
        self._pictures = SheetWriter(self.folder / "pictures", most_bytes=2**40, warn=warn)
        self._shown = 0
        self._time = 0
        self._total = 0.0
        _write_heading(self.folder, heading)
        # A line goes to the disk with every step, so that what runs can be watched.
        self._steps = (self.folder / "steps.jsonl").open("a", buffering=1, encoding="utf-8")

    def add(
        self,
        step: int | None,
        picture: np.ndarray,
        action: int,
        reward: float,
        found: Recollection | None,
        provenance: Provenance,
        show: Callable[[np.ndarray], np.ndarray],
    ) -> dict[str, Any]:
        """Write one step; returns its line.

        Args:
            step: the agent step; None in an evaluation.
            picture: of what was observed, uint8 `[height, width]` or `[height, width, 3]`.
            action: what was done.
            reward: what it brought.
            found: what the action values rest on; None where nobody looked.
            provenance: of memories.
            show: makes a picture of an observation.
        """
        line: dict[str, Any] = {"time": self._time, "step": step, "picture": self._show(picture)}
        line |= {"action": action, "reward": reward, "values": None, "rest": None, "memories": None}
        if found is not None:
            decoded = found.reconstructions
            numbers = None if decoded is None else [self._show(show(observation)) for observation in decoded]
            line |= line_of(found, provenance, numbers)
        self._steps.write(json.dumps(line, separators=(",", ":"), allow_nan=False) + "\n")
        self._time += 1
        self._total += reward
        return line

    @property
    def length(self) -> int:
        """Steps so far."""
        return self._time

    def finish(self) -> None:
        """The episode, or the record of it, has ended."""
        self.heading = self.heading.model_copy(update={"length": self._time, "total": self._total})
        _write_heading(self.folder, self.heading)
        self.close()

    def close(self) -> None:
        """Bring everything to the disk; an episode that has not ended stays as one that runs."""
        self._steps.close()
        self._pictures.close()

    def settle(self) -> None:
        """Wait until the pictures so far are on the disk."""
        self._pictures.settle()

    def _show(self, picture: np.ndarray) -> int:
        self._pictures.add(self._shown, picture)
        self._shown += 1
        return self._shown - 1


def _write_heading(folder: Path, heading: Heading) -> None:
    path = folder / "episode.json"
    unfinished = path.with_suffix(".saving")
    unfinished.write_text(heading.model_dump_json(indent=1), encoding="utf-8")
    unfinished.replace(path)


def take_back(recalls: Path, step: int) -> None:
    """Remove what was recorded of a training after an agent step: it is going on from there."""
    recording = Recording(recalls)
    for name in recording.names():
        kind, first, *_ = name.split("-")
        folder = episodes_folder(recalls) / name
        if kind == "training" and int(first) > step:
            shutil.rmtree(folder)
        elif kind == "training":
            _take_back_steps(folder, step)


def _take_back_steps(folder: Path, step: int) -> None:
    path = folder / "steps.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    before = [line for line in lines if (parsed := _parsed(line)) is not None and parsed["step"] <= step]
    if len(before) < len(lines):
        path.write_bytes(b"".join(before))
        with suppress(DamagedError):
            heading = Recording(folder.parents[1]).heading(folder.name)
            # What came of it is no longer known.
            _write_heading(folder, heading.model_copy(update={"length": None, "total": None}))


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
        """Of the episodes, by kind and step."""
        folder = episodes_folder(self.recalls)
        return sorted(path.name for path in _folders(folder) if _NAME.fullmatch(path.name))

    def heading(self, name: str) -> Heading:
        """What an episode is of.

        Raises:
            DamagedError: if it is not there, or cannot be read.
        """
        path = self._episode(name) / "episode.json"
        try:
            heading = Heading.model_validate_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise DamagedError(f"{path} cannot be read: {error.strerror}") from error
        except (ValidationError, UnicodeDecodeError) as error:
            raise DamagedError(f"{path} is damaged: it is not the heading of an episode") from error
        if heading.format > FORMAT:
            raise DamagedError(f"{path} is of format {heading.format}, and this version reads up to {FORMAT}: update")
        return heading

    def steps(self, name: str) -> Steps:
        """The lines of an episode; those that cannot be read are left out and told of.

        Raises:
            DamagedError: if there are none to be read.
        """
        path = self._episode(name) / "steps.jsonl"
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DamagedError(f"{path} cannot be read: {error.strerror}") from error
        return read_lines(content.split(b"\n"))

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


def read_lines(lines: Iterable[bytes]) -> Steps:
    """The steps of an episode from the lines of its file; the last one may be in the writing."""
    good, damaged = [], []
    *whole, last = list(lines) or [b""]
    for number, line in enumerate(whole, start=1):
        step = _parsed(line)
        if step is None:
            damaged.append(number)
        else:
            good.append(step)
    if (step := _parsed(last)) is not None:
        good.append(step)
    return Steps(good, damaged)


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        step = json.loads(line)
        memories = step["memories"]
        sound = all(name in step for name in ("time", "step", "picture", "action", "reward", "values", "rest"))
        if memories is not None:
            sound = sound and len({len(column) for column in memories.values()}) <= 1
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return step if sound else None


def _folders(folder: Path) -> Iterator[Path]:
    try:
        yield from (path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return
