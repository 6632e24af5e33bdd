"""The memory classifier of Hansen 2017 (arXiv 1701.03866): an embedding that learns through stored memories alone.

The class of an image is read from the labels of the images stored last, weighted by how much their embeddings are like
its own. No gradient goes through its own embedding: whatever is learned is learned through the memories.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from agents.agent import Metrics, Transition, WorldSpec
from agents.autoencoders import Architecture, dense, make_decoder, make_encoder
from agents.finite import check_finite
from agents.optimisers import load_optimiser
from memory.episodic import CosineSoftmax, Store, maximum
from memory.episodic.drift import DriftPenalty
from memory.episodic.freshening import Freshening, UncertainFirst
from memory.episodic.reinstated import (
    Approximate,
    Backpropagation,
    Credit,
    Exact,
    Frozen,
    Hybrid,
    Sample,
    SyntheticGradient,
    TrainableKeys,
    scale_gradient,
)
from memory.episodic.reinstatement import Autoencoder, Lossless, Raw, Reinstatement, VariationalAutoencoder, scaled
from memory.episodic.staleness import Probe

_PROBED = 500
"""Memories whose true observations are kept to measure staleness on."""

_DRIFT_UPDATES = 100
"""Of the running mean that the drift penalty holds on to: two thirds of a memory's life in the paper's setting."""

CreditName = Literal["frozen", "trainable_keys", "backpropagation", "synthetic", "exact", "approximate", "hybrid"]


class MemoryClassifierConfig(BaseModel):
    """The memory classifier. The defaults are the paper's setting, with exact reinstatement."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: Literal["memory_classifier"] = "memory_classifier"
    """Which agent this is."""
    credit: CreditName = "exact"
    """How the loss reaches the encoder through memories."""
    reinstatement: Literal["raw", "lossless", "autoencoder", "variational_autoencoder"] = "autoencoder"
    """How the observation behind a memory comes back."""
    architecture: Architecture = "dense"
    """Of encoder and decoder: one hidden layer, or two convolutions before it."""
    hidden: int = Field(256, ge=1)
    """Units of the hidden layer of every network."""
    key_size: int = Field(256, ge=1)
    """Length of an embedding."""
    capacity: int = Field(5_000, ge=1)
    """Images remembered."""
    eviction: Literal["oldest", "uncertain"] = "oldest"
    """Which memory makes place: the oldest, or (variational autoencoder) one whose reconstruction is least certain."""
    temperature: float = Field(0.1, gt=0.0)
    """Of the softmax over cosine similarities; at 1 all memories count nearly the same."""
    learning_rate: float = Field(1e-4, gt=0.0)
    """Adam's, in every part."""
    sampled: int = Field(0, ge=0)
    """Memories that get credit in an update, drawn anew each time; 0: all."""
    trust: float = Field(-1.0, ge=-1.0, le=1.0)
    """Approximate: least cosine of stored and fresh embedding at which a memory gets credit; -1: always."""
    label_conditioned: bool = True
    """Synthetic: whether the gradient is foretold from the label too."""
    synthetic_learning_rate: float = Field(1e-4, gt=0.0)
    """Synthetic: Adam's, of the network that foretells."""
    drift_penalty: float = Field(0.0, ge=0.0)
    """Weight of the penalty on how far the encoder goes from its mean of the last 100 updates; the paper: none."""
    pretraining: int = Field(0, ge=0)
    """Updates at the start in which the encoder stands still and the decoder learns ten times as fast."""
    reconstruction_share: float = Field(0.0, ge=0.0)
    """How much of the reconstruction error reaches the encoder; the paper: nothing."""
    freshening: Literal["none", "recall", "sweep"] = "none"
    """Which stored embeddings are replaced by fresh ones: none, those that got credit, or all in turn."""
    freshened: int = Field(500, ge=1)
    """Sweep: memories embedded anew in an update."""
    freshen_trusted: bool = False
    """Variational autoencoder: freshen only the surer half of the memories at hand."""
    updates_per_probe: int = Field(100, ge=1)
    """Updates between two looks at how stale the memory is."""

    @model_validator(mode="after")
    def _knows_whom_to_trust(self) -> MemoryClassifierConfig:
        for needs, wanted in (("freshen_trusted", self.freshen_trusted), ("eviction", self.eviction == "uncertain")):
            if wanted and self.reinstatement != "variational_autoencoder":
                raise ValueError(
                    f"{needs} needs reinstatement variational_autoencoder, which knows how sure it is, got "
                    f"{self.reinstatement}"
                )
        return self


