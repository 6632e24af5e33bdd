"""A model of sequences over any recurrent core: bits in, the chance of each bit to be predicted out; or words.

It is trained by maximum likelihood on batches of whole sequences, each step seeing the true inputs (teacher forcing),
and beside it by what `forcing` holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, one_hot

from agents.agent import Metrics, TaskSpec
from agents.cores import make_core
from agents.finite import check_finite
from agents.forcing import Forcing, TeacherForcing, make_forcing
from agents.optimisers import load_optimiser
from agents.sequence_model_config import SequenceModelConfig
from agents.sequence_scores import correct_sequences, counted, mean_loss, score_metrics, sequence_scores
from memory.neural import CompiledCore, RecurrentCore, Unrolled, named_tensors, unroll


class SequenceModel:
    """A core, a linear readout of its outputs, and what trains both.

    Sequences are time first: inputs `[time, batch, input_size]`, targets of 0 and 1 `[time, batch, target_size]`, and
    a mask bool `[time, batch]` of the steps that count. In a task of words, inputs and targets are their numbers, int64
    `[time, batch]`.

    Args:
        core: what is stepped.
        readout: from the core's outputs to a logit for each bit or word.
        optimiser: of the parameters of all.
        gradient_norm: the longest gradient that is followed.
        updates_per_halving: updates in which the optimiser's rate halves; 0: it stays.
        checkpoint_every: steps between two states that are kept for the backward pass; 0: all are.
        compiled: steps of the core that torch compiles into one call; 0: it is not compiled.
        forcing: what is learned from beside the likelihood; by default nothing.
        forcing_weight: factor of what it costs.
        dropout: share of what the core reads, and of what the readout does, that is 0 while learning.
        embedding: from the numbers of words to inputs of the core; by default these are one-hot.
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
        compiled: int = 0,
        forcing: Forcing | None = None,
        forcing_weight: float = 1.0,
        dropout: float = 0.0,
        embedding: nn.Embedding | None = None,
    ) -> None:
        self.core = core
        self.embedding = embedding
        self.readout = readout
        self.optimiser = optimiser
        self.gradient_norm = gradient_norm
        self.updates_per_halving = updates_per_halving
        self.checkpoint_every = checkpoint_every
        self.learning_rate: float = optimiser.param_groups[0]["lr"]
        self.updates = 0
        self.forcing = forcing or TeacherForcing()
        self.forcing_weight = forcing_weight
        self.dropout = dropout
        self._compiled = CompiledCore(core, compiled) if compiled else None

    def predict(
        self, inputs: Tensor, record: Sequence[str] = (), *, eager: bool = False, dropped: float = 0.0
    ) -> tuple[Tensor, Unrolled[Any]]:
        """The log odds of every bit, or the logits of every word, `[time, batch, target_size]`, and the core's steps.

        What is predicted at a step depends on inputs up to that step.

        Args:
            inputs: `[time, batch, input_size]`, or numbers of words `[time, batch]`.
            record: names of tensors of the core's state that are wanted of every step.
            eager: whether to step the core as it is even where it is compiled: to compile it anew for a batch of
                another size takes longer.
            dropped: share of what the core reads, and of what the readout does, that is made 0.
        """
        vectors, state = dropout(self._vectors(inputs), dropped), self.core.initial_state(inputs.shape[1])
        compiled = None if eager else self._compiled
        if compiled is None or self.checkpoint_every:
            step = compiled.step if compiled else None
            steps = unroll(self.core, vectors, state, record, step=step, checkpoint_every=self.checkpoint_every)
        else:
            steps = compiled.unroll(vectors, state, record)
        return self.readout(dropout(steps.outputs, dropped)), steps

    @torch.no_grad()
    def sample(self, steps: int, batch: int) -> Tensor:
        """Inputs that the model has drawn for itself, the first 0 and then each the bits drawn at the step before.

        Returns:
            `[steps, batch, input_size]`, of a model whose inputs are what it predicted.
        """
        state, bits = self.core.initial_state(batch), torch.zeros(batch, self.core.input_size, device=self._device)
        step = self._compiled.step if self._compiled else self.core
        inputs = []
        for _ in range(steps):
            inputs.append(bits)
            output, state = step(bits, state)
            # Drawn on the CPU, whose generator is saved with a run.
            bits = (torch.rand(batch, inputs[0].shape[1]).to(bits) < self.readout(output).sigmoid()).to(bits)
        return torch.stack(inputs)

    def learn(self, inputs: np.ndarray, targets: np.ndarray, mask: np.ndarray) -> Metrics:
        """One update on a batch; metrics of the batch as it was predicted before, under dropout if there is any.

        Raises:
            NonFiniteError: where learning would follow what is not finite.
        """
        batch = self._on_device(inputs, targets, mask)
        sequences, seen = mask.shape[1], batch["inputs"]
        if self.forcing.free_running:
            # In one call with the true ones, for most of the time of a step goes into the call.
            seen = torch.cat([seen, self.sample(len(seen), sequences)], dim=1)
        logits, steps = self.predict(seen, self.forcing.records, dropped=self.dropout)
        scores = sequence_scores(logits[:, :sequences], batch["targets"], batch["mask"])
        cross_entropy = mean_loss(scores, batch["targets"], batch["mask"])
        penalty, forced = self.forcing.penalty(steps.recorded, correct_sequences(scores))
        # A sequence pays its likelihood and the discriminators, NLL + C: both are taken by the bit.
        sequences_per_bit = sequences / counted(batch["targets"], batch["mask"])
        loss = cross_entropy + self.forcing_weight * sequences_per_bit * penalty
        if steps.losses is not None:
            auxiliary = steps.losses[:, :sequences].mean()
            loss = loss + auxiliary
            forced = {"losses/auxiliary": auxiliary.item(), **forced}
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
            **score_metrics(scores),
            **forced,
        }

    @torch.no_grad()
    def score(self, inputs: np.ndarray, targets: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
        """How well a batch is predicted: `nats` and `wrong_bits` of each sequence, float32 `[batch]`.

        Of words, `nats`, `wrong_answers` and `answers`.
        """
        batch = self._on_device(inputs, targets, mask)
        logits, _ = self.predict(batch["inputs"], eager=True)
        scores = sequence_scores(logits, batch["targets"], batch["mask"])
        return {name: score.cpu().numpy() for name, score in scores.items()}

    @torch.no_grad()
    def states(self, inputs: np.ndarray) -> dict[str, np.ndarray]:
        """What the core's state was after every step, by name, each `[time, batch, ...]`."""
        names = tuple(named_tensors(self.core.initial_state(1)))
        _, steps = self.predict(torch.from_numpy(inputs).to(self._device), names, eager=True)
        return {name: state.cpu().numpy() for name, state in steps.recorded.items()}

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes while the model is trained."""
        return {
            "updates": self.updates,
            "core": dict(self.core.state_dict()),
            "readout": dict(self.readout.state_dict()),
            **({} if self.embedding is None else {"embedding": dict(self.embedding.state_dict())}),
            "optimiser": self.optimiser.state_dict(),
            "forcing": self.forcing.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        self.updates = state["updates"]
        self.core.load_state_dict(state["core"])
        self.readout.load_state_dict(state["readout"])
        if self.embedding is not None:
            self.embedding.load_state_dict(state["embedding"])
        load_optimiser(self.optimiser, state["optimiser"])
        self.forcing.load_state_dict(state["forcing"])

    @property
    def _device(self) -> torch.device:
        return self.readout.weight.device

    def _parameters(self) -> list[nn.Parameter]:
        return [one for group in self.optimiser.param_groups for one in group["params"]]

    def _vectors(self, inputs: Tensor) -> Tensor:
        """Inputs of the core, `[time, batch, core.input_size]`."""
        if self.embedding is not None:
            return self.embedding(inputs)
        return inputs if inputs.dtype != torch.int64 else one_hot(inputs, self.core.input_size).to(self.readout.weight)

    def _on_device(self, inputs: np.ndarray, targets: np.ndarray, mask: np.ndarray) -> dict[str, Tensor]:
        arrays = {"inputs": inputs, "targets": targets, "mask": mask}
        return {name: torch.from_numpy(array).to(self._device) for name, array in arrays.items()}


def make_sequence_model(config: SequenceModelConfig, task: TaskSpec, device: torch.device | str) -> SequenceModel:
    """Build the model for a task; its weights are drawn from torch's global generator.

    Raises:
        ValueError: on sizes of the core that do not fit one another, or an option that the core or the task is not for.
    """
    if config.embedding and not task.categorical:
        raise ValueError("embedding is for tasks of words, such as babi")
    embedding = nn.Embedding(task.input_size, config.embedding, device=device) if config.embedding else None
    core = make_core(config, config.embedding or task.input_size).to(device)
    readout = nn.Linear(core.output_size, task.target_size, device=device)
    optimiser = torch.optim.Adam(
        [*core.parameters(), *readout.parameters(), *(embedding.parameters() if embedding else ())],
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
        forcing=make_forcing(config, core, task, device),
        forcing_weight=config.forcing_weight,
        dropout=config.dropout,
        embedding=embedding,
    )
