"""Options of the sequence models: those of a core, and of how a model over it learns."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from agents.cores import CoreConfig, DNCConfig, GRUConfig, LSTMConfig, MNMConfig, NTMConfig


class SequenceTraining(CoreConfig):
    """How a sequence model learns, whatever its core."""

    embedding: int = Field(default=0, ge=0)
    """Length of the vectors that words are read as, which are learned; 0: every word is an input of its own (one-hot).
    In tasks of words only."""
    learning_rate: float = Field(default=1e-3, gt=0.0)
    """Of Adam, at first."""
    updates_per_halving: int = Field(default=0, ge=0)
    """Updates in which the learning rate halves, little by little; 0: it stays. At a constant rate, a model that had
    solved its task forgets it now and then."""
    beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    """Adam's decay of the mean gradient."""
    beta2: float = Field(default=0.999, ge=0.0, lt=1.0)
    """Adam's decay of the mean squared gradient."""
    adam_epsilon: float = Field(default=1e-8, gt=0.0)
    """What Adam adds to the root of that."""
    gradient_norm: float = Field(default=10.0, gt=0.0)
    """Longer gradients are scaled down to this length."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the numbers that the core reads, and of those that the readout does, that are 0 while learning; the
    others grow by as much. It keeps a model from learning by heart what comes again and again, as stories do."""
    checkpoint_every: int = Field(default=0, ge=0)
    """Steps of a sequence between two states that are kept for the backward pass, which takes the others again: less
    memory for one more forward pass, best near the square root of the steps. 0: all are kept."""
    compiled: int = Field(default=0, ge=0)
    """Steps of the core that torch compiles into one call; 0: it is not compiled. For a minute or more at the start,
    updates over an NTM, DNC or MNM become two to four times as fast, over a GRU or LSTM hardly faster. Numbers round
    otherwise than without."""
    forcing: Literal["teacher", "professor", "memory"] = "teacher"
    """What is learned from beside the likelihood: nothing; discriminators of hidden states, or of these and of memory,
    in a task that is generated; in a task with an answer, of memories of right and of wrong predictions."""
    forcing_weight: float = Field(default=1.0, ge=0.0)
    """Factor of what a sequence pays to discriminators, beside its negative log likelihood."""
    discriminator_learning_rate: float = Field(default=1e-4, gt=0.0)
    """Of their Adam."""
    model_from: float = Field(default=0.75, ge=0.0, le=1.0)
    """Running accuracy of a discriminator from which on the model learns from it; 0: always."""
    discriminator_until: float = Field(default=0.99, ge=0.0, le=1.0)
    """Running accuracy up to which a discriminator learns; 1: always."""
    discriminator_batch: int = Field(default=32, ge=1)
    """Memories of right and of wrong predictions in an update of their discriminator, as many of each."""
    kept_memories: int = Field(default=500, ge=2)
    """Most of each kind that are kept for it."""

    @model_validator(mode="after")
    def _asks_for_nothing_that_has_no_effect(self) -> Self:
        for name in _OF_FORCING if self.forcing == "teacher" else ():
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} needs forcing professor or memory, got forcing teacher")
        if self.dropout and self.forcing != "teacher":
            # A discriminator would tell the model's behaviours apart by the dropout that one of them is under.
            raise ValueError(f"dropout is for forcing teacher alone, got forcing {self.forcing}")
        if self.checkpoint_every and self.compiled > 1:
            raise ValueError(f"checkpoint_every keeps single steps: compiled should be 0 or 1, got {self.compiled}")
        return self


_OF_FORCING = (
    "forcing_weight",
    "discriminator_learning_rate",
    "model_from",
    "discriminator_until",
    "discriminator_batch",
    "kept_memories",
)


class GRUModelConfig(SequenceTraining, GRUConfig):
    """A sequence model over gated recurrent units, with no memory beside them."""


class LSTMModelConfig(SequenceTraining, LSTMConfig):
    """A sequence model over long short-term memory, with no memory beside it."""


class NTMModelConfig(SequenceTraining, NTMConfig):
    """A sequence model over the Neural Turing Machine of Graves et al. 2014."""


class DNCModelConfig(SequenceTraining, DNCConfig):
    """A sequence model over the Differentiable Neural Computer of Graves et al. 2016."""


class MNMModelConfig(SequenceTraining, MNMConfig):
    """A sequence model over the Metalearned Neural Memory of Munkhdalai et al. 2019."""


SequenceModelConfig = GRUModelConfig | LSTMModelConfig | NTMModelConfig | DNCModelConfig | MNMModelConfig
