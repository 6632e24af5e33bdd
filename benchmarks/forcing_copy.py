"""Does Memory Forcing help a DNC to copy? The paper's experiment, to docs/results/forcing_copy.csv.

    python -m benchmarks.forcing_copy

12 vectors of 6 bits, the sizes of the paper, one sequence in an update, 100,000 updates, five seeds: a DNC with teacher
forcing, with Memory Forcing (NLL + C_p), and a GRU of the same width, which has no memory beside it. The paper counts
correct predictions within 100,000 updates, three runs without a spread: 45,343 of the DNC and 50,374 with Memory
Forcing. The curves are those of `benchmarks/sequence_runs.py`; `correct_predictions` counts updates whose sequence was
predicted without a wrong bit before it was learned from.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.course import Run
from benchmarks.runner import Preset
from benchmarks.sequence_runs import SequenceOptions, add_run, benchmark
from benchmarks.workers import Report
from training.command_line import guarded, parse_overrides

DNC = "copy_dnc_12x6"
PRESETS = [
    Preset(DNC),
    # The paper does not say from how many memories its discriminator learns: 8 of each kind take a third of 32's time.
    Preset(DNC, ("--agent.forcing", "memory", "--agent.discriminator_batch", "8"), "memory-forcing"),
    Preset("copy_gru_12x6"),
]


def record(report: Report, run: Run) -> None:
    """Do one run and add its rows to the table."""
    add_run(report, run, lambda model, run: {})


def main() -> None:
    # 25 steps: a mark, twelve vectors shown and twelve to be answered. All of them in one call compile for an hour.
    default = SequenceOptions(
        seeds=tuple(range(5)), steps_per_row=1_000, compiled=5, out=Path("docs/results/forcing_copy.csv")
    )
    options = parse_overrides(default, sys.argv[1:], "benchmarks.forcing_copy", __doc__)
    benchmark(options, PRESETS, record, __name__)


if __name__ == "__main__":
    guarded(main)
