"""What makes an encoder learn through a memory: credit, reinstatement and what keeps keys fresh, built together.

Agents share it. The store, and what is done with it (which memories a query recalls, what is asked of them), is theirs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from agents.agent import Metrics, NonFiniteError, WorldSpec
from agents.autoencoders import Architecture, dense, make_decoder, make_encoder
from agents.finite import check_finite
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
from memory.episodic.drift import DriftPenalty, RunningMean
from memory.episodic.freshening import Freshening
from memory.episodic.reinstatement import Autoencoder, Lossless, Raw, Reinstatement, VariationalAutoencoder
from memory.episodic.table import Slots

CreditName = Literal[
    "frozen", "trainable_keys", "backpropagation", "synthetic", "exact", "approximate", "hybrid", "hybrid_approximate"
]
ReinstatementName = Literal["raw", "lossless", "autoencoder", "variational_autoencoder"]
FresheningName = Literal["none", "recall", "sweep", "candidates"]
_TEACHES_NOTHING = ("frozen", "trainable_keys")


class LearningMemoryConfig(BaseModel):
    """How a memory's encoder learns. The defaults are those of Hansen 2017, with exact reinstatement."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    credit: CreditName = "exact"
    """How the loss reaches the encoder through memories."""
    reinstatement: ReinstatementName = "autoencoder"
    """How the observation behind a memory comes back."""
    architecture: Architecture = "dense"
    """Of encoder and decoder: one hidden layer, or two convolutions before it, or the three of DQN alone."""
    hidden: int = Field(256, ge=1)
    """Units of the hidden layer of every network."""
    key_size: int = Field(256, ge=1)
    """Length of an embedding."""
    capacity: int = Field(5_000, ge=1)
    """Memories held."""
    learning_rate: float = Field(1e-4, gt=0.0)
    """Adam's, in every part."""
    trust: float = Field(-1.0, ge=-1.0, le=1.0)
    """Approximate: least cosine of stored and fresh embedding at which a memory gets credit; -1: always."""
    label_conditioned: bool = True
    """Synthetic: whether the gradient is foretold from the label too."""
    synthetic_learning_rate: float = Field(1e-4, gt=0.0)
    """Synthetic: Adam's, of the network that foretells."""
    drift_penalty: float = Field(0.0, ge=0.0)
    """Weight of the penalty on how far the encoder goes from its running mean; the paper: none."""
    drift_updates: int = Field(100, ge=1)
    """Updates over which that mean is taken; no more than a memory lives (in the paper's setting 156)."""
    pretraining: int = Field(0, ge=0)
    """Updates at the start in which the encoder stands still and the decoder learns ten times as fast."""
    pretraining_offline: bool = False
    """Whether these are done at once, on observations gathered before, and not as the stream comes."""
    reconstruction_share: float = Field(0.0, ge=0.0)
    """How much of the reconstruction error reaches the encoder; the paper: nothing."""
    freshening: FresheningName = "none"
    """Which stored embeddings are replaced by fresh ones: none, those that got credit, all in turn, or (where an agent
    recalls neighbours) more candidates than neighbours, before these are chosen among them."""
    freshened: int = Field(500, ge=1)
    """Sweep: most memories embedded anew in one; more than there are: all."""
    updates_per_sweep: int = Field(1, ge=1)
    """Sweep: updates from one to the next."""
    freshen_trusted: bool = False
    """Variational autoencoder: freshen only the surer half of the memories at hand."""

    @property
    def learns(self) -> bool:
        """Whether anything reaches the encoder."""
        return self.credit not in _TEACHES_NOTHING or self.reconstruction_share > 0

    @model_validator(mode="after")
    def _asks_for_nothing_that_has_no_effect(self) -> LearningMemoryConfig:
        self._needs_variational("freshen_trusted", self.freshen_trusted)
        autoencoder = self.reinstatement in ("autoencoder", "variational_autoencoder")
        for option, wanted, needs, given in (
            ("trust", self.trust > -1.0, "credit approximate", self.credit in ("approximate", "hybrid_approximate")),
            ("drift_penalty", self.drift_penalty > 0, "an encoder that learns by its credit", self.learns),
            ("pretraining", self.pretraining > 0, "an autoencoder as reinstatement", autoencoder),
            ("pretraining_offline", self.pretraining_offline, "pretraining above 0", self.pretraining > 0),
            ("reconstruction_share", self.reconstruction_share > 0, "an autoencoder as reinstatement", autoencoder),
            ("freshen_trusted", self.freshen_trusted, "any freshening", self.freshening != "none"),
            ("updates_per_sweep", self.updates_per_sweep > 1, "freshening sweep", self.freshening == "sweep"),
            ("freshening", self.freshening != "none", "a credit that learns from keys as they come", self._may_freshen),
        ):
            if wanted and not given:
                raise ValueError(
                    f"{option} needs {needs}, got credit {self.credit}, reinstatement {self.reinstatement}, "
                    f"pretraining {self.pretraining}, freshening {self.freshening}"
                )
        return self

    @property
    def _may_freshen(self) -> bool:
        # The passes of backpropagation are those of the keys as written; trained keys would lose their training.
        return self.credit not in ("backpropagation", "trainable_keys")

    def _needs_variational(self, option: str, wanted: bool) -> None:
        if wanted and self.reinstatement != "variational_autoencoder":
            raise ValueError(
                f"{option} needs reinstatement variational_autoencoder, which knows how sure it is, got "
                f"{self.reinstatement}"
            )


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
    reinstatement: Reinstatement
    freshening: Freshening

    @property
    def nbytes(self) -> int:
        """Bytes kept beside the store: what observations come back from, and what credit keeps."""
        return self.reinstatement.nbytes + self.credit.nbytes

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

    def hold(self, keys: Tensor, observations: Tensor) -> Metrics:
        """Add the drift penalty's gradient to that of keys `[n, key_size]`, a leaf, of observations `[n, *shape]`."""
        drift = self.drift_penalty.penalise(observations.float(), keys)
        return {} if drift is None else {"losses/drift": drift}

    def step(self, embedded: Tensor, batch: dict[str, Tensor], learns: bool = True) -> None:
        """Follow the encoder's gradients, if it learns; they and what it made of a batch, `[n, key_size]`, are finite.

        Raises:
            NonFiniteError: where they are not, before anything has changed.
        """
        self.check_finite(embedded, batch)
        if learns and self.config.learns:
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

    def sweep(self, updates: int, batch: dict[str, Tensor]) -> None:
        """Freshen the next memories in turn, where that is due after so many updates.

        Raises:
            NonFiniteError: on embeddings that are not finite.
        """
        if self.config.freshening == "sweep" and updates % self.config.updates_per_sweep == 0:
            with _telling(batch):
                self.freshening.sweep()

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
        parts = [(field.name, getattr(self, field.name)) for field in fields(self) if field.name != "config"]
        return [(name, part) for name, part in parts if name == "encoder" or part is not self.encoder]


@contextmanager
def _telling(batch: dict[str, Tensor]) -> Iterator[None]:
    """Tell what the memory refuses as not finite with the batch that led to it."""
    try:
        yield
    except ValueError as error:
        raise NonFiniteError(str(error), batch) from error


def make_learning_memory(
    config: LearningMemoryConfig,
    memories: Slots,
    slots: int,
    world: WorldSpec,
    context_size: int,
    generator: torch.Generator,
    geometry: Literal["cosine", "euclidean"],
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
    encoder = make_encoder(config.architecture, shape, high, config.hidden, config.key_size)
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
        reinstatement=reinstatement,
        freshening=Freshening(
            memories, key_encoder, reinstatement, config.freshened, uncertainty if config.freshen_trusted else None
        ),
    )


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
