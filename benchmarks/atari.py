"""Atari games: returns of the agents over a million frames, to docs/results/atari_1m.csv.

    python -m benchmarks.atari                                         three games, five agents, three seeds
    python -m benchmarks.atari --games qbert --agents mfec --seeds 0   one run
    python -m benchmarks.atari --agents nec --override agent.n_step=20 --variant n-step-20

Started again, it does the runs that its table lacks. `python -m benchmarks.figures atari_1m` draws the figures.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.return_runs import ReturnOptions, benchmark
from benchmarks.runner import atari_preset
from training.command_line import guarded, parse_overrides


class AtariOptions(ReturnOptions):
    """Games, agents and seeds to run."""

    games: tuple[str, ...] = ("pong", "qbert", "ms_pacman")
    """Games, by the names of their ROMs."""
    agents: tuple[str, ...] = ("mfec", "nec", "nec_frozen", "dqn", "random")
    """Agents, by their presets: configs/atari_<agent>.yaml."""


def main() -> None:
    default = AtariOptions(out=Path("docs/results/atari_1m.csv"))
    options = parse_overrides(default, sys.argv[1:], "benchmarks.atari", __doc__)
    presets = [atari_preset(agent, ("--env.game", game)) for game in options.games for agent in options.agents]
    benchmark(options, presets)


if __name__ == "__main__":
    guarded(main)
