"""Dictionary recall: how many pairs MNM, DNC and GRU hold, to docs/results/dictionary.csv.

    python -m benchmarks.dictionary                       MNM-p, MNM-g, DNC and GRU, three seeds
    python -m benchmarks.dictionary --seeds 0 1 --steps 2000

The curves are those of `benchmarks/sequence_runs.py`. At the end of a run, of sequences of `n` pairs each that training
has not seen, for every `n` of `--pairs`,

    right_bits_pairs_2    share of the bits of values that are right: a half is guessing
    whole_pairs_2         share of pairs of which every bit is right

More pairs than the preset's `max_pairs` are more than a model was ever trained on. A DNC is measured with as many slots
as there are pairs, if it has fewer: none of its parameters depends on their number.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from pydantic import Field, PositiveInt

import envs
from agents.sequence_model import SequenceModel
from benchmarks.course import Run
from benchmarks.runner import Preset, prepare
from benchmarks.sequence_runs import SequenceOptions, add_run, benchmark
from benchmarks.workers import Report
from envs.dictionary import DictionaryConfig
from memory.neural import DNC
from training.command_line import UsageError, guarded, parse_overrides
from training.seeding import generators

PRESETS = (
    Preset("dictionary_mnm", ("--agent.rule", "p"), "p"),
    Preset("dictionary_mnm", ("--agent.rule", "g", "--agent.meta_weight", "0.1"), "g"),
    Preset("dictionary_dnc"),
    Preset("dictionary_gru"),
)


class DictionaryOptions(SequenceOptions):
    """What to run, and for how long."""

    pairs: tuple[PositiveInt, ...] = (2, 4, 6, 8, 10, 12, 14, 16)
    """Pairs of the sequences that are measured at the end."""
    sequences: int = Field(default=256, ge=1)
    """Sequences of each of these numbers."""


def record(report: Report, run: Run) -> None:
    """Do one run and add its rows to the table."""
    add_run(report, run, capacity)


def capacity(model: SequenceModel, run: Run) -> dict[str, float]:
    """Shares of right bits and of pairs recalled whole, for each number of pairs."""
    assert isinstance(run.config.env, DictionaryConfig)
    rng = generators(run.config.seed, "evaluation")["evaluation"]
    shares = {}
    for pairs in run.options.pairs:
        config = DictionaryConfig(**{**run.config.env.model_dump(), "min_pairs": pairs, "max_pairs": pairs})
        if isinstance(model.core, DNC):
            model.core.slots = max(model.core.slots, pairs)
        inputs, targets, mask = envs.make_task(config, rng).draw(run.options.sequences)
        with torch.no_grad():
            logits, _ = model.predict(torch.from_numpy(inputs).to(model.readout.weight), eager=True)
        right = (logits.cpu().numpy() > 0) == (targets > 0.5)
        shares[f"right_bits_pairs_{pairs}"] = float(right[mask].mean())
        shares[f"whole_pairs_{pairs}"] = float(right[mask].all(axis=-1).mean())
    return shares


def main() -> None:
    default = DictionaryOptions(out=Path("docs/results/dictionary.csv"))
    options = parse_overrides(default, sys.argv[1:], "benchmarks.dictionary", __doc__)
    for config, _ in prepare(options, PRESETS, 0, options.steps):
        assert isinstance(config.env, DictionaryConfig)
        most = 2**config.env.key_bits
        if too_many := [pairs for pairs in options.pairs if pairs > most]:
            raise UsageError(f"--pairs must be 1 to {most}, the keys of {config.env.key_bits} bits, got {too_many[0]}")
    benchmark(options, PRESETS, record, __name__)


if __name__ == "__main__":
    guarded(main)
