"""REC, its rivals and its baselines in grid worlds of changing layouts, seen in pixels.

To docs/results/rec_grid_world.csv:

    python -m benchmarks.rec_grid_world                                    three worlds, all variants, three seeds
    python -m benchmarks.rec_grid_world --worlds lava-gap --variants rec frozen

Started again, it does the runs that its table lacks. `python -m benchmarks.figures rec_grid_world` draws the figures.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from benchmarks.return_runs import ReturnOptions, benchmark
from benchmarks.runner import Preset
from training.command_line import UsageError, guarded, parse_overrides

NETWORK = ("--agent.architecture", "nature")
"""As NEC's."""
DECODED = ("--agent.reinstatement", "autoencoder", "--agent.pretraining", "2000", "--agent.pretraining_offline", "True")
EXACT = ("--agent.credit", "exact")
STALE = ("--agent.freshening", "none")
LECUN = ("--agent.initialisation", "lecun")
LEFT_OUT = ("--agent.own_memory", "left_out")
QUERY = ("--agent.credit", "frozen")
ALONE = (*QUERY, *STALE, "--agent.drift_penalty", "0")
CONSOLIDATION = ("--agent.query_gradient", "False", "--agent.consolidation_updates", "300")

VARIANTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "random": ("random", ()),
    "mfec": ("mfec", ()),
    "dqn": ("dqn", ()),
    "frozen": ("nec", ("--agent.train_encoder", "False")),
    "nec": ("nec", ()),
    # What comes back, which key infers, and whether the stored one is replaced: without loss, the stored one, it is.
    "rec": ("rec", NETWORK),
    "stale": ("rec", (*NETWORK, *STALE)),
    "exact": ("rec", (*NETWORK, *EXACT)),
    "exact-stale": ("rec", (*NETWORK, *EXACT, *STALE)),
    "autoencoder": ("rec", (*NETWORK, *DECODED)),
    "autoencoder-stale": ("rec", (*NETWORK, *DECODED, *STALE)),
    "autoencoder-exact": ("rec", (*NETWORK, *DECODED, *EXACT)),
    "autoencoder-exact-stale": ("rec", (*NETWORK, *DECODED, *EXACT, *STALE)),
    # Rivals to freshening, and to the drift penalty.
    "candidates": ("rec", (*NETWORK, "--agent.freshening", "candidates")),
    "full-refresh": (
        "rec",
        (
            *NETWORK,
            *("--agent.freshening", "sweep", "--agent.freshened", "10000000", "--agent.updates_per_sweep", "500"),
        ),
    ),
    "drift-map": ("rec", (*NETWORK, "--agent.freshening", "drift_map")),
    "slow-encoder": ("rec", (*NETWORK, *STALE, "--agent.slow_updates", "500")),
    "anchored": ("rec", (*NETWORK, *STALE, "--agent.drift_penalty", "0", "--agent.anchor_penalty", "10")),
    # The encoder learns in phases, after each of which all keys are made anew.
    "consolidated": ("rec", (*NETWORK, *ALONE, *CONSOLIDATION)),
    "drift-1": ("rec", (*NETWORK, "--agent.drift_penalty", "1")),
    "no-drift-penalty": ("rec", (*NETWORK, "--agent.drift_penalty", "0")),
    # How weights are drawn, what a state's own memory does, and learning through the query alone.
    "lecun": ("nec", LECUN),
    "frozen+lecun": ("nec", (*LECUN, "--agent.train_encoder", "False")),
    "lecun-left-out": ("nec", (*LECUN, *LEFT_OUT)),
    "left-out": ("rec", (*NETWORK, *LEFT_OUT)),
    "own-counts-drift-0": ("rec", (*NETWORK, "--agent.own_memory", "counts", "--agent.drift_penalty", "0")),
    "query-alone": ("rec", (*NETWORK, *ALONE)),
    "query-alone-held": ("rec", (*NETWORK, *QUERY)),
    "query-alone-left-out": ("rec", (*NETWORK, *ALONE, *LEFT_OUT)),
}
"""Name: the agent, and its overrides."""

LAVA_GAP = ("--env.id", "MiniGrid-LavaGapS5-v0", "--env.tile_size", "8")
WORLDS = {
    # A floor of random colours: most of what is seen means nothing.
    "lava-gap-tiled": (*LAVA_GAP, "--env.tiles", "True"),
    "lava-gap": LAVA_GAP,
    "simple-crossing": ("--env.id", "MiniGrid-SimpleCrossingS9N1-v0", "--env.tile_size", "4"),
}
"""Name: what makes it one, with cells of so many pixels that convolutions can take the whole."""


class RecOptions(ReturnOptions):
    """What is compared."""

    variants: tuple[str, ...] = tuple(VARIANTS)
    """Agents and how they differ, by name."""


class RecGridWorldOptions(RecOptions):
    """Worlds, variants and seeds to run."""

    worlds: tuple[str, ...] = tuple(WORLDS)
    """Worlds, by name."""


def presets(family: str, world: Iterable[str], variants: Iterable[str]) -> list[Preset]:
    """The presets of a family of worlds (`grid_world` or `atari`) with what makes them one world, by variants.

    Raises:
        UsageError: on a variant that there is none of.
    """
    found = []
    for variant in variants:
        if variant not in VARIANTS:
            raise UsageError(f"there is no variant {variant!r}; there are {', '.join(VARIANTS)}")
        agent, overrides = VARIANTS[variant]
        name = "" if variant == agent else variant
        found.append(Preset(f"{family}_{agent}", (*world, *overrides), name))
    return found


def main() -> None:
    default = RecGridWorldOptions(steps=40_000, steps_per_row=2_000, out=Path("docs/results/rec_grid_world.csv"))
    options = parse_overrides(default, sys.argv[1:], "benchmarks.rec_grid_world", __doc__)
    found = []
    for name in options.worlds:
        if name not in WORLDS:
            raise UsageError(f"there is no world {name!r}; there are {', '.join(WORLDS)}")
        found += presets("grid_world", ("--env.observation", "pixels", *WORLDS[name]), options.variants)
    benchmark(options, found)


if __name__ == "__main__":
    guarded(main)
