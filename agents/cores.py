"""Recurrent cores by name, for the agents and sequence models that take one."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from memory.neural import DNC, GRU, LSTM, MNM, NTM, FeedForward, RecurrentCore

ControllerName = Literal["gru", "lstm"]
_CONTROLLERS: dict[str, type[GRU] | type[LSTM]] = {"gru": GRU, "lstm": LSTM}


class CoreConfig(BaseModel):
    """What all cores have."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    hidden: int = Field(default=100, ge=1)
    """Units of the recurrent layer, which in NTM, DNC and MNM is the controller."""


class GRUConfig(CoreConfig):
    """One layer of gated recurrent units."""

    name: Literal["gru"] = "gru"
    """The core."""


class LSTMConfig(CoreConfig):
    """One layer of long short-term memory."""

    name: Literal["lstm"] = "lstm"
    """The core."""


class FeedForwardConfig(CoreConfig):
    """No memory: one layer that forgets every step, the baseline that all memory must beat."""

    name: Literal["none"] = "none"
    """The core."""


class NTMConfig(CoreConfig):
    """The Neural Turing Machine of Graves et al. 2014."""

    name: Literal["ntm"] = "ntm"
    """The core."""
    controller: ControllerName = "lstm"
    """The network that moves the heads."""
    slots: int = Field(default=128, ge=1)
    """Vectors in memory."""
    width: int = Field(default=20, ge=1)
    """Length of each."""
    read_heads: int = Field(default=1, ge=1)
    """Heads that read."""
    write_heads: int = Field(default=1, ge=1)
    """Heads that write."""
    shift_range: int = Field(default=1, ge=0)
    """How many slots a head can move in a step, either way."""


class DNCConfig(CoreConfig):
    """The Differentiable Neural Computer of Graves et al. 2016."""

    name: Literal["dnc"] = "dnc"
    """The core."""
    controller: ControllerName = "lstm"
    """The network that reads and writes."""
    slots: int = Field(default=32, ge=1)
    """Vectors in memory; time grows with their square."""
    width: int = Field(default=16, ge=1)
    """Length of each."""
    read_heads: int = Field(default=1, ge=1)
    """Heads that read; one writes."""
    masking: bool = False
    """Whether keys come with masks, of which part of a slot they are about (Csordas and Schmidhuber 2019)."""
    mask_floor: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Least value of a mask; the authors found 0.1 needed in associative recall."""
    deallocation: bool = False
    """Whether a slot that is freed is emptied, too (likewise)."""
    sharpness: bool = False
    """Whether the steps along links are sharpened (likewise)."""


class MNMConfig(CoreConfig):
    """Metalearned Neural Memory of Munkhdalai et al. 2019."""

    name: Literal["mnm"] = "mnm"
    """The core."""
    controller: ControllerName = "lstm"
    """The network that writes and reads."""
    rule: Literal["p", "g"] = "p"
    """How is written: every layer towards a target that is predicted from the value (p), or down the gradient (g)."""
    width: int = Field(default=32, ge=1)
    """Length of a key, and of a value."""
    memory_hidden: int = Field(default=32, ge=1)
    """Units of the first two layers of the memory."""
    heads: int = Field(default=1, ge=1)
    """Pairs that are written, and keys that are read, in a step."""
    inner_steps: int = Field(default=1, ge=1)
    """Steps of the rule in one write."""
    normalised: bool = False
    """Whether a write at the largest rate goes all the way to its target, however many heads write and units answer; as
    published, it goes a part of the way, and bAbI takes several times as many updates to be learned."""
    learned_memory: bool = True
    """Whether the memory that every sequence begins with is learned, or stays as it was drawn."""
    meta_weight: float = Field(default=1.0, ge=0.0)
    """Factor of the meta loss, the squared error of a pair right after it was written."""


AnyCoreConfig = Annotated[
    GRUConfig | LSTMConfig | FeedForwardConfig | NTMConfig | DNCConfig | MNMConfig, Field(discriminator="name")
]
"""Any core."""


def make_core(config: AnyCoreConfig, input_size: int) -> RecurrentCore[Any]:
    """Build a core for inputs of a size; its weights are drawn from torch's global generator.

    Raises:
        ValueError: on sizes that do not fit one another.
    """
    if isinstance(config, FeedForwardConfig):
        return FeedForward(input_size, config.hidden)
    if isinstance(config, GRUConfig | LSTMConfig):
        return _CONTROLLERS[config.name](input_size, config.hidden)
    if isinstance(config, MNMConfig):
        return MNM(
            _CONTROLLERS[config.controller](input_size + config.width, config.hidden),
            config.width,
            config.memory_hidden,
            rule=config.rule,
            heads=config.heads,
            inner_steps=config.inner_steps,
            normalised=config.normalised,
            learned_memory=config.learned_memory,
            meta_weight=config.meta_weight,
        )
    controller = _CONTROLLERS[config.controller](input_size + config.read_heads * config.width, config.hidden)
    if isinstance(config, NTMConfig):
        return NTM(
            controller,
            config.slots,
            config.width,
            read_heads=config.read_heads,
            write_heads=config.write_heads,
            shift_range=config.shift_range,
        )
    return DNC(
        controller,
        config.slots,
        config.width,
        read_heads=config.read_heads,
        masking=config.masking,
        mask_floor=config.mask_floor,
        deallocation=config.deallocation,
        sharpness=config.sharpness,
    )
