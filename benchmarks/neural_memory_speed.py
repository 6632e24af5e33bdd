"""Training speed of the DNC against the public one of PyPI, to docs/results/neural_memory_speed.csv.

    pip install --no-deps --target FOLDER dnc
    PYTHONPATH=FOLDER python -m benchmarks.neural_memory_speed          both, 16 to 1,024 slots and 20 to 200 steps
    python -m benchmarks.neural_memory_speed --against False            without the public one

The same sizes for both: an LSTM controller, a linear readout, one forward and one backward pass through all steps,
without an optimiser. Each variant and size has a process of its own, one at a time, variants of a size one after the
other. The public DNC does not give its controller what was read at the step before, and so does a little less.

    milliseconds_per_step      a forward and a backward pass over its steps; one row for each repeat, in `seed`
    peak_megabytes             most memory beyond what the process held before the model was built
    speedup_over_pypi_dnc      quotient of the medians of the milliseconds
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from benchmarks import results
from benchmarks.results import Row
from benchmarks.runner import Counts, check_table, peak_megabytes
from benchmarks.workers import Job, Report, work
from memory.neural import DNC, LSTM, CompiledCore, unroll
from training.command_line import UsageError, guarded, parse_overrides

INPUT = 9
WARM_UP = 2
STEPS_IN_A_CALL = 5
"""Of what is compiled."""


class SpeedOptions(BaseModel):
    """What to measure."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    slots: Counts = (16, 64, 256, 1_024)
    """Vectors in memory, each with the first of the lengths."""
    lengths: Counts = (20, 100, 200)
    """Steps of a sequence, each with the first number of slots."""
    width: int = Field(default=16, ge=1)
    """Length of a vector."""
    read_heads: int = Field(default=4, ge=1)
    """Heads that read."""
    hidden: int = Field(default=64, ge=1)
    """Units of the controller."""
    batch: int = Field(default=16, ge=1)
    """Sequences of a batch."""
    repeats: int = Field(default=5, ge=1)
    """Passes that are measured, after two that are not."""
    threads: int = Field(default=1, ge=1)
    """Processor threads."""
    against: bool = True
    """Whether to measure the public DNC."""
    compiled: bool = True
    """Whether to measure the compiled step, too."""
    out: Path = Path("docs/results/neural_memory_speed.csv")
    """Table to add to."""
    machine: str = results.machine_word()
    """One word for the machine."""


@dataclass(frozen=True)
class Size:
    """One setting that all variants are measured in."""

    slots: int
    length: int


def our_pass(options: SpeedOptions, size: Size, is_compiled: bool) -> Callable[[Tensor], Tensor]:
    """The DNC of this repository as a function of inputs `[time, batch, INPUT]`."""
    controller = LSTM(INPUT + options.read_heads * options.width, options.hidden)
    core = DNC(controller, size.slots, options.width, read_heads=options.read_heads)
    readout = nn.Linear(core.output_size, INPUT)
    stepped = CompiledCore(core, STEPS_IN_A_CALL).unroll if is_compiled else functools.partial(unroll, core)
    return lambda inputs: readout(stepped(inputs, core.initial_state(options.batch)).outputs)


def public_pass(options: SpeedOptions, size: Size) -> Callable[[Tensor], Tensor]:
    """The DNC of PyPI as the same function."""
    import dnc  # type: ignore[import-not-found]

    model = dnc.DNC(
        INPUT,
        options.hidden,
        rnn_type="lstm",
        num_hidden_layers=1,
        batch_first=False,
        nr_cells=size.slots,
        cell_size=options.width,
        read_heads=options.read_heads,
    )
    return lambda inputs: model(inputs, reset_experience=True)[0]


VARIANTS: dict[str, Callable[[SpeedOptions, Size], Callable[[Tensor], Tensor]]] = {
    "": lambda options, size: our_pass(options, size, is_compiled=False),
    "compiled": lambda options, size: our_pass(options, size, is_compiled=True),
    "pypi": public_pass,
}


