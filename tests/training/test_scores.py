"""Normalised scores give the published tables, and aggregates what plain arithmetic gives."""

from __future__ import annotations

import csv
from pathlib import Path

import ale_py.roms
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from training.scores import aggregates, human_normalised, intervals, random_and_human

TABLE = Path(__file__).parent / "data" / "nec_table3_10M_frames.csv"


def published() -> list[dict[str, str]]:
    with TABLE.open(newline="") as file:
        return list(csv.DictReader(file))


def percent(agent: str, video_pinball_random: float) -> dict[str, float]:
    scores = [human_normalised(float(row[agent]), row["game"], video_pinball_random) for row in published()]
    return {name: round(100 * value, 1) for name, value in aggregates(np.array([scores])).items()}


@pytest.mark.parametrize(
    ("agent", "median", "mean"),
    [("NEC", 54.6, 99.8), ("MFEC", 45.4, 85.0), ("NatureDQN", 15.7, 51.3), ("PrioritisedReplay", 22.4, 71.5)],
)
def test_tables_1_and_2_of_the_nec_paper(agent, median, mean):
    result = percent(agent, video_pinball_random=0.0)
    assert (result["median"], result["mean"]) == (median, mean)


def test_the_usual_video_pinball_score_changes_the_mean():
    assert percent("MFEC", video_pinball_random=16256.9)["mean"] == 168.3


def test_every_game_is_a_rom():
    games = {row["game"] for row in published()}
    assert len(games) == 57
    assert games <= set(ale_py.roms.get_all_rom_ids())
    for game in games:
        references = random_and_human(game)
        assert references.random < references.human
        assert [human_normalised(score, game) for score in references] == [0.0, 1.0]


def test_known_constants():
    assert random_and_human("ms_pacman") == (307.3, 6951.6)
    assert random_and_human("video_pinball") == (16256.9, 17667.9)
    assert random_and_human("video_pinball", video_pinball_random=0.0) == (0.0, 17667.9)
    assert random_and_human("pong", video_pinball_random=0.0) == (-20.7, 14.6)


def test_a_misspelt_game_names_the_nearest():
    with pytest.raises(ValueError, match="ms_pacman") as error:
        random_and_human("mspacman")
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="no human score for 'xyzzy'"):
        human_normalised(0.0, "xyzzy")


@given(hnp.arrays("float64", st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.floats(-10, 10)))
def test_aggregates_by_plain_arithmetic(scores):
    games = sorted(sum(float(score) for score in column) / len(scores) for column in scores.T)
    middle = len(games) // 2
    every = sorted(float(score) for score in scores.flat)
    cut = int(0.25 * len(every))
    kept = every[cut : len(every) - cut]
    expected = {
        "median": games[middle] if len(games) % 2 else (games[middle - 1] + games[middle]) / 2,
        "mean": sum(games) / len(games),
        "iqm": sum(kept) / len(kept),
    }
    assert aggregates(scores) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("scores", [np.zeros(3), np.zeros((0, 3)), np.array([[1.0, np.nan]])])
def test_refuses_what_has_no_aggregate(scores):
    for function in (aggregates, intervals):
        with pytest.raises(ValueError, match="scores must"):
            function(scores)


def test_one_run_has_no_interval():
    with pytest.raises(ValueError, match="at least 2 runs"):
        intervals(np.zeros((1, 57)))


@pytest.fixture(scope="module")
def scores():
    """Five runs on 12 games, by a plain formula: rliable's intervals need its dependencies to fit each other."""
    try:
        intervals(np.zeros((2, 2)), repetitions=2)
    except ImportError as error:
        pytest.skip(str(error))
    return np.random.default_rng(0).normal(1.0, 0.5, (5, 12)) * np.arange(1, 13)


def test_intervals_hold_the_estimate_and_narrow_with_confidence(scores):
    estimates = aggregates(scores)
    wide, narrow = intervals(scores), intervals(scores, confidence=0.5)
    for name, estimate in estimates.items():
        assert wide[name][0] < narrow[name][0] < estimate < narrow[name][1] < wide[name][1]


def test_intervals_are_those_of_a_plain_stratified_bootstrap(scores):
    rng = np.random.default_rng(1)
    runs, games = scores.shape
    means = []
    for _ in range(2000):
        drawn = [[scores[rng.integers(runs), game] for game in range(games)] for _ in range(runs)]
        means.append(np.mean(drawn))
    expected = np.percentile(means, [2.5, 97.5])
    np.testing.assert_allclose(intervals(scores)["mean"], expected, atol=0.1 * (expected[1] - expected[0]))


def test_intervals_depend_on_their_seed_alone(scores):
    np.random.seed(5)
    undisturbed = np.random.random(3)
    np.random.seed(5)
    first = intervals(scores, repetitions=100)
    np.testing.assert_array_equal(np.random.random(3), undisturbed, "the global generator was disturbed")
    assert intervals(scores, repetitions=100) == first
    assert intervals(scores, repetitions=100, seed=1) != first