class MemoryClassifier:
    """Classifies by memory, then learns from the label, then remembers the image with it."""

    def __init__(
        self,
        encoder: nn.Module,
        optimiser: torch.optim.Optimizer,
        store: Store,
        credit: Credit,
        sample: Sample,
        drift_penalty: DriftPenalty,
        reinstatement: Reinstatement,
        freshening: Freshening,
        eviction: UncertainFirst | None,
        probe: Probe,
        num_classes: int,
        rng: np.random.Generator,
        config: MemoryClassifierConfig,
    ) -> None:
        self.encoder = encoder
        self.optimiser = optimiser
        self.store = store
        self.credit = credit
        self.sample = sample
        self.drift_penalty = drift_penalty
        self.reinstatement = reinstatement
        self.freshening = freshening
        self.eviction = eviction
        self.probe = probe
        self.num_classes = num_classes
        self.rng = rng
        self.config = config
        self.kernel = CosineSoftmax(config.temperature)
        self.step = 0
        self.updates = 0
        self._revealed: tuple[Tensor, Tensor] | None = None

    def act(self, observations: np.ndarray, state_hashes: np.ndarray, epsilon: float | None = None) -> np.ndarray:
        if not len(self.store):
            return self.rng.integers(0, self.num_classes, len(observations))
        with torch.no_grad():
            chances = self.class_probabilities(self.encoder(scaled(torch.from_numpy(observations))))
        return chances.argmax(dim=1).numpy()

    def observe(self, transition: Transition) -> None:
        if transition.labels is None:
            raise ValueError("the memory classifier needs a world that reveals labels, such as mnist")
        self.step += len(transition.actions)
        self._accuracy = float((transition.actions == transition.labels).mean())
        self._revealed = torch.from_numpy(transition.observations), torch.from_numpy(transition.labels)

    def learn(self) -> Metrics | None:
        """Do the update that the labels just revealed allow, and remember their images."""
        if self._revealed is None:
            return None
        (observations, labels), self._revealed = self._revealed, None
        metrics = {"charts/accuracy": self._accuracy}
        self.optimiser.zero_grad(set_to_none=True)
        embedded = self.encoder(scaled(observations))
        # What an image's own embedding is asked for, as a memory-to-be, gathers on a leaf and goes back at once.
        keys = embedded.detach().requires_grad_()
        if len(self.store) and self.updates >= self.config.pretraining:
            metrics["losses/classification"] = self._assign_credit(keys.detach(), labels)
        metrics |= self._remember(observations, keys, labels)
        if keys.grad is not None:
            embedded.backward(keys.grad)
        gradients = [parameter.grad for parameter in self.encoder.parameters()]
        check_finite(embedded.detach().sum(), gradients, {"observations": observations, "labels": labels})
        if self.updates >= self.config.pretraining and any(gradient is not None for gradient in gradients):
            self.optimiser.step()
        self.updates += 1
        if self.config.freshening == "sweep":
            self.freshening.sweep()
        if self.updates % self.config.updates_per_probe == 0:
            metrics |= {f"staleness/{name}": value for name, value in self.staleness().items()}
        return {**metrics, "memory/size": len(self.store), "memory/megabytes": self.nbytes / 2**20}

    @property
    def nbytes(self) -> int:
        """Bytes of the memory: keys and what observations come back from."""
        return self.store.nbytes + self.reinstatement.nbytes

    @torch.no_grad()
    def class_probabilities(self, queries: Tensor) -> Tensor:
        """What the memory says of queries `[batch, key_size]`: `[batch, num_classes]`."""
        recall = self.store.read_all(queries, self.kernel)
        return recall.weights @ self._one_hot(recall.values[0])

    def staleness(self) -> dict[str, float]:
        """How stale the memory is now: what `Probe.staleness` measures."""
        return self.probe.staleness(self.encoder, self.reinstatement, self.kernel, decide=self._classes)

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "updates": self.updates,
            "rng": self.rng.bit_generator.state,
            "encoder": self.encoder.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "store": self.store.state_dict(),
            "credit": self.credit.state_dict(),
            "sample": self.sample.state_dict(),
            "drift_penalty": self.drift_penalty.state_dict(),
            "reinstatement": self.reinstatement.state_dict(),
            "freshening": self.freshening.state_dict(),
            "probe": self.probe.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.updates = state["step"], state["updates"]
        self.rng.bit_generator.state = state["rng"]
        self.encoder.load_state_dict(state["encoder"])
        load_optimiser(self.optimiser, state["optimiser"])
        self.store.load_state_dict(state["store"])
        self.reinstatement.load_state_dict(state["reinstatement"])
        self.credit.load_state_dict(state["credit"])
        self.sample.load_state_dict(state["sample"])
        self.drift_penalty.load_state_dict(state["drift_penalty"])
        self.freshening.load_state_dict(state["freshening"])
        self.probe.load_state_dict(state["probe"])

    def _assign_credit(self, queries: Tensor, labels: Tensor) -> float:
        """The gradient of the loss of this batch, through the memories alone; returns the loss."""
        stored = self.store.keys
        slots, counts_for = self.sample.draw(len(stored))
        keys = self.credit.attach(slots, stored[slots])
        similarities = self.kernel.similarities(queries, scale_gradient(keys, counts_for))
        if len(slots) < len(stored):
            similarities = self.kernel.similarities(queries, stored).index_copy(1, slots, similarities)
        chances = self.kernel.weights(similarities) @ self._one_hot(self.store.values)
        # A class that no memory speaks for has no chance, and its logarithm no gradient.
        loss = functional.nll_loss(chances.clamp_min(1e-6).log(), labels)
        if keys.requires_grad:
            loss.backward()
            self.credit.settle()
        if self.config.freshening == "recall":
            self.freshening.freshen(slots)
        return loss.item()

    def _remember(self, observations: Tensor, keys: Tensor, labels: Tensor) -> Metrics:
        """Store the images, and have decoder, credit and penalty add what they ask of their keys' gradient."""
        metrics = {}
        share = self.config.reconstruction_share
        error = self.reinstatement.learn(scale_gradient(keys, share) if share else keys.detach(), observations)
        if error is not None:
            metrics["losses/reconstruction"] = error
        if self.eviction is not None:
            self.eviction.make_way(len(keys))
        # Every write is a memory of its own, also of an image that came before.
        numbers = np.arange(self.step - len(keys), self.step, dtype=np.uint64)
        self.store.write(keys.detach(), labels.to(torch.float32), numbers, maximum, written_at=self.step)
        slots = self.store.find(numbers)
        self.reinstatement.remember(slots, observations)
        self.probe.remember(slots, observations)
        self.credit.remember(slots, observations, keys, self._one_hot(labels))
        drift = self.drift_penalty.penalise(scaled(observations), keys)
        if drift is not None:
            metrics["losses/drift"] = drift
        return metrics

    def _classes(self, weights: Tensor, values: Tensor) -> Tensor:
        return (weights @ self._one_hot(values)).argmax(dim=1)

    def _one_hot(self, labels: Tensor) -> Tensor:
        return functional.one_hot(labels.to(torch.int64), self.num_classes).to(torch.float32)


