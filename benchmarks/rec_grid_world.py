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
LONGEST_EPISODE = {"lava-gap-tiled": 100, "lava-gap": 100, "simple-crossing": 324}
"""In steps of one environment, of which there are four."""


class RecGridWorldOptions(ReturnOptions):
    """Worlds, variants and seeds to run."""

    worlds: tuple[str, ...] = tuple(WORLDS)
    """Worlds, by name."""
    variants: tuple[str, ...] = tuple(VARIANTS)
    """Agents and how they differ, by name."""


def variant_of(family: str, world: Iterable[str], variant: str, rec: str = "rec") -> Preset:
    """The preset of a variant in a world.

    Args:
        family: of worlds, `grid_world` or `atari`.
        world: what makes it one.
        variant: its name, of `VARIANTS`.
        rec: the family's preset of REC whose encoder learns all the time.
    """
    agent, overrides = VARIANTS[variant]
    return Preset(
        f"{family}_{rec if agent == 'rec' else agent}", (*world, *overrides), "" if variant == agent else variant
    )


def preset(world: str, variant: str) -> Preset:
    """The preset of a variant in a world, by their names."""
    arguments = ("--env.observation", "pixels", *WORLDS[world])
    if variant == "consolidated":
        arguments += ("--agent.consolidation_apart", str(4 * LONGEST_EPISODE[world]))
    return variant_of("grid_world", arguments, variant)


def check_variants(asked: Iterable[str], known: Iterable[str]) -> None:
    """Raise a UsageError on a variant that there is none of."""
    for variant in asked:
        if variant not in known:
            raise UsageError(f"there is no variant {variant!r}; there are {', '.join(known)}")


def main() -> None:
    default = RecGridWorldOptions(steps=40_000, steps_per_row=2_000, out=Path("docs/results/rec_grid_world.csv"))
    options = parse_overrides(default, sys.argv[1:], "benchmarks.rec_grid_world", __doc__)
    check_variants(options.variants, VARIANTS)
    for name in options.worlds:
        if name not in WORLDS:
            raise UsageError(f"there is no world {name!r}; there are {', '.join(WORLDS)}")
    benchmark(options, [preset(name, variant) for name in options.worlds for variant in options.variants])


if __name__ == "__main__":
    guarded(main)
