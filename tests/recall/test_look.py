"""The terminal prints and draws what was recorded, and says what is there where something is not."""

from __future__ import annotations

from pathlib import Path

import cv2
import imageio.v2 as imageio
import numpy as np
import pytest

import recall.__main__
from recall.__main__ import main
from recall.panel import MEMORY_SIDE, WORLD_SIDE, panel
from recall.record import Recording, episodes_folder
from tests.recall.records import ACTIONS, SIDE, number_of, similar, write_episode, write_moments, write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_run(tmp_path / "run", 110, 200)
    return tmp_path / "run"


def test_the_episodes_of_a_run_are_listed(run, capsys):
    assert main([str(run)]) == 0
    printed = capsys.readouterr().out
    assert "training-000000110" in printed and "episode 1, from step 110" in printed and "episode 2, from" in printed


def test_a_step_is_printed_memory_by_memory_and_drawn(run, capsys, tmp_path):
    path = tmp_path / "panel.png"
    assert main([str(run), "--episode", "1", "--step", "2", "--panel", str(path)]) == 0
    printed = capsys.readouterr().out
    memories = Recording(run / "recalls").steps("training-000000200").lines[2]["memories"]
    for place in range(len(memories["origin"])):
        assert f" {memories['episode'][place]}:{memories['time'][place]} " in printed
        assert f" {memories['value'][place]:.3g} " in printed and f" {202 - memories['origin'][place]:,} " in printed
    assert printed.count("all others") == 3
    assert cv2.imread(str(path)).shape[0] > WORLD_SIDE


def test_an_episode_is_printed_step_by_step(run, capsys):
    assert main([str(run), "--episode", "0"]) == 0
    printed = capsys.readouterr().out
    lines = [line.split() for line in printed.splitlines()]
    assert [line[0] for line in lines if line and line[0].isdigit()] == [str(number) for number in range(30)]


def test_a_panel_shows_the_world_and_the_memories_of_the_action_taken(run):
    recording = Recording(run / "recalls")
    heading, line = recording.heading("training-000000110"), recording.steps("training-000000110").lines[3]
    picture = panel(recording, heading, line)
    world = recording.picture(heading.name, line["picture"])
    scale = WORLD_SIDE // world.shape[0]
    np.testing.assert_array_equal(picture[12 : 12 + WORLD_SIDE : scale, 12 : 12 + WORLD_SIDE : scale], world)
    of_action = [place for place, action in enumerate(line["memories"]["action"]) if action == line["action"]]
    assert len(of_action) == 2
    for column, place in enumerate(of_action):
        left = 24 + WORLD_SIDE + column * (MEMORY_SIDE + 12)
        shown = picture[30 : 30 + MEMORY_SIDE, left : left + MEMORY_SIDE]
        memory = recording.observation(line["memories"]["origin"][place])
        # Each pixel of the memory, enlarged, at its middle.
        middles = (np.arange(SIDE) * 2 + 1) * MEMORY_SIDE // (2 * SIDE)
        np.testing.assert_array_equal(shown[np.ix_(middles, middles)], memory)


@pytest.mark.parametrize("name", ["out.mp4", "out.gif"])
def test_a_video_has_a_picture_for_every_step(run, tmp_path, name):
    path = tmp_path / name
    assert main([str(run), "--episode", "0", "--video", str(path)]) == 0
    # Not by list(): a reader of films says that it has no end.
    widths = [picture.shape[1] for picture in imageio.get_reader(path)]
    assert len(widths) == 30 and widths[0] > WORLD_SIDE + 5 * MEMORY_SIDE


