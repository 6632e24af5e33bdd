"""Scores on Atari: normalised to a human's, and many games and runs brought to one number with its uncertainty.

The random and human scores of the 57 games are those of google-deepmind/dqn_zoo (`atari_data.py`). For Video Pinball
two random scores are in use: 16256.9 there, and 0.0 in the tables of the NEC paper (Pritzel et al. 2017), whose means
come out only with it.

The aggregates are those of rliable (Agarwal et al. 2021), which is needed for nothing else and takes a second or two
to import: it is imported when first used.
"""

from __future__ import annotations

import csv
import difflib
import functools
import importlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

VIDEO_PINBALL_RANDOM = 16256.9


class References(NamedTuple):
    """What random play and a human score in a game, in points."""

    random: float
    human: float


def random_and_human(game: str, video_pinball_random: float = VIDEO_PINBALL_RANDOM) -> References:
    """The two scores that a game's scale hangs on.

    Args:
        game: ROM id, such as `ms_pacman`.
        video_pinball_random: stands for the random score of that game; 0.0 gives the NEC paper's tables.

    Raises:
        ValueError: if the game is not one of the 57, naming the nearest.
    """
    table = _table()
    if game not in table:
        nearest = ", ".join(difflib.get_close_matches(game, table)) or "none is like it"
        raise ValueError(f"no human score for {game!r}; nearest of the 57 games: {nearest}")
    return table[game]._replace(random=video_pinball_random) if game == "video_pinball" else table[game]


def human_normalised(score: float, game: str, video_pinball_random: float = VIDEO_PINBALL_RANDOM) -> float:
    """A score on the scale where random play is 0 and a human 1. Arguments and errors are those above."""
    random, human = random_and_human(game, video_pinball_random)
    return (score - random) / (human - random)


def aggregates(scores: np.ndarray) -> dict[str, float]:
    """Median, mean and interquartile mean.

    The median and mean are over games, of each game's mean over runs. The interquartile mean is of all runs and games
    together, without the lowest and the highest quarter.

    Args:
        scores: normalised, `[runs, games]`.

    Raises:
        ValueError: if they are not all finite, or of another shape.
        ImportError: if rliable is not there.
    """
    _check(scores)
    return dict(zip(("median", "mean", "iqm"), map(float, _aggregates(scores)), strict=True))


def intervals(
    scores: np.ndarray, confidence: float = 0.95, repetitions: int = 2000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Lower and upper end of the confidence interval of each aggregate, by stratified bootstrap.

    Runs are drawn anew, with replacement, for each game apart: the interval tells what other seeds might have given
    on the same games. Percentiles of `repetitions` draws; 2,000 take about a second, and published figures have
    50,000.

    Raises:
        ValueError: as above, and if there are not two runs to draw from.
        ImportError: if rliable is not there.
    """
    _check(scores)
    if len(scores) < 2:
        raise ValueError("an interval needs at least 2 runs, and there is 1")
    library = _rliable("library")
    # rliable 1.2 draws from numpy's global generator, and does not heed the one it can be handed.
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        _, bounds = library.get_interval_estimates(
            {"scores": scores}, _aggregates, reps=repetitions, confidence_interval_size=confidence
        )
    finally:
        np.random.set_state(before)
    low, high = bounds["scores"]
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(("median", "mean", "iqm"))}


def _aggregates(scores: np.ndarray) -> np.ndarray:
    metrics = _rliable("metrics")
    return np.array([metrics.aggregate_median(scores), metrics.aggregate_mean(scores), metrics.aggregate_iqm(scores)])


def _check(scores: np.ndarray) -> None:
    if scores.ndim != 2 or scores.size == 0:
        raise ValueError(f"scores must have shape [runs, games], not {list(scores.shape)}")
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite")


def _rliable(module: str) -> Any:
    try:
        return importlib.import_module(f"rliable.{module}")
    except (ImportError, TypeError) as error:
        # rliable 1.2 asks for arch < 8, and that arch raises a TypeError when it meets pandas 3.
        raise ImportError(f"aggregates need rliable (pip install rliable 'pandas<3'): {error}") from error


@functools.cache
def _table() -> dict[str, References]:
    with Path(__file__).with_name("atari57_random_human.csv").open(newline="") as file:
        return {row["game"]: References(float(row["random"]), float(row["human"])) for row in csv.DictReader(file)}
