"""How a sequence model is forced beyond its likelihood: Professor Forcing and Memory Forcing, beside teacher forcing.

Professor Forcing (Lamb et al. 2016, arXiv 1610.09038) has a discriminator tell the hidden states of a model that sees
true inputs from those of one that sees what it drew itself, and the model learn to be taken for the former. Memory
Forcing does the same with the memory matrix, by a second discriminator (NLL + C_h + C_m, its equation 9); or, where
the answer is not an input, tells memories of right predictions from those of wrong ones (NLL + C_p, equation 10).

What was drawn is fed in again as constants: gradients go through the states that it led to, and not through the draw.
States of true inputs are detached: they are what is aimed at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from agents.agent import Metrics, TaskSpec
from agents.optimisers import load_optimiser
from agents.sequence_model_config import SequenceModelConfig
from memory.neural import RecurrentCore, named_tensors

HIDDEN, MEMORY = "hidden", "memory"
_ACCURACY_DECAY = 0.9
_LARGEST_LOGIT = 10.0

States = Mapping[str, Tensor]
"""Tensors of a core's state after every step, `[time, batch, ...]` by name."""


class Forcing(Protocol):
    """What a model pays beyond its negative log likelihood."""

    records: tuple[str, ...]
    """Names of what it must see of the model's states."""
    free_running: bool
    """Whether it must see them also of sequences that the model drew itself."""

    def penalty(self, states: States, correct: Tensor) -> tuple[Tensor, Metrics]:
        """A number with its gradient, and metrics; what is needed to know it learns on the way.

        Args:
            states: what true inputs led to, by the names in `records`; if it is free running, behind them in the batch
                what as many drawn sequences led to.
            correct: which true sequences were predicted without a wrong bit, bool `[batch]`.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes while it is used."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        ...


class TeacherForcing:
    """True inputs at every step, and nothing to pay beyond."""

    records: tuple[str, ...] = ()
    free_running = False

    def penalty(self, states: States, correct: Tensor) -> tuple[Tensor, Metrics]:
        return _nothing(correct), {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class Discriminator(nn.Module):
    """Tells behaviours of two kinds apart: a GRU, the mean of its outputs over time, and dense layers.

    Of the sizes of the Memory Forcing paper: 128, then 256, 8 and 4. Its logits are bounded, as in the authors' code
    of Professor Forcing. Units leak below zero: with so narrow layers of plain ReLU, one discriminator in ten is dead
    as it is drawn, and answers every behaviour alike for good.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.recurrent = nn.GRU(features, 128)
        leaky = nn.LeakyReLU(0.2)
        self.dense = nn.Sequential(
            nn.Linear(128, 256), leaky, nn.Linear(256, 8), leaky, nn.Linear(8, 4), leaky, nn.Linear(4, 1)
        )

    def forward(self, behaviours: Tensor) -> Tensor:
        """Log odds `[batch]` that behaviours `[time, batch, features]` are of the first kind."""
        outputs, _ = self.recurrent(behaviours)
        return self.dense(outputs.mean(0)).squeeze(-1).clamp(-_LARGEST_LOGIT, _LARGEST_LOGIT)


