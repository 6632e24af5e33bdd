"""The Neural Turing Machine of Graves et al. 2014, arXiv 1410.5401, with what keeps it stable.

From the memory as it was, heads find their places by content, by where they were, and by a shift; the read heads read,
and then the write heads erase and add. Against numbers that are not finite, and for convergence from every seed: a
memory that begins constant and learned initial reads and weights (Collier and Beel 2018, arXiv 1807.08518), bounded
parameters of heads, and lengths and logarithms kept off zero (`addressing.EPSILON`).

Heads begin at the first slot, and may learn to begin elsewhere. A head that begins everywhere has to find a place
before it can learn to move on from one: on the copy task, one seed each, more than 10,000 updates in place of 2,500.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import hardtanh, softplus

from memory.neural.addressing import content_weights, sharpen, shift, split, write
from memory.neural.core import RecurrentCore

CLIP = 20.0
"""Bound of what the controller tells its heads."""
_INITIAL_CONTENT = 1e-6
_INITIAL_FOCUS = 8.0
"""Logit of the first slot, where heads begin, over all others: 0.96 of the weight among 128 slots."""


class NTMState(NamedTuple):
    """Between two steps of an NTM."""

    controller: tuple[Any, ...]
    """The controller's own state."""
    memory: Tensor
    """`[batch, slots, width]`."""
    reads: Tensor
    """What the read heads last read, `[batch, read_heads, width]`."""
    read_weights: Tensor
    """Where from, `[batch, read_heads, slots]`."""
    write_weights: Tensor
    """Where the write heads last wrote, `[batch, write_heads, slots]`."""


class NTM(RecurrentCore[NTMState]):
    """A memory of `slots` vectors and the heads that a controller moves over it.

    Its output is the controller's, and after it what was just read.

    Args:
        controller: a core whose inputs are those of the NTM, and after them `read_heads * width` of what was read.
        slots: vectors in memory.
        width: length of each.
        read_heads: heads that read.
        write_heads: heads that write; all erase before one adds.
        shift_range: how far a head can be moved in one step, in slots, either way.

    Raises:
        ValueError: where the controller leaves no room for inputs, or a shift would go around all slots.
    """

    def __init__(
        self,
        controller: RecurrentCore[Any],
        slots: int,
        width: int,
        *,
        read_heads: int = 1,
        write_heads: int = 1,
        shift_range: int = 1,
    ) -> None:
        if min(slots, width, read_heads, write_heads) < 1:
            raise ValueError(
                f"slots, width and heads must be 1 or more, got {slots}, {width}, {read_heads}, {write_heads}"
            )
        if not 0 <= 2 * shift_range < slots:
            raise ValueError(f"shift_range must be 0 to {(slots - 1) // 2} for {slots} slots, got {shift_range}")
        read_size = read_heads * width
        super().__init__(controller.input_size - read_size, controller.output_size + read_size)
        self.controller = controller
        heads, shifts = read_heads + write_heads, 2 * shift_range + 1
        self._signed = ((heads, width), (write_heads, width))
        self._positive = ((heads,), (heads,))
        self._gates = ((heads,), (write_heads, width))
        self._shifts = (heads, shifts)
        self._sizes = ((heads + write_heads) * width, 2 * heads, heads + write_heads * width, heads * shifts)
        self.interface = nn.Linear(controller.output_size, sum(self._sizes))
        self.register_buffer("initial_memory", torch.full((slots, width), _INITIAL_CONTENT), persistent=False)
        self.initial_memory: Tensor
        self.initial_reads = nn.Parameter(torch.randn(read_heads, width))
        first = torch.zeros(slots)
        first[0] = _INITIAL_FOCUS
        self.initial_read_weights = nn.Parameter(first.repeat(read_heads, 1))
        self.initial_write_weights = nn.Parameter(first.repeat(write_heads, 1))

    def initial_state(self, batch: int) -> NTMState:
        def each(tensor: Tensor) -> Tensor:
            return tensor.expand(batch, *tensor.shape)

        return NTMState(
            self.controller.initial_state(batch),
            each(self.initial_memory),
            each(self.initial_reads.tanh()),
            each(self.initial_read_weights.softmax(-1)),
            each(self.initial_write_weights.softmax(-1)),
        )

    def forward(self, inputs: Tensor, state: NTMState) -> tuple[Tensor, NTMState]:
        hidden, controller = self.controller(torch.cat([inputs, state.reads.flatten(1)], dim=-1), state.controller)
        signed, positive, gates, shifts = hardtanh(self.interface(hidden), -CLIP, CLIP).split(self._sizes, dim=-1)
        keys, adds = split(signed.tanh(), *self._signed)
        strengths, powers = split(softplus(positive), *self._positive)
        gates, erase = split(gates.sigmoid(), *self._gates)

        # Equations 5 to 9: content, interpolation with the weights before, shift, sharpening.
        before = torch.cat([state.read_weights, state.write_weights], dim=1)
        weights = before.lerp(content_weights(keys, strengths, state.memory), gates[..., None])
        weights = sharpen(shift(weights, shifts.reshape(-1, *self._shifts).softmax(-1)), 1 + powers)
        read_weights, write_weights = weights.split([state.reads.shape[1], adds.shape[1]], dim=1)

        reads = read_weights.bmm(state.memory)
        memory = write(state.memory, write_weights, erase, adds)
        features = torch.cat([hidden, reads.flatten(1)], dim=-1)
        return features, NTMState(controller, memory, reads, read_weights, write_weights)
