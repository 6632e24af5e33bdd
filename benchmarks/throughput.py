"""How fast the agents learn on Atari and where the time goes, to docs/results/throughput.csv.

    python -m benchmarks.throughput                            MFEC, NEC and DQN on Ms Pac-Man
    python -m benchmarks.throughput --agents nec --first 2_000 --last 6_000 --out /tmp/throughput.csv
    python -m benchmarks.throughput --agents nec rec_online --last 60_000 --out docs/results/rec_throughput.csv

Observations are 84 x 84 x 4 and every agent learns at its paper's rate, from `--first` on at the latest. Averaged from
agent step `--first` to `--last`, one process at a time:

    steps_per_second    agent steps, all environments together
    share_environment   stepping and resetting the games, hashing of observations included
    share_encoding      from observations to keys or features, to act
    share_lookup        from keys to recalls and exact matches, to act and to bootstrap
    share_write         into the episodic memory and the replay
    share_update        gradient steps with all that belongs to them: drawing the batch, encoding, look-up, write-back
    share_consolidation phases of learning of REC, where the interval has any
    share_other         the rest: choosing, bookkeeping of episodes, heads of networks
    share_update_*      parts of the update: encoding, looking up, bringing observations back (reinstating), the
                        backward passes, and following the gradients (optimiser)
    peak_megabytes      most memory the process ever held

and, as curves of the steps, `memories` held, their `memory_megabytes` (of REC with the observations kept) and the
`replay_megabytes`.

The agents are not instrumented: the functions that do these things are wrapped from outside for as long as a run
lasts. Where one calls another, the time belongs to the outermost. A run costs what its interval costs, plus the way
there.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from pydantic import Field

from agents.consolidation import Consolidation
from agents.dqn import DQN
from agents.encoders import Encoder, GaussianProjection
from agents.nec import NEC
from agents.rec import REC
from agents.replay import Replay
from assembly import RunConfig, make_agent, make_world
from benchmarks import results
from benchmarks.results import Row
from benchmarks.runner import CommonOptions, atari_preset, do_missing, missing, peak_megabytes, prepare
from benchmarks.workers import Report
from envs.world import World
from memory.episodic import EpisodicMemory
from memory.episodic.reinstatement import Autoencoder, Lossless, Raw
from training.command_line import UsageError, guarded, parse_overrides
from training.loop import TrainingLoop
from training.seeding import EpisodeSeeds

MARKS = 8
"""Points of the memory curves in the interval."""

PARTS: dict[str, list[tuple[type, str]]] = {
    "environment": [(World, "step"), (World, "reset")],
    "encoding": [(GaussianProjection, "__call__"), (Encoder, "forward")],
    "lookup": [(EpisodicMemory, "read_each"), (EpisodicMemory, "read"), (EpisodicMemory, "exact")],
    "write": [(EpisodicMemory, "write"), (Replay, "append"), (Replay, "start")],
    "update": [(NEC, "_update"), (REC, "_update"), (DQN, "_update")],
    "consolidation": [(Consolidation, "run")],
}
"""The functions that each share is the time of."""
OF_UPDATE: dict[str, list[tuple[type, str]]] = {
    "encoding": [(Encoder, "forward")],
    "lookup": [(EpisodicMemory, "read"), (EpisodicMemory, "read_each")],
    "reinstating": [(Raw, "recall"), (Lossless, "recall"), (Autoencoder, "recall")],
    "backward": [(torch.Tensor, "backward")],
    "optimiser": [(torch.optim.Adam, "step"), (torch.optim.RMSprop, "step")],
}
"""The same, within an update."""


class ThroughputOptions(CommonOptions):
    """What to measure, and for how long."""

    game: str = "ms_pacman"
    """Game, by the name of its ROM."""
    agents: tuple[str, ...] = ("mfec", "nec", "dqn")
    """Agents, by their presets: configs/atari_<agent>.yaml."""
    first: int = Field(default=50_000, ge=1)
    """Agent step from which on time is taken."""
    last: int = Field(default=250_000, ge=1)
    """Agent step until which it is taken."""
    repeats: int = Field(default=1, ge=1)
    """Measurements of each agent, with seeds from 0 on."""


class Stopwatch:
    """Adds up the time spent in functions, by part; a function called by another counts as part of that one.

    Args:
        within: a stopwatch and one of its parts, outside of which time does not count.
    """

    def __init__(self, within: tuple[Stopwatch, str] | None = None) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.part: str | None = None
        self._within = within

    @contextlib.contextmanager
    def on(self, parts: dict[str, list[tuple[type, str]]]) -> Iterator[None]:
        """Wrap the functions of all parts, given by class and name, until the context ends."""
        with contextlib.ExitStack() as wrapped:
            for part, functions in parts.items():
                for owner, name in functions:
                    wrapped.enter_context(mock.patch.object(owner, name, self._timed(part, getattr(owner, name))))
            yield

    def _timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            if self.part or (self._within and self._within[0].part != self._within[1]):
                return function(*arguments, **options)
            self.part = part
            started = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds[part] += time.perf_counter() - started
                self.part = None

        return timed


@dataclass(frozen=True)
class Measurement:
    """All that a worker must know."""

    config: RunConfig
    blank: Row
    first: int
    out: Path


def record(report: Report, measurement: Measurement) -> None:
    """Do one measurement and add its rows to the table."""
    torch.set_num_threads(measurement.config.threads)
    results.add(measurement.out, measure(measurement, report), results.RUN_ON_MACHINE)


def measure(measurement: Measurement, report: Report) -> list[Row]:
    """Train, and return the rows of a measurement."""
    config, first = measurement.config, measurement.first
    world = make_world(config)
    agent = make_agent(config, world)
    stopwatch, rows = Stopwatch(), list[Row]()
    update_stopwatch = Stopwatch(within=(stopwatch, "update"))
    began, started, marks = time.perf_counter(), 0.0, 0

    def add(metrics: dict[str, float]) -> None:
        seconds = time.perf_counter() - began
        rows.extend(
            replace(measurement.blank, steps=step, metric=name, value=value, seconds=seconds)
            for name, value in metrics.items()
        )

    with stopwatch.on(PARTS), update_stopwatch.on(OF_UPDATE):
        for one in TrainingLoop(world, agent, EpisodeSeeds(config.seed)).run(config.steps):
            step = one.step
            if not started and step >= first:
                stopwatch.seconds.clear()
                update_stopwatch.seconds.clear()
                started, first = time.perf_counter(), step
            if step >= measurement.first + marks * (config.steps - measurement.first) / MARKS:
                marks += 1
                add(_sizes(agent))
            report(step, "")
        elapsed = time.perf_counter() - started
    world.close()
    shares = {f"share_{part}": stopwatch.seconds[part] / elapsed for part in PARTS}
    shares["share_other"] = 1.0 - sum(shares.values())
    shares |= {f"share_update_{part}": seconds / elapsed for part, seconds in update_stopwatch.seconds.items()}
    add({"steps_per_second": (step - first) / elapsed, **shares, "peak_megabytes": peak_megabytes()})
    return rows


def _sizes(agent: Any) -> dict[str, float]:
    """What an agent's memories hold; of those that it has."""
    sizes: dict[str, float] = {}
    if hasattr(agent, "memory"):
        nbytes = agent.nbytes if isinstance(agent, REC) else agent.memory.nbytes
        sizes |= {"memories": len(agent.memory), "memory_megabytes": nbytes / 2**20}
    if hasattr(agent, "replay"):
        sizes["replay_megabytes"] = agent.replay.nbytes / 2**20
    return sizes


def _measurements(options: ThroughputOptions) -> Iterator[Measurement]:
    world = ("--env.game", options.game, "--env.frame_stack", "4")
    presets = [atari_preset(agent, world) for agent in options.agents]
    for seed in range(options.repeats):
        for config, blank in prepare(options, presets, seed, options.last):
            if getattr(config.agent, "learning_starts", 0) > options.first:
                agent = config.agent.model_copy(update={"learning_starts": options.first})
                config = config.model_copy(update={"agent": agent})
            yield Measurement(config, blank, options.first, options.out)


def main() -> None:
    default = ThroughputOptions(threads=2, out=Path("docs/results/throughput.csv"))
    options = parse_overrides(default, sys.argv[1:], "benchmarks.throughput", __doc__)
    if options.last <= options.first:
        raise UsageError(f"--last must be more than --first, {options.first}, not {options.last}")
    measurements = list(_measurements(options))
    jobs = missing(measurements, record, options.out, results.RUN_ON_MACHINE)
    # One at a time: what runs beside a measurement slows it down.
    do_missing(jobs, len(measurements), options.out, 1, "benchmarks.runner")


if __name__ == "__main__":
    guarded(main)