def test_a_film_that_came_to_nothing_takes_no_good_ones_place(run, tmp_path, capsys, monkeypatch):
    path = tmp_path / "out.mp4"
    path.write_bytes(b"a good film")

    def unreadable(path: Path) -> None:
        raise OSError("no such frames")

    monkeypatch.setattr(recall.__main__, "get_reader", unreadable)
    assert main([str(run), "--episode", "0", "--video", str(path)]) == 2
    assert "out.mp4 cannot be written: no such frames" in capsys.readouterr().err
    assert path.read_bytes() == b"a good film" and [one.name for one in tmp_path.glob("*.mp4")] == ["out.mp4"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--episode", "9" * 5_000], "there are episodes 0 to 1, or by their names (got 9"),
        (["--episode", "2"], "there are episodes 0 to 1, or by their names (got 2)"),
        (["--episode", "-1"], "there are episodes 0 to 1"),
        (["--episode", "0", "--step", "30"], "there are steps 0 to 29, and of this one is no record (got 30)"),
        (["--episode", "0", "--panel", "x.png"], "--panel needs --step"),
        (["--step", "3"], "need --episode"),
        (["--episode", "0", "--video", "out.avi"], ".mp4 or .gif"),
        (["--episode", "0", "--step", "1", "--panel", "no/such/folder.png"], "cannot be written"),
    ],
)
def test_what_is_not_there_is_answered_with_what_is(run, capsys, arguments, message):
    assert main([str(run), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_run_that_is_not_there_is_told_with_the_nearest(run, capsys):
    assert main([str(run.with_name(f"{run.name}x"))]) == 2
    error = capsys.readouterr().err
    assert error == f"error: no run at {run}x; did you mean {run.name}?\n"
    assert main([str(run), "--episod", "0"]) == 2
    assert capsys.readouterr().err == "error: unrecognized arguments: --episod 0; see --help\n"
    assert main([str(run), "--episode", "0", "--step", "1", "--panel", "picture.jpg"]) == 2
    assert "--panel: should be a file whose name ends in .png" in capsys.readouterr().err


def test_a_run_without_a_record_says_how_to_make_one(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "--steps_per_recording" in capsys.readouterr().err


def test_damage_is_told_of(run, capsys, tmp_path):
    path = episodes_folder(run / "recalls") / "training-000000110" / "steps.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"time":4,', b'"tim', 1))
    assert main([str(run), "--episode", "0"]) == 0
    assert "1 lines of training-000000110 cannot be read" in capsys.readouterr().err
    assert main([str(run), "--episode", "training-000000110", "--step", "4"]) == 2
    assert "of this one is no record" in capsys.readouterr().err
    (path.parent / "episode.json").write_text("{")
    assert main([str(run)]) == 0 and "is damaged" in capsys.readouterr().err
    assert main([str(run), "--episode", "0"]) == 2 and "is damaged" in capsys.readouterr().err


def test_a_step_that_nobody_looked_at(run, capsys, tmp_path):
    path = tmp_path / "panel.png"
    assert main([str(run), "--episode", "0", "--step", "9", "--panel", str(path)]) == 0
    assert "Nobody looked at this step" in capsys.readouterr().out and path.exists()


def test_reconstructions_take_the_place_of_what_is_no_longer_kept(tmp_path):
    name = write_episode(tmp_path, 110, 5)
    recording = Recording(tmp_path)
    heading, line = recording.heading(name), recording.steps(name).lines[0]
    without = panel(recording, heading, line)
    line["memories"]["reconstruction"] = [0] * len(line["memories"]["origin"])
    assert (panel(recording, heading, line) != without).any()


@pytest.fixture
def moments(tmp_path: Path) -> Path:
    write_moments(tmp_path / "maze" / "recalls", 110, 30, num_envs=4)
    write_moments(tmp_path / "maze" / "recalls", 200, 20, "evaluation")
    return tmp_path / "maze"


def test_moments_are_printed_step_by_step(moments, capsys):
    assert main([str(moments), "--episode", "0"]) == 0
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines() if line.split()[:1] and line.split()[0].isdigit()]
    assert len(rows) == 30 and "chance" in printed and "worth" not in printed
    for time, row in enumerate(rows):
        found = similar(time)
        if time % 10 != 9:
            assert row[2] == f"{100 * found.action_values[time % 3]:.3g}"
        if time and time % 10 != 9:
            assert row[-2:] == [str(time - found.ages[0]), f"{found.similarities[0]:.3g}"]


@pytest.mark.parametrize(("episode", "has_steps"), [("0", True), ("1", False)])
def test_the_moments_of_a_step_are_printed_and_drawn(moments, capsys, tmp_path, episode, has_steps):
    path = tmp_path / "panel.png"
    assert main([str(moments), "--episode", episode, "--step", "12", "--panel", str(path)]) == 0
    printed = capsys.readouterr().out
    found = similar(12)
    for action, chance in zip(ACTIONS, found.action_values, strict=True):
        assert f"{action} {100 * chance:.3g} %" in printed
    rows = [line.split() for line in printed.splitlines() if line.startswith((" 0.", " -0."))]
    for row, age, similarity, of_values in zip(
        rows, found.ages, found.similarities, found.value_similarities, strict=True
    ):
        # In training, four environments step at once.
        steps = [str(110 + (12 - age) * 4)] if has_steps else []
        assert row == [f"{similarity:.3g}", str(12 - age), str(age), *steps, f"{of_values:.3g}"]
    assert cv2.imread(str(path)).shape[0] > WORLD_SIDE


def test_a_panel_shows_the_moments_that_were_recalled(moments):
    recording = Recording(moments / "recalls")
    heading, line = recording.heading("training-000000110"), recording.steps("training-000000110").lines[12]
    picture = panel(recording, heading, line)
    scale = MEMORY_SIDE / SIDE
    for column, age in enumerate(similar(12).ages):
        left = 24 + WORLD_SIDE + column * (MEMORY_SIDE + 12)
        shown = picture[30 : 30 + MEMORY_SIDE, left : left + MEMORY_SIDE]
        middle = [round((place + 0.5) * scale) for place in range(2)]
        assert number_of(shown[np.ix_(middle[:1], middle)]) == 110 + 12 - age
