"""Gated recurrent networks as cores: the baselines without a memory beside them, and the controllers of those with one.

`GRU` (Cho et al. 2014), `LSTM` (Hochreiter and Schmidhuber 1997), and a layer that remembers nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from memory.neural.core import RecurrentCore


class GRUState(NamedTuple):
    """Between two steps of a GRU."""

    hidden: Tensor
    """`[batch, hidden]`."""


class LSTMState(NamedTuple):
    """Between two steps of an LSTM, each `[batch, hidden]`."""

    hidden: Tensor
    cell: Tensor


class NoState(NamedTuple):
    """Nothing passes from step to step."""


class GRU(RecurrentCore[GRUState]):
    """One layer of gated recurrent units; its output is its hidden state."""

    def __init__(self, input_size: int, hidden: int) -> None:
        super().__init__(input_size, hidden)
        self.cell = nn.GRUCell(input_size, hidden)

    def initial_state(self, batch: int) -> GRUState:
        return GRUState(self.cell.weight_hh.new_zeros(batch, self.output_size))

    def forward(self, inputs: Tensor, state: GRUState) -> tuple[Tensor, GRUState]:
        hidden = self.cell(inputs, state.hidden)
        return hidden, GRUState(hidden)


class LSTM(RecurrentCore[LSTMState]):
    """One layer of long short-term memory, whose forget gates are biased open by 1; its output is its hidden state."""

    def __init__(self, input_size: int, hidden: int) -> None:
        super().__init__(input_size, hidden)
        self.cell = nn.LSTMCell(input_size, hidden)
        with torch.no_grad():
            # torch orders the gates input, forget, cell, output, and adds two biases.
            self.cell.bias_ih[hidden : 2 * hidden] += 1.0

    def initial_state(self, batch: int) -> LSTMState:
        zeros = self.cell.weight_hh.new_zeros(batch, self.output_size)
        return LSTMState(zeros, zeros)

    def forward(self, inputs: Tensor, state: LSTMState) -> tuple[Tensor, LSTMState]:
        hidden, cell = self.cell(inputs, (state.hidden, state.cell))
        return hidden, LSTMState(hidden, cell)


class FeedForward(RecurrentCore[NoState]):
    """One layer with tanh, so that its output has the range of a GRU's; it remembers nothing."""

    def __init__(self, input_size: int, hidden: int) -> None:
        super().__init__(input_size, hidden)
        self.layer = nn.Linear(input_size, hidden)

    def initial_state(self, batch: int) -> NoState:
        return NoState()

    def forward(self, inputs: Tensor, state: NoState) -> tuple[Tensor, NoState]:
        return self.layer(inputs).tanh(), state
