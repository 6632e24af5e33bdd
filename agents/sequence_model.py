"""A model of sequences over any recurrent core: bits in, the chance of each bit to be predicted out.

It is trained by maximum likelihood on batches of whole sequences, each step seeing the true inputs (teacher forcing).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from agents.agent import Metrics
from agents.cores import CoreConfig, DNCConfig, GRUConfig, LSTMConfig, NTMConfig, make_core
from agents.finite import check_finite
from agents.optimisers import load_optimiser
from memory.neural import RecurrentCore, named_tensors, unroll


class SequenceTraining(CoreConfig):
    """How a sequence model learns, whatever its core."""

    learning_rate: float = Field(default=1e-3, gt=0.0)
    """Of Adam."""
    beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    """Adam's decay of the mean gradient."""
    beta2: float = Field(default=0.999, ge=0.0, lt=1.0)
    """Adam's decay of the mean squared gradient."""
    adam_epsilon: float = Field(default=1e-8, gt=0.0)
    """What Adam adds to the root of that."""
    gradient_norm: float = Field(default=10.0, gt=0.0)
    """Longer gradients are scaled down to this length."""
    compiled: bool = False
    """Whether torch compiles a step of the core: a minute at the start for updates two or three times as fast. Numbers
    round otherwise than without."""


class GRUModelConfig(SequenceTraining, GRUConfig):
    """A sequence model over gated recurrent units, with no memory beside them."""


class LSTMModelConfig(SequenceTraining, LSTMConfig):
    """A sequence model over long short-term memory, with no memory beside it."""


class NTMModelConfig(SequenceTraining, NTMConfig):
    """A sequence model over the Neural Turing Machine of Graves et al. 2014."""


class DNCModelConfig(SequenceTraining, DNCConfig):
    """A sequence model over the Differentiable Neural Computer of Graves et al. 2016."""


SequenceModelConfig = GRUModelConfig | LSTMModelConfig | NTMModelConfig | DNCModelConfig


class SequenceModel:
    """A core, a linear readout of its outputs, and what trains both.

    Sequences are time first: inputs `[time, batch, input_size]`, targets of 0 and 1 `[time, batch, target_size]`, and
    a mask bool `[time, batch]` of the steps that count.

    Args:
        core: what is stepped.
        readout: from the core's outputs to a logit for each bit.
        optimiser: of the parameters of both.
        gradient_norm: the longest gradient that is followed.
        compiled: whether torch compiles the step.
    """

    def __init__(
        self,
        core: RecurrentCore[Any],
        readout: nn.Linear,
        optimiser: torch.optim.Optimizer,
        *,
        gradient_norm: float,
        compiled: bool = False,
    ) -> None:
        self.core = core
        self.readout = readout
        self.optimiser = optimiser
        self.gradient_norm = gradient_norm
        self.updates = 0
        self._step = torch.compile(core, fullgraph=True) if compiled else core

    def logits(self, inputs: Tensor) -> Tensor:
        """The log odds of every bit, `[time, batch, target_size]`; one at a step depends on inputs up to that step."""
        outputs, _ = unroll(self._step, inputs, self.core.initial_state(inputs.shape[1]))
        return self.readout(outputs)

    def learn(self, inputs: np.ndarray, targets: np.ndarray, mask: np.ndarray) -> Metrics:
        """One update on a batch; metrics of the batch as it was predicted before.

        Raises:
            NonFiniteError: where learning would follow what is not finite.
        """
        batch = self._on_device(inputs, targets, mask)
        logits = self.logits(batch["inputs"])
        losses = bit_losses(logits, batch["targets"], batch["mask"])
        # The mean over counted bits: its gradient has the same scale whatever the length of the sequences.
        loss = losses.sum() / (batch["mask"].sum() * targets.shape[-1])
        self.optimiser.zero_grad()
        loss.backward()
        parameters = self._parameters()
        check_finite(loss, (one.grad for one in parameters), batch)
        norm = nn.utils.clip_grad_norm_(parameters, self.gradient_norm)
        self.optimiser.step()
        self.updates += 1
        scores = sequence_scores(logits.detach(), batch["targets"], batch["mask"])
        return {
            "losses/cross_entropy": loss.item(),
            "losses/gradient_norm": norm.item(),
            "charts/nats_per_sequence": scores["nats"].mean().item(),
            "charts/wrong_bits_per_sequence": scores["wrong_bits"].mean().item(),
            "charts/correct_sequences": scores["wrong_bits"].eq(0).float().mean().item(),
        }

    @torch.no_grad()
    def score(self, inputs: np.ndarray, targets: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
        """How well a batch is predicted: `nats` and `wrong_bits` of each sequence, float32 `[batch]`."""
        batch = self._on_device(inputs, targets, mask)
        scores = sequence_scores(self.logits(batch["inputs"]), batch["targets"], batch["mask"])
        return {name: score.cpu().numpy() for name, score in scores.items()}

    @torch.no_grad()
    def states(self, inputs: np.ndarray) -> dict[str, np.ndarray]:
        """What the core's state was after every step, by name, each `[time, batch, ...]`."""
        state = self.core.initial_state(inputs.shape[1])
        steps = list[Mapping[str, Tensor]]()
        for step_inputs in torch.from_numpy(inputs).to(self._device):
            _, state = self._step(step_inputs, state)
            steps.append(named_tensors(state))
        return {name: torch.stack([step[name] for step in steps]).cpu().numpy() for name in steps[0]}

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes while the model is trained."""
        return {
            "updates": self.updates,
            "core": dict(self.core.state_dict()),
            "readout": dict(self.readout.state_dict()),
            "optimiser": self.optimiser.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        self.updates = state["updates"]
        self.core.load_state_dict(state["core"])
        self.readout.load_state_dict(state["readout"])
        load_optimiser(self.optimiser, state["optimiser"])

    @property
    def _device(self) -> torch.device:
        return self.readout.weight.device

    def _parameters(self) -> list[nn.Parameter]:
        return [*self.core.parameters(), *self.readout.parameters()]

    def _on_device(self, inputs: np.ndarray, targets: np.ndarray, mask: np.ndarray) -> dict[str, Tensor]:
        arrays = {"inputs": inputs, "targets": targets, "mask": mask}
        return {name: torch.from_numpy(array).to(self._device) for name, array in arrays.items()}


def bit_losses(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Negative log likelihood of each bit in nats, `[time, batch, target_size]`, zero where the mask is.

    Targets are 0 or 1: of anything between, this would be no likelihood of anything.
    """
    return binary_cross_entropy_with_logits(logits, targets, reduction="none") * mask[..., None]


def sequence_scores(logits: Tensor, targets: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Of each sequence `[batch]`: its negative log likelihood in `nats`, and how many of its bits are `wrong_bits`."""
    wrong = ((logits > 0) != (targets > 0.5)) & mask[..., None]
    return {"nats": bit_losses(logits, targets, mask).sum((0, 2)), "wrong_bits": wrong.float().sum((0, 2))}


def make_sequence_model(
    config: SequenceModelConfig, input_size: int, target_size: int, device: torch.device | str
) -> SequenceModel:
    """Build the model; its weights are drawn from torch's global generator.

    Raises:
        ValueError: on sizes of the core that do not fit one another.
    """
    core = make_core(config, input_size).to(device)
    readout = nn.Linear(core.output_size, target_size, device=device)
    optimiser = torch.optim.Adam(
        [*core.parameters(), *readout.parameters()],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.adam_epsilon,
        fused=True,
    )
    return SequenceModel(core, readout, optimiser, gradient_norm=config.gradient_norm, compiled=config.compiled)
