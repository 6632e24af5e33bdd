"""Reinstatement Episodic Control: the agent that Hansen 2017 (arXiv 1701.03866, section 4) proposes.

It acts and writes as NEC does. Its encoder learns *through the memories it recalled*: the observations behind those
that carried an answer come back, are embedded again, and the error of the answer reaches the encoder through them.
Stored embeddings are freshened with what comes out, and the encoder is held to the keys it wrote before.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from agents.agent import Metrics, Transition, WorldSpec
from agents.autoencoders import Architecture
from agents.episodes import Columns
from agents.finite import check_finite
from agents.learning_memory import (
    CreditName,
    FresheningName,
    LearningMemory,
    LearningMemoryConfig,
    ReinstatementName,
    make_learning_memory,
)
from agents.nec import NEC, EpisodicQConfig, acting_parts, make_memory
from memory.episodic import Recall, TrainableMemories


class RECConfig(EpisodicQConfig, LearningMemoryConfig):
    """Reinstatement Episodic Control. Nobody published settings: the defaults are NEC's, and what won on MNIST."""

    name: Literal["rec"] = "rec"
    """Which agent this is."""
    credit: CreditName = "approximate"
    """How the error of an answer reaches the encoder through the memories it rests on."""
    reinstatement: ReinstatementName = "lossless"
    """How the observation behind a memory comes back."""
    architecture: Architecture = "convolutional"
    """Of encoder and decoder: one hidden layer, or two convolutions before it, or the three of DQN alone."""
    drift_penalty: float = Field(10.0, ge=0.0)
    """Weight of the penalty on how far the encoder goes from its mean of the last 100 updates."""
    freshening: FresheningName = "recall"
    """Which stored embeddings are replaced by fresh ones: none, those that got credit, or all in turn."""
    capacity: int = Field(50_000, ge=1)
    """Most memories of one action."""
    reinstated: int = Field(5, ge=1)
    """Recalled memories of each query that are reinstated: those that weigh most. All others answer as stored."""
    query_gradient: bool = False
    """Whether the encoder also learns through the query's own embedding, as in NEC."""
    updates_per_probe: int = Field(500, ge=1)
    """Updates between two looks at how stale the memory is."""


