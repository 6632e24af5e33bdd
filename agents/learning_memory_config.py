"""The options of a memory whose encoder learns, and which of them go together."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from agents.autoencoders import Architecture
from agents.encoders import Initialisation, Precision

CreditName = Literal[
    "frozen", "trainable_keys", "backpropagation", "synthetic", "exact", "approximate", "hybrid", "hybrid_approximate"
]
ReinstatementName = Literal["raw", "lossless", "autoencoder", "variational_autoencoder"]
FresheningName = Literal["none", "recall", "sweep", "candidates", "drift_map"]
_TEACHES_NOTHING = ("frozen", "trainable_keys")


class LearningMemoryConfig(BaseModel):
    """How a memory's encoder learns. The defaults are those of Hansen 2017, with exact reinstatement."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    credit: CreditName = "exact"
    """How the loss reaches the encoder through memories."""
    reinstatement: ReinstatementName = "autoencoder"
    """How the observation behind a memory comes back."""
    architecture: Architecture = "dense"
    """Of encoder and decoder: one hidden layer, or two convolutions before it, or the three of DQN alone."""
    initialisation: Initialisation = "torch"
    """How the encoder's weights are drawn: torch's own way, or lecun, which keeps distances as they are from layer to
    layer."""
    precision: Precision = "float32"
    """Arithmetic of the encoder, if of the architecture nature. bfloat16: faster on processors that multiply it
    (avx512_bf16, AMX, GPUs), several times as long on others; auto: where it is multiplied. Weights stay float32."""
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
    anchor_penalty: float = Field(0.0, ge=0.0)
    """Weight of the penalty on how far the fresh embeddings of memories that get credit are from their stored keys: a
    drift penalty at no cost, where memories are reinstated."""
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
    recalls neighbours) more candidates than neighbours, before these are chosen among them; or all are moved by an
    affine map, fitted on 500 memories whose observations are kept."""
    freshened: int = Field(500, ge=1)
    """Sweep: most memories embedded anew in one; more than there are: all."""
    updates_per_sweep: int = Field(1, ge=1)
    """Sweep: updates from one to the next."""
    updates_per_map: int = Field(100, ge=1)
    """Drift map: updates from one to the next."""
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
            ("precision", self.precision != "float32", "architecture nature", self.architecture == "nature"),
            ("trust", self.trust > -1.0, "credit approximate", self.credit in ("approximate", "hybrid_approximate")),
            ("drift_penalty", self.drift_penalty > 0, "an encoder that learns by its credit", self.learns),
            ("anchor_penalty", self.anchor_penalty > 0, "a credit that reinstates", self._reinstates),
            ("pretraining", self.pretraining > 0, "an autoencoder as reinstatement", autoencoder),
            ("pretraining_offline", self.pretraining_offline, "pretraining above 0", self.pretraining > 0),
            ("reconstruction_share", self.reconstruction_share > 0, "an autoencoder as reinstatement", autoencoder),
            ("freshen_trusted", self.freshen_trusted, "freshening that embeds anew", self._embeds_anew),
            ("updates_per_sweep", self.updates_per_sweep != 1, "freshening sweep", self.freshening == "sweep"),
            ("freshened", self.freshened != 500, "freshening sweep", self.freshening == "sweep"),
            ("updates_per_map", self.updates_per_map != 100, "freshening drift_map", self.freshening == "drift_map"),
            ("freshening", self.freshening != "none", "a credit that learns from keys as they come", self._may_freshen),
        ):
            if wanted and not given:
                raise ValueError(
                    f"{option} needs {needs}, got credit {self.credit}, reinstatement {self.reinstatement}, "
                    f"architecture {self.architecture}, pretraining {self.pretraining}, freshening {self.freshening}"
                )
        return self

    @property
    def _reinstates(self) -> bool:
        return self.credit in ("exact", "approximate", "hybrid", "hybrid_approximate")

    @property
    def _embeds_anew(self) -> bool:
        return self.freshening in ("recall", "sweep", "candidates")

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
