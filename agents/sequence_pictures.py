"""What a sequence model did with its memory along a sequence, as pictures (Figures 1, 2 and 4 of Memory Forcing).

Time runs to the right. On the left is a sequence that was predicted without a mistake, on the right one that was not.
Of an MNM also what it wrote and read beside what it wrote before (Figure 3 of its article), time running down, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from agents.sequence_model import SequenceModel
from agents.similarity_pictures import WORD_CELL, beside, heat_map
from memory.neural.recollecting import similarity_maps

_CELL, _WIDEST = 6, 1_600
"""Pixels along a side of a number, less where a sequence would be wider than so many."""
_OVER_TIME = (
    *("read_weights", "write_weights", "usage", "precedence"),
    *("read_keys", "write_keys", "write_values"),
)
_AT_THE_END = ("memory", "links")
WRITTEN_AND_READ = ("write_keys", "write_values", "read_keys", "reads")
"""Parts of the state of a memory that is a function, in the order of `similarity_maps`."""


def sequence_pictures(
    model: SequenceModel,
    inputs: np.ndarray,
    targets: np.ndarray,
    mask: np.ndarray,
    words: Sequence[str] | None = None,
) -> dict[str, np.ndarray]:
    """Pictures of two sequences of a batch, uint8 `[height, width, 3]` by tag.

    Inputs, targets and what was predicted have a row for each bit, or for each word; weights and usage a row for each
    slot, and keys and values a row for each number, heads one below the other; of memory and links the end of the
    sequence is shown. Similarities are of the step of a row to the earlier step of a column, up to the last step that
    counts.

    Args:
        model: is left as it is.
        inputs: `[time, batch, input_size]`, or numbers of words `[time, batch]`.
        targets: `[time, batch, target_size]`, or likewise.
        mask: bool `[time, batch]`.
        words: by number, where there are any; they stand at the axes of similarities if they have room.
    """
    scores = model.score(inputs, targets, mask)
    shown = _right_and_wrong(scores["wrong_bits" if "wrong_bits" in scores else "wrong_answers"])
    inputs, targets, mask = inputs[:, shown], targets[:, shown], mask[:, shown]
    with torch.no_grad():
        logits, _ = model.predict(torch.from_numpy(inputs).to(model.readout.weight.device), eager=True)
        logits = logits.cpu()
    found = {"inputs": inputs, "targets": targets, "predictions": logits.sigmoid().numpy() * mask[..., None]}
    if targets.ndim == 2:
        one_hot = np.eye(logits.shape[-1], dtype=np.float32)
        found = {"inputs": one_hot[inputs], "targets": one_hot[targets], "predictions": logits.softmax(-1).numpy()}
        found = {name: values * (mask[..., None] | (name == "inputs")) for name, values in found.items()}
    states = model.states(inputs)
    ends = [_end(mask[:, sequence]) for sequence in range(mask.shape[1])]
    for name, values in states.items():
        last = name.rpartition(".")[2]
        if last in _OVER_TIME:
            found[last] = values.reshape(*values.shape[:2], -1)
        elif last in _AT_THE_END:
            found[last] = values[ends, range(len(ends))].transpose(2, 0, 1)
    pictures = {name: _side_by_side(values) for name, values in found.items()}
    if states.keys() >= set(WRITTEN_AND_READ):
        pictures |= _similarities(states, inputs, mask, words)
    return {f"recall/{name}": picture for name, picture in pictures.items()}


def _similarities(
    states: Mapping[str, np.ndarray], inputs: np.ndarray, mask: np.ndarray, words: Sequence[str] | None
) -> dict[str, np.ndarray]:
    """What was written and read beside what was written before, of each sequence up to its last step that counts."""
    maps: dict[str, list[np.ndarray]] = {}
    for sequence in range(mask.shape[1]):
        steps = 1 + _end(mask[:, sequence])
        read = None if words is None else [words[number] for number in inputs[:steps, sequence]]
        has_room = read is not None and steps * WORD_CELL <= _WIDEST
        cell = WORD_CELL if has_room else max(1, min(_CELL, _WIDEST // steps))
        said = (states[name][:steps, sequence] for name in WRITTEN_AND_READ)
        for name, similarities in similarity_maps(*said).items():
            maps.setdefault(name, []).append(heat_map(similarities, cell, read if has_room else None))
    return {name: beside(pictures) for name, pictures in maps.items()}


def _end(mask: np.ndarray) -> int:
    """The last step that counts; a shorter sequence of a batch is filled up after it."""
    return int(np.flatnonzero(mask)[-1])


def _right_and_wrong(mistakes: np.ndarray) -> list[int]:
    """A sequence without a mistake and one with some, or only the one or the other where all are alike."""
    right, wrong = np.flatnonzero(mistakes == 0), np.flatnonzero(mistakes)
    return [int(some[0]) for some in (right, wrong) if len(some)]


def _side_by_side(values: np.ndarray) -> np.ndarray:
    """Sequences `[columns, sequences, rows]` as heat maps, uint8 `[height, width, 3]`; negative numbers are blue."""
    scale = max(float(np.abs(values).max()), 1e-12)
    cell = max(1, min(_CELL, _WIDEST // len(values)))
    heats = [np.clip(values[:, sequence].T / scale, -1.0, 1.0) for sequence in range(values.shape[1])]
    return beside([heat_map(heat, cell) for heat in heats])
