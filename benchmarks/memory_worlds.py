"""Small worlds that ask for a memory and for little else, to docs/results/memory_worlds.csv.

    python -m benchmarks.memory_worlds                         T-maze and memory chain, GRU and no memory, three seeds
    python -m benchmarks.memory_worlds --cores gru lstm dnc    other cores

PPO in a passive T-maze (best return 1, without memory 0.5) and on a memory chain (1, and 0), both of length 10. Started
again, it does the runs that its table lacks.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.hidden_goal_maze import MazeOptions, presets
from benchmarks.return_runs import benchmark
from training.command_line import guarded, parse_overrides

PRESETS = ("t_maze_gru", "memory_chain_gru")


def main() -> None:
    default = MazeOptions(
        cores=("gru", "none"), steps=0, eval_games=100, steps_per_row=10_000, out=Path("docs/results/memory_worlds.csv")
    )
    options = parse_overrides(default, sys.argv[1:], "benchmarks.memory_worlds", __doc__)
    benchmark(options, [preset for name in PRESETS for preset in presets(options.cores, name)])


if __name__ == "__main__":
    guarded(main)
