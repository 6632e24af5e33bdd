"""Recorded episodes for the tests: made by the writer itself, of memories whose every number is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from memory.recollection import Recollection, SimilarMoments
from recall.episode_writer import EpisodeWriter
from recall.record import Heading, observations_folder
from recall.sheets import SheetWriter

ACTIONS = ["noop", "up", "down"]
SIDE = 12


def no_warning(message: str) -> None:
    raise AssertionError(message)


def picture_of(number: int) -> np.ndarray:
    """A picture that tells its number: its corner holds it, in two bytes."""
    picture = np.full((SIDE, SIDE), 128, dtype=np.uint8)
    picture[0, 0], picture[0, 1] = divmod(number, 256)
    return picture


def number_of(picture: np.ndarray) -> int:
    return 256 * int(picture[0, 0, 0]) + int(picture[0, 1, 0])


def show(observation: np.ndarray) -> np.ndarray:
    return observation


def remembered(step: int, memories: int = 2, fresh: bool = False) -> Recollection:
    """What an agent remembers at a step: of each action the memories of the steps before, at halving weights."""
    rng = np.random.default_rng(step)
    actions = np.repeat(np.arange(len(ACTIONS)), memories)
    origins = np.maximum(1, step - 1 - rng.integers(0, max(step - 1, 1), len(actions)))
    weights = np.tile(0.5 ** np.arange(1, memories + 1), len(ACTIONS))
    values = rng.normal(0, 10, len(actions))
    rest = rng.normal(0, 1, len(ACTIONS))
    return Recollection(
        action_values=rest + np.bincount(actions, weights * values),
        rest=rest,
        actions=actions,
        slots=np.arange(len(actions)),
        weights=weights,
        values=values,
        distances=rng.random(len(actions)),
        origins=origins,
        written_at=origins + 5,
        keyed_at=origins,
        uses=np.arange(len(actions)),
        fresh_distances=rng.random(len(actions)) if fresh else None,
    )


def similar(time: int, moments: int = 3) -> SimilarMoments:
    """What an agent recalls at a step of an episode: some of the steps before, the latest not always the first."""
    rng = np.random.default_rng(time)
    ages = 1 + rng.permutation(time)[:moments]
    similarities = np.sort(rng.uniform(-1, 1, len(ages)))[::-1]
    return SimilarMoments(rng.dirichlet(np.ones(len(ACTIONS))), ages, similarities, rng.uniform(-1, 1, len(ages)))


def provenance(step: int) -> tuple[int, int]:
    return step // 100, step % 100


def write_episode(
    recalls: Path, first: int, length: int, *, ends: bool | None = True, fresh: bool = False, memories: int = 2
) -> str:
    """Record an episode from step `first` on; its name. It ends, is cut short, or (None) goes on."""
    of = {"kind": "training", "agent": "nec", "world": "qbert", "actions": ACTIONS, "num_envs": 1, "memories": 2}
    heading = Heading(number=first // 100, step=first, **of)
    writer = EpisodeWriter(recalls, heading, no_warning)
    for step in range(first, first + length):
        found = None if step % 10 == 9 else remembered(step, memories, fresh)
        writer.add(step, picture_of(step), step % 3, float(step % 7 == 0), found, provenance, show)
    if ends is None:
        writer.settle()
    elif ends:
        writer.finish()
    else:
        writer.close()
    return heading.name


def write_moments(recalls: Path, first: int, length: int, kind: str = "training", num_envs: int = 1) -> str:
    """Record an episode of an agent that recalls moments of it; its name. At every tenth step nobody looks."""
    of = {"agent": "recurrent_ppo", "world": "maze", "actions": ACTIONS, "num_envs": num_envs, "memories": 3}
    heading = Heading(kind=kind, number=first // 100, step=first, **of)
    writer = EpisodeWriter(recalls, heading, no_warning)
    for time in range(length):
        step = first + time * num_envs if kind == "training" else None
        found = None if time % 10 == 9 else similar(time)
        writer.add(step, picture_of(first + time), time % 3, float(time % 7 == 0), found, provenance, show)
    writer.finish()
    return heading.name


def write_observations(recalls: Path, steps: int) -> None:
    sheets = SheetWriter(observations_folder(recalls), 2**30, no_warning)
    for step in range(1, steps + 1):
        sheets.add(step, picture_of(step))
    sheets.close()


def write_run(run: Path, *firsts: int, length: int = 30, steps: int = 300) -> None:
    """A run with recorded episodes."""
    write_observations(run / "recalls", steps)
    for first in firsts:
        write_episode(run / "recalls", first, length)
