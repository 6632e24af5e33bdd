"""The guard before an optimiser's step: one NaN in it, and all weights are NaN."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from agents.agent import NonFiniteError


def check_finite(loss: Tensor, gradients: Iterable[Tensor | None], batch: Mapping[str, Tensor]) -> None:
    """Raise NonFiniteError unless the loss and all gradients are finite; costs one pass over the gradients.

    Args:
        loss: a number.
        gradients: those about to be followed; None where there is none.
        batch: what goes with the error.
    """
    norm = torch.nn.utils.get_total_norm(gradient for gradient in gradients if gradient is not None)
    if not (loss + norm).isfinite():
        raise NonFiniteError(f"the loss is {loss.item():.6g} and the norm of its gradient {norm.item():.6g}", batch)
