"""Training speed of every recurrent core beside the others, to docs/results/core_speed.csv.

    python -m benchmarks.core_speed
    python -m benchmarks.core_speed --lengths 100 --compiled False

The same inputs, batch and controller for all: one forward and one backward pass through all steps and a linear readout,
auxiliary losses included, without an optimiser. NTM and DNC have as many numbers in memory as MNM's weights have, or
nearly. Each core has a process of its own, one at a time, eager and compiled (`variant`), one after the other.

    milliseconds_per_step    a forward and a backward pass over its steps; one row for each repeat, in `seed`
    peak_megabytes           most memory beyond what the process held before the model was built
    parameters               numbers that are learned
    memory_numbers           numbers that a sequence has in memory, of the state but for controller and weights of heads
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from benchmarks import results
from benchmarks.neural_memory_speed import WARM_UP, timed
from benchmarks.results import Row
from benchmarks.runner import Counts, check_table, peak_megabytes
from benchmarks.workers import Job, Report, work
from memory.neural import DNC, GRU, LSTM, MNM, NTM, CompiledCore, RecurrentCore, named_tensors, unroll
from training.command_line import guarded, parse_overrides

INPUT = 17
STEPS_IN_A_CALL = 4
"""Of what is compiled."""
_MEMORIES = ("memory", "weights.first", "weights.second", "weights.third")


class CoreSpeedOptions(BaseModel):
    """What to measure."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    lengths: Counts = (20, 100)
    """Steps of a sequence."""
    hidden: int = Field(default=100, ge=1)
    """Units of the recurrent layer, which in NTM, DNC and MNM is an LSTM controller."""
    width: int = Field(default=32, ge=1)
    """Length of a vector in memory, of a key and of a value; units of the memory of an MNM."""
    slots: int = Field(default=96, ge=3)
    """Vectors in the memory of NTM and DNC; three times the width are as many numbers as an MNM has."""
    batch: int = Field(default=16, ge=1)
    """Sequences of a batch."""
    repeats: int = Field(default=5, ge=1)
    """Passes that are measured, after two that are not."""
    threads: int = Field(default=1, ge=1)
    """Processor threads."""
    compiled: bool = True
    """Whether to measure the compiled step, too."""
    out: Path = Path("docs/results/core_speed.csv")
    """Table to add to."""
    machine: str = results.machine_word()
    """One word for the machine."""


def _controlled(options: CoreSpeedOptions) -> LSTM:
    return LSTM(INPUT + options.width, options.hidden)


CORES: dict[str, Callable[[CoreSpeedOptions], RecurrentCore[Any]]] = {
    "gru": lambda options: GRU(INPUT, options.hidden),
    "lstm": lambda options: LSTM(INPUT, options.hidden),
    "ntm": lambda options: NTM(_controlled(options), options.slots, options.width),
    "dnc": lambda options: DNC(_controlled(options), options.slots, options.width),
    "mnm-p": lambda options: MNM(_controlled(options), options.width, options.width),
    "mnm-g": lambda options: MNM(_controlled(options), options.width, options.width, rule="g"),
}


def measure(report: Report, options: CoreSpeedOptions, name: str, blank: Row) -> None:
    """Time one core, eager or compiled, and add its rows to the table."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    before = peak_megabytes()
    core = CORES[name](options)
    readout = nn.Linear(core.output_size, 1)
    stepped = CompiledCore(core, STEPS_IN_A_CALL).unroll if blank.variant == "compiled" else partial(unroll, core)
    inputs = torch.randn(blank.steps, options.batch, INPUT)

    def one_pass() -> None:
        steps = stepped(inputs, core.initial_state(options.batch))
        loss = readout(steps.outputs).square().mean()
        (loss if steps.losses is None else loss + steps.losses.mean()).backward()

    rows = timed(report, options.repeats, blank, one_pass)
    held = named_tensors(core.initial_state(1))
    once = {
        "peak_megabytes": peak_megabytes() - before,
        "parameters": sum(one.numel() for one in core.parameters()),
        "memory_numbers": sum(tensor.numel() for one, tensor in held.items() if one in _MEMORIES),
    }
    rows += [replace(blank, metric=metric, value=float(value)) for metric, value in once.items()]
    results.add(options.out, rows, run=("world", "agent", "variant", "machine", "seed"))


def main() -> None:
    options = parse_overrides(CoreSpeedOptions(), sys.argv[1:], "benchmarks.core_speed", __doc__)
    check_table(options.out)
    jobs = []
    for length in options.lengths:
        world = f"{options.slots} x {options.width} batch {options.batch} length {length}"
        for name in CORES:
            for variant in ("", "compiled") if options.compiled else ("",):
                blank = results.blank(options.out, world, name, options.machine, variant=variant, steps=length)
                title = f"{blank.world} {name} {variant}".strip()
                jobs.append(Job(title, options.repeats + WARM_UP, measure, (options, name, blank)))
    if failed := work(jobs, 1, __name__):
        sys.exit(f"{', '.join(failed)} failed")


if __name__ == "__main__":
    guarded(main)
