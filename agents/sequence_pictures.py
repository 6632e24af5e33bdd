"""What a sequence model did with its memory along a sequence, as pictures (Figures 1, 2 and 4 of Memory Forcing).

Time runs to the right. On the left is a sequence that was predicted without a mistake, on the right one that was not.
"""

from __future__ import annotations

import numpy as np
import torch

from agents.sequence_model import SequenceModel

_CELL, _WIDEST = 6, 1_600
"""Pixels along a side of a number, less where a sequence would be wider than so many."""
_GAP = 6
_OVER_TIME = (
    *("read_weights", "write_weights", "usage", "precedence"),
    *("read_keys", "write_keys", "write_values"),
)
_AT_THE_END = ("memory", "links")


def sequence_pictures(
    model: SequenceModel, inputs: np.ndarray, targets: np.ndarray, mask: np.ndarray
) -> dict[str, np.ndarray]:
    """Pictures of two sequences of a batch, uint8 `[height, width, 3]` by tag.

    Inputs, targets and what was predicted have a row for each bit, or for each word; weights and usage a row for each
    slot, and keys and values a row for each number, heads one below the other; of memory and links the end of the
    sequence is shown.

    Args:
        model: is left as it is.
        inputs: `[time, batch, input_size]`, or numbers of words `[time, batch]`.
        targets: `[time, batch, target_size]`, or likewise.
        mask: bool `[time, batch]`.
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
    for name, values in model.states(inputs).items():
        last = name.rpartition(".")[2]
        if last in _OVER_TIME:
            found[last] = values.reshape(*values.shape[:2], -1)
        elif last in _AT_THE_END:
            found[last] = values[-1].transpose(2, 0, 1)
    return {f"recall/{name}": _side_by_side(values) for name, values in found.items()}


def _right_and_wrong(mistakes: np.ndarray) -> list[int]:
    """A sequence without a mistake and one with some, or only the one or the other where all are alike."""
    right, wrong = np.flatnonzero(mistakes == 0), np.flatnonzero(mistakes)
    return [int(some[0]) for some in (right, wrong) if len(some)]


def _side_by_side(values: np.ndarray) -> np.ndarray:
    """Sequences `[columns, sequences, rows]` as heat maps, uint8 `[height, width, 3]`; negative numbers are blue."""
    scale = max(float(np.abs(values).max()), 1e-12)
    cell = max(1, min(_CELL, _WIDEST // len(values)))
    maps = []
    for sequence in range(values.shape[1]):
        heat = np.clip(values[:, sequence].T / scale, -1.0, 1.0)
        strength = np.abs(heat)
        colours = np.stack(
            [np.where(heat < 0, 0.0, strength), strength * 0.6, np.where(heat < 0, strength, 0.2)], axis=2
        )
        maps.append(np.kron(255 * colours, np.ones((cell, cell, 1))))
        maps.append(np.full((maps[-1].shape[0], _GAP, 3), 255.0))
    return np.concatenate(maps[:-1], axis=1).round().astype(np.uint8)
