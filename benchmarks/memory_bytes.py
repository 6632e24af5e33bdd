"""Bytes that an observation takes in a memory that keeps it without loss, to docs/results/memory_bytes.csv.

    python -m benchmarks.memory_bytes                       eight games, one seed, a million frames each
    python -m benchmarks.memory_bytes --games qbert --steps 50000

REC plays and learns the values of its memories; its encoder stays as drawn, with short keys, and values are corrected
less often. That changes what is seen and not what an observation takes, and is several times as fast.
`observation_bytes` is a curve: frames and dictionaries over the number of memories. Raw, a stack of four screens takes
28,224.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.return_runs import ReturnOptions, benchmark
from benchmarks.runner import Preset
from training.command_line import guarded, parse_overrides

FROZEN = (
    *("--agent.credit", "frozen", "--agent.query_gradient", "False"),
    *("--agent.drift_penalty", "0", "--agent.freshening", "none"),
    *("--agent.key_size", "32", "--agent.steps_per_update", "16"),
)


class MemoryBytesOptions(ReturnOptions):
    """Games and seeds to run."""

    games: tuple[str, ...] = (
        *("pong", "breakout", "qbert", "ms_pacman"),
        *("frostbite", "seaquest", "hero", "alien"),
    )
    """Games, by the names of their ROMs."""


def main() -> None:
    default = MemoryBytesOptions(seeds=(0,), eval_games=0, out=Path("docs/results/memory_bytes.csv"))
    options = parse_overrides(default, sys.argv[1:], "benchmarks.memory_bytes", __doc__)
    presets = [Preset("atari_rec_online", ("--env.game", game, *FROZEN), "frozen-encoder") for game in options.games]
    benchmark(options, presets)


if __name__ == "__main__":
    guarded(main)
