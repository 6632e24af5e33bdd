"""Whole benchmarks, on a grid world: tiny runs in processes of their own."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from assembly import make_agent, make_world
from benchmarks import atari, grid_world, quickstart, rec_atari, rec_grid_world, results, return_runs, throughput
from benchmarks.course import Run
from benchmarks.runner import CommonOptions, Preset, prepare
from tests.benchmarks.in_process import saved_and_cut_off_at
from tests.programs import complaint, run
from training.loop import TrainingLoop
from training.seeding import EpisodeSeeds

TINY = ("--agents", "mfec", "random", "--steps", "1600", "--steps_per_row", "400", "--eval_games", "2")


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch):
    monkeypatch.chdir(results.REPOSITORY)


def random_returns(seed: int, steps: int) -> list[tuple[int, float]]:
    """The training episodes of the random agent in the empty room: the step each ended at, and its return."""
    options = CommonOptions(out=Path("grid_world.csv"))
    ((config, _),) = prepare(options, [Preset("grid_world_random")], seed, steps)
    world = make_world(config)
    loop = TrainingLoop(world, make_agent(config, world), EpisodeSeeds(seed)).run(steps)
    return [(record.step, episode.episode_return) for record in loop for episode in record.episodes]


def test_a_benchmark_writes_the_curves_and_goes_on_where_it_was_stopped(tmp_path, capsys):
    table = tmp_path / "grid_world.csv"
    run(grid_world.main, *TINY, "--seeds", 5, "--out", table, "--unfinished", tmp_path / "unfinished")
    first = results.read(table)
    assert {(row.experiment, row.world, row.variant, row.seed) for row in first} == {
        ("grid_world", "MiniGrid-Empty-8x8-v0", "", 5)
    }

    curve = {row.steps: row.value for row in first if (row.agent, row.metric) == ("random", "return")}
    episodes = random_returns(5, 1600)
    expected = {}
    for end in (400, 800, 1200, 1600):
        ended = [score for step, score in episodes if end - 400 < step <= end]
        if ended:
            expected[end] = np.mean(ended)
    assert curve == pytest.approx(expected, rel=1e-6)
    finals = {row.metric: row.value for row in first if row.agent == "random" and row.steps == 1600}
    assert finals["return_over_run"] == pytest.approx(np.mean([score for _, score in episodes]), rel=1e-6)
    assert finals["return_last_20"] == pytest.approx(np.mean([score for _, score in episodes][-20:]), rel=1e-6)
    assert 0 <= finals["eval_return"] <= 1
    assert finals["steps_per_second"] > 10 and 50 < finals["peak_megabytes"] < 2000
    for metric in ("exact_hit_rate", "known_state_rate"):
        rates = [row.value for row in first if (row.agent, row.metric) == ("mfec", metric)]
        assert all(0 <= rate <= 1 for rate in rates) and rates[-1] > 0.5

    # As if stopped before the last run: that one alone is done again.
    results_of_mfec = [row for row in first if row.agent == "mfec"]
    table.unlink()
    results.add(table, results_of_mfec)
    capsys.readouterr()
    run(grid_world.main, *TINY, "--seeds", 5, "--out", table, "--unfinished", tmp_path / "unfinished")
    assert "1 of 2 runs are there, 1 to do" in capsys.readouterr().out
    again = results.read(table)
    assert again[: len(results_of_mfec)] == results_of_mfec
    measured = [(row.agent, row.steps, row.metric, row.value) for row in again if "return" in row.metric]
    assert sorted(measured) == sorted(
        (row.agent, row.steps, row.metric, row.value) for row in first if "return" in row.metric
    )


@pytest.mark.parametrize("agent", ["mfec", "nec"])
def test_a_run_that_is_cut_off_comes_to_what_it_would_have_come_to(agent, tmp_path, monkeypatch):
    """Cut off between two rows, and in the middle of an episode."""
    monkeypatch.setattr(results, "code", lambda: "as it is")

    def rows(folder: str, reports: int) -> list[results.Row]:
        monkeypatch.setattr(return_runs, "do_missing", saved_and_cut_off_at(reports, monkeypatch))
        out, unfinished = tmp_path / folder / "grid_world.csv", tmp_path / folder / "unfinished"
        small = ("--num_envs", 2, "--steps", 800, "--steps_per_row", 160, "--eval_games", 1)
        run(grid_world.main, "--agents", agent, "--seeds", 3, *small, "--out", out, "--unfinished", unfinished)
        assert not list(unfinished.iterdir())
        return results.read(out)

    whole = rows("whole", 400)
    with pytest.raises(SystemExit):
        rows("parts", 290)
    # It would be cut off again, had it begun before the step at which it was saved.
    parts = rows("parts", 110)
    assert {row.metric for row in whole} >= {"return", "exact_hit_rate", "eval_return", "return_over_run"}
    assert [row.seconds for row in parts] == sorted(row.seconds for row in parts), "time goes on, too"
    for mine, its in zip(parts, whole, strict=True):
        if mine.metric not in {"steps_per_second", "peak_megabytes"}:
            assert replace(mine, seconds=0.0) == replace(its, seconds=0.0)


def test_a_run_is_of_the_code_that_it_was_planned_by(monkeypatch):
    """Its worker begins later, and follows what was loaded then."""
    ((config, blank),) = prepare(CommonOptions(out=Path("x.csv")), [Preset("grid_world_random")], 0, 10)
    monkeypatch.setattr(results, "code", lambda: "planned")
    planned = Run(config, blank, return_runs.ReturnOptions(out=Path("x.csv")))
    monkeypatch.setattr(results, "code", lambda: "edited")
    assert return_runs.ReturnCourse(pickle.loads(pickle.dumps(planned))).state_dict()["identity"]["code"] == "planned"


def test_presets_become_agents_and_variants_with_their_overrides():
    options = CommonOptions(out=Path("x.csv"), override=("agent.n_step=20",), variant="short", num_envs=2, machine="m")
    presets = [
        Preset("atari_nec", ("--env.game", "qbert")),
        Preset("atari_nec_frozen", ("--env.game", "pong"), "frozen-encoder"),
    ]
    (config, blank), (frozen_config, frozen_blank) = prepare(options, presets, 7, 500)
    assert (config.agent.n_step, config.num_envs, config.seed, config.steps) == (20, 2, 7, 500)
    assert (config.agent.train_encoder, frozen_config.agent.train_encoder) == (True, False)
    assert blank.run() == ("x", "qbert", "nec", "short", 7)
    assert frozen_blank.run() == ("x", "pong", "nec", "frozen-encoder+short", 7)
    assert blank.machine == "m"


def test_an_override_may_be_a_list():
    change = {"override": ("env.tasks=1 20", "env.size=1k"), "variant": "two"}
    ((config, blank),) = prepare(CommonOptions(out=Path("x.csv"), **change), [Preset("babi_lstm")], 0, 0)
    assert (config.env.tasks, config.env.size, blank.world) == ((1, 20), "1k", "bAbI 1k tasks 1 20")


@pytest.mark.parametrize(
    ("main", "arguments", "words"),
    [
        (atari.main, ["--override", "agent.n_step=3"], "--variant"),
        (atari.main, ["--override", "agent.n_step", "--variant", "x"], "NAME=VALUE"),
        (atari.main, ["--agents", "mfec", "--override", "agent.n_step=3", "--variant", "x"], "agent.n_step"),
        (atari.main, ["--games", "pongg"], "pong"),
        (atari.main, ["--agents", "mfex"], "atari_mfec.yaml"),
        (atari.main, ["--gamez", "pong"], "--games"),
        (atari.main, ["--seeds", "1", "1"], "asked for more than once: "),
        (grid_world.main, ["--ids", "MiniGrid-Empty-8x9-v0"], "MiniGrid-Empty-8x8-v0"),
        (rec_grid_world.main, ["--variants", "necs"], "no variant 'necs'"),
        (rec_grid_world.main, ["--worlds", "lava-gaps"], "no world 'lava-gaps'; there are lava-gap-tiled, lava-gap"),
        (quickstart.main, ["--jobs", "0"], "jobs"),
        (throughput.main, ["--first", "100", "--last", "100"], "--last"),
    ],
)
def test_mistakes_are_told_in_one_line_before_anything_runs(tmp_path, capsys, main, arguments, words):
    assert words in complaint(main, capsys, *arguments, "--out", tmp_path / "table.csv")
    assert not (tmp_path / "table.csv").exists()


def test_a_table_that_is_none_is_refused_before_anything_runs(tmp_path, capsys):
    (tmp_path / "table.csv").write_text("something else\n")
    assert "not a table of results" in complaint(grid_world.main, capsys, "--out", tmp_path / "table.csv")


@pytest.mark.parametrize(
    ("preset", "world", "variants"),
    [
        (rec_grid_world.preset, "lava-gap-tiled", rec_grid_world.VARIANTS),
        (rec_atari.preset, "qbert", rec_atari.RecAtariOptions(out=Path("x.csv")).variants),
    ],
)
def test_every_variant_of_rec_is_one_that_can_be_configured(preset, world, variants):
    options = CommonOptions(out=Path("rec.csv"))
    rows = [row for _, row in prepare(options, [preset(world, variant) for variant in variants], 0, 100)]
    found = {(row.agent, row.variant) for row in rows}
    assert found >= {("nec", ""), ("nec", "frozen"), ("rec", ""), ("rec", "candidates")}
    assert len(found) == len(variants)


def test_on_atari_rec_learns_in_phases_and_its_rivals_all_the_time():
    for variant in ("rec", "online", "candidates"):
        [(config, _)] = prepare(CommonOptions(out=Path("rec.csv")), [rec_atari.preset("qbert", variant)], 0, 100)
        assert (config.agent.consolidation_updates > 0) == (variant == "rec")
        assert config.agent.learns == (variant != "rec")


def test_staleness_is_part_of_a_curve(tmp_path):
    table = tmp_path / "rec_grid_world.csv"
    arguments = ("--worlds", "lava-gap-tiled", "--variants", "autoencoder", "--seeds", 0)
    changes = ("agent.learning_starts=200", "agent.pretraining=5", "agent.updates_per_probe=5", "agent.batch_size=4")
    arguments += (
        "--steps",
        800,
        "--steps_per_row",
        400,
        "--eval_games",
        0,
        "--variant",
        "tiny",
        "--override",
        *changes,
    )
    run(rec_grid_world.main, *arguments, "--out", table, "--unfinished", tmp_path / "unfinished")
    rows = results.read(table)
    assert {(row.world, row.agent) for row in rows} == {("MiniGrid-LavaGapS5-v0 tiled", "rec")}
    assert {row.variant for row in rows} == {"autoencoder+tiny"}
    last = {row.metric: row.value for row in rows if row.steps == 800}
    assert {"return_over_run", "megabytes", "neighbour_recall", "error_ratio", "error_ratio_quarter_4"} <= last.keys()
    assert last["key_age_quarter_4"] >= last["key_age_quarter_1"]
