"""How well sequences were predicted: bits, each on its own, or one of a set of classes, such as words.

Which of the two is told by the targets: bits are vectors of numbers 0 and 1, and classes are whole numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from agents.agent import Metrics

Scores = dict[str, Tensor]
"""Of each sequence, `[batch]`: `nats` and `wrong_bits`, or `nats`, `wrong_answers` and `answers`."""


def bit_losses(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Negative log likelihood of each bit in nats, `[time, batch, target_size]`, zero where the mask is.

    Targets are 0 or 1: of anything between, this would be no likelihood of anything.
    """
    return binary_cross_entropy_with_logits(logits, targets, reduction="none") * mask[..., None]


def class_losses(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Negative log likelihood of each class in nats, `[time, batch]`, zero where the mask is."""
    losses = torch.zeros(mask.shape, dtype=logits.dtype, device=logits.device)
    # Few steps count, and a softmax over a vocabulary is dear: only theirs is taken.
    return losses.masked_scatter(mask, cross_entropy(logits[mask], targets[mask], reduction="none"))


def sequence_scores(logits: Tensor, targets: Tensor, mask: Tensor) -> Scores:
    """Of each sequence `[batch]`: its negative log likelihood in `nats`, and how much of it was predicted wrong.

    Of bits, how many are `wrong_bits`; of classes, how many `wrong_answers` there are among all `answers`.

    Args:
        logits: `[time, batch, target_size]`.
        targets: bits `[time, batch, target_size]`, or classes int64 `[time, batch]`.
        mask: which steps count, bool `[time, batch]`.
    """
    if targets.dtype == torch.int64:
        wrong = (logits.argmax(-1) != targets) & mask
        nats = class_losses(logits, targets, mask).sum(0)
        return {"nats": nats, "wrong_answers": wrong.float().sum(0), "answers": mask.float().sum(0)}
    wrong = ((logits > 0) != (targets > 0.5)) & mask[..., None]
    return {"nats": bit_losses(logits, targets, mask).sum((0, 2)), "wrong_bits": wrong.float().sum((0, 2))}


def counted(targets: Tensor, mask: Tensor) -> Tensor:
    """Bits or answers that count, in all sequences."""
    return mask.sum() * (1 if targets.dtype == torch.int64 else targets.shape[-1])


def mean_loss(scores: Scores, targets: Tensor, mask: Tensor) -> Tensor:
    """The mean over all bits or answers that count: its gradient has the same scale however long sequences are."""
    return scores["nats"].sum() / counted(targets, mask)


def correct_sequences(scores: Scores) -> Tensor:
    """Which sequences were predicted without a mistake, bool `[batch]`."""
    return scores["wrong_bits" if "wrong_bits" in scores else "wrong_answers"] == 0


def score_metrics(scores: Scores) -> Metrics:
    """What is told of a batch; answers of all its sequences are counted alike."""
    metrics = {"charts/nats_per_sequence": scores["nats"].mean().item()}
    if "wrong_bits" in scores:
        metrics["charts/wrong_bits_per_sequence"] = scores["wrong_bits"].mean().item()
    else:
        metrics["charts/error_percent"] = 100 * (scores["wrong_answers"].sum() / scores["answers"].sum()).item()
    metrics["charts/correct_sequences"] = correct_sequences(scores).float().mean().item()
    return metrics
