"""What choosing candidates by rounded keys saves a search, to docs/results/search_speed.csv.

    python -m benchmarks.search_speed                                   Ms Pac-Man and Q*bert, two threads
    python -m benchmarks.search_speed --games pong --steps 20_000

NEC fills its memory in the first steps of a run, with its network as it was drawn, and the memory is searched for
batches of keys that it holds, by turns with rounded keys and with float32 alone:

    own_*                       each query in the store of its action, as in an update
    each_*                      each query in all stores, as in acting
    *_rounded_milliseconds      a search, by the median
    *_float32_milliseconds      the same
    *_rounded_share             the one divided by the other, by the median of the pairs
    asked_again_per_thousand    queries that rounded keys left in doubt
    memories                    among which was searched
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import torch
from pydantic import Field
from torch import Tensor

from agents.encoders import multiplies_bfloat16
from assembly import RunConfig, make_agent, make_world
from benchmarks import results
from benchmarks.results import Row
from benchmarks.runner import CommonOptions, atari_preset, do_missing, missing, prepare
from benchmarks.workers import Report
from memory.episodic import EpisodicMemory, neighbours
from training.command_line import UsageError, guarded, parse_overrides
from training.loop import TrainingLoop
from training.seeding import EpisodeSeeds

WARM_UP = 5
"""Searches of each kind that are not measured."""


class SearchSpeedOptions(CommonOptions):
    """What to search, and how often."""

    games: tuple[str, ...] = ("ms_pacman", "qbert")
    """Games, by the names of their ROMs."""
    steps: int = Field(default=150_000, ge=1)
    """Agent steps whose memories are searched."""
    queries: int = Field(default=32, ge=1)
    """Queries of a search."""
    repeats: int = Field(default=100, ge=1)
    """Searches of each kind."""


@dataclass(frozen=True)
class Measurement:
    """All that a worker must know."""

    config: RunConfig
    blank: Row
    queries: int
    repeats: int
    out: Path


def record(report: Report, measurement: Measurement) -> None:
    """Fill a memory, search it, and add the rows to the table."""
    torch.set_num_threads(measurement.config.threads)
    began = time.perf_counter()
    memory = filled_memory(report, measurement.config)
    found = {"memories": float(len(memory)), **search(memory, measurement.queries, measurement.repeats)}
    blank = replace(measurement.blank, steps=measurement.config.steps, seconds=time.perf_counter() - began)
    rows = [replace(blank, metric=name, value=value) for name, value in found.items()]
    results.add(measurement.out, rows, results.RUN_ON_MACHINE)


def filled_memory(report: Report, config: RunConfig) -> EpisodicMemory:
    """The memory of an agent that has lived, and not learned."""
    world = make_world(config)
    agent = make_agent(config, world)
    for one in TrainingLoop(world, agent, EpisodeSeeds(config.seed)).run(config.steps):
        report(one.step, "")
    world.close()
    memory: EpisodicMemory = agent.memory  # type: ignore[attr-defined]
    return memory


def search(memory: EpisodicMemory, queries: int, repeats: int) -> dict[str, float]:
    """Time searches for random keys of a memory, by turns with rounded keys and without.

    Raises:
        ValueError: where the memory is so small that rounded keys choose nothing.
    """
    if not memory.table.rounding_pays:
        raise ValueError(f"{len(memory)} memories are searched by the keys as they are: it takes more --steps")
    slots = memory.filled_slots()
    reads: dict[str, Callable[[Tensor, Tensor], object]] = {
        "own": lambda keys, actions: memory.read(keys, actions, touch=False),
        "each": lambda keys, actions: memory.read_each(keys, memory.known_actions, touch=False),
    }
    generator = torch.Generator().manual_seed(0)
    seconds: dict[str, list[float]] = {}
    again = 0

    def count(*arguments: object, rounded: bool | None = None) -> neighbours.Neighbours:
        nonlocal again
        again += len(arguments[1]) if rounded is False else 0  # type: ignore[arg-type]
        return ask(*arguments, rounded=rounded)  # type: ignore[arg-type]

    ask = neighbours.nearest
    for turn in range(WARM_UP + repeats):
        drawn = slots[torch.randint(len(slots), (queries,), generator=generator)]
        keys, actions = memory.table.keys[memory.rows_of(drawn)], drawn // memory.capacity
        for kind, read in reads.items():
            with mock.patch.object(neighbours, "nearest", count):
                rounded = _seconds(read, keys, actions)
            with mock.patch.object(memory.table, "rounded", None):
                plain = _seconds(read, keys, actions)
            if turn >= WARM_UP:
                seconds.setdefault(f"{kind}_rounded", []).append(rounded)
                seconds.setdefault(f"{kind}_float32", []).append(plain)
    found = {f"{name}_milliseconds": 1e3 * statistics.median(one) for name, one in seconds.items()}
    for kind in reads:
        pairs = zip(seconds[f"{kind}_rounded"], seconds[f"{kind}_float32"], strict=True)
        found[f"{kind}_rounded_share"] = statistics.median(rounded / plain for rounded, plain in pairs)
    searched = (WARM_UP + repeats) * queries * (1 + len(memory.known_actions))
    return found | {"asked_again_per_thousand": 1e3 * again / searched}


def _seconds(read: Callable[[Tensor, Tensor], object], keys: Tensor, actions: Tensor) -> float:
    began = time.perf_counter()
    read(keys, actions)
    return time.perf_counter() - began


def main() -> None:
    if not multiplies_bfloat16("cpu"):
        raise UsageError("no agent rounds keys here: the processor does not multiply bfloat16 (avx512_bf16, AMX)")
    default = SearchSpeedOptions(threads=2, num_envs=32, out=Path("docs/results/search_speed.csv"))
    options = parse_overrides(default, sys.argv[1:], "benchmarks.search_speed", __doc__)
    presets = [atari_preset("nec", ("--env.game", game)) for game in options.games]
    measurements = []
    for config, blank in prepare(options, presets, 0, options.steps):
        agent = config.agent.model_copy(update={"learning_starts": options.steps + 1})
        config = config.model_copy(update={"agent": agent})
        measurements.append(Measurement(config, blank, options.queries, options.repeats, options.out))
    jobs = missing(measurements, record, options.out, results.RUN_ON_MACHINE)
    # One at a time: what runs beside a measurement slows it down.
    do_missing(jobs, len(measurements), options.out, 1, __name__)


if __name__ == "__main__":
    guarded(main)