class REC(NEC):
    """NEC, but for how it learns."""

    config: RECConfig

    def __init__(self, parts: LearningMemory, config: RECConfig, **acting: Any) -> None:
        super().__init__(encoder=parts.encoder, optimiser=parts.optimiser, config=config, **acting)
        self.parts = parts

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "parts": self.parts.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.parts.load_state_dict(state["parts"])

    @property
    def nbytes(self) -> int:
        """Bytes of the memory: keys, tables, what observations come back from, and what credit keeps."""
        return self.memory.nbytes + self.parts.nbytes

    def _with_returns(self, env: int, transition: Transition) -> Columns:
        return {**super()._with_returns(env, transition), "env": np.array(env)}

    def _write(self, episode: Columns) -> Metrics:
        """Write what the replay still has the observations of, and take those in."""
        env = int(episode.pop("env"))
        whole = self.replay.holds(env, episode["rows"])
        episode = {name: column[whole] for name, column in episode.items()}
        metrics = super()._write(episode)
        slots = self.memory.slots_of(torch.from_numpy(episode["actions"]), episode["hashes"]).numpy()
        slots, first = np.unique(slots, return_index=True)
        slots, first = slots[slots >= 0], first[slots >= 0]
        rows = episode["rows"][first] % self.replay.rows
        observations = torch.from_numpy(self.replay.observations(np.full(len(rows), env), rows))
        self._remember(torch.from_numpy(slots), observations, torch.from_numpy(episode["returns"][first]))
        return {**metrics, "memory/megabytes": self.nbytes / 2**20}

    def _remember(self, slots: Tensor, observations: Tensor, returns: Tensor) -> None:
        self.parts.reinstatement.remember(slots, observations)
        self.parts.probe.remember(slots, observations)
        embedded = self.encoder(observations)
        keys = embedded.detach().requires_grad_()
        self.parts.credit.remember(slots, observations, keys, returns[:, None])
        if keys.grad is not None:
            embedded.backward(keys.grad)
            self.parts.step(embedded, {"observations": observations, "returns": returns}, self._pretrained)

    @property
    def _pretrained(self) -> bool:
        """Whether the update at hand comes after those in which the decoder learns alone."""
        return self.updates > self.config.pretraining

    def _due(self) -> int:
        due = super()._due()
        # What the replay holds by then is what is pretrained on.
        return due + self.config.pretraining if self.config.pretraining_offline and due >= 0 else due

    def _update(self) -> Metrics:
        envs, slots = self.replay.draw(self.rng, self.config.batch_size)
        observations = torch.from_numpy(self.replay.observations(envs, slots))
        actions = torch.from_numpy(self.replay.columns["actions"][envs, slots])
        returns = torch.from_numpy(self.replay.columns["returns"][envs, slots])
        batch = {"observations": observations, "actions": actions, "returns": returns}
        embedded = self.encoder(observations)
        # What a state's own embedding is asked for gathers on a leaf and goes back at once.
        keys = embedded.detach().requires_grad_()
        metrics = self._assign_credit(keys, batch) if self._pretrained else {}
        metrics |= self.parts.reconstruct(keys, batch)
        metrics |= self.parts.hold(keys, observations)
        if keys.grad is not None:
            embedded.backward(keys.grad)
        self.parts.step(embedded, batch, self._pretrained)
        if self._pretrained:
            self.parts.sweep(batch)
        if self.updates % self.config.updates_per_probe == 0:
            found = self.parts.probe.staleness(self.encoder, self.parts.reinstatement, self.memory.kernel)
            metrics |= {f"staleness/{name}": value for name, value in found.items()}
        return metrics

    def _assign_credit(self, keys: Tensor, batch: dict[str, Tensor]) -> Metrics:
        """The gradients of the error of what a batch recalled, in units of its returns' spread."""
        actions, returns = batch["actions"], batch["returns"]
        recall = self.memory.read(keys.detach(), actions)
        slots, attached, recall = self._reinstate(recall, actions)
        queries = keys if self.config.query_gradient else keys.detach()
        recall = replace(
            recall,
            values=recall.values.detach().requires_grad_(),
            weights=self.memory.kernel(queries, recall.keys, recall.valid),
        )
        estimates = recall.estimates()
        loss = functional.mse_loss(estimates, returns)
        spread = returns.var(unbiased=False).clamp_min(1e-6)
        (loss / spread).backward()
        check_finite(loss.detach(), [recall.values.grad, attached.grad, keys.grad], batch)
        told = self.parts.credit.settle()
        if self.config.freshening == "recall":
            self.parts.freshening.freshen(slots, self.parts.credit.fresh)
        # Values move by the error itself, whatever its units.
        recall.values.grad.mul_(spread)  # type: ignore[union-attr]
        self.memories.step(recall, actions)
        return {
            "losses/return_error": loss.item(),
            "losses/q_value": estimates.mean().item(),
            **{f"losses/{name}": value for name, value in told.items()},
        }

    def _reinstate(self, recall: Recall, actions: Tensor) -> tuple[Tensor, Tensor, Recall]:
        """Give credit to the memories that weigh most for each query.

        Returns:
            Their distinct slots `[n]`, their keys `[n, key_size]` as credit has them, and the recall with these keys.
        """
        heaviest = recall.weights.topk(min(self.config.reinstated, recall.weights.shape[1]), dim=1).indices
        slots = recall.indices.gather(1, heaviest) + actions[:, None] * self.memory.capacity
        slots, places = slots.unique(return_inverse=True)
        attached = self.parts.credit.attach(slots, self.memory.table.keys[self.memory.rows_of(slots)])
        if attached.requires_grad and not attached.is_leaf:
            attached.retain_grad()
        rows = torch.arange(len(heaviest))[:, None].expand_as(heaviest)
        return slots, attached, replace(recall, keys=recall.keys.index_put((rows, heaviest), attached[places]))


def make_rec(config: RECConfig, world: WorldSpec, rng: np.random.Generator, device: str) -> REC:
    """Build the agent for a world; on the CPU whatever the device, where its observations are kept."""
    memory = make_memory(config, world.num_actions, "cpu")
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    return REC(
        make_learning_memory(config, memory, world.num_actions * config.capacity, world, 1, generator, "euclidean"),
        config,
        memory=memory,
        memories=TrainableMemories(memory, 0.0, config.value_learning_rate),
        **acting_parts(config, world),
        rng=rng,
        device="cpu",
    )
