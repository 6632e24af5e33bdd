"""What recording costs a training, and how fast a record opens, to docs/results/recall_cost.csv.

    python -m benchmarks.recall_cost                                    five presets, 20,000 steps each, and a browser
    python -m benchmarks.recall_cost --presets quickstart --steps 5000 --episodes 0

Each preset is trained twice at once, with a recorder and without, a piece of the one after a piece of the other, so
that whatever else the machine does costs both the same. The recorder takes all it may: one episode after the other,
until its share of the time is spent, where a training records one in 25,000 steps:

    slowdown_percent    more time that a step takes with a recorder, pictures written included
    looked_share        share of the recorded steps that were looked into; the others were left out to save time
    record_megabytes    what was recorded in so many steps

And a record of `--episodes` episodes, a thousand steps each, as an agent with six actions leaves it, is opened in
headless Chromium before TensorBoard (which needs both installed, and `selenium`):

    open_seconds        from the page being asked for to its world and its memories being drawn; TensorBoard around it
                        takes seconds of its own
    scrub_milliseconds  from a step to the next being drawn, pictures included
    page_megabytes      memory of the page's objects after that, decoded pictures left out
    record_megabytes    of that record
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from pydantic import Field

from assembly import RunConfig, make_agent, make_world, recorder_of
from benchmarks import results
from benchmarks.results import Row
from benchmarks.runner import CommonOptions, Preset, do_missing, missing, prepare
from benchmarks.workers import Report
from memory.recollection import Recollection
from recall.episode_writer import EpisodeWriter
from recall.record import Heading, Recording, observations_folder
from recall.sheets import SheetWriter
from training.command_line import UsageError, guarded, parse_overrides
from training.loop import TrainingLoop
from training.seeding import EpisodeSeeds

PRESETS = ("quickstart", "atari_nec", "grid_world_nec", "grid_world_rec", "mnist_memory_classifier")
OPENING = "opening"
EPISODE_STEPS = 1_000
ACTIONS = ("noop", "fire", "up", "right", "left", "down")
SCREEN = (84, 84)
STEPS_SCRUBBED = 40


class RecallCostOptions(CommonOptions):
    """What to measure, and for how long."""

    presets: tuple[str, ...] = PRESETS
    """Presets, by name."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the trainings."""
    steps: int = Field(default=20_000, ge=1_000)
    """Agent steps of each."""
    first: int = Field(default=2_000, ge=0)
    """Agent step from which on time is taken."""
    episodes: int = Field(default=100, ge=0)
    """Episodes of the record that is opened; 0 leaves that out."""


@dataclass(frozen=True)
class Run:
    """All that a worker must know."""

    config: RunConfig
    blank: Row
    first: int
    out: Path


def complain(message: str) -> None:
    """What cannot be written spoils the measurement."""
    raise OSError(message)


def piece(loop: TrainingLoop, until: int) -> float:
    """Go on until an agent step; the seconds that took."""
    started = time.perf_counter()
    for _ in loop.run(until):
        pass
    return time.perf_counter() - started


