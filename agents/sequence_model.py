"""A model of sequences over any recurrent core: bits in, the chance of each bit to be predicted out.

It is trained by maximum likelihood on batches of whole sequences, each step seeing the true inputs (teacher forcing),
and beside it by what `forcing` holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from agents.agent import Metrics
from agents.cores import make_core
from agents.finite import check_finite
from agents.forcing import (
    HIDDEN,
    MEMORY,
    Adversary,
    Discriminator,
    Forcing,
    FreeRunning,
    RightMemories,
    TeacherForcing,
)
from agents.optimisers import load_optimiser
from agents.sequence_model_config import SequenceModelConfig
from memory.neural import RecurrentCore, named_tensors, unroll_with_loss
from memory.neural import compiled as compiled_step


class SequenceModel:
    """A core, a linear readout of its outputs, and what trains both.

    Sequences are time first: inputs `[time, batch, input_size]`, targets of 0 and 1 `[time, batch, target_size]`, and
    a mask bool `[time, batch]` of the steps that count.

    Args:
        core: what is stepped.
        readout: from the core's outputs to a logit for each bit.
        optimiser: of the parameters of both.
        gradient_norm: the longest gradient that is followed.
        updates_per_halving: updates in which the optimiser's rate halves; 0: it stays.
        checkpoint_every: steps between two states that are kept for the backward pass; 0: all are.
        compiled: whether torch compiles the step.
        forcing: what is learned from beside the likelihood; by default nothing.
        forcing_weight: factor of what it costs.
    """

    def __init__(
        self,
        core: RecurrentCore[Any],
        readout: nn.Linear,
        optimiser: torch.optim.Optimizer,
        *,
        gradient_norm: float,
        updates_per_halving: int = 0,
        checkpoint_every: int = 0,
        compiled: bool = False,
        forcing: Forcing | None = None,
        forcing_weight: float = 1.0,
    ) -> None:
        self.core = core
        self.readout = readout
        self.optimiser = optimiser
        self.gradient_norm = gradient_norm
        self.updates_per_halving = updates_per_halving
        self.checkpoint_every = checkpoint_every
        self.learning_rate: float = optimiser.param_groups[0]["lr"]
        self.updates = 0
        self.forcing = forcing or TeacherForcing()
        self.forcing_weight = forcing_weight
        self._step = compiled_step(core) if compiled else core

    def logits(self, inputs: Tensor, watch: Callable[[tuple[Any, ...]], object] | None = None) -> Tensor:
        """The log odds of every bit, `[time, batch, target_size]`; one at a step depends on inputs up to that step.

        `watch` is shown the core's state after every step.
        """
        return self._predict(inputs, watch)[0]

    def _predict(
        self, inputs: Tensor, watch: Callable[[tuple[Any, ...]], object] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Log odds, and the auxiliary losses `[time, batch]` of a core that has some."""
        state = self.core.initial_state(inputs.shape[1])
        every = self.checkpoint_every
        outputs, _, losses = unroll_with_loss(self.core, inputs, state, watch, step=self._step, checkpoint_every=every)
        return self.readout(outputs), losses

    @torch.no_grad()
    def sample(self, steps: int, batch: int) -> Tensor:
        """Inputs that the model has drawn for itself, the first 0 and then each the bits drawn at the step before.

        Returns:
            `[steps, batch, input_size]`, of a model whose inputs are what it predicted.
        """
        state, bits = self.core.initial_state(batch), torch.zeros(batch, self.core.input_size, device=self._device)
        inputs = []
        for _ in range(steps):
            inputs.append(bits)
            output, state = self._step(bits, state)
            # Drawn on the CPU, whose generator is saved with a run.
            bits = (torch.rand(batch, inputs[0].shape[1]).to(bits) < self.readout(output).sigmoid()).to(bits)
        return torch.stack(inputs)

    def learn(self, inputs: np.ndarray, targets: np.ndarray, mask: np.ndarray) -> Metrics:
        """One update on a batch; metrics of the batch as it was predicted before.

        Raises:
            NonFiniteError: where learning would follow what is not finite.
        """
        batch = self._on_device(inputs, targets, mask)
        states = list[dict[str, Tensor]]()
        watch = (lambda state: states.append(named_tensors(state))) if self.forcing.watches else None
        logits, auxiliary = self._predict(batch["inputs"], watch)
        scores = sequence_scores(logits, batch["targets"], batch["mask"])
        # The mean over counted bits: its gradient has the same scale whatever the length of the sequences.
        cross_entropy = scores["nats"].sum() / (batch["mask"].sum() * targets.shape[-1])
        correct = scores["wrong_bits"] == 0
        penalty, forced = self.forcing.penalty(self, batch["inputs"], states, correct)
        loss = cross_entropy + self.forcing_weight * penalty
        if auxiliary is not None:
            loss = loss + auxiliary.mean()
            forced = {"losses/auxiliary": auxiliary.mean().item(), **forced}
        self.optimiser.zero_grad()
        loss.backward()
        parameters = self._parameters()
        check_finite(loss, (one.grad for one in parameters), batch)
        norm = nn.utils.clip_grad_norm_(parameters, self.gradient_norm)
        if self.updates_per_halving:
            rate = self.learning_rate * 0.5 ** (self.updates / self.updates_per_halving)
            self.optimiser.param_groups[0]["lr"] = rate
        self.optimiser.step()
        self.updates += 1
        return {
            "losses/cross_entropy": cross_entropy.item(),
            "losses/gradient_norm": norm.item(),
            "charts/nats_per_sequence": scores["nats"].mean().item(),
            "charts/wrong_bits_per_sequence": scores["wrong_bits"].mean().item(),
            "charts/correct_sequences": correct.float().mean().item(),
            **forced,
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
        steps = list[Mapping[str, Tensor]]()
        self.logits(torch.from_numpy(inputs).to(self._device), lambda state: steps.append(named_tensors(state)))
        return {name: torch.stack([step[name] for step in steps]).cpu().numpy() for name in steps[0]}

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes while the model is trained."""
        return {
            "updates": self.updates,
            "core": dict(self.core.state_dict()),
            "readout": dict(self.readout.state_dict()),
            "optimiser": self.optimiser.state_dict(),
            "forcing": self.forcing.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        self.updates = state["updates"]
        self.core.load_state_dict(state["core"])
        self.readout.load_state_dict(state["readout"])
        load_optimiser(self.optimiser, state["optimiser"])
        self.forcing.load_state_dict(state["forcing"])

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
    config: SequenceModelConfig, input_size: int, target_size: int, device: torch.device | str, generative: bool = False
) -> SequenceModel:
    """Build the model for a task; its weights are drawn from torch's global generator.

    Args:
        config: of the model.
        input_size: length of an input.
        target_size: bits to be predicted at each step.
        device: where it lives.
        generative: whether an input is what was to be predicted the step before.

    Raises:
        ValueError: on sizes of the core that do not fit one another, or a forcing that the core or the task is not for.
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
    return SequenceModel(
        core,
        readout,
        optimiser,
        gradient_norm=config.gradient_norm,
        updates_per_halving=config.updates_per_halving,
        checkpoint_every=config.checkpoint_every,
        compiled=config.compiled,
        forcing=_make_forcing(config, core, device, generative),
        forcing_weight=config.forcing_weight,
    )


def _make_forcing(
    config: SequenceModelConfig, core: RecurrentCore[Any], device: torch.device | str, generative: bool
) -> Forcing:
    if config.forcing == "teacher":
        return TeacherForcing()
    state = {name.rpartition(".")[2]: tensor for name, tensor in named_tensors(core.initial_state(1)).items()}
    if config.forcing == "memory" and MEMORY not in state:
        raise ValueError(f"--agent.forcing memory needs a core with a memory matrix, and {config.name} has none")
    if config.forcing == "professor" and not generative:
        raise ValueError("--agent.forcing professor needs a task that is generated, such as sequential_mnist")

    def adversary(part: str) -> Adversary:
        discriminator = Discriminator(state[part].numel()).to(device)
        rate, betas = config.discriminator_learning_rate, (config.beta1, config.beta2)
        optimiser = torch.optim.Adam(discriminator.parameters(), lr=rate, betas=betas, fused=True)
        gates = {"model_from": config.model_from, "discriminator_until": config.discriminator_until}
        return Adversary(discriminator, optimiser, **gates)

    if generative:
        parts = (HIDDEN, MEMORY) if config.forcing == "memory" else (HIDDEN,)
        return FreeRunning({part: adversary(part) for part in parts})
    return RightMemories(adversary(MEMORY), batch=config.discriminator_batch, kept=config.kept_memories)
