"""Training runs as rows of a table: what the benchmarks of returns share.

A run is a preset with its overrides and a seed. It leaves a curve (`return`: the mean unclipped return of the training
episodes that ended since the row before; means of what the agent reported of its memory since then: `exact_hit_rate`,
`known_state_rate`, `megabytes`, `observation_bytes` and the instruments of `memory/episodic/staleness.py`) and, at its
end,

    return_last_20      mean return of its last 20 training episodes
    return_over_run     mean return of all its training episodes, as Dopamine's iterations are reported
    eval_return         mean return of whole games played with the trained agent, exploration at 0.001
    steps_per_second    while training, beside whatever else the machine was doing
    peak_megabytes      most memory its process held
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from agents import Agent
from assembly import RunConfig, make_agent, make_world
from benchmarks import results
from benchmarks.results import Row
from benchmarks.workers import Job, Report, work
from train import PRESETS
from training.command_line import UsageError, load_preset, parse_overrides
from training.evaluation import play_games
from training.loop import TrainingLoop
from training.seeding import EpisodeSeeds, generators
from training.tally import RECENT_EPISODES, Averages

EVALUATION_EPSILON = 0.001
CURVES = {
    "charts/hits": "hits",
    "charts/oracle_share": "oracle_share",
    **{f"memory/{name}": name for name in ("exact_hit_rate", "known_state_rate", "megabytes", "observation_bytes")},
    **{f"staleness/{name}": name for name in ("neighbour_recall", "kernel_shift", "value_shift")},
    **{
        f"staleness/{name}{quarter}": f"{name}{quarter}"
        for name in ("key_drift", "key_age", "error_ratio")
        for quarter in ("", *(f"_quarter_{number}" for number in (1, 2, 3, 4)))
    },
}
"""Tags whose means are rows of a curve, and what they are called there."""


class CommonOptions(BaseModel):
    """What all benchmarks of agents have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    num_envs: int = Field(default=0, ge=0)
    """Parallel environments; 0 takes the preset's."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where networks and memories live."""
    threads: int = Field(default=1, ge=1)
    """Processor threads of a run for tensors."""
    override: tuple[str, ...] = ()
    """Changes to every preset, such as agent.learning_rate=1e-4 "env.tasks=1 2"; they need a name, --variant."""
    variant: str = ""
    """What the variant column says of the runs; empty for the presets as they are."""
    out: Path
    """Table to add to; its name is that of the experiment. Runs that it holds already are left out."""
    machine: str = results.machine_word()
    """One word for the machine."""


class Options(CommonOptions):
    """What the benchmarks of returns have in common."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the runs; all worlds and agents of a seed come before the next seed."""
    steps: int = Field(default=250_000, ge=0)
    """Agent steps of a run, on Atari four frames each; 0 takes the preset's."""
    steps_per_row: int = Field(default=25_000, ge=1)
    """Agent steps between two rows of a curve."""
    eval_games: int = Field(default=10, ge=0)
    """Whole games played at the end of a run; 0 leaves the evaluation out."""
    jobs: int = Field(default=2, ge=1)
    """Runs at a time, each in a process of its own."""


@dataclass(frozen=True)
class Preset:
    """A preset by name and what makes it one world of a benchmark, as in the arguments of `train.py`."""

    name: str
    arguments: tuple[str, ...] = ()
    variant: str = ""
    """What the variant column says of it, unless it is a published setting."""


@dataclass(frozen=True)
class Run:
    """All that a worker must know."""

    config: RunConfig
    blank: Row
    """A row of the run, but for what is measured."""
    steps_per_row: int
    eval_games: int
    out: Path


def benchmark(options: Options, presets: Sequence[Preset]) -> None:
    """Do the runs of every seed and preset that the table does not hold; exit with code 1 if some failed."""
    runs = [
        Run(config, blank, options.steps_per_row, options.eval_games, options.out)
        for seed in options.seeds
        for config, blank in prepare(options, presets, seed, options.steps)
    ]
    do_missing(missing(runs, record, options.out), len(runs), options.out, options.jobs, __name__)


def record(report: Report, run: Run) -> None:
    """Do one run and add its rows to the table."""
    torch.set_num_threads(run.config.threads)
    results.add(run.out, run_rows(run, report))


