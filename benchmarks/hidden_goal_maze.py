"""Which memory finds the way back to a goal that is never seen, to docs/results/hidden_goal_maze.csv.

    python -m benchmarks.hidden_goal_maze                            all cores, five seeds
    python -m benchmarks.hidden_goal_maze --cores gru none --seeds 0

PPO over every recurrent core and over none, in the 11 x 11 maze, a million steps each. The measure is `oracle_share`:
hits of an episode over those of an oracle that knows the goal from the start (32.5 in the mean; random play has 0.8).
Started again, it does the runs that its table lacks.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.return_runs import ReturnOptions, benchmark
from benchmarks.runner import Preset
from training.command_line import UsageError, guarded, parse_overrides

COMPILED = ("--agent.compiled", "4")
CORES: dict[str, tuple[str, ...]] = {
    "none": ("--agent.core.name", "none"),
    "gru": (),
    "lstm": ("--agent.core.name", "lstm"),
    "dnc": ("--agent.core.name", "dnc", "--agent.core.slots", "16", *COMPILED),
    "mnm-p": ("--agent.core.name", "mnm", "--agent.core.rule", "p", *COMPILED),
    "mnm-g": ("--agent.core.name", "mnm", "--agent.core.rule", "g", *COMPILED),
}
"""Name: overrides of the preset. `none` is a policy without a memory."""


class MazeOptions(ReturnOptions):
    """What is compared."""

    cores: tuple[str, ...] = tuple(CORES)
    """Recurrent cores, by name."""


def presets(cores: tuple[str, ...], preset: str) -> list[Preset]:
    """A preset with each of the cores.

    Raises:
        UsageError: on a core that there is none of.
    """
    if unknown := [core for core in cores if core not in CORES]:
        raise UsageError(f"--cores: there is no {unknown[0]!r}; there are {', '.join(CORES)}")
    return [Preset(preset, CORES[core], core) for core in cores]


def main() -> None:
    # As many games in the evaluation as in training: nothing need be compiled anew.
    default = MazeOptions(
        seeds=tuple(range(5)), steps=1_000_000, eval_games=64, out=Path("docs/results/hidden_goal_maze.csv")
    )
    options = parse_overrides(default, sys.argv[1:], "benchmarks.hidden_goal_maze", __doc__)
    benchmark(options, presets(options.cores, "hidden_goal_maze_recurrent_ppo"))


if __name__ == "__main__":
    guarded(main)