def measure(report: Report, run: Run) -> None:
    """Train with and without a recorder, in turn, and add the rows."""
    torch.set_num_threads(run.config.threads)
    worlds = [make_world(run.config) for _ in range(2)]
    plain, recorded = (
        TrainingLoop(world, make_agent(run.config, world), EpisodeSeeds(run.config.seed)) for world in worlds
    )
    with tempfile.TemporaryDirectory() as folder:
        always = run.config.model_copy(update={"steps_per_recording": 1})
        # Its share is of its own training: the other one's pieces do not count.
        seconds, started = {False: 0.0, True: 0.0}, time.perf_counter()
        recorder = recorder_of(
            always, recorded, Path(folder), complain, lambda: time.perf_counter() - started - seconds[False]
        )
        if recorder is None:
            raise UsageError(f"{run.blank.agent} remembers nothing that could be recorded")
        recorded.agent = recorder
        timed = {False: 0.0, True: 0.0}
        length = max(run.config.num_envs, run.config.steps // 40)
        for number, until in enumerate(range(length, run.config.steps + 1, length)):
            # Whoever comes second finds caches warm: they take turns at that too.
            for with_recorder in (number % 2 == 0, number % 2 == 1):
                took = piece(recorded if with_recorder else plain, until)
                seconds[with_recorder] += took
                timed[with_recorder] += took if until > run.first else 0.0
            report(until, f"{timed[True]:.1f} s with, {timed[False]:.1f} s without")
        closing = time.perf_counter()
        recorder.close()
        timed[True] += time.perf_counter() - closing
        recording = Recording(Path(folder))
        lines = [line for name in recording.names() for line in recording.steps(name).lines]
        measured = {
            "slowdown_percent": 100 * (timed[True] / timed[False] - 1),
            "looked_share": float(np.mean([line["memories"] is not None for line in lines])) if lines else 0.0,
            "record_megabytes": recording.nbytes() / 2**20,
        }
    for world in worlds:
        world.close()
    rows = [replace(run.blank, steps=run.config.steps, metric=name, value=value) for name, value in measured.items()]
    results.add(run.out, [replace(row, seconds=timed[True]) for row in rows])


def screens(rng: np.random.Generator) -> Callable[[], np.ndarray]:
    """Makes screens such as a game's: few greys in large areas, with something small that moves."""
    ground = np.kron(rng.integers(0, 5, (14, 14)) * 50, np.ones((6, 6))).astype(np.uint8)

    def screen() -> np.ndarray:
        shown = ground.copy()
        for top, left in rng.integers(0, 76, (4, 2)):
            shown[top : top + 8, left : left + 6] = rng.integers(60, 255)
        return shown

    return screen


def write_record(run: Path, episodes: int) -> None:
    """A record of so many episodes, as an agent that lists five memories for each of six actions leaves it."""
    rng = np.random.default_rng(0)
    screen, recalls = screens(rng), run / "recalls"
    observations = SheetWriter(observations_folder(recalls), 2**40, complain)
    for step in range(1, episodes * EPISODE_STEPS + 1):
        observations.add(step, screen())
    observations.close()
    of = {"kind": "training", "agent": "nec", "world": "game", "actions": list(ACTIONS), "num_envs": 1, "memories": 5}
    actions = np.repeat(np.arange(len(ACTIONS)), 5)
    for episode in range(episodes):
        first = 1 + episode * EPISODE_STEPS
        writer = EpisodeWriter(recalls, Heading(number=episode, step=first, **of), complain)
        for step in range(first, first + EPISODE_STEPS):
            weights, values = rng.dirichlet(np.ones(6), len(ACTIONS))[:, :5].ravel(), rng.normal(0, 100, len(actions))
            origins = rng.integers(1, episodes * EPISODE_STEPS + 1, len(actions))
            found = Recollection(
                action_values=np.bincount(actions, weights * values),
                rest=np.zeros(len(ACTIONS)),
                actions=actions,
                slots=np.arange(len(actions)),
                weights=weights,
                values=values,
                distances=rng.random(len(actions)),
                origins=origins,
                written_at=origins,
                keyed_at=origins,
                uses=rng.integers(0, 1_000, len(actions)),
            )
            writer.add(
                step, screen(), step % 6, 0.0, found, lambda at: divmod(at - 1, EPISODE_STEPS), lambda seen: seen
            )
        writer.finish()


def with_browser() -> ModuleType:
    """What drives a browser.

    Raises:
        UsageError: without one.
    """
    try:
        from benchmarks import browser
    except ImportError as error:
        raise UsageError("--episodes: opening a record needs selenium: pip install -e .[dev]") from error
    if not (browser.CHROMIUM and browser.DRIVER):
        raise UsageError("--episodes: opening a record needs chromium and chromedriver on the path")
    return browser


def opened(logdir: Path) -> dict[str, float]:
    """How fast the page shows a step, and the following ones."""
    browser = with_browser()
    drawn = (
        "[document.querySelector('.world'), ...document.querySelectorAll('.card canvas')].every(one => one.width > 0)"
    )
    at = "document.querySelector('.clock').value.split(' ')[1]"
    with browser.tensorboard(logdir) as address, browser.chromium() as driver:
        page = browser.Page(driver, address)
        page.open()
        browser.until(lambda: page.run(f"document.querySelectorAll('.card').length > 0 && {drawn}"))
        # By the page's own clock, which starts with its loading.
        opening, scrubbing = page.run("performance.now()") / 1000, []
        for step in range(1, STEPS_SCRUBBED + 1):
            started = time.perf_counter()
            page.press("ArrowRight")
            browser.until(partial(page.run, f"{at} === arguments[0] && {drawn}", str(step)))
            scrubbing.append(time.perf_counter() - started)
        return {
            "open_seconds": opening,
            "scrub_milliseconds": 1000 * float(np.median(scrubbing)),
            "page_megabytes": page.run("performance.memory.usedJSHeapSize") / 2**20,
        }


def measure_opening(report: Report, options: RecallCostOptions, blank: Row) -> None:
    """Open a large record, and add the rows."""
    with tempfile.TemporaryDirectory() as folder:
        write_record(Path(folder) / "run", options.episodes)
        report(0, "written")
        measured = opened(Path(folder))
        measured["record_megabytes"] = Recording(Path(folder) / "run" / "recalls").nbytes() / 2**20
    blank = replace(blank, steps=options.episodes * EPISODE_STEPS, seconds=measured["open_seconds"])
    results.add(options.out, [replace(blank, metric=name, value=value) for name, value in measured.items()])


def runs(options: RecallCostOptions) -> Iterator[Run]:
    """The trainings to be done."""
    presets = [Preset(name) for name in options.presets]
    for seed in options.seeds:
        for config, blank in prepare(options, presets, seed, options.steps):
            yield Run(config, blank, options.first, options.out)


def main() -> None:
    default = RecallCostOptions(out=Path("docs/results/recall_cost.csv"))
    options = parse_overrides(default, sys.argv[1:], "benchmarks.recall_cost", __doc__)
    if options.steps and options.steps <= options.first:
        raise UsageError(f"--steps must be more than --first, {options.first}, got {options.steps}")
    if options.episodes:
        with_browser()
    planned = list(runs(options))
    # One at a time: the thread that encodes pictures has a core to itself, as in a training.
    do_missing(missing(planned, measure, options.out), len(planned), options.out, 1, __name__)
    [(_, blank), *_] = prepare(options, [Preset("quickstart")], 0, options.steps)
    blank = replace(blank, world="recalls", agent="record", variant=OPENING)
    if options.episodes and blank.run() not in results.done(options.out):
        measure_opening(lambda steps, words: print(words, flush=True), options, blank)


if __name__ == "__main__":
    guarded(main)
