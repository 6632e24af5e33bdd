"""A corridor whose cue must be remembered at its fork, to docs/results/minigrid_memory.csv.

    python -m benchmarks.minigrid_memory                              GRU and no memory, five seeds, a million steps
    python -m benchmarks.minigrid_memory --cores gru mnm-p --seeds 0

MiniGrid-MemoryS9-v0 with a view of 3 x 3 and three actions, as in the published runs of a recurrent PPO (mean training
return 0.880 at 0.82 million steps, 0.898 at 2.05, ten runs). A step is a frame. A policy without a memory can do no
better than a coin flip, about 0.5. Started again, it does the runs that its table lacks.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.hidden_goal_maze import MazeOptions, presets
from benchmarks.return_runs import benchmark
from training.command_line import guarded, parse_overrides


def main() -> None:
    default = MazeOptions(
        cores=("gru", "none"),
        seeds=tuple(range(5)),
        steps=0,
        eval_games=100,
        out=Path("docs/results/minigrid_memory.csv"),
    )
    options = parse_overrides(default, sys.argv[1:], "benchmarks.minigrid_memory", __doc__)
    benchmark(options, presets(options.cores, "minigrid_memory_gru"))


if __name__ == "__main__":
    guarded(main)
