"""Training runs of agents as rows of a table: what the benchmarks of returns share.

A run is a preset with its overrides and a seed. It leaves a curve (`return`: the mean unclipped return of the training
episodes that ended since the row before; means of what the agent reported of its memory since then: `exact_hit_rate`,
`known_state_rate`, `megabytes`, `observation_bytes`, the instruments of `memory/episodic/staleness.py` and, of REC in
phases, what these came to) and, at its end,

    return_last_20      mean return of its last 20 training episodes
    return_over_run     mean return of all its training episodes, as Dopamine's iterations are reported
    eval_return         mean return of whole games played with the trained agent, exploration at 0.001
    steps_per_second    while training, beside whatever else the machine was doing
    peak_megabytes      most memory its process held

A run that is cut off goes on from where it was last saved when the same command is given, and the code is the same.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import Field

from agents import Agent
from assembly import RunConfig, make_agent, make_world
from benchmarks.course import Course, CourseOptions, Run, complete
from benchmarks.runner import Preset, check_folder, do_missing, missing, peak_megabytes, prepare
from benchmarks.workers import Report
from training.evaluation import play_games
from training.loop import TrainingLoop
from training.seeding import EpisodeSeeds, generators
from training.tally import RECENT_EPISODES

EVALUATION_EPSILON = 0.001
GAMES_AT_ONCE = 10
"""Of an evaluation, at most: each is an emulator of its own."""
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
    **{
        f"consolidation/{name}": f"consolidation_{name}"
        for name in ("kept", "unexplained", "newest_unexplained_before", "newest_unexplained_after")
    },
}
"""Tags whose means are rows of a curve, and what they are called there."""


class ReturnOptions(CourseOptions):
    """What the benchmarks of returns have in common."""

    steps: int = Field(default=250_000, ge=0)
    """Agent steps of a run, on Atari four frames each; 0 takes the preset's."""
    steps_per_row: int = Field(default=25_000, ge=1)
    """Agent steps between two rows of a curve."""
    eval_games: int = Field(default=10, ge=0)
    """Whole games played at the end of a run; 0 leaves the evaluation out."""


def benchmark(options: ReturnOptions, presets: Sequence[Preset], course: type[ReturnCourse] | None = None) -> None:
    """Do the runs of every seed and preset that the table does not hold; exit with code 1 if some failed.

    Args:
        options: the benchmark's.
        presets: what is run.
        course: what a run is, if it measures more than others do.
    """
    course = course or ReturnCourse
    runs = [
        Run(config, blank, options)
        for seed in options.seeds
        for config, blank in prepare(options, presets, seed, options.steps)
    ]
    check_folder(options.unfinished, "--unfinished")
    jobs = missing(runs, functools.partial(record, course), options.out)
    do_missing(jobs, len(runs), options.out, options.jobs, course.__module__)


def record(course: type[ReturnCourse], report: Report, run: Run) -> None:
    """Do one run, or what is left of it, and add its rows to the table."""
    torch.set_num_threads(run.config.threads)
    complete(course(run), report, run.options.unfinished, run.options.out)


class ReturnCourse(Course):
    """A run of an agent under way; it can be saved after every step."""

    def __init__(self, run: Run) -> None:
        self._world = make_world(run.config)
        self._agent = make_agent(run.config, self._world)
        loop = TrainingLoop(self._world, self._agent, EpisodeSeeds(run.config.seed))
        super().__init__(run, loop)
        self._returns: list[float] = []
        self._peak_before = 0.0

    def train(self) -> Iterator[tuple[int, str]]:
        steps, per_row, before = self._run.config.steps, self._run.options.steps_per_row, self._loop.step
        for one in self._loop.run(steps):
            for episode in one.episodes:
                self._returns.append(episode.episode_return)
                self._averages.add({"return": episode.episode_return})
            for metrics in one.metrics:
                self._averages.add({name: metrics[tag] for tag, name in CURVES.items() if tag in metrics})
            if one.step // per_row > before // per_row or one.step >= steps:
                self.measure(self._averages.flush())
            before = one.step
            yield one.step, f"return {self._recent():,.5g}" if self._returns else ""

    def conclude(self) -> None:
        self._world.close()
        last = {"steps_per_second": self._loop.step / self.seconds}
        if self._returns:
            last[f"return_last_{RECENT_EPISODES}"] = self._recent()
            last["return_over_run"] = float(np.mean(self._returns))
        if self._run.options.eval_games:
            last["eval_return"] = evaluate(self._run.config, self._agent, self._run.options.eval_games)
        self.measure({**last, "peak_megabytes": self._peak()})

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "returns": list(self._returns), "peak": self._peak()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._returns, self._peak_before = list(state["returns"]), state["peak"]

    def _recent(self) -> float:
        return float(np.mean(self._returns[-RECENT_EPISODES:]))

    def _peak(self) -> float:
        """Most memory that any of the processes of this run has held, in MiB."""
        return max(self._peak_before, peak_megabytes())


def evaluate(config: RunConfig, agent: Agent, games: int) -> float:
    """Mean return of whole games, begun by seeds of their own."""
    seeds = generators(config.seed, "evaluation")["evaluation"].integers(1, 2**31, games)
    world = make_world(config, num_envs=min(games, GAMES_AT_ONCE))
    episodes = play_games(agent, world, seeds, EVALUATION_EPSILON)
    world.close()
    return float(np.mean([episode.episode_return for episode in episodes]))
