"""The Differentiable Neural Computer of Graves et al. 2016 (Nature 538, 471-476, Methods).

With the three corrections of Csordas and Schmidhuber 2019 (arXiv 1904.10278) as options: `masking` of the keys,
`deallocation` of what is freed from the memory itself, `sharpness` of the steps along links.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import hardtanh, softplus

from memory.neural.addressing import (
    allocation_weights,
    content_weights,
    links_after,
    precedence_after,
    retention,
    sharpen,
    split,
    usage_after,
    write,
)
from memory.neural.core import RecurrentCore

CLIP = 20.0
"""Bound of what the controller tells its memory."""


class DNCState(NamedTuple):
    """Between two steps of a DNC."""

    controller: tuple[Any, ...]
    """The controller's own state."""
    memory: Tensor
    """`[batch, slots, width]`."""
    usage: Tensor
    """How far each slot is in use, 0 to 1, before what was last written: `[batch, slots]`."""
    links: Tensor
    """`[batch, slots, slots]`: how far the first of two slots was written right after the second."""
    precedence: Tensor
    """How far each slot was the last to be written, `[batch, slots]`, of sum at most 1."""
    reads: Tensor
    """What the read heads last read, `[batch, read_heads, width]`."""
    read_weights: Tensor
    """Where from, `[batch, read_heads, slots]`."""
    write_weights: Tensor
    """Where was last written, `[batch, slots]`, of sum at most 1."""


class DNC(RecurrentCore[DNCState]):
    """A memory of `slots` vectors that is allocated and freed, and remembers the order in which it was written.

    Its output is the controller's, and after it what was just read: the paper's output is a linear function of both.

    Args:
        controller: a core whose inputs are those of the DNC, and after them `read_heads * width` of what was read.
        slots: vectors in memory; time and memory grow with their square.
        width: length of each.
        read_heads: heads that read; one writes.
        masking: whether keys come with masks, of which part of a slot they are about.
        mask_floor: least value of a mask.
        deallocation: whether a slot that is freed is emptied, too.
        sharpness: whether the steps along links are sharpened, without which they blur with every write.

    Raises:
        ValueError: where the controller leaves no room for inputs, or a number is out of its range.
    """

    def __init__(
        self,
        controller: RecurrentCore[Any],
        slots: int,
        width: int,
        *,
        read_heads: int = 1,
        masking: bool = False,
        mask_floor: float = 0.0,
        deallocation: bool = False,
        sharpness: bool = False,
    ) -> None:
        if min(slots, width, read_heads) < 1:
            raise ValueError(f"slots, width and read_heads must be at least 1, got {slots}, {width}, {read_heads}")
        if not 0 <= mask_floor < 1:
            raise ValueError(f"mask_floor must be 0 or more and below 1, got {mask_floor}")
        read_size = read_heads * width
        super().__init__(controller.input_size - read_size, controller.output_size + read_size)
        self.controller = controller
        self.slots, self.width, self.read_heads = slots, width, read_heads
        self.masking, self.mask_floor = masking, mask_floor
        self.deallocation = deallocation
        self.sharpness = sharpness
        # The write head's key comes before those of the read heads.
        masks = (read_heads + 1, width) if masking else (0,)
        powers = (2 * read_heads,) if sharpness else (0,)
        self._vectors = ((1, width), (read_heads, width), (1, width))
        self._strengths = ((1,), (read_heads,), powers)
        self._gates = ((1, width), (read_heads,), (1,), (1,), masks)
        self._modes = (read_heads, 3)
        self._sizes = (
            (read_heads + 2) * width,
            1 + read_heads + powers[0],
            width + read_heads + 2 + masks[0] * width * masking,
            3 * read_heads,
        )
        self.interface = nn.Linear(controller.output_size, sum(self._sizes))

    def initial_state(self, batch: int) -> DNCState:
        def zeros(*shape: int) -> Tensor:
            return self.interface.weight.new_zeros(batch, *shape)

        return DNCState(
            self.controller.initial_state(batch),
            memory=zeros(self.slots, self.width),
            usage=zeros(self.slots),
            links=zeros(self.slots, self.slots),
            precedence=zeros(self.slots),
            reads=zeros(self.read_heads, self.width),
            read_weights=zeros(self.read_heads, self.slots),
            write_weights=zeros(self.slots),
        )

    def forward(self, inputs: Tensor, state: DNCState) -> tuple[Tensor, DNCState]:
        hidden, controller = self.controller(torch.cat([inputs, state.reads.flatten(1)], dim=-1), state.controller)
        vectors, positive, gates, modes = hardtanh(self.interface(hidden), -CLIP, CLIP).split(self._sizes, dim=-1)
        write_key, read_keys, value = split(vectors, *self._vectors)
        write_strength, read_strengths, powers = split(1 + softplus(positive), *self._strengths)
        erase, free_gates, allocation_gate, write_gate, masks = split(gates.sigmoid(), *self._gates)
        write_mask, read_masks = self._masks(masks)

        kept = retention(free_gates, state.read_weights)
        usage = usage_after(state.usage, state.write_weights, kept)
        by_content = content_weights(write_key, write_strength, state.memory, write_mask).squeeze(1)
        write_weights = write_gate * by_content.lerp(allocation_weights(usage), allocation_gate)
        memory = state.memory * kept[..., None] if self.deallocation else state.memory
        memory = write(memory, write_weights[:, None], erase, value)
        links, back, forth = links_after(state.links, write_weights, state.precedence, state.read_weights)

        if self.sharpness:
            back, forth = sharpen(torch.cat([back, forth], dim=1), powers).chunk(2, dim=1)
        by_content = content_weights(read_keys, read_strengths, memory, read_masks)
        go_back, stay, go_forth = modes.reshape(-1, *self._modes).softmax(-1).split(1, dim=-1)
        read_weights = torch.addcmul(torch.addcmul(go_back * back, stay, by_content), go_forth, forth)
        reads = read_weights.bmm(memory)
        return torch.cat([hidden, reads.flatten(1)], dim=-1), DNCState(
            controller,
            memory,
            usage,
            links,
            precedence_after(state.precedence, write_weights),
            reads,
            read_weights,
            write_weights,
        )

    def _masks(self, masks: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Masks of the write key and of the read keys, from all of them `[batch, read_heads + 1, width]`."""
        if not self.masking:
            return None, None
        masks = self.mask_floor + (1 - self.mask_floor) * masks
        return masks[:, :1], masks[:, 1:]
