from dataclasses import replace

import numpy as np
import pytest

from benchmarks import credit_assignment, equal_bytes, figures, freshening, results
from benchmarks.figures import dopamine, put, spread, table
from benchmarks.reports import REPORTS
from benchmarks.results import Row
from tests.programs import complaint, run

ROW = Row("atari_1m", "qbert", "mfec", "", 0, 25_000, "return", 0.0, 1.0, "cpu2", "abc1234", "2026-01-31")


def rows() -> list[Row]:
    """Two agents, three seeds, two points of a curve; the second agent is a variant with one seed."""
    made = []
    for seed, (early, late, rate) in enumerate([(100.0, 1000.0, 0.5), (200.0, 2000.0, 0.6), (300.0, 3000.0, 0.7)]):
        for steps, value in ((50_000, late), (25_000, early)):
            made.append(replace(ROW, seed=seed, steps=steps, value=value))
        made.append(replace(ROW, seed=seed, steps=50_000, metric="exact_hit_rate", value=rate))
    return [*made, replace(ROW, agent="nec", variant="frozen-encoder", metric="eval_return", value=12.345)]


def test_a_table_holds_the_last_of_each_run_over_seeds():
    lines = table(rows(), REPORTS["atari_1m"]).splitlines()
    assert lines[0].split("|")[1:3] == [" world ", " agent "]
    # Sample deviation of 1000, 2000, 3000: 1000. Of 50, 60, 70 percent: 10.
    assert lines[2] == "| qbert | MFEC | 2,000 ± 1,000 |  |  | 60.0 ± 10.0 % | 3 |"
    assert lines[3] == "| qbert | NEC frozen-encoder |  |  | 12.3 |  | 1 |"
    assert lines[4] == "| qbert | DQN (Dopamine) |  | 193 (181 to 208) |  |  | 5 |"
    assert lines[5] == "| qbert | Rainbow (Dopamine) |  | 199 (194 to 202) |  |  | 5 |"
    assert len(lines) == 6 and {line.count("|") for line in lines} == {8}


def test_a_table_tells_where_a_number_is_of_fewer_seeds_than_another():
    fewer = [row for row in rows() if (row.seed, row.metric) != (2, "exact_hit_rate")]
    line = table(fewer, REPORTS["atari_1m"]).splitlines()[2]
    assert line == "| qbert | MFEC | 2,000 ± 1,000 |  |  | 55.0 ± 7.1 % | 2 to 3 |"


def test_throughput_of_two_machines_is_not_averaged():
    speeds = [
        replace(ROW, metric="steps_per_second", value=value, machine=name) for name, value in (("a", 1), ("b", 3))
    ]
    lines = table(speeds, REPORTS["throughput"]).splitlines()
    assert [line.split("|")[2:4] for line in lines[2:]] == [[" MFEC (a) ", " 1.00 "], [" MFEC (b) ", " 3.00 "]]


@pytest.mark.parametrize(
    ("metric", "values", "text"),
    [
        ("return", [-20.5], "-20.5"),
        ("return", [1234567.0, 1234567.0], "1,234,567 ± 0"),
        ("eval_return", [0.951, 0.953], "0.95 ± 0.00"),
        ("share_update", [0.25], "25.0 %"),
        ("return", [], ""),
        ("test_nll_nats", [100.6374], "100.6"),
        ("test_nll_nats", [101.0, 103.0], "102.0 ± 1.4"),
    ],
)
def test_numbers_have_the_decimals_that_suit_their_size(metric, values, text):
    assert spread(metric, values) == text


def test_a_table_takes_the_place_of_the_one_before_and_of_nothing_else():
    page = "# A\n\n<!-- table:a -->\nold\n\n| x |\n<!-- /table -->\nb\n<!-- table:b -->\n<!-- /table -->\nend\n"
    once = put(page, "a", "| new \\1 |\n")
    assert once == page.replace("old\n\n| x |\n", "\n| new \\1 |\n\n")
    assert put(once, "a", "| new \\1 |\n") == once
    assert put(page, "b", "| y |\n") == page.replace("table:b -->\n", "table:b -->\n\n| y |\n\n")
    with pytest.raises(ValueError, match="table:c"):
        put(page, "c", "")


