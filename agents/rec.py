"""Reinstatement Episodic Control: the agent that Hansen 2017 (arXiv 1701.03866, section 4) proposes.

It acts and writes as NEC does. Its encoder learns *through the memories it recalled*: the observations behind those
that carried an answer come back, are embedded again, and the error of the answer reaches the encoder through them.
Stored embeddings are freshened with what comes out. A replayed state recalls itself, too: that memory holds the encoder
to the key it wrote before, as long as it only answers and gets no credit.

Or the encoder stands still while it plays, and learns in phases: `agents/consolidation.py`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from agents.agent import Metrics, WorldSpec
from agents.consolidation import Consolidation
from agents.episodes import Columns
from agents.episodic_q import acting_parts, make_memory
from agents.finite import check_finite
from agents.learning_memory import LearningMemory, make_learning_memory
from agents.nec import NEC
from agents.rec_config import RECConfig
from memory.episodic import Recall, TrainableMemories
from memory.episodic.staleness import PROBED, Probe
from memory.recollection import Recollection

_OF_THE_PARTS = ("encoder", "optimiser")
"""What NEC saves and here the parts do."""


class REC(NEC):
    """NEC, but for how it learns. Its `encoder` is the one that makes keys; the one that learns is of its parts."""

    config: RECConfig

    def __init__(self, parts: LearningMemory, config: RECConfig, **acting: Any) -> None:
        super().__init__(encoder=parts.key_encoder, optimiser=parts.optimiser, config=config, **acting)
        self.parts = parts
        self.consolidation = Consolidation(self.memory, parts, config, self.rng)

    def state_dict(self) -> dict[str, Any]:
        mine = {name: part for name, part in super().state_dict().items() if name not in _OF_THE_PARTS}
        return {**mine, "parts": self.parts.state_dict(), "consolidation": self.consolidation.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        parts = state["parts"]
        keys = parts.get("key_encoder", parts["encoder"])
        super().load_state_dict({**state, "encoder": keys, "optimiser": parts["optimiser"]})
        self.parts.load_state_dict(parts)
        self.consolidation.load_state_dict(state["consolidation"])

    def learn(self) -> Metrics | None:
        """Write one finished episode, or do what is due: a consolidation, or one update."""
        if not self._finished and (metrics := self.consolidation.run(self.step)) is not None:
            return metrics
        return super().learn()

    @property
    def nbytes(self) -> int:
        """Bytes of the memory: keys, tables, what observations come back from, and what credit keeps."""
        return self.memory.nbytes + self.parts.nbytes

    def recollect(self, observation: np.ndarray, state_hash: np.uint64, most: int, env: int = 0) -> Recollection:
        """What acting on one observation would rest on, and how far that is stale."""
        found = super().recollect(observation, state_hash, most)
        slots = torch.from_numpy(found.actions * self.memory.capacity + found.slots)
        with torch.no_grad():
            query = self.encoder(torch.from_numpy(observation[None]))
        return self.parts.looked_at_anew(found, self.memory, slots, lambda fresh: (fresh - query).norm(dim=1))

    def pictures(self) -> dict[str, np.ndarray]:
        """What comes back of some memories: `LearningMemory.reconstructions`."""
        assert self.probe is not None, "REC is always probed"
        return self.parts.reconstructions(self.memory, self.probe)

    def _write(self, episode: Columns) -> Metrics:
        """Write what the replay still has the observations of."""
        whole = self.replay.holds(int(episode["env"]), episode["rows"])
        episode = {name: column[whole] if column.ndim else column for name, column in episode.items()}
        self._embed_anew(episode)
        metrics = super()._write(episode)
        return {
            **metrics,
            "memory/megabytes": self.nbytes / 2**20,
            "memory/observation_bytes": self.parts.reinstatement.nbytes / max(1, len(self.memory)),
        }

    def _keep(self, slots: Tensor, observations: Tensor) -> None:
        super()._keep(slots, observations)
        self.parts.remember(slots, observations)
        if not self.parts.credit.asks_at_write:
            return
        embedded = self.parts.encoder(observations)
        keys = embedded.detach().requires_grad_()
        returns = self.memory.table.values[self.memory.rows_of(slots)]
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

    @torch.no_grad()
    def _embed_anew(self, episode: Columns) -> None:
        """Give steps of an episode that were acted in before a consolidation changed the encoder keys of now.

        The memory still counts the age of these keys from when they were acted in.
        """
        stale = np.flatnonzero(episode["acted_at"] <= self.consolidation.changed_at)
        for piece, observations in self.replay.observed_in(int(episode["env"]), episode["rows"][stale]):
            episode["keys"][stale[piece]] = self.encoder(torch.from_numpy(observations)).numpy()

    def _update(self) -> Metrics:
        self.memory.table.now = self.step
        batch, own = self._replayed()
        observations = batch["observations"]
        embedded = self.parts.encoder(observations)
        # What a state's own embedding is asked for gathers on a leaf and goes back at once.
        keys = embedded.detach().requires_grad_()
        queries = self._queries(keys, observations)
        metrics = self._assign_credit(keys, queries, batch, own) if self._pretrained else {}
        # What comes back must come back from the keys that are stored.
        metrics |= self.parts.reconstruct(keys if self.config.reconstruction_share else queries, batch)
        metrics |= self.parts.hold(keys, observations)
        if keys.grad is not None:
            embedded.backward(keys.grad)
        self.parts.step(embedded, batch, self._pretrained)
        # Before a sweep or a map puts anything right; what was recalled may be fresh by now.
        metrics |= self._staleness(self.parts.reinstatement)
        if self._pretrained:
            self.parts.keep_up(self.updates, batch)
        return metrics

    def _assign_credit(
        self, keys: Tensor, queries: Tensor, batch: dict[str, Tensor], own: Tensor | None = None
    ) -> Metrics:
        """The gradients of the error of what a batch recalled, in units of the spread of returns.

        It is that of the batch's returns and of those recalled: where rewards are rare, a batch's are often all the
        same, and in units of their spread the gradient would be without bound.
        """
        actions, returns = batch["actions"], batch["returns"]
        if self.config.freshening == "candidates":
            near = self.memory.read(queries, actions, touch=False, neighbours=self.config.candidates)
            self.parts.freshen(self._slots(near.indices, actions)[near.valid].unique(), batch)
        left_out = own if self.config.own_memory == "left_out" else None
        recall = self.memory.read(queries, actions, apart_from=left_out)
        slots, stored, attached, recall = self._reinstate(recall, actions, own)
        if self.config.query_gradient:
            queries = queries + (keys - keys.detach())
        recall = replace(
            recall,
            values=recall.values.detach().requires_grad_(),
            weights=self.memory.kernel(queries, recall.keys, recall.valid),
        )
        estimates = recall.estimates()
        loss = functional.mse_loss(estimates, returns)
        spread = torch.cat([returns, recall.values.detach()[recall.valid]]).var(unbiased=False).clamp_min(1e-6)
        self.parts.anchored(loss / spread, attached, stored).backward()
        check_finite(loss.detach(), [recall.values.grad, attached.grad, keys.grad], batch)
        # Where every query recalls but its own memory, nothing got credit.
        told = self.parts.credit.settle() if len(slots) else {}
        if self.config.freshening == "recall":
            self.parts.freshen(slots, batch)
        # Values move by the error itself, whatever its units.
        recall.values.grad.mul_(spread)  # type: ignore[union-attr]
        self.memories.step(recall, actions)
        return {
            "losses/return_error": loss.item(),
            "losses/q_value": estimates.mean().item(),
            **{f"losses/{name}": value for name, value in told.items()},
        }

    def _queries(self, keys: Tensor, observations: Tensor) -> Tensor:
        """What asks the memory about observations: their keys, or what the slow encoder makes of them; no graph."""
        if not self.config.slow_updates:
            return keys.detach()
        slow: Tensor = self.encoder(observations)
        return slow

    def _slots(self, indices: Tensor, actions: Tensor) -> Tensor:
        return indices + actions[:, None] * self.memory.capacity

    def _reinstate(
        self, recall: Recall, actions: Tensor, own: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Recall]:
        """Give credit to the memories that weigh most for each query, but for its own.

        Args:
            recall: what the batch recalled.
            actions: of which action, int64 `[batch]`.
            own: slots of the states themselves, which get none, int64 `[batch]`; -1 where they are not stored.

        Returns:
            Their distinct slots `[n]`, their keys `[n, key_size]` as stored and as credit has them, and the recall with
            the latter.
        """
        slots = self._slots(recall.indices, actions)
        due = recall.valid if own is None else recall.valid & (slots != own[:, None])
        # Where there are too few, some of those that weigh most get none.
        heaviest = recall.weights.masked_fill(~due, -1.0).topk(min(self.config.reinstated, due.shape[1]), dim=1).indices
        due, slots = due.gather(1, heaviest), slots.gather(1, heaviest)
        slots, places = slots[due].unique(return_inverse=True)
        stored = self.memory.table.keys[self.memory.rows_of(slots)]
        attached = self.parts.credit.attach(slots, stored)
        if attached.requires_grad and not attached.is_leaf:
            attached.retain_grad()
        rows = torch.arange(len(heaviest))[:, None].expand_as(heaviest)[due]
        keys = recall.keys.index_put((rows, heaviest[due]), attached[places])
        return slots, stored, attached, replace(recall, keys=keys)


def make_rec(config: RECConfig, world: WorldSpec, rng: np.random.Generator, device: str) -> REC:
    """Build the agent for a world; on the CPU whatever the device, where its observations are kept."""
    memory = make_memory(config, world.num_actions, "cpu")
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    slots = world.num_actions * config.capacity
    return REC(
        make_learning_memory(config, memory, slots, world, 1, generator, "euclidean", slow_updates=config.slow_updates),
        config,
        memory=memory,
        memories=TrainableMemories(memory, 0.0, config.value_learning_rate),
        **acting_parts(config, world),
        probe=Probe(memory, world.observation_shape, PROBED, generator),
        rng=rng,
        device="cpu",
    )
