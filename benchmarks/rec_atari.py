"""REC, its rivals and its baselines on Atari, to docs/results/rec_atari.csv.

    python -m benchmarks.rec_atari                                         three games, all variants, three seeds
    python -m benchmarks.rec_atari --games qbert --variants nec rec --steps 100000

The variants are those of `benchmarks/rec_grid_world.py`. Started again, it does the runs that its table lacks.
`python -m benchmarks.figures rec_atari` draws the figures.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.rec_grid_world import RecOptions, presets
from benchmarks.return_runs import benchmark
from training.command_line import guarded, parse_overrides


class RecAtariOptions(RecOptions):
    """Games, variants and seeds to run."""

    games: tuple[str, ...] = ("pong", "qbert", "ms_pacman")
    """Games, by the names of their ROMs."""


def main() -> None:
    default = RecAtariOptions(out=Path("docs/results/rec_atari.csv"))
    options = parse_overrides(default, sys.argv[1:], "benchmarks.rec_atari", __doc__)
    found = []
    for game in options.games:
        found += presets("atari", ("--env.game", game), options.variants)
    benchmark(options, found)


if __name__ == "__main__":
    guarded(main)
