"""The quickstart, seed by seed: what `make train` reaches and how long it takes, to docs/results/quickstart.csv.

    python -m benchmarks.quickstart

One run at a time. Unlike `train.py` it writes no logs, and saves no more than it needs to go on where it was cut off.
Started again, it does the runs that its table lacks.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.return_runs import ReturnOptions, benchmark
from benchmarks.runner import Preset
from training.command_line import guarded, parse_overrides


def main() -> None:
    out = Path("docs/results/quickstart.csv")
    default = ReturnOptions(steps=0, steps_per_row=10_000, eval_games=0, jobs=1, out=out)
    options = parse_overrides(default, sys.argv[1:], "benchmarks.quickstart", __doc__)
    benchmark(options, [Preset("quickstart")])


if __name__ == "__main__":
    guarded(main)
