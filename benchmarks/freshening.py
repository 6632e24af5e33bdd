"""What freshening does where staleness hurts, to docs/results/freshening.csv.

    python -m benchmarks.freshening             all variants, three seeds, 2,000 updates each

Digits arrive in blocks, ten images of a class in each of 32 streams before the next, so that the encoder is always
being pulled somewhere else; `fast` variants learn ten times as fast as the paper. Credit is approximate: inference
rests on stored keys alone. Metrics: `benchmarks/classification.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks import credit_assignment as credit
from benchmarks.classification import ClassificationOptions, compare
from training.command_line import guarded, parse_overrides

STALE = (*credit.APPROXIMATE, *credit.SAMPLED, "--env.order", "blocks")
FAST = ("--agent.learning_rate", "1e-3")
RECALL = ("--agent.freshening", "recall")
SWEEP = ("--agent.freshening", "sweep")

VARIANTS: dict[str, tuple[str, ...]] = {
    "frozen": (*STALE, "--agent.credit", "frozen"),
    "lossless": (*STALE, *credit.LOSSLESS),
    "lossless-recall": (*STALE, *credit.LOSSLESS, *RECALL),
    "lossless-sweep": (*STALE, *credit.LOSSLESS, *SWEEP),
    "lossless-held": (*STALE, *credit.LOSSLESS, *credit.HELD),
    "lossless-recall-held": (*STALE, *credit.LOSSLESS, *RECALL, *credit.HELD),
    "lossless-anchored": (*STALE, *credit.LOSSLESS, *credit.ANCHORED),
    "lossless-drift-map": (*STALE, *credit.LOSSLESS, "--agent.freshening", "drift_map"),
    "lossless-fast": (*STALE, *credit.LOSSLESS, *FAST),
    "lossless-recall-fast": (*STALE, *credit.LOSSLESS, *FAST, *RECALL),
    "lossless-held-fast": (*STALE, *credit.LOSSLESS, *FAST, *credit.HELD),
    "autoencoder": (*STALE, *credit.OFFLINE),
    "autoencoder-recall": (*STALE, *credit.OFFLINE, *RECALL),
    "autoencoder-held": (*STALE, *credit.OFFLINE, *credit.HELD),
    "vae": (*STALE, *credit.VARIATIONAL, *credit.OFFLINE),
    "vae-recall": (*STALE, *credit.VARIATIONAL, *credit.OFFLINE, *RECALL),
    "vae-recall-trusted": (*STALE, *credit.VARIATIONAL, *credit.OFFLINE, *RECALL, "--agent.freshen_trusted", "True"),
    "vae-uncertain-first": (*STALE, *credit.VARIATIONAL, *credit.OFFLINE, "--agent.eviction", "uncertain"),
}


def main() -> None:
    default = ClassificationOptions(seeds=(0, 1, 2), updates=2_000, out=Path("docs/results/freshening.csv"))
    compare(parse_overrides(default, sys.argv[1:], "benchmarks.freshening", __doc__), VARIANTS)


if __name__ == "__main__":
    guarded(main)