def test_published_returns_are_those_of_dopamine():
    ((dqn, mean, least, greatest, seeds), (rainbow, *_)) = dopamine("ms_pacman")
    assert (dqn, rainbow, seeds) == ("DQN", "Rainbow", 5)
    assert round(mean) == 387 and least < mean < greatest
    assert dopamine("no_such_game") == []


def test_figures_are_drawn_and_pages_brought_up_to_date(tmp_path):
    results.add(tmp_path / "atari_1m.csv", rows())
    page = tmp_path / "page.md"
    page.write_text("<!-- table:atari_1m -->\n<!-- /table -->\n")
    run(figures.main, "atari_1m", "--folder", tmp_path, "--pages", page)
    assert "2,000 ± 1,000" in page.read_text()
    for name in ("atari_1m.png", "atari_1m_exact_matches.png"):
        # A name that is not there, or an empty canvas, would be white all over.
        from matplotlib import image

        pixels = image.imread(tmp_path / name)
        assert np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0).shape[0] > 20
        assert (tmp_path / name).stat().st_size < 200_000


def test_trials_of_settings_stand_apart_from_the_presets(tmp_path):
    trial = replace(ROW, variant="two-games", value=77.0)
    results.add(tmp_path / "atari_1m.csv", [*rows(), trial])
    page = tmp_path / "page.md"
    page.write_text("".join(f"<!-- table:{name} -->\n<!-- /table -->\n" for name in ("atari_1m", "mfec_settings")))
    run(figures.main, "atari_1m", "mfec_settings", "--folder", tmp_path, "--pages", page)
    presets, settings = page.read_text().split("table:mfec_settings")
    assert "| MFEC |" in presets and "| NEC frozen-encoder |" in presets and "two-games" not in presets
    assert "| MFEC |" in settings and "| MFEC two-games | 77.0 |" in settings and "NEC" not in settings
    assert (tmp_path / "mfec_settings.png").is_file()


def test_without_names_all_that_there_are_tables_for_are_drawn(tmp_path):
    results.add(tmp_path / "atari_1m.csv", [row for row in rows() if row.agent == "nec"])
    results.add(tmp_path / "grid_world.csv", [replace(ROW, experiment="grid_world", world="empty")])
    run(figures.main, "--folder", tmp_path)
    assert {path.name for path in tmp_path.glob("*.png")} == {"grid_world.png"}


@pytest.mark.parametrize("experiment", ["no_such", "quickstart"])
def test_missing_results_are_told_in_one_line(tmp_path, capsys, experiment):
    assert repr(experiment) in complaint(figures.main, capsys, experiment, "--folder", tmp_path)


def test_variants_stand_in_the_order_of_their_groups_and_runs_that_diverged_are_counted():
    one = replace(ROW, agent="memory_classifier", world="mnist", steps=96_000)
    runs = [
        replace(one, variant=variant, seed=seed, metric=metric, value=value)
        for variant, accuracy, diverged in (("approximate", 0.5, 1.0), ("exact", 0.875, 0.0), ("frozen", 0.75, 0.0))
        for seed in (0, 1)
        for metric, value in (("validation_accuracy", accuracy), ("diverged", diverged * seed))
    ]
    lines = table(runs, REPORTS["credit_assignment"]).splitlines()
    cells = [[cell.strip() for cell in line.split("|")] for line in lines[2:]]
    assert [(row[2], row[3], row[9]) for row in cells] == [
        ("frozen", "75.0 ± 0.0 %", "0 of 2"),
        ("exact", "87.5 ± 0.0 %", "0 of 2"),
        ("approximate", "50.0 ± 0.0 %", "1 of 2"),
    ]


def test_every_variant_of_the_classifier_has_a_place_in_its_figure():
    for name, variants in (
        ("credit_assignment", credit_assignment.VARIANTS),
        ("equal_bytes", dict(equal_bytes.combinations())),
        ("freshening", freshening.VARIANTS),
    ):
        shown = {variant for _, group in REPORTS[name].groups for variant in group}
        assert variants.keys() <= shown


def test_a_variant_that_no_group_names_comes_after_those_that_are_named():
    changed = replace(ROW, agent="memory_classifier", world="mnist", metric="validation_accuracy", variant="exact+hot")
    lines = table([changed, replace(changed, variant="exact")], REPORTS["credit_assignment"]).splitlines()
    assert [line.split("|")[2].strip() for line in lines[2:]] == ["exact", "exact+hot"]
