"""Episodic memory: (key, value) pairs outside the network, read by nearest neighbours.

Read the files in this order: `recall` (what a read answers), `kernels` (how neighbours are weighed), `table` (the
rows), `neighbours` (how they are found), `updates` (what a rewrite does), `store` (one action's memories), `memory`
(all actions), `trainable` (gradients into memories). An encoder that learns through memories needs `reinstatement` (how
an observation comes back) and `credit` (which embedding does inference, and who gets the gradient).
"""

from memory.episodic.kernels import CosineSoftmax, InverseDistance, Kernel, UniformMean
from memory.episodic.memory import EpisodicMemory
from memory.episodic.recall import Recall
from memory.episodic.store import Store
from memory.episodic.trainable import TrainableMemories
from memory.episodic.updates import Tabular, Written, maximum

__all__ = [
    "CosineSoftmax",
    "EpisodicMemory",
    "InverseDistance",
    "Kernel",
    "Recall",
    "Store",
    "Tabular",
    "TrainableMemories",
    "UniformMean",
    "Written",
    "maximum",
]
