"""What makes an encoder learn through a memory: credit, reinstatement and what keeps keys fresh, built together.

Agents share it. The store, and what is done with it (which memories a query recalls, what is asked of them), is theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agents.agent import Metrics, NonFiniteError, WorldSpec
from agents.autoencoders import dense, make_decoder, make_encoder
from agents.finite import check_finite
from agents.learning_memory_config import LearningMemoryConfig
from agents.optimisers import load_optimiser
from memory.episodic.credit import (
    Approximate,
    Backpropagation,
    Credit,
    Exact,
    Frozen,
    Hybrid,
    SyntheticGradient,
    TrainableKeys,
    scale_gradient,
)
from memory.episodic.drift import Anchor, DriftPenalty, Geometry, RunningMean
from memory.episodic.drift_map import DriftMap
from memory.episodic.freshening import Freshening, NotFiniteError
from memory.episodic.reinstatement import Autoencoder, Lossless, Raw, Reinstatement, VariationalAutoencoder
from memory.episodic.staleness import PROBED, Probe
from memory.episodic.table import Slots
from memory.recollection import Recollection

_UNCHANGING = ("config", "anchor")
_SHOWN = 8
"""Memories in a picture of reconstructions."""


@dataclass
class LearningMemory:
    """The parts beside the store, for an agent to use."""

    config: LearningMemoryConfig
    encoder: nn.Module
    """From observations, float32 or uint8 `[n, *shape]`, to keys `[n, key_size]`; the one that learns."""
    key_encoder: nn.Module
    """What writes and asks: the same, or its running mean."""
    optimiser: torch.optim.Optimizer
    """The encoder's."""
    credit: Credit
    drift_penalty: DriftPenalty
    anchor: Anchor
    reinstatement: Reinstatement
    freshening: Freshening
    drift_map: DriftMap | None

    @property
    def nbytes(self) -> int:
        """Bytes kept beside the store: of observations, by credit and by a drift map."""
        return self.reinstatement.nbytes + self.credit.nbytes + (self.drift_map.nbytes if self.drift_map else 0)

    def remember(self, slots: Tensor, observations: Tensor) -> None:
        """Keep observations uint8 `[n, *shape]`, just embedded for distinct `slots` `[n]`, so that they come back."""
        self.reinstatement.remember(slots, observations)
        if self.drift_map is not None:
            self.drift_map.remember(slots, observations)

    def reconstruct(self, keys: Tensor, batch: dict[str, Tensor]) -> Metrics:
        """Have the reinstatement learn from a batch, and the encoder its share of that.

        Args:
            keys: what the encoder made of the batch's `observations`, `[n, key_size]`; a leaf that gathers a gradient.
            batch: goes with the error.

        Raises:
            NonFiniteError: on an error that is not finite; nothing has learned from it.
        """
        share = self.config.reconstruction_share
        learned_from = scale_gradient(keys, share) if share else keys.detach()
        error = self.reinstatement.learn(learned_from, batch["observations"])
        if error is None:
            return {}
        check_finite(torch.tensor(error), [], batch)
        return {"losses/reconstruction": error}

    def anchored(self, loss: Tensor, attached: Tensor, stored: Tensor) -> Tensor:
        """The loss with what it costs memories that get credit to leave their stored keys, where that is wanted.

        Args:
            loss: a number.
            attached: their keys as credit attached them, `[n, key_size]`.
            stored: their stored keys, `[n, key_size]`.
        """
        if self.credit.fresh is None:
            return loss
        penalty = self.anchor.penalty(attached, self.credit.fresh, stored)
        return loss if penalty is None else loss + penalty

    def hold(self, keys: Tensor, observations: Tensor) -> Metrics:
        """Add the drift penalty's gradient to that of keys `[n, key_size]`, a leaf, of observations `[n, *shape]`."""
        drift = self.drift_penalty.penalise(observations.float(), keys)
        return {} if drift is None else {"losses/drift": drift}

    def step(self, embedded: Tensor, batch: dict[str, Tensor], learns: bool = True) -> None:
        """Follow the encoder's gradients, if it learns; they and what it made of a batch, `[n, key_size]`, are finite.

        Raises:
            NonFiniteError: where they are not, before anything has changed.
        """
        if learns and self.config.learns:
            self.follow(embedded, batch)
        else:
            self.check_finite(embedded, batch)
            self.optimiser.zero_grad(set_to_none=True)

    def follow(self, embedded: Tensor, batch: dict[str, Tensor]) -> None:
        """As `step`, of an encoder that learns now, whatever it does otherwise."""
        self.check_finite(embedded, batch)
        self.optimiser.step()
        if isinstance(self.key_encoder, RunningMean):
            self.key_encoder.follow()
        self.optimiser.zero_grad(set_to_none=True)

    def check_finite(self, embedded: Tensor, batch: dict[str, Tensor]) -> None:
        """Raise NonFiniteError unless what the encoder made of a batch, and its gradients, are finite."""
        check_finite(embedded.detach().sum(), [weight.grad for weight in self.encoder.parameters()], batch)

    def freshen(self, slots: Tensor, batch: dict[str, Tensor]) -> None:
        """Embed memories anew, int64 `[n]`, unless credit has just done it.

        Raises:
            NonFiniteError: on embeddings that are not finite.
        """
        # Credit's are of the encoder that learns.
        fresh = self.credit.fresh if self.key_encoder is self.encoder and self.config.freshening == "recall" else None
        with _telling(batch):
            self.freshening.freshen(slots, fresh)

    def keep_up(self, updates: int, batch: dict[str, Tensor]) -> None:
        """Freshen the next memories in turn, or move all, where that is due after so many updates.

        Raises:
            NonFiniteError: on embeddings that are not finite.
        """
        with _telling(batch):
            if self.config.freshening == "sweep" and updates % self.config.updates_per_sweep == 0:
                self.freshening.sweep()
            if self.drift_map is not None and updates % self.config.updates_per_map == 0:
                self.drift_map.move()

    @torch.no_grad()
    def looked_at_anew(
        self, found: Recollection, memories: Slots, slots: Tensor, distances: Callable[[Tensor], Tensor]
    ) -> Recollection:
        """The same, with what the keys of its memories would be if they were embedded anew.

        Args:
            found: what was recalled.
            memories: from where.
            slots: of the memories listed, int64 `[n]`.
            distances: of keys `[n, key_size]` from the query, `[n]`.
        """
        stored = memories.table.keys[memories.rows_of(slots)]
        observations = self.reinstatement.recall(slots, stored)
        decoded = isinstance(self.reinstatement, Autoencoder)
        return replace(
            found,
            fresh_distances=distances(self.key_encoder(observations)).numpy(),
            reconstructions=observations.round().to(torch.uint8).numpy() if decoded else None,
        )

    @torch.no_grad()
    def reconstructions(self, memories: Slots, probe: Probe) -> dict[str, np.ndarray]:
        """What comes back of some memories, uint8 `[3, columns, *shape]` by tag; nothing where that is no question.

        First row: what was observed. Second: what a decoder makes of the stored key; third: of a fresh one. Where the
        second is worse than the third, the key is stale; where both are bad, the decoder is.
        """
        slots, observations = probe.slots[:_SHOWN], probe.observations[:_SHOWN]
        if not isinstance(self.reinstatement, Autoencoder) or not len(slots):
            return {}
        stored = memories.table.keys[memories.rows_of(slots)]
        fresh = self.key_encoder(observations.float())
        rows = [observations.float(), *(self.reinstatement.recall(slots, keys) for keys in (stored, fresh))]
        return {"recall/reconstructions": torch.stack(rows).round().to(torch.uint8).numpy()}

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes."""
        return {name: part.state_dict() for name, part in self._parts()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        for name, part in self._parts():
            if part is self.optimiser:
                load_optimiser(part, state[name])
            else:
                part.load_state_dict(state[name])

    def _parts(self) -> list[tuple[str, Any]]:
        parts = [(field.name, getattr(self, field.name)) for field in fields(self) if field.name not in _UNCHANGING]
        return [
            (name, part) for name, part in parts if part is not None and (name, part) != ("key_encoder", self.encoder)
        ]


@contextmanager
def _telling(batch: dict[str, Tensor]) -> Iterator[None]:
    """Tell what the memory refuses as not finite with the batch that led to it."""
    try:
        yield
    except NotFiniteError as error:
        raise NonFiniteError(str(error), batch) from error


def make_learning_memory(
    config: LearningMemoryConfig,
    memories: Slots,
    slots: int,
    world: WorldSpec,
    context_size: int,
    generator: torch.Generator,
    geometry: Geometry,
    slow_updates: int = 0,
) -> LearningMemory:
    """Build the parts.

    Args:
        config: which.
        memories: the store, or the stores of all actions.
        slots: how many memories that can hold.
        world: whose observations it is of.
        context_size: length of what else is known of a memory when it is written.
        generator: what all parts draw from.
        geometry: of the kernel that keys are compared by.
        slow_updates: over how many updates the encoder of keys follows the one that learns; 0: they are the same.

    Raises:
        ValueError: on an architecture that does not go with the world's observations.
    """
    shape, high = world.observation_shape, world.observation_high
    sizes = (config.hidden, config.key_size)
    encoder = make_encoder(config.architecture, shape, high, *sizes, config.initialisation, config.precision)
    key_encoder = RunningMean(encoder, slow_updates) if slow_updates else encoder
    reinstatement = _reinstatement(config, slots, world, generator)
    uncertainty = reinstatement.uncertainty if isinstance(reinstatement, VariationalAutoencoder) else None
    return LearningMemory(
        config=config,
        encoder=encoder,
        key_encoder=key_encoder,
        optimiser=torch.optim.Adam(encoder.parameters(), lr=config.learning_rate),
        credit=_credit(config, encoder, memories, slots, reinstatement, context_size),
        drift_penalty=DriftPenalty(encoder, config.drift_penalty, config.drift_updates, geometry),
        anchor=Anchor(config.anchor_penalty, geometry),
        reinstatement=reinstatement,
        freshening=Freshening(
            memories, key_encoder, reinstatement, config.freshened, uncertainty if config.freshen_trusted else None
        ),
        drift_map=_drift_map(config, memories, key_encoder, shape, generator),
    )


def _drift_map(
    config: LearningMemoryConfig,
    memories: Slots,
    encoder: nn.Module,
    shape: tuple[int, ...],
    generator: torch.Generator,
) -> DriftMap | None:
    if config.freshening != "drift_map":
        return None
    return DriftMap(memories, encoder, Probe(memories, shape, PROBED, generator))


def _reinstatement(
    config: LearningMemoryConfig, slots: int, world: WorldSpec, generator: torch.Generator
) -> Reinstatement:
    shape, high = world.observation_shape, world.observation_high
    if config.reinstatement == "raw":
        return Raw(slots, shape)
    if config.reinstatement == "lossless":
        return Lossless(slots, shape)
    decoder = make_decoder(config.architecture, shape, config.hidden, config.key_size)
    make_optimiser = partial(torch.optim.Adam, lr=config.learning_rate)
    if config.reinstatement == "autoencoder":
        return Autoencoder(decoder, shape, make_optimiser, high, config.pretraining)
    log_variance = dense(config.key_size, config.hidden, config.key_size)
    return VariationalAutoencoder(
        decoder, log_variance, shape, make_optimiser, generator, high=high, pretraining=config.pretraining
    )


def _credit(
    config: LearningMemoryConfig,
    encoder: nn.Module,
    memories: Slots,
    slots: int,
    reinstatement: Reinstatement,
    context_size: int,
) -> Credit:
    if config.credit == "frozen":
        return Frozen()
    if config.credit == "trainable_keys":
        return TrainableKeys(memories, config.learning_rate)
    if config.credit == "backpropagation":
        return Backpropagation(encoder, slots)
    if config.credit == "exact":
        return Exact(encoder, reinstatement)
    if config.credit == "approximate":
        return Approximate(encoder, reinstatement, config.trust)
    context = context_size if config.label_conditioned else 0
    model = dense(config.key_size + context, config.hidden, config.key_size)
    # It foretells nothing before it has learned something.
    nn.init.zeros_(model[-1].weight)  # type: ignore[arg-type]
    nn.init.zeros_(model[-1].bias)  # type: ignore[arg-type]
    optimiser = torch.optim.Adam(model.parameters(), lr=config.synthetic_learning_rate)
    synthetic = SyntheticGradient(model, optimiser, slots, context)
    if config.credit == "synthetic":
        return synthetic
    if config.credit == "hybrid":
        return Hybrid(Exact(encoder, reinstatement), synthetic)
    return Hybrid(Approximate(encoder, reinstatement, config.trust), synthetic)
