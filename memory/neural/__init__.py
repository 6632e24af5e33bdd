"""Neural memory: inside a network, read and written by differentiable weights at every step.

Read the files in this order: `core` (what all have in common), `controllers` (networks without a memory beside them),
`addressing` (the equations), `ntm`, `dnc`.
"""

from memory.neural.controllers import GRU, LSTM, FeedForward
from memory.neural.core import RecurrentCore, compiled, map_states, named_tensors, unroll, with_tensors
from memory.neural.dnc import DNC
from memory.neural.ntm import NTM

__all__ = [
    "DNC",
    "GRU",
    "LSTM",
    "NTM",
    "FeedForward",
    "RecurrentCore",
    "compiled",
    "map_states",
    "named_tensors",
    "unroll",
    "with_tensors",
]
