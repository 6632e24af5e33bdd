"""REC, its rivals and its baselines on Atari, to docs/results/rec_atari.csv.

    python -m benchmarks.rec_atari                                         three games, all variants, three seeds
    python -m benchmarks.rec_atari --games qbert --variants nec rec --steps 100000

`rec` learns in phases, `online` all the time; the other variants are those of `benchmarks/rec_grid_world.py`, and those
of REC differ from `online`. Started again, it does the runs that its table lacks.
`python -m benchmarks.figures rec_atari` draws the figures.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.rec_grid_world import VARIANTS, check_variants, variant_of
from benchmarks.return_runs import ReturnOptions, benchmark
from benchmarks.runner import Preset, atari_preset
from training.command_line import guarded, parse_overrides

PRESETS = {"rec": "rec", "online": "rec_online"}
"""REC's own, by name."""


class RecAtariOptions(ReturnOptions):
    """Games, variants and seeds to run."""

    games: tuple[str, ...] = ("pong", "qbert", "ms_pacman")
    """Games, by the names of their ROMs."""
    variants: tuple[str, ...] = (*PRESETS, *(name for name in VARIANTS if name not in ("rec", "consolidated")))
    """Agents and how they differ, by name."""


def preset(game: str, variant: str) -> Preset:
    """The preset of a variant on a game."""
    world = ("--env.game", game)
    if variant in PRESETS:
        return atari_preset(PRESETS[variant], world)
    return variant_of("atari", world, variant, "rec_online")


def main() -> None:
    default = RecAtariOptions(out=Path("docs/results/rec_atari.csv"))
    options = parse_overrides(default, sys.argv[1:], "benchmarks.rec_atari", __doc__)
    check_variants(options.variants, default.variants)
    benchmark(options, [preset(game, variant) for game in options.games for variant in options.variants])


if __name__ == "__main__":
    guarded(main)