class Adversary:
    """A discriminator and what trains it, with gates: neither side is trained where it is too far ahead.

    Args:
        discriminator: tells aims (1) from behaviours of the model (0).
        optimiser: of its parameters.
        model_from: its running accuracy from which on the model learns from it.
        discriminator_until: its running accuracy up to which it learns itself.
    """

    def __init__(
        self,
        discriminator: Discriminator,
        optimiser: torch.optim.Optimizer,
        *,
        model_from: float,
        discriminator_until: float,
    ) -> None:
        self.discriminator = discriminator
        self.optimiser = optimiser
        self.model_from = model_from
        self.discriminator_until = discriminator_until
        self.accuracy = 0.5

    def learn(self, aims: Tensor, behaviours: Tensor) -> None:
        """One update to tell aims from behaviours, both detached `[time, batch, features]`."""
        logits = self.discriminator(torch.cat([aims, behaviours], dim=1))
        labels = torch.zeros_like(logits)
        labels[: aims.shape[1]] = 1.0
        right = ((logits > 0) == (labels > 0.5)).float().mean().item()
        self.accuracy = _ACCURACY_DECAY * self.accuracy + (1 - _ACCURACY_DECAY) * right
        if self.accuracy <= self.discriminator_until:
            self.optimiser.zero_grad()
            binary_cross_entropy_with_logits(logits, labels).backward()
            self.optimiser.step()

    def penalty(self, behaviours: Tensor) -> Tensor:
        """What the model pays for not being taken for what it aims at: the mean of `-log D`; 0 below the gate."""
        if self.accuracy < self.model_from:
            return behaviours.new_zeros(())
        # Its weights do not learn from what the model pays: their gradients would take half as long again.
        self.discriminator.requires_grad_(False)
        logits = self.discriminator(behaviours)
        self.discriminator.requires_grad_(True)
        return binary_cross_entropy_with_logits(logits, torch.ones_like(logits))

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimiser and running accuracy."""
        return {
            "discriminator": dict(self.discriminator.state_dict()),
            "optimiser": self.optimiser.state_dict(),
            "accuracy": self.accuracy,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        self.discriminator.load_state_dict(state["discriminator"])
        load_optimiser(self.optimiser, state["optimiser"])
        self.accuracy = state["accuracy"]


class FreeRunning:
    """Professor Forcing, and Memory Forcing of what is generated: one adversary for each part of the state, by name."""

    free_running = True

    def __init__(self, adversaries: dict[str, Adversary]) -> None:
        self.adversaries = adversaries
        self.records = tuple(adversaries)

    def penalty(self, states: States, correct: Tensor) -> tuple[Tensor, Metrics]:
        total, metrics = _nothing(correct), dict[str, float]()
        for name, adversary in self.adversaries.items():
            aims, free = states[name].flatten(2).chunk(2, dim=1)
            adversary.learn(aims.detach(), free.detach())
            total = total + adversary.penalty(free)
            metrics[f"forcing/{name.rpartition('.')[2]}_accuracy"] = adversary.accuracy
        return total, {"losses/forcing": total.item(), **metrics}

    def state_dict(self) -> dict[str, Any]:
        return {name: adversary.state_dict() for name, adversary in self.adversaries.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, adversary in self.adversaries.items():
            adversary.load_state_dict(state[name])


class Kept:
    """The newest behaviours of one kind, of one length in time.

    Args:
        capacity: most that are kept.
        device: where.
    """

    def __init__(self, capacity: int, device: torch.device | str = "cpu") -> None:
        self.capacity = capacity
        self._rows = torch.zeros(0, device=device)
        self._added = 0

    def __len__(self) -> int:
        return min(self._added, self.capacity)

    def add(self, behaviours: Tensor) -> None:
        """Keep `[batch, time, features]`, each in the place of the oldest where there is no other.

        Raises:
            ValueError: if they are not of the length of those that are kept.
        """
        if not len(behaviours):
            return
        if not self._added:
            self._rows = self._rows.new_zeros(self.capacity, *behaviours.shape[1:])
        if self._rows.shape[1:] != behaviours.shape[1:]:
            raise ValueError(f"those kept have {self._rows.shape[1]} steps, got {behaviours.shape[1]}")
        newest = behaviours[-self.capacity :]
        places = torch.arange(self._added, self._added + len(newest), device=behaviours.device) % self.capacity
        self._rows[places] = newest
        self._added += len(newest)

    def draw(self, batch: int) -> Tensor:
        """Some at random, with replacement, `[time, batch, features]`."""
        return self._rows[torch.randint(len(self), (batch,))].swapaxes(0, 1)

    def state_dict(self) -> dict[str, Any]:
        """All that are kept."""
        return {"rows": self._rows[: len(self)], "added": self._added}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        rows = state["rows"]
        self._rows = self._rows.new_zeros(self.capacity, *rows.shape[1:])
        self._rows[: len(rows)] = rows
        self._added = state["added"]


class RightMemories:
    """Memory Forcing of a task with an answer: memories shall be as those of right predictions.

    Memories of both kinds are kept, and once there are more of each than `batch`, the adversary learns from as many of
    each before every update of the model.

    Args:
        adversary: tells memories of right predictions from those of wrong ones.
        batch: memories of each kind in an update of it.
        kept: most of each kind that are kept.
        device: where.
    """

    records: tuple[str, ...] = (MEMORY,)
    free_running = False

    def __init__(self, adversary: Adversary, *, batch: int, kept: int, device: torch.device | str = "cpu") -> None:
        self.adversary = adversary
        self.batch = batch
        self._right, self._wrong = Kept(kept, device), Kept(kept, device)

    def penalty(self, states: States, correct: Tensor) -> tuple[Tensor, Metrics]:
        memories = states[MEMORY].flatten(2)
        past = memories.detach().swapaxes(0, 1)
        self._right.add(past[correct])
        self._wrong.add(past[~correct])
        total = _nothing(correct)
        if min(len(self._right), len(self._wrong)) > self.batch:
            self.adversary.learn(self._right.draw(self.batch), self._wrong.draw(self.batch))
            total = self.adversary.penalty(memories)
        return total, {"losses/forcing": total.item(), "forcing/memory_accuracy": self.adversary.accuracy}

    def state_dict(self) -> dict[str, Any]:
        return {
            "adversary": self.adversary.state_dict(),
            "right": self._right.state_dict(),
            "wrong": self._wrong.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.adversary.load_state_dict(state["adversary"])
        self._right.load_state_dict(state["right"])
        self._wrong.load_state_dict(state["wrong"])


def _nothing(correct: Tensor) -> Tensor:
    return torch.zeros((), device=correct.device)


def make_forcing(
    config: SequenceModelConfig,
    core: RecurrentCore[Any],
    task: TaskSpec,
    device: torch.device | str,
) -> Forcing:
    """Build what a model is to learn from beside the likelihood.

    Raises:
        ValueError: where the core or the task is not for it.
    """
    if config.forcing == "teacher":
        return TeacherForcing()
    state = named_tensors(core.initial_state(1))
    if config.forcing == "memory" and MEMORY not in state:
        raise ValueError(f"--agent.forcing memory needs a core with a memory matrix, and {config.name} has none")
    if config.forcing == "professor" and not task.generative:
        raise ValueError("--agent.forcing professor needs a task that is generated, such as sequential_mnist")
    if config.forcing == "memory" and not (task.generative or task.same_length):
        raise ValueError(
            "--agent.forcing memory compares memories of sequences of one length: make the least and the most that the "
            "task draws the same, such as --env.min_length 12 --env.max_length 12"
        )

    def adversary(name: str) -> Adversary:
        discriminator = Discriminator(state[name].numel()).to(device)
        rate, betas = config.discriminator_learning_rate, (config.beta1, config.beta2)
        optimiser = torch.optim.Adam(discriminator.parameters(), lr=rate, betas=betas, fused=True)
        gates = {"model_from": config.model_from, "discriminator_until": config.discriminator_until}
        return Adversary(discriminator, optimiser, **gates)

    if task.generative:
        (hidden,) = (name for name in state if name.rpartition(".")[2] == HIDDEN)
        names = (hidden, MEMORY) if config.forcing == "memory" else (hidden,)
        return FreeRunning({name: adversary(name) for name in names})
    return RightMemories(adversary(MEMORY), batch=config.discriminator_batch, kept=config.kept_memories, device=device)
