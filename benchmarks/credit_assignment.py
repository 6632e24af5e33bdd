"""Every way of assigning credit through a memory, on MNIST, to docs/results/credit_assignment.csv.

    python -m benchmarks.credit_assignment                                  all variants, ten seeds, 3,000 updates each
    python -m benchmarks.credit_assignment --variants exact frozen --seeds 0 1

The paper's setting (Hansen 2017): the 5,000 images seen last, batches of 32, one hidden layer of 256, Adam at 1e-4.
What is measured: `benchmarks/classification.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.classification import ClassificationOptions, compare
from training.command_line import guarded, parse_overrides

APPROXIMATE = ("--agent.credit", "approximate")
SYNTHETIC = ("--agent.credit", "synthetic")
UNLABELLED = ("--agent.label_conditioned", "False")
QUICK_STUDY = ("--agent.synthetic_learning_rate", "1e-3")
LOSSLESS = ("--agent.reinstatement", "lossless")
VARIATIONAL = ("--agent.reinstatement", "variational_autoencoder")
PRETRAINED = ("--agent.pretraining", "1000")
OFFLINE = ("--agent.pretraining", "4000", "--agent.pretraining_offline", "True")
SAMPLED = ("--agent.sampled", "500")
ANCHORED = ("--agent.anchor_penalty", "10")
HELD = ("--agent.drift_penalty", "10")

VARIANTS: dict[str, tuple[str, ...]] = {
    # As in the paper, and what bounds it from below and from above.
    "frozen": ("--agent.credit", "frozen"),
    "true-observations": ("--agent.reinstatement", "raw"),
    "exact": (),
    "approximate": APPROXIMATE,
    "synthetic": (*SYNTHETIC, *UNLABELLED),
    "backpropagation": ("--agent.credit", "backpropagation", "--agent.reinstatement", "raw"),
    "true-observations-held": ("--agent.reinstatement", "raw", *HELD),
    # Beyond it. Held: with a drift penalty; anchored: with a penalty on leaving stored keys; sampled: 500 or 100
    # of 5,000 memories get credit in an update; pretrained: the decoder, by the first 1,000 updates; offline: by 4,000
    # of its own, on the images that first fill the memory.
    "trainable-keys": ("--agent.credit", "trainable_keys"),
    "exact-sampled": SAMPLED,
    "exact-sampled-pretrained": (*SAMPLED, *PRETRAINED),
    "exact-sampled-pretrained-held": (*SAMPLED, *PRETRAINED, *HELD),
    "exact-sampled-offline-held": (*SAMPLED, *OFFLINE, *HELD),
    "approximate-sampled-offline-held": (*APPROXIMATE, *SAMPLED, *OFFLINE, *HELD),
    "approximate-sampled-offline-anchored": (*APPROXIMATE, *SAMPLED, *OFFLINE, *ANCHORED),
    "approximate-sampled-pretrained-held": (*APPROXIMATE, *SAMPLED, *PRETRAINED, *HELD),
    "approximate-sampled-held": (*APPROXIMATE, *SAMPLED, *HELD),
    "vae-approximate-sampled-pretrained-held": (*APPROXIMATE, *VARIATIONAL, *SAMPLED, *PRETRAINED, *HELD),
    "lossless-approximate-sampled": (*APPROXIMATE, *LOSSLESS, *SAMPLED),
    "lossless-approximate-sampled-trust": (*APPROXIMATE, *LOSSLESS, *SAMPLED, "--agent.trust", "0.9"),
    "lossless-approximate-sampled-freshened": (*APPROXIMATE, *LOSSLESS, *SAMPLED, "--agent.freshening", "recall"),
    "lossless-approximate-sampled-held": (*APPROXIMATE, *LOSSLESS, *SAMPLED, *HELD),
    "lossless-approximate-sampled-anchored": (*APPROXIMATE, *LOSSLESS, *SAMPLED, *ANCHORED),
    "lossless-approximate-sampled-100-anchored": (*APPROXIMATE, *LOSSLESS, "--agent.sampled", "100", *ANCHORED),
    "lossless-exact-sampled-held": (*LOSSLESS, *SAMPLED, *HELD),
    "lossless-exact-sampled-100-held": (*LOSSLESS, "--agent.sampled", "100", *HELD),
    "synthetic-sampled-held": (*SYNTHETIC, *UNLABELLED, *QUICK_STUDY, *SAMPLED, *HELD),
    "synthetic-label-sampled-held": (*SYNTHETIC, *QUICK_STUDY, *SAMPLED, *HELD),
    "hybrid-lossless-sampled-100-held": (
        *("--agent.credit", "hybrid", "--agent.sampled", "100"),
        *(*LOSSLESS, *QUICK_STUDY, *HELD),
    ),
}


def main() -> None:
    default = ClassificationOptions(seeds=tuple(range(10)), out=Path("docs/results/credit_assignment.csv"))
    compare(parse_overrides(default, sys.argv[1:], "benchmarks.credit_assignment", __doc__), VARIANTS)


if __name__ == "__main__":
    guarded(main)
