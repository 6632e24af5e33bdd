"""One recorded step as a picture: the world on the left, the memories behind the action on the right."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from recall.record import Heading, Recording

WORLD_SIDE = 336
MEMORY_SIDE = 150
_GAP = 12
_LINE = 18
_GROUND, _INK, _FAINT = (255, 255, 255), (29, 33, 38), (110, 117, 127)
_PART = (91, 141, 239)


def are_moments(memories: dict[str, list[Any]] | None) -> bool:
    """Whether a line's memories are moments of the same episode, which speak for no action."""
    return memories is not None and "similarity" in memories


def heaviest_of(line: dict[str, Any], action: int, most: int) -> list[int]:
    """Places in a line's columns of the heaviest memories that speak for an action; of moments, the most similar."""
    memories = line["memories"]
    if memories is None:
        return []
    if are_moments(memories):
        return sorted(range(len(memories["time"])), key=lambda place: -memories["similarity"][place])[:most]
    places = [place for place, of in enumerate(memories["action"]) if of == action]
    return sorted(places, key=lambda place: -memories["weight"][place])[:most]


def now_of(heading: Heading, line: dict[str, Any]) -> int:
    """The agent step that ages are counted from."""
    return heading.step if line["step"] is None else line["step"]


def whence(memories: dict[str, list[Any]], place: int) -> str:
    """Which moment a memory is of, in words."""
    if are_moments(memories):
        return f"step {memories['time'][place]}"
    if memories["episode"][place] is None:
        return f"step {memories['origin'][place]:,}"
    return f"ep {memories['episode'][place]}, step {memories['time'][place]}"


def panel(recording: Recording, heading: Heading, line: dict[str, Any], most: int = 5) -> np.ndarray:
    """The picture of a step, uint8 `[height, width, 3]`; its size depends on `most`, the memories shown, alone.

    Shown are those that speak for the action that was taken, or the moments that were recalled.
    """
    width = _GAP + WORLD_SIDE + most * (_GAP + MEMORY_SIDE) + _GAP
    canvas = np.full((WORLD_SIDE + 2 * _GAP + 2 * _LINE, width, 3), _GROUND, dtype=np.uint8)
    _put(canvas, recording.picture(heading.name, line["picture"]), _GAP, _GAP, WORLD_SIDE)
    name = heading.actions[line["action"]]
    value = line["values"][line["action"]] if line["values"] else None
    worth = "" if line["values"] is None else f", worth {'untried' if value is None else f'{value:,.4g}'}"
    if are_moments(line["memories"]) and value is not None:
        worth = f", chance {100 * value:.3g} %"
    below = _GAP + WORLD_SIDE + _LINE
    _write(canvas, f"step {line['time']}: {name}{worth}", _GAP, below, _INK)
    _write(canvas, f"reward {line['reward']:g}, agent step {now_of(heading, line):,}", _GAP, below + _LINE, _FAINT)
    left = 2 * _GAP + WORLD_SIDE
    places = heaviest_of(line, line["action"], most)
    if not places:
        reason = "not looked into, to save time" if line["memories"] is None else "nothing remembered"
        _write(canvas, reason, left, _GAP + MEMORY_SIDE, _FAINT)
    for place in places:
        draw = _moment if are_moments(line["memories"]) else _memory
        draw(canvas, recording, heading, line, place, left)
        left += MEMORY_SIDE + _GAP
    return canvas


def _memory(
    canvas: np.ndarray, recording: Recording, heading: Heading, line: dict[str, Any], place: int, left: int
) -> None:
    memories = line["memories"]
    at = {name: column[place] for name, column in memories.items()}
    top = _GAP + _LINE
    _bar(canvas, at["weight"], f"{100 * at['weight']:.3g} %", left)
    picture = recording.observation(at["origin"])
    caption = "as it was"
    if picture is None and "reconstruction" in at:
        picture, caption = recording.picture(heading.name, at["reconstruction"]), "reconstructed"
    if picture is None:
        _write(canvas, "no longer kept", left + 20, top + MEMORY_SIDE // 2, _FAINT)
    else:
        _put(canvas, picture, left, top, MEMORY_SIDE)
    now = now_of(heading, line)
    rows = [
        whence(memories, place),
        f"value {at['value']:,.4g}",
        f"age {now - at['origin']:,}",
        f"distance {at['distance']:.3g}",
        f"if fresh {at['fresh_distance']:.3g}" if "fresh_distance" in at else f"key age {now - at['keyed_at']:,}",
        f"used {at['uses']:,} times",
        caption if picture is not None else "",
    ]
    for number, text in enumerate(rows, start=1):
        _write(canvas, text, left, top + MEMORY_SIDE + number * _LINE, _INK if number < 3 else _FAINT)


def _moment(
    canvas: np.ndarray, recording: Recording, heading: Heading, line: dict[str, Any], place: int, left: int
) -> None:
    memories = line["memories"]
    at = {name: column[place] for name, column in memories.items()}
    top = _GAP + _LINE
    _bar(canvas, at["similarity"], f"similarity {at['similarity']:.3g}", left)
    _put(canvas, recording.picture(heading.name, at["picture"]), left, top, MEMORY_SIDE)
    before = line["time"] - at["time"]
    rows = [
        whence(memories, place),
        f"{before} step{'s' * (before > 1)} before",
        f"value similarity {at['value_similarity']:.3g}",
    ]
    for number, text in enumerate(rows, start=1):
        _write(canvas, text, left, top + MEMORY_SIDE + number * _LINE, _INK if number < 3 else _FAINT)


def _bar(canvas: np.ndarray, share: float, text: str, left: int) -> None:
    """A share, 0 where it is less, above a picture."""
    canvas[_GAP : _GAP + _LINE - 4, left : left + max(1, round(share * MEMORY_SIDE))] = _PART
    _write(canvas, text, left + 3, _GAP + _LINE - 7, _INK)


def _put(canvas: np.ndarray, picture: np.ndarray | None, left: int, top: int, side: int) -> None:
    """A picture, enlarged to fit a square."""
    if picture is None:
        _write(canvas, "no picture", left, top + side // 2, _FAINT)
        return
    scale = side / max(picture.shape[:2])
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    shown = cv2.resize(picture, size, interpolation=cv2.INTER_NEAREST if scale >= 1 else cv2.INTER_AREA)
    canvas[top : top + shown.shape[0], left : left + shown.shape[1]] = shown


def _write(canvas: np.ndarray, text: str, left: int, baseline: int, colour: tuple[int, int, int]) -> None:
    # The font knows ASCII alone.
    plain = text.encode("ascii", "replace").decode()
    cv2.putText(canvas, plain, (left, baseline), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)
