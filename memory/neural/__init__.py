"""Neural memory: inside a network, read and written by differentiable weights at every step.

Read the files in this order: `core` (what all have in common), `controllers` (networks without a memory beside them),
`addressing` (the equations), `ntm`, `dnc`, `mnm`, `recollecting` (what an mnm recalls).
"""

from memory.neural.controllers import GRU, LSTM, FeedForward
from memory.neural.core import (
    CompiledCore,
    RecurrentCore,
    Unrolled,
    joined,
    map_states,
    named_tensors,
    unroll,
    with_tensors,
)
from memory.neural.dnc import DNC
from memory.neural.mnm import MNM
from memory.neural.ntm import NTM

__all__ = [
    "DNC",
    "GRU",
    "LSTM",
    "MNM",
    "NTM",
    "CompiledCore",
    "FeedForward",
    "RecurrentCore",
    "Unrolled",
    "joined",
    "map_states",
    "named_tensors",
    "unroll",
    "with_tensors",
]
