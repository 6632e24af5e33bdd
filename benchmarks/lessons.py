"""What an encoder learns from memories that answer for one another, by who may answer, to docs/results/lessons.csv.

    python -m benchmarks.lessons                            two games, three seeds
    python -m benchmarks.lessons --games qbert --seeds 0 --steps 50000

REC plays with its encoder as drawn. Then the encoder learns from the older four fifths of the memories, from the same
weights each time, with lessons that differ (`TRIALS`). After so many updates all memories are embedded anew, and the
older answer for the newest; for further updates the keys go back to those of the start, by which a phase chooses who
answers. What is left unexplained, of the variance of the newest:

    rescaled_TRIAL_UPDATES  of values as `memory.episodic.lessons.rescaled` has them
    values_TRIAL_UPDATES    of values as they are

and the same of `drawn`, before any update. Below 1 the answers are better than the mean of what they answer for.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from agents.consolidation import JUDGED
from agents.rec import REC
from benchmarks.return_runs import ReturnCourse, ReturnOptions, benchmark
from benchmarks.runner import atari_preset
from memory.episodic.lessons import Lessons, rescaled
from training.command_line import UsageError, guarded, parse_overrides


def as_they_are(values: Tensor) -> Tensor:
    """The other scale of errors."""
    return values


class Trial(NamedTuple):
    """How lessons are drawn, and what is to be learned of them."""

    apart: int
    scale: Callable[[Tensor], Tensor]


TRIALS = {
    "apart-1": Trial(1, rescaled),
    "apart-250": Trial(250, rescaled),
    "apart-1000": Trial(1_000, rescaled),
    "apart-4000": Trial(4_000, rescaled),
    "as-they-are": Trial(1_000, as_they_are),
}
"""By name. Memories apart by 1 step may all answer for one another, but for those of the same step."""
SCALES = {"rescaled": rescaled, "values": as_they_are}
"""By which all trials are judged."""
UPDATES = (150, 300)
"""After how many they are."""


class LessonsOptions(ReturnOptions):
    """Games and seeds to run."""

    games: tuple[str, ...] = ("qbert", "ms_pacman")
    """Games, by the names of their ROMs."""


class LessonsCourse(ReturnCourse):
    """A run of REC that ends with what its encoder can learn."""

    def conclude(self) -> None:
        super().conclude()
        assert isinstance(self._agent, REC)
        self.measure(learned(self._agent, UPDATES))


def learned(agent: REC, updates: tuple[int, ...]) -> dict[str, float]:
    """The metrics of this benchmark, by name; the agent is as it was but for what its generator drew.

    Args:
        agent: of which only lessons have it learn.
        updates: after how many the encoder is judged, rising.
    """
    judges = {name: Lessons(agent.memory, agent.config.consolidation_apart, scale=SCALES[name]) for name in SCALES}
    until = judges["rescaled"].until
    judged = judges["rescaled"].later(JUDGED, np.random.default_rng(0))

    def left(trial: str) -> dict[str, float]:
        found = {}
        for name, judge in judges.items():
            variance = judge.values(judged).var(correction=0)
            found[f"{name}_{trial}"] = (judge.errors(judged).mean() / variance).item()
        return found

    drawn = agent.consolidation.embedding()
    found = left("drawn")
    for name, trial in TRIALS.items():
        lessons = Lessons(agent.memory, trial.apart, until, trial.scale)
        for done in range(1, updates[-1] + 1):
            _, batch = agent.consolidation.learn(lessons)
            if done in updates:
                agent.consolidation.embed_anew(batch)
                found |= left(f"{name}_{done}")
                agent.memory.table.move_keys(agent.memory.rows_of(drawn.slots), drawn.keys)
                agent.memory.table.recentre()
        agent.consolidation.restore(drawn)
    return found


def main() -> None:
    default = LessonsOptions(steps=100_000, eval_games=0, out=Path("docs/results/lessons.csv"))
    options = parse_overrides(default, sys.argv[1:], "benchmarks.lessons", __doc__)
    if 0 < options.steps < (least := 5 * max(trial.apart for trial in TRIALS.values())):
        raise UsageError(f"--steps must be at least {least:,}, for memories to lie apart, not {options.steps:,}")
    still = ("--agent.consolidation_updates", "0")
    presets = [atari_preset("rec", ("--env.game", game, *still)) for game in options.games]
    benchmark(options, presets, LessonsCourse)


if __name__ == "__main__":
    guarded(main)