def timed(report: Report, repeats: int, blank: Row, one_pass: Callable[[], object]) -> list[Row]:
    """Rows of `milliseconds_per_step`, one for each repeat of a pass through `blank.steps` steps, warmed up before."""
    rows = []
    for repeat in range(-WARM_UP, repeats):
        began = time.perf_counter()
        one_pass()
        seconds = time.perf_counter() - began
        milliseconds = 1000 * seconds / blank.steps
        if repeat >= 0:
            rows.append(
                replace(blank, seed=repeat, metric="milliseconds_per_step", value=milliseconds, seconds=seconds)
            )
        report(repeat + WARM_UP + 1, f"{milliseconds:.3g} ms a step")
    return rows


def measure(report: Report, options: SpeedOptions, size: Size, variant: str, blank: Row) -> None:
    """Time one variant in one setting, and add its rows to the table."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    before = peak_megabytes()
    function = VARIANTS[variant](options, size)
    inputs = torch.randn(size.length, options.batch, INPUT)
    rows = timed(report, options.repeats, blank, lambda: function(inputs).square().mean().backward())
    rows.append(replace(blank, metric="peak_megabytes", value=peak_megabytes() - before))
    results.add(options.out, rows, run=("world", "variant", "machine", "seed"))


def speedups(rows: list[Row], blank: Row) -> list[Row]:
    """How many times faster each variant is than the public DNC, of one setting."""
    medians = {
        variant: statistics.median(times)
        for variant in VARIANTS
        if (times := [row.value for row in rows if row.variant == variant and row.metric == "milliseconds_per_step"])
    }
    theirs = medians.pop("pypi", None)
    if theirs is None:
        return []
    return [
        replace(blank, variant=variant, metric="speedup_over_pypi_dnc", value=theirs / median)
        for variant, median in medians.items()
    ]


def public_version() -> str:
    """The version of the public DNC.

    Raises:
        UsageError: if it is not installed.
    """
    if importlib.util.find_spec("dnc") is None:
        raise UsageError(
            "the public DNC is not installed: pip install --no-deps --target FOLDER dnc, and put FOLDER on PYTHONPATH; "
            "or leave it out: --against False"
        )
    try:
        return importlib.metadata.version("dnc")
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def main() -> None:
    options = parse_overrides(SpeedOptions(), sys.argv[1:], "benchmarks.neural_memory_speed", __doc__)
    check_table(options.out)
    left_out = {name for name, wanted in (("pypi", options.against), ("compiled", options.compiled)) if not wanted}
    variants = [name for name in VARIANTS if name not in left_out]
    if options.against:
        print(f"against dnc {public_version()} of PyPI", flush=True)
    sizes = [Size(slots, options.lengths[0]) for slots in options.slots]
    sizes += [Size(options.slots[0], length) for length in options.lengths[1:]]
    for size in sizes:
        heads = f"{options.read_heads} heads"
        world = f"{size.slots} x {options.width} {heads} batch {options.batch} length {size.length}"
        blank = results.blank(options.out, world, "dnc", options.machine, steps=size.length)
        arguments: list[tuple[Any, ...]] = [(options, size, name, replace(blank, variant=name)) for name in variants]
        jobs = [Job(f"{blank.world} {one[2]}", options.repeats + WARM_UP, measure, one) for one in arguments]
        if failed := work(jobs, 1, __name__):
            sys.exit(f"{', '.join(failed)} failed")
        measured = [row for row in results.read(options.out) if row.world == blank.world]
        for row in (ratios := speedups(measured, blank)):
            print(f"{blank.world}: {row.variant or 'eager'} {row.value:.2f} times as fast", flush=True)
        results.add(options.out, ratios, run=("world", "variant", "machine", "metric"))


if __name__ == "__main__":
    guarded(main)
