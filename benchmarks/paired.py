"""Whether one variant is better than another: differences between runs of the same seed, in docs/results/*.csv.

    python -m benchmarks.paired forcing_copy correct_predictions dnc dnc:memory-forcing

Prints, for each world, the mean of what the second has more than the first, seed by seed, and the interval in which it
lies with a chance of 95 % if differences are normal (Student's t). One that holds 0 says that nothing is shown.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from pydantic import BaseModel, ConfigDict
from scipy import stats

from benchmarks import results
from benchmarks.results import Row
from training.command_line import UsageError, guarded, parse_overrides

CONFIDENCE = 0.95


class PairedOptions(BaseModel):
    """What to compare."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    experiment: tyro.conf.Positional[str] = ""
    """By the name of its table."""
    metric: tyro.conf.Positional[str] = ""
    """What is compared: the last of a run."""
    first: tyro.conf.Positional[str] = ""
    """An agent, or agent:variant."""
    second: tyro.conf.Positional[str] = ""
    """What is held against it, likewise."""
    folder: Path = Path("docs/results")
    """Where the tables are."""


@dataclass(frozen=True)
class Comparison:
    """What the second of two variants has more than the first."""

    seeds: int
    """That both have been run with."""
    better: int
    """Those of them where the second has more."""
    mean: float
    half_width: float
    """Of the interval around the mean; infinite where there is one seed."""

    def __str__(self) -> str:
        scale = self.half_width if 0 < self.half_width < math.inf else abs(self.mean) or 1.0
        places = max(0, 2 - math.floor(math.log10(scale)))
        low, high = self.mean - self.half_width, self.mean + self.half_width
        interval = f"{self.mean:+,.{places}f} ({low:+,.{places}f} to {high:+,.{places}f})"
        return f"{interval}, more in {self.better} of {self.seeds} seeds"


def compare(first: dict[int, float], second: dict[int, float]) -> Comparison:
    """Differences of two variants, whose values are given by seed; at least one must be of both.

    Raises:
        ValueError: if no seed is.
    """
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        raise ValueError("they have no seed in common")
    differences = np.array([second[seed] - first[seed] for seed in seeds])
    half_width = math.inf
    if len(seeds) > 1:
        error = float(differences.std(ddof=1)) / math.sqrt(len(seeds))
        half_width = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(seeds) - 1)) * error
    return Comparison(len(seeds), int((differences > 0).sum()), float(differences.mean()), half_width)


def finals(rows: Sequence[Row], world: str, metric: str, name: str) -> dict[int, float]:
    """The last value of a metric by seed, of `agent` or `agent:variant`."""
    agent, _, variant = name.partition(":")
    wanted = (world, agent, variant, metric)
    chosen = [row for row in rows if (row.world, row.agent, row.variant, row.metric) == wanted]
    return {row.seed: row.value for row in sorted(chosen, key=lambda row: row.steps)}


def main() -> None:
    options = parse_overrides(PairedOptions(), sys.argv[1:], "benchmarks.paired", __doc__)
    try:
        rows = results.read(options.folder / f"{options.experiment}.csv")
    except ValueError as error:
        raise UsageError(str(error)) from error
    found = False
    for world in sorted({row.world for row in rows}):
        first, second = (finals(rows, world, options.metric, name) for name in (options.first, options.second))
        if first.keys() & second.keys():
            print(f"{world}: {compare(first, second)}")
            found = True
    if not found:
        raise UsageError(
            f"{options.folder}/{options.experiment}.csv has no world where {options.first!r} and {options.second!r} "
            f"have a last {options.metric!r} of the same seed"
        )


if __name__ == "__main__":
    guarded(main)
