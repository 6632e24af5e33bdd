"""Look into a recorded step from the terminal.

    python -m recall runs/NAME                               the recorded episodes of a run
    python -m recall runs/NAME --episode 0                   one of them, step by step: what was done, what it was worth
    python -m recall runs/NAME --episode 0 --step 20         the memories behind one step, and its picture
    python -m recall runs/NAME --episode 0 --video out.mp4   the episode with its recalls beside it; or out.gif

An episode is meant by its place in the list, from 0, or by its name. TensorBoard shows the same, under "Recalls".
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import cv2
import numpy as np
from imageio.v2 import get_reader, get_writer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from recall.panel import are_moments, heaviest_of, now_of, panel
from recall.record import DamagedError, Heading, Recording

PICTURES_PER_SECOND = 10


class UsageError(Exception):
    """What was asked for is not there; the message says what is."""


class _Parser(argparse.ArgumentParser):
    """Complains in one line, and knows options by their full names only."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see --help")


def table_of(*columns: str) -> Table:
    """A table that fits a terminal of 80 columns."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def moment(memories: dict[str, list[Any]], place: int) -> str:
    """The training episode and the step that a memory is of, or the agent step where those are not known.

    Of a moment of the same episode, the step alone.
    """
    if are_moments(memories):
        return str(memories["time"][place])
    episode, time = memories["episode"][place], memories["time"][place]
    return f"{memories['origin'][place]:,}" if episode is None else f"{episode}:{time}"


def short(number: float) -> str:
    """A number in as few digits as tell something."""
    return f"{number:,.0f}" if abs(number) >= 1_000 or number == int(number) else f"{number:.3g}"


def percent(share: float) -> str:
    """A share in a hundredth of it."""
    return f"{100 * share:.3g} %"


def print_episodes(recording: Recording, console: Console) -> None:
    """The recorded episodes of a run, and which of them cannot be read."""
    table = table_of("", "name", "of", "return", "steps")
    for number, name in enumerate(recording.names()):
        try:
            heading = recording.heading(name)
        except DamagedError as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        ended = "being written" if heading.length is None else "cut short"
        total = ended if heading.total is None else short(heading.total)
        length = "" if heading.length is None else f"{heading.length:,}"
        table.add_row(str(number), name, heading.title, total, length)
    console.print(table)


def steps_table(heading: Heading, lines: list[dict[str, Any]]) -> Table:
    """What was done in an episode, what that was thought worth or how likely it was, and the foremost memory."""
    if any(are_moments(line["memories"]) for line in lines):
        table = table_of("step", "action", "chance", "reward", "recalls step", "similarity")
    else:
        table = table_of("step", "action", "worth", "reward", "by ep:step", "weight")
    for line in lines:
        action, memories = line["action"], line["memories"]
        value = line["values"][action] if line["values"] else None
        of = weight = ""
        for place in heaviest_of(line, action, 1):
            of = moment(memories, place)
            weight = (
                short(memories["similarity"][place]) if are_moments(memories) else percent(memories["weight"][place])
            )
        worth = "" if value is None else percent(value) if are_moments(memories) else short(value)
        table.add_row(str(line["time"]), Text(heading.actions[action]), worth, short(line["reward"]), of, weight)
    return table


def moments_table(heading: Heading, line: dict[str, Any]) -> Table:
    """The moments of the same episode that were recalled at one step."""
    memories = line["memories"]
    table = table_of("similarity", "of step", "steps before", "agent step", "value similarity")
    for place in heaviest_of(line, line["action"], heading.memories):
        before = line["time"] - memories["time"][place]
        table.add_row(
            short(memories["similarity"][place]),
            moment(memories, place),
            f"{before:,}",
            "" if line["step"] is None else f"{line['step'] - before * heading.num_envs:,}",
            short(memories["value_similarity"][place]),
        )
    return table


def chances(heading: Heading, line: dict[str, Any]) -> str:
    """How likely each action was, the likeliest first."""
    likely = sorted(zip(line["values"], heading.actions, strict=True), key=lambda pair: -pair[0])
    return "chances: " + ", ".join(f"{name} {percent(chance)}" for chance, name in likely)


def memories_table(heading: Heading, line: dict[str, Any]) -> Table:
    """The memories behind one step, of all actions."""
    memories, now = line["memories"], now_of(heading, line)
    fresh = memories.get("fresh_distance")
    table = table_of(
        "action", "worth", "of ep:step", "weight", "says", "age", "dist", "fresh" if fresh else "key age", "used"
    )
    for action, value in enumerate(line["values"]):
        name = Text(heading.actions[action], style="bold" if action == line["action"] else "")
        worth = "untried" if value is None else short(value)
        for place in heaviest_of(line, action, heading.memories):
            table.add_row(
                name,
                worth,
                moment(memories, place),
                f"{100 * memories['weight'][place]:.2g} %",
                short(memories["value"][place]),
                f"{now - memories['origin'][place]:,}",
                short(memories["distance"][place]),
                short(fresh[place]) if fresh else f"{now - memories['keyed_at'][place]:,}",
                f"{memories['uses'][place]:,}",
            )
            name, worth = Text(), ""
        if line["rest"][action] and value is not None:
            table.add_row(name, worth, Text("all others", style="dim"), "", short(line["rest"][action]))
    return table


def write_video(path: Path, recording: Recording, heading: Heading, lines: list[dict[str, Any]]) -> None:
    """The panels of an episode as a film.

    Raises:
        UsageError: if the file is of no kind that can be made, or cannot be written.
    """
    if path.suffix not in (".mp4", ".gif"):
        raise UsageError(f"--video: should be a file whose name ends in .mp4 or .gif (got {str(path)!r})")
    if not lines:
        raise UsageError("--video: this episode has no steps")
    options: dict[str, Any] = {"duration": 1000 / PICTURES_PER_SECOND, "loop": 0}
    if path.suffix == ".mp4":
        # Sizes must be even for this pixel format, which is the one that every player knows.
        options = {"fps": PICTURES_PER_SECOND, "codec": "libx264", "quality": 8, "pixelformat": "yuv420p"}
        options |= {"macro_block_size": 2}
    try:
        # Beside its place until it is whole: what was there before may be worth keeping.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".unfinished-") as folder:
            unfinished = Path(folder) / path.name
            writer: Any = get_writer(unfinished, **options)
            with writer:
                for line in lines:
                    writer.append_data(panel(recording, heading, line))
            # The encoder is a process of its own, and does not tell how it ended.
            get_reader(unfinished).close()
            os.replace(unfinished, path)
    except (OSError, RuntimeError) as error:
        why = " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
        raise UsageError(f"--video: {path} cannot be written: {why}") from error


def write_panel(path: Path, picture: np.ndarray) -> None:
    """A picture as a file.

    Raises:
        UsageError: if it is no place for a picture, or cannot be written.
    """
    if path.suffix != ".png":
        raise UsageError(f"--panel: should be a file whose name ends in .png (got {str(path)!r})")
    content = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()
    try:
        path.write_bytes(content)
    except OSError as error:
        raise UsageError(f"--panel: {path} cannot be written: {error.strerror}") from error


def wanted(names: list[str], which: str) -> str:
    """The episode of a place in the list, or of a name."""
    if which in names:
        return which
    if which.isascii() and which.isdigit() and len(which) < 10 and int(which) < len(names):
        return names[int(which)]
    raise UsageError(f"--episode: there are episodes 0 to {len(names) - 1}, or by their names (got {which})")


def step_of(lines: list[dict[str, Any]], time: int) -> dict[str, Any]:
    """The line of a step."""
    found = [line for line in lines if line["time"] == time]
    if not found:
        last = max((line["time"] for line in lines), default=None)
        there = "no step can be read" if last is None else f"there are steps 0 to {last}"
        raise UsageError(f"--step: {there}, and of this one is no record (got {time})")
    return found[0]


def _folders(parent: Path) -> list[str]:
    return [path.name for path in parent.iterdir() if path.is_dir()] if parent.is_dir() else []


def look(arguments: argparse.Namespace, console: Console) -> None:
    """Print and write what was asked for.

    Raises:
        UsageError: if it is not there.
        DamagedError: if it cannot be read.
    """
    if not arguments.run.is_dir():
        near = difflib.get_close_matches(arguments.run.name, _folders(arguments.run.parent), n=1)
        raise UsageError(f"no run at {arguments.run}{f'; did you mean {near[0]}?' if near else ''}")
    recording = Recording(arguments.run / "recalls")
    names = recording.names()
    if not names:
        hint = "agents with a memory record some while they train (--steps_per_recording), or in evaluate.py --record"
        raise UsageError(f"{arguments.run} has no record of what was remembered: {hint}")
    if arguments.episode is None and (arguments.step, arguments.video) != (None, None):
        raise UsageError("--step and --video need --episode: which one?")
    if arguments.panel is not None and arguments.step is None:
        raise UsageError("--panel needs --step: of which one?")
    if arguments.episode is None:
        print_episodes(recording, console)
        return
    name = wanted(names, arguments.episode)
    heading, steps = recording.heading(name), recording.steps(name)
    if steps.damaged:
        print(f"{len(steps.damaged)} lines of {name} cannot be read and are left out", file=sys.stderr)
    if arguments.video is not None:
        write_video(arguments.video, recording, heading, steps.lines)
        print(f"video: {arguments.video}")
    if arguments.step is not None:
        print_step(recording, heading, step_of(steps.lines, arguments.step), arguments.panel, console)
    elif arguments.video is None:
        console.print(steps_table(heading, steps.lines))


def print_step(
    recording: Recording, heading: Heading, line: dict[str, Any], path: Path | None, console: Console
) -> None:
    """The memories behind a step, and its picture as a file."""
    print(f"{heading.agent} on {heading.world}, {heading.title}, step {line['time']}")
    if line["memories"] is None:
        print("Nobody looked at this step, to keep recording cheap (--recording_percent).")
    elif are_moments(line["memories"]):
        print(chances(heading, line))
        console.print(moments_table(heading, line))
    else:
        console.print(memories_table(heading, line))
    path = path or Path(f"{heading.name}-step-{line['time']}.png")
    write_panel(path, panel(recording, heading, line))
    print(f"panel: {path}")


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; the exit code."""
    parser = _Parser(
        "python -m recall",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, help="directory of the run")
    parser.add_argument("--episode", help="which recorded episode: its place in the list, from 0, or its name")
    parser.add_argument("--step", type=int, help="which of its steps, from 0")
    parser.add_argument("--panel", type=Path, help="file for the picture of the step (.png); by default named after it")
    parser.add_argument("--video", type=Path, help="file for the whole episode (.mp4 or .gif)")
    try:
        look(parser.parse_args(arguments), Console())
    except (UsageError, DamagedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
