"""The options of Reinstatement Episodic Control, and which of them go together."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from agents.autoencoders import Architecture
from agents.encoders import Initialisation
from agents.episodic_q import EpisodicQConfig, OwnMemory
from agents.learning_memory_config import CreditName, FresheningName, LearningMemoryConfig, ReinstatementName


class RECConfig(EpisodicQConfig, LearningMemoryConfig):
    """Reinstatement Episodic Control. Nobody published settings. Defaults of acting and writing are NEC's;
    those of learning are what won on MNIST and in grid worlds."""

    name: Literal["rec"] = "rec"
    """Which agent this is."""
    credit: CreditName = "approximate"
    """How the error of an answer reaches the encoder through the memories it rests on."""
    reinstatement: ReinstatementName = "lossless"
    """How the observation behind a memory comes back."""
    architecture: Architecture = "convolutional"
    """Of encoder and decoder: one hidden layer, or two convolutions before it, or the three of DQN alone."""
    initialisation: Initialisation = "lecun"
    """How the encoder's weights are drawn: lecun keeps distances as they are from layer to layer; with torch's own way
    keys are so near to one another that the kernel hardly tells them apart."""
    own_memory: OwnMemory = "answers"
    """What the memory of a replayed state itself does when the state is learned on. It answers, and holds the encoder
    to the key it wrote, but gets no credit; it counts like any other, by which that hold is lost; or is left out."""
    drift_penalty: float = Field(3.0, ge=0.0)
    """Weight of the penalty on how far the encoder goes from its mean of the last 100 updates."""
    freshening: FresheningName = "recall"
    """Which stored embeddings are replaced by fresh ones: none, those that got credit, all in turn, or the nearest
    `candidates`, before neighbours are chosen among them; or all are moved as those of the probe have moved."""
    candidates: int = Field(100, ge=1)
    """Freshening candidates: memories nearest by their stored keys that are embedded anew for each query learned on."""
    slow_updates: int = Field(0, ge=0)
    """Updates over which a slow encoder follows the one that learns, and makes all keys and queries; 0: none."""
    capacity: int = Field(50_000, ge=1)
    """Most memories of one action."""
    reinstated: int = Field(5, ge=1)
    """Recalled memories of each query that are reinstated: those that weigh most. All others answer as stored."""
    query_gradient: bool = True
    """Whether the encoder also learns through the query's own embedding, as in NEC."""
    consolidation_updates: int = Field(0, ge=0)
    """Updates of a consolidation, the only time at which the encoder then learns: `batch_size` memories are asked, the
    `reinstated` nearest to each answer, and all are embedded anew in the end. 0: none."""
    consolidation_apart: int = Field(1_000, ge=1)
    """Agent steps, of all environments, that lie at least between a memory that is asked then and those that answer:
    no fewer than returns look ahead, `n_step` in each environment, and better an episode, or what is particular to it
    is learned by heart."""
    consolidation_growth: float = Field(1.25, gt=1.0)
    """The first consolidation comes at `learning_starts`; each other when so many times as many steps were done."""

    @model_validator(mode="after")
    def _goes_together(self) -> RECConfig:
        if self.freshening == "candidates" and self.candidates <= self.neighbours:
            raise ValueError(f"candidates must be more than neighbours, {self.neighbours}, got {self.candidates}")
        if self.freshening != "candidates" and self.candidates != 100:
            raise ValueError(f"candidates needs freshening candidates, got {self.freshening}")
        if self.own_memory == "answers" and self.neighbours == 1:
            raise ValueError("own_memory answers needs neighbours of at least 2: a state's nearest memory is its own")
        if self.slow_updates and self.reconstruction_share:
            raise ValueError("reconstruction_share needs slow_updates 0: decoders learn from the keys that are stored")
        if self.slow_updates and (self.credit in ("exact", "hybrid") or self.trust > -1):
            raise ValueError(
                "slow_updates needs a credit that infers with stored keys, and no trust: fresh keys are of another "
                f"encoder, got credit {self.credit}, trust {self.trust}"
            )
        if self.slow_updates and not self.learns:
            raise ValueError(f"slow_updates needs an encoder that learns, got credit {self.credit}")
        if self.credit == "backpropagation":
            raise ValueError(
                "credit backpropagation needs keys that are embedded as they are written; REC's are before"
            )
        return self

    @model_validator(mode="after")
    def _consolidates_alone(self) -> RECConfig:
        still = self.credit == "frozen" and not self.learns and self.freshening == "none" and not self.slow_updates
        if self.consolidation_updates and not (still and self.reinstatement in ("raw", "lossless")):
            raise ValueError(
                "consolidation_updates needs an encoder that stands still meanwhile, and true observations: credit "
                "frozen, query_gradient False, drift_penalty 0, freshening none, slow_updates 0, reinstatement raw or "
                f"lossless, got credit {self.credit}, query_gradient {self.query_gradient}, drift_penalty "
                f"{self.drift_penalty:g}, freshening {self.freshening}, slow_updates {self.slow_updates}, "
                f"reinstatement {self.reinstatement}"
            )
        if self.consolidation_updates and self.reinstated == 1:
            raise ValueError(
                "consolidation_updates needs reinstated of at least 2: one has all the weight, however near"
            )
        for option, usual in (("consolidation_apart", 1_000), ("consolidation_growth", 1.25)):
            if getattr(self, option) != usual and not self.consolidation_updates:
                raise ValueError(f"{option} needs consolidation_updates above 0")
        return self

    @property
    def learns(self) -> bool:
        return self.query_gradient or super().learns
