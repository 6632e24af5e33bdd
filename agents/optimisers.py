"""The optimisers agents choose from by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

OptimiserName = Literal["rmsprop", "adam"]


def make_optimiser(name: OptimiserName, parameters: Iterable[Tensor], learning_rate: float) -> torch.optim.Optimizer:
    """RMSProp as in Mnih et al. 2015 (decay 0.95), or Adam with the epsilon Rainbow and its successors use."""
    if name == "rmsprop":
        return torch.optim.RMSprop(parameters, lr=learning_rate, alpha=0.95, eps=1e-5, foreach=True)
    # The fused kernel takes a third of the time of the default one on a CPU, which rivals the backward pass.
    return torch.optim.Adam(parameters, lr=learning_rate, eps=1.5e-4, fused=True)
