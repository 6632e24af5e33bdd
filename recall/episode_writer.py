"""Writes episodes in the format of `recall/record.py` while they run, and takes back what a resume undoes."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from memory.recollection import Recollection, SimilarMoments
from recall.record import DamagedError, Heading, Recording, episodes_folder
from recall.sheets import SheetWriter

_STEP = re.compile(rb'"step":\s*(\d+)')
Provenance = Callable[[int], tuple[int | None, int | None]]
"""From an agent step to the training episode it was in, and the step within that; None where that is not known."""


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


def line_of_moments(found: SimilarMoments, time: int, pictures: Sequence[int]) -> dict[str, Any]:
    """What a line of steps.jsonl says of earlier moments of the same episode: `values`, `rest` and `memories`.

    Args:
        found: at a step of the episode.
        time: of that step.
        pictures: of all steps before it, by number.
    """
    # An episode is recorded from its beginning, or it would have moments that are not of the record.
    times = [time - age for age in found.ages.tolist()]
    columns = {
        "time": times,
        "picture": [pictures[moment] for moment in times],
        "similarity": _six_digits(found.similarities),
        "value_similarity": _six_digits(found.value_similarities),
    }
    return {"values": _six_digits(found.action_values), "rest": None, "memories": columns}


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
        self._observed: list[int] = []
        self._total = 0.0
        _replace(self.folder / "episode.json", _json(heading))
        # A line goes to the disk with every step, so that what runs can be watched.
        self._steps = (self.folder / "steps.jsonl").open("a", buffering=1, encoding="utf-8")

    def add(
        self,
        step: int | None,
        picture: np.ndarray,
        action: int,
        reward: float,
        found: Recollection | SimilarMoments | None,
        provenance: Provenance,
        show: Callable[[np.ndarray], np.ndarray],
    ) -> dict[str, Any]:
        """Write one step; returns its line.

        Args:
            step: the agent step; None in an evaluation.
            picture: of what was observed, uint8 `[height, width]` or `[height, width, 3]`.
            action: what was done.
            reward: what it brought.
            found: what the action values rest on, or which moments of the episode are recalled; None where nobody
                looked.
            provenance: of memories.
            show: makes a picture of an observation.
        """
        line: dict[str, Any] = {"time": self.length, "step": step, "picture": self._show(picture)}
        line |= {"action": action, "reward": reward, "values": None, "rest": None, "memories": None}
        if isinstance(found, SimilarMoments):
            line |= line_of_moments(found, self.length, self._observed)
        elif found is not None:
            decoded = found.reconstructions
            numbers = None if decoded is None else [self._show(show(observation)) for observation in decoded]
            line |= line_of(found, provenance, numbers)
        self._steps.write(json.dumps(line, separators=(",", ":"), allow_nan=False) + "\n")
        self._observed.append(line["picture"])
        self._total += reward
        return line

    @property
    def length(self) -> int:
        """Steps so far."""
        return len(self._observed)

    def finish(self) -> None:
        """The episode has ended: bring everything to the disk."""
        self._close(self._total)

    def close(self) -> None:
        """The record ends before the episode, which is marked as cut short: bring everything to the disk."""
        self._close(None)

    def settle(self) -> None:
        """Wait until the pictures so far are on the disk."""
        self._pictures.settle()

    def _close(self, total: float | None) -> None:
        self.heading = self.heading.model_copy(update={"length": self.length, "total": total})
        _replace(self.folder / "episode.json", _json(self.heading))
        self._steps.close()
        self._pictures.close()

    def _show(self, picture: np.ndarray) -> int:
        self._pictures.add(self._shown, picture)
        self._shown += 1
        return self._shown - 1


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
    # Lines that cannot be read stay: whoever looks at them is told.
    kept = [line for line in lines if (number := _STEP.search(line)) is None or int(number[1]) <= step]
    with suppress(DamagedError):
        heading = Recording(folder.parents[1]).heading(folder.name)
        if len(kept) < len(lines) or heading.length is None:
            # The rest of it will not be recorded.
            _replace(folder / "episode.json", _json(heading.model_copy(update={"length": len(kept), "total": None})))
    if len(kept) < len(lines):
        _replace(path, b"".join(kept))


def _json(heading: Heading) -> bytes:
    return heading.model_dump_json(indent=1).encode()


def _replace(path: Path, content: bytes) -> None:
    """Put a file in the place of another, such that a reader sees one of them whole."""
    unfinished = path.with_suffix(".saving")
    unfinished.write_bytes(content)
    unfinished.replace(path)
