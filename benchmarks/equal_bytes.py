"""Which memory classifies best at so many bytes a memory, to docs/results/equal_bytes.csv.

    python -m benchmarks.equal_bytes            128, 256, 512 and 1,024 bytes, three seeds, 3,000 updates each

A memory that keeps its observation has less left for its key. Each combination gets the longest key that the bytes
allow: a key takes 4 bytes a number, the tables 40 a memory, an observation without loss about 205 with its share of
the dictionary, and 784 as it is, a label that gradients are foretold from 40. All hold 5,000 memories. Networks are not
counted: a decoder for digits takes about a megabyte. Metrics: `benchmarks/classification.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks import credit_assignment as credit
from benchmarks.classification import ClassificationOptions, compare
from training.command_line import guarded, parse_overrides

BUDGETS = (128, 256, 512, 1_024)
TABLES = 40
"""Bytes of a memory beside its key and its observation."""
COMBINATIONS: dict[str, tuple[int, tuple[str, ...]]] = {
    "frozen": (0, ("--agent.credit", "frozen")),
    "synthetic": (40, (*credit.SYNTHETIC, *credit.QUICK_STUDY, *credit.SAMPLED, *credit.HELD)),
    "autoencoder": (0, (*credit.APPROXIMATE, *credit.SAMPLED, *credit.OFFLINE, *credit.HELD)),
    "vae": (0, (*credit.APPROXIMATE, *credit.VARIATIONAL, *credit.SAMPLED, *credit.OFFLINE, *credit.HELD)),
    "lossless": (205, (*credit.APPROXIMATE, *credit.LOSSLESS, *credit.SAMPLED, *credit.HELD)),
    "raw": (784, (*credit.APPROXIMATE, "--agent.reinstatement", "raw", *credit.SAMPLED, *credit.HELD)),
}
"""Bytes that an observation takes, and overrides."""


def combinations() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Those that fit, by name, with their overrides."""
    for budget in BUDGETS:
        for name, (observation, overrides) in COMBINATIONS.items():
            # One row in two hundred of the tables is spare.
            key_size = int(0.99 * budget - TABLES - observation) // 4
            if key_size > 0:
                yield f"{budget:04d}-{name}", (*overrides, "--agent.key_size", str(key_size))


def main() -> None:
    default = ClassificationOptions(seeds=(0, 1, 2), out=Path("docs/results/equal_bytes.csv"))
    compare(parse_overrides(default, sys.argv[1:], "benchmarks.equal_bytes", __doc__), dict(combinations()))


if __name__ == "__main__":
    guarded(main)
