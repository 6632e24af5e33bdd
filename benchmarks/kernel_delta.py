"""What an embedding that was never learned says of returns, by how its weights are drawn and by kernel.

Goes to docs/results/kernel_delta.csv.

    python -m benchmarks.kernel_delta                       three games, two initialisations, three seeds
    python -m benchmarks.kernel_delta --games qbert --seeds 0

NEC plays with the random weights of its network, and the paper's delta. Then some of its memories are answered as if
their states were met again, once with the memory itself and once by the other memories of its action alone. For each
`kernel_delta`:

    explained_DELTA     share of the variance of their values that the answers of the others explain
    own_weight_DELTA    mean weight that a memory has in the answer to its own state

and, as medians, the squared distances to the nearest other memory and to the last that answers, by which a delta is to
be judged: `nearest_squared` and `last_squared`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from agents.nec import NEC
from benchmarks.return_runs import ReturnCourse, ReturnOptions, benchmark
from benchmarks.runner import Preset
from memory.episodic import EpisodicMemory, InverseDistance
from training.command_line import guarded, parse_overrides

INITIALISATIONS = ("torch", "lecun")
PUBLISHED = "1e-3"
DELTAS = ("1e-2", PUBLISHED, "1e-4", "1e-5", "1e-6")
ANSWERED = 2_000
"""Memories that are answered, at most."""


class KernelDeltaOptions(ReturnOptions):
    """Games and seeds to run."""

    games: tuple[str, ...] = ("pong", "qbert", "ms_pacman")
    """Games, by the names of their ROMs."""


class KernelDeltaCourse(ReturnCourse):
    """A run of NEC that ends with a look at what its memory tells apart."""

    def conclude(self) -> None:
        super().conclude()
        assert isinstance(self._agent, NEC)
        self.measure(told_apart(self._agent.memory, ANSWERED))


def told_apart(memory: EpisodicMemory, most: int) -> dict[str, float]:
    """The metrics of this benchmark, by name, of `most` memories, drawn evenly.

    They are of all actions that have more memories than answer a query.
    """
    slots = memory.filled_slots()
    answered = torch.tensor([len(store) > memory.neighbours for store in memory.stores])
    slots = slots[answered[slots // memory.capacity]]
    slots = slots[torch.linspace(0, len(slots) - 1, min(most, len(slots)), dtype=torch.float64).long()]
    rows, actions = memory.rows_of(slots), slots // memory.capacity
    keys, values = memory.table.keys[rows], memory.table.values[rows]
    itself = memory.read(keys, actions, touch=False)
    others = memory.read(keys, actions, touch=False, apart_from=slots)
    mine = itself.indices == (slots % memory.capacity)[:, None]
    squared = others.distances.square()
    found = {"nearest_squared": squared[:, 0].median().item(), "last_squared": squared[:, -1].median().item()}
    for name in DELTAS:
        kernel = InverseDistance(float(name))
        answers = (kernel(keys, others.keys, others.valid) * others.values).sum(dim=1)
        found[f"explained_{name}"] = 1.0 - ((answers - values).square().mean() / values.var(correction=0)).item()
        own = kernel(keys, itself.keys, itself.valid).masked_fill(~mine, 0.0)
        found[f"own_weight_{name}"] = own.sum(dim=1).mean().item()
    return found


def main() -> None:
    default = KernelDeltaOptions(steps=25_000, eval_games=0, out=Path("docs/results/kernel_delta.csv"))
    options = parse_overrides(default, sys.argv[1:], "benchmarks.kernel_delta", __doc__)
    presets = [
        Preset(
            "atari_nec_frozen",
            ("--env.game", game, "--agent.initialisation", name, "--agent.kernel_delta", PUBLISHED),
            name,
        )
        for game in options.games
        for name in INITIALISATIONS
    ]
    benchmark(options, presets, KernelDeltaCourse)


if __name__ == "__main__":
    guarded(main)