def make_memory_classifier(
    config: MemoryClassifierConfig, world: WorldSpec, rng: np.random.Generator, device: str
) -> MemoryClassifier:
    """Build the agent for a world; on the CPU whatever the device, for its parts are too small to gain by another."""
    encoder = make_encoder(config.architecture, world.observation_shape, config.hidden, config.key_size)
    store = Store(config.capacity, config.key_size, eviction="fifo")
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))

    reinstatement = _reinstatement(config, world.observation_shape, generator)
    uncertainty = reinstatement.uncertainty if isinstance(reinstatement, VariationalAutoencoder) else None
    eviction = None
    if config.eviction == "uncertain" and uncertainty is not None:
        eviction = UncertainFirst(store, uncertainty, generator)
    return MemoryClassifier(
        encoder,
        torch.optim.Adam(encoder.parameters(), lr=config.learning_rate),
        store,
        _credit(config, encoder, store, reinstatement, world.num_actions),
        Sample(config.sampled, generator),
        DriftPenalty(encoder, config.drift_penalty, _DRIFT_UPDATES),
        reinstatement,
        Freshening(store, encoder, reinstatement, config.freshened, uncertainty if config.freshen_trusted else None),
        eviction,
        Probe(store, world.observation_shape, max(1, config.capacity // _PROBED)),
        world.num_actions,
        rng,
        config,
    )


def _reinstatement(config: MemoryClassifierConfig, shape: tuple[int, ...], generator: torch.Generator) -> Reinstatement:
    if config.reinstatement == "raw":
        return Raw(config.capacity, shape)
    if config.reinstatement == "lossless":
        return Lossless(config.capacity, shape)
    decoder = make_decoder(config.architecture, shape, config.hidden, config.key_size)
    make_optimiser = partial(torch.optim.Adam, lr=config.learning_rate)
    if config.reinstatement == "autoencoder":
        return Autoencoder(decoder, shape, make_optimiser, config.pretraining)
    log_variance = dense(config.key_size, config.hidden, config.key_size)
    return VariationalAutoencoder(
        decoder, log_variance, shape, make_optimiser, generator, pretraining=config.pretraining
    )


def _credit(
    config: MemoryClassifierConfig,
    encoder: nn.Module,
    store: Store,
    reinstatement: Reinstatement,
    num_classes: int,
) -> Credit:
    if config.credit == "frozen":
        return Frozen()
    if config.credit == "trainable_keys":
        return TrainableKeys(store, config.learning_rate)
    if config.credit == "backpropagation":
        return Backpropagation(encoder, config.capacity)
    if config.credit == "exact":
        return Exact(encoder, reinstatement)
    if config.credit == "approximate":
        return Approximate(encoder, reinstatement, config.trust)
    context = num_classes if config.label_conditioned else 0
    model = dense(config.key_size + context, config.hidden, config.key_size)
    # It foretells nothing before it has learned something.
    nn.init.zeros_(model[-1].weight)  # type: ignore[arg-type]
    nn.init.zeros_(model[-1].bias)  # type: ignore[arg-type]
    optimiser = torch.optim.Adam(model.parameters(), lr=config.synthetic_learning_rate)
    synthetic = SyntheticGradient(model, optimiser, config.capacity, context)
    return synthetic if config.credit == "synthetic" else Hybrid(Exact(encoder, reinstatement), synthetic)
