"""Grid worlds: returns of the agents while they learn and once they have learned, to docs/results/grid_world.csv.

    python -m benchmarks.grid_world                                        an empty room, five agents, three seeds
    python -m benchmarks.grid_world --ids MiniGrid-FourRooms-v0 --agents nec

Started again, it does the runs that its table lacks. `python -m benchmarks.figures grid_world` draws the figure.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.return_runs import ReturnOptions, benchmark
from benchmarks.runner import Preset
from training.command_line import guarded, parse_overrides


class GridWorldOptions(ReturnOptions):
    """Worlds, agents and seeds to run."""

    ids: tuple[str, ...] = ("MiniGrid-Empty-8x8-v0",)
    """Worlds, as MiniGrid registers them."""
    agents: tuple[str, ...] = ("mfec", "nec", "rec", "dqn", "random")
    """Agents, by their presets: configs/grid_world_<agent>.yaml."""


def main() -> None:
    default = GridWorldOptions(steps=30_000, steps_per_row=1_000, out=Path("docs/results/grid_world.csv"))
    options = parse_overrides(default, sys.argv[1:], "benchmarks.grid_world", __doc__)
    presets = [Preset(f"grid_world_{agent}", ("--env.id", name)) for name in options.ids for agent in options.agents]
    benchmark(options, presets)


if __name__ == "__main__":
    guarded(main)