def run_rows(run: Run, report: Report) -> list[Row]:
    """Train, evaluate, and return all rows of the run."""
    config, rows, returns, averages = run.config, list[Row](), list[float](), Averages()
    started = time.perf_counter()

    def measured(metrics: dict[str, float]) -> list[Row]:
        seconds = time.perf_counter() - started
        return [replace(run.blank, steps=step, metric=name, value=metrics[name], seconds=seconds) for name in metrics]

    world = make_world(config)
    agent = make_agent(config, world)
    next_row = run.steps_per_row
    for one in TrainingLoop(world, agent, EpisodeSeeds(config.seed)).run(config.steps):
        step = one.step
        for episode in one.episodes:
            returns.append(episode.episode_return)
            averages.add({"return": episode.episode_return})
        for metrics in one.metrics:
            averages.add({name: metrics[tag] for tag, name in CURVES.items() if tag in metrics})
        if step >= next_row or step >= config.steps:
            rows += measured(averages.flush())
            next_row += run.steps_per_row
        report(step, f"return {np.mean(returns[-RECENT_EPISODES:]):,.5g}" if returns else "")
    world.close()

    last: dict[str, float] = {"steps_per_second": step / (time.perf_counter() - started)}
    if returns:
        last[f"return_last_{RECENT_EPISODES}"] = float(np.mean(returns[-RECENT_EPISODES:]))
        last["return_over_run"] = float(np.mean(returns))
    if run.eval_games:
        last["eval_return"] = evaluate(config, agent, run.eval_games)
    last["peak_megabytes"] = peak_megabytes()
    return rows + measured(last)


def evaluate(config: RunConfig, agent: Agent, games: int) -> float:
    """Mean return of whole games, begun by seeds of their own."""
    seeds = generators(config.seed, "evaluation")["evaluation"].integers(1, 2**31, games)
    world = make_world(config, num_envs=games)
    episodes = play_games(agent, world, seeds, EVALUATION_EPSILON)
    world.close()
    return float(np.mean([episode.episode_return for episode in episodes]))


def peak_megabytes() -> float:
    """Most memory this process ever held, in MiB."""
    # Linux counts kilobytes, macOS bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def prepare(
    options: CommonOptions, presets: Sequence[Preset], seed: int, steps: int
) -> Iterator[tuple[RunConfig, Row]]:
    """For each preset its configuration, and a row that lacks nothing but the measurement.

    Raises:
        UsageError: on a mistake in the options.
    """
    if options.override and not options.variant:
        raise UsageError("--override changes the presets: name what they become with --variant")
    arguments = ["--seed", str(seed), "--threads", str(options.threads), "--device", options.device]
    if steps:
        arguments += ["--steps", str(steps)]
    if options.num_envs:
        arguments += ["--num_envs", str(options.num_envs)]
    for change in options.override:
        name, equals, value = change.partition("=")
        if not equals:
            raise UsageError(f"--override takes NAME=VALUE, such as agent.learning_rate=1e-4, not {change!r}")
        # A list of numbers, such as env.tasks="1 2", is several arguments.
        arguments += [f"--{name}", *(value.split() or [value])]
    for preset in presets:
        path = PRESETS / f"{preset.name}.yaml"
        default = load_preset(RunConfig, path, PRESETS)
        config = parse_overrides(default, [*preset.arguments, *arguments], str(path), "")
        variant = "+".join(filter(None, [preset.variant, options.variant]))
        yield (
            config,
            results.blank(
                options.out, config.env.title, config.agent.name, options.machine, variant=variant, seed=seed
            ),
        )


def known_runs(path: Path, columns: Sequence[str] = results.RUN) -> dict[tuple[str | int, ...], int]:
    """The runs a table holds and the steps they went; a file that is no such table is a UsageError."""
    try:
        return results.done(path, columns)
    except ValueError as error:
        raise UsageError(str(error)) from error


class Planned(Protocol):
    """A run that a benchmark may have to do, as its worker gets it."""

    @property
    def config(self) -> RunConfig: ...

    @property
    def blank(self) -> Row: ...


def missing(
    runs: Sequence[Planned], record: Callable[..., None], out: Path, columns: Sequence[str] = results.RUN
) -> list[Job]:
    """A job that calls `record(report, run)` for each run that a table does not hold to its last step.

    Raises:
        UsageError: if a run is there twice, or the table is none.
    """
    names = [run.blank.run(columns) for run in runs]
    if twice := [name_of(run.blank) for run, name in zip(runs, names, strict=True) if names.count(name) > 1]:
        raise UsageError(f"asked for more than once: {twice[0]}")
    known = known_runs(out, columns)
    return [
        Job(name_of(run.blank), run.config.steps, record, (run,))
        for run, name in zip(runs, names, strict=True)
        if known.get(name, 0) < run.config.steps
    ]


def do_missing(jobs: Sequence[Job], total: int, out: Path, processes: int, preload: str) -> None:
    """Do the jobs that a table still lacks; exit with code 1 if some fail."""
    print(f"{out}: {total - len(jobs)} of {total} runs are there, {len(jobs)} to do", flush=True)
    try:
        failed = work(jobs, processes, preload)
    except KeyboardInterrupt:
        sys.exit("stopped; started again, it does the runs that are missing")
    if failed:
        sys.exit(f"{len(failed)} of {len(jobs)} runs failed: {'; '.join(failed)}")


def name_of(blank: Row) -> str:
    """A run in a few words."""
    return " ".join(filter(None, [blank.world, blank.agent, blank.variant, f"seed {blank.seed}"]))
