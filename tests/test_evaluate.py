"""The command line of evaluate.py, from end to end, on runs that train.py just did."""

from __future__ import annotations

import errno
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from imageio.v2 import get_reader
from programs import CONFIGS, complaint, only_run, run

import envs
import evaluate
import train
from recall.record import Recording


@pytest.fixture(scope="module")
def grid_run(tmp_path_factory):
    """MFEC in an empty room, with two checkpoints."""
    root = tmp_path_factory.mktemp("grid")
    options = ["--env.max_steps", 30, "--steps", 400, "--steps_per_checkpoint", 200, "--keep_checkpoints", 2]
    run(train.main, CONFIGS / "grid_world_mfec.yaml", *options, "--threads", 1, "--runs", root)
    return only_run(root)


@pytest.fixture(scope="module")
def atari_run(tmp_path_factory):
    """Neural Episodic Control on Breakout; a lost life ends the learner's episode."""
    root = tmp_path_factory.mktemp("atari")
    options = ["--env.game", "breakout", "--env.life_loss_ends_episode", "True", "--num_envs", 2, "--steps", 300]
    run(train.main, CONFIGS / "atari_nec.yaml", *options, "--threads", 1, "--runs", root)
    return only_run(root)


@pytest.fixture
def copied(grid_run, tmp_path):
    """A run that a test may damage."""
    return shutil.copytree(grid_run, tmp_path / "copied")


def evaluation_of(path: Path, *options: object) -> dict:
    """Evaluate a run, and read the one evaluation that this adds."""
    before = set(path.glob("evaluations/*"))
    run(evaluate.main, path, "--threads", 1, *options)
    (added,) = set(path.glob("evaluations/*")) - before
    return json.loads(added.read_text())


def edit_config(path: Path, room: str, **changes: object) -> None:
    config = yaml.safe_load((path / "config.yaml").read_text())
    config[room] |= changes
    (path / "config.yaml").write_text(yaml.safe_dump(config))


def test_atari_games_and_their_video(atari_run, tmp_path, capsys):
    video = tmp_path / "game.mp4"
    capsys.readouterr()
    result = evaluation_of(atari_run, "--games", 2, "--max_frames", 200, "--no_op_max", 7, "--video", video)
    output = capsys.readouterr().out

    assert (result["agent"], result["world"], result["checkpoint_step"]) == ("nec", "breakout", 300)
    assert len(result["scores"]) == len(result["lengths"]) == len(set(result["game_seeds"])) == 2
    # 200 frames, less the no-ops at the beginning, are at most 50 steps; no five lives are lost in them.
    assert all(48 <= length <= 50 for length in result["lengths"])
    world = result["protocol"]["env"]
    assert (world["no_op_max"], world["sticky_actions"], world["max_frames_per_episode"]) == (7, 0.0, 200)
    assert world["life_loss_ends_episode"] is False
    assert (result["random_score"], result["human_score"]) == (1.7, 30.5)
    assert result["human_normalised"] == pytest.approx((np.mean(result["scores"]) - 1.7) / (30.5 - 1.7))
    assert f"mean                {np.mean(result['scores']):.6g}\n" in output
    assert "2 whole games, seed 0, epsilon 0.001, 0 to 7 no-op frames, sticky actions 0, at most 200 frames" in output

    reader = get_reader(video)
    details = reader.get_meta_data()
    assert (details["codec"], details["fps"], details["size"]) == ("h264", 15.0, (160, 210))
    assert details["pix_fmt"].startswith("yuv420p")
    pictures = [np.asarray(picture, dtype=np.float64) for picture in reader]
    assert len(pictures) == 1 + result["lengths"][0]
    screens = envs.screens(envs.AtariConfig(game="breakout", no_op_max=7))
    first = screens.reset(result["game_seeds"][0]).astype(np.float64)
    screens.close()
    assert np.abs(pictures[0] - first).mean() < 3 < np.abs(pictures[0] - first.mean(axis=(0, 1))).mean()
    assert list(tmp_path.iterdir()) == [video]


def test_the_figures_are_those_of_the_games(grid_run, capsys):
    capsys.readouterr()
    result = evaluation_of(grid_run, "--games", 12, "--num_envs", 5, "--max_frames", 40, "--epsilon", 0.5)
    lengths, games = np.array(result["lengths"]), np.array(result["scores"])
    assert len(games) == 12 and lengths.max() <= 40
    # MiniGrid's own rule: what is left of the time, if the goal was reached before it was up.
    expected = np.where((games > 0) | (lengths < 40), 1 - 0.9 * lengths / 40, 0.0)
    np.testing.assert_allclose(games, expected)
    figures = [games.mean(), np.median(games), games.std(), games.min(), games.max()]
    names = ["mean", "median", "standard_deviation", "min", "max"]
    assert [result[name] for name in names] == pytest.approx(figures)
    assert (result["human_score"], result["human_normalised"]) == (None, None)
    printed = dict(re.findall(r"^(\S.{18}) (\S+)$", capsys.readouterr().out, re.MULTILINE))
    printed = {name.strip(): value for name, value in printed.items()}
    assert [float(printed[name.replace("_", " ")]) for name in names] == pytest.approx(figures, rel=1e-5)
    assert float(printed["random score"]) == pytest.approx(result["random_score"], rel=1e-5)


def test_an_evaluation_can_be_repeated_and_leaves_the_run_as_it_was(grid_run):
    def content() -> dict[Path, bytes]:
        files = [path for path in grid_run.rglob("*") if path.is_file() and path.parent.name != "evaluations"]
        return {path: path.read_bytes() for path in files}

    before = content()
    first, again, longer, other = (
        evaluation_of(grid_run, "--games", games, "--seed", seed) for games, seed in ((3, 1), (3, 1), (4, 1), (3, 2))
    )
    assert content() == before
    assert (first["scores"], first["lengths"]) == (again["scores"], again["lengths"])
    assert longer["game_seeds"][:3] == first["game_seeds"]
    assert not set(first["game_seeds"]) & set(other["game_seeds"])


def test_grid_world_video(grid_run, tmp_path):
    result = evaluation_of(grid_run, "--games", 1, "--max_frames", 5, "--video", tmp_path / "game.mp4")
    pictures = [np.asarray(picture) for picture in get_reader(tmp_path / "game.mp4")]
    assert len(pictures) == 1 + result["lengths"][0]
    assert pictures[0].shape == (256, 256, 3)


@pytest.mark.parametrize(
    ("world", "length", "size"),
    [
        ({"name": "hidden_goal_maze", "size": 5, "steps_per_episode": 20}, 20, (160, 160)),
        ({"name": "t_maze", "length": 5}, 6, (32, 96)),
        ({"name": "memory_chain", "length": 7, "bits": 2}, 7, (128, 64)),
    ],
    ids=lambda case: case["name"] if isinstance(case, dict) else "",
)
def test_worlds_that_need_memory_are_trained_in_evaluated_recorded_and_filmed(world, length, size, tmp_path):
    preset = tmp_path / "preset.yaml"
    preset.write_text(yaml.safe_dump({"env": world, "agent": {"name": "mfec"}, "num_envs": 3, "steps": 150}))
    recorded = ["--steps_per_recording", 30, "--recording_percent", 100]
    run(train.main, preset, "--threads", 1, *recorded, "--runs", tmp_path / "runs")
    path = only_run(tmp_path / "runs")
    run(train.main, "--resume", path, "--steps", 300)
    result = evaluation_of(path, "--games", 4, "--record", 1, "--video", tmp_path / "game.mp4")
    assert result["lengths"] == [length] * 4
    pictures = [np.asarray(picture) for picture in get_reader(tmp_path / "game.mp4")]
    assert len(pictures) == length + 1 and pictures[0].shape == (*size, 3)
    recording = Recording(path / "recalls")
    assert {name.split("-")[0] for name in recording.names()} == {"training", "evaluation"}
    row = json.loads((path / "metrics.jsonl").read_text().splitlines()[-1])
    assert ("charts/oracle_share" in row) == (world["name"] == "hidden_goal_maze")


def test_a_world_whose_episodes_have_a_length_of_their_own_takes_no_other(tmp_path, capsys):
    run(train.main, CONFIGS / "grid_world_random.yaml", "--steps", 4, "--runs", tmp_path)
    path = only_run(tmp_path)
    (path / "config.yaml").write_text(yaml.safe_dump({"env": {"name": "t_maze"}, "agent": {"name": "random"}}))
    error = complaint(evaluate.main, capsys, path, "--max_frames", 9)
    assert "--max_frames: there is no such option for TMaze-50, its episodes have a length of their own" in error


def test_an_agent_that_remembers_in_its_state_is_evaluated_and_filmed(tmp_path, capsys):
    options = ["--env.max_steps", 30, "--num_envs", 8, "--steps", 512, "--threads", 1]
    options += ["--agent.rollout", 32, "--agent.truncation", 32]
    run(train.main, CONFIGS / "minigrid_memory_gru.yaml", *options, "--runs", tmp_path / "runs")
    path = only_run(tmp_path / "runs")
    video = tmp_path / "game.mp4"
    result, again, alone = (
        evaluation_of(path, "--games", 3, "--num_envs", num_envs, "--video", video) for num_envs in (3, 3, 1)
    )
    assert (result["agent"], result["world"]) == ("recurrent_ppo", "MiniGrid-MemoryS9-v0")
    assert (result["scores"], result["lengths"]) == (again["scores"], again["lengths"])
    assert alone["game_seeds"] == result["game_seeds"]
    assert sum(1 for _ in get_reader(video)) == 1 + alone["lengths"][0]
    assert "a recurrent_ppo agent has no memories" in complaint(evaluate.main, capsys, path, "--record", 1)


def test_an_agent_over_a_memory_that_is_a_function_is_recorded_in_training_and_in_its_own_games(tmp_path):
    options = ["--env.size", 5, "--env.steps_per_episode", 20, "--num_envs", 4, "--steps", 400, "--agent.rollout", 20]
    options += ["--agent.minibatches", 4]
    options += ["--agent.core.hidden", 8, "--agent.core.width", 4, "--agent.core.memory_hidden", 6, "--threads", 1]
    recorded = ["--steps_per_recording", 80, "--recording_percent", 100, "--steps_per_picture", 100]
    run(train.main, CONFIGS / "hidden_goal_maze_mnm.yaml", *options, *recorded, "--runs", tmp_path)
    path = only_run(tmp_path)
    result = evaluation_of(path, "--games", 3, "--record", 2, "--num_envs", 2)
    recording = Recording(path / "recalls")
    assert [name.split("-")[0] for name in recording.names()][-3:] == ["training", "evaluation", "evaluation"]
    for name in recording.names():
        heading, steps = recording.heading(name), recording.steps(name)
        # The last of the training had only just begun.
        assert heading.length == len(steps.lines) and not steps.damaged
        assert heading.length == 20 or (heading.kind, heading.step) == ("training", 401)
        for line in steps.lines:
            assert sum(line["values"]) == pytest.approx(1.0, abs=1e-4)
            times = line["memories"]["time"]
            assert len(times) == len(set(times)) == min(5, line["time"])
            # Of another episode there is none, and every moment is shown by the picture of its own step.
            assert line["memories"]["picture"] == [steps.lines[time]["picture"] for time in times]
        if heading.kind == "evaluation":
            assert heading.total == result["scores"][heading.number]


def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(copied, capsys):
    (copied / "checkpoints" / "step_000000400" / "tree.json").write_text("{}")
    assert evaluation_of(copied, "--games", 1)["checkpoint_step"] == 200
    error = capsys.readouterr().err
    assert error.startswith("warning: checkpoint ") and "step_000000400 is damaged" in error
    assert error.count("\n") == 1

    (copied / "checkpoints" / "step_000000200" / "tensors.safetensors").unlink()
    assert "no good checkpoint in " in complaint(evaluate.main, capsys, copied)


def test_a_run_without_a_checkpoint_is_refused(copied, capsys):
    shutil.rmtree(copied / "checkpoints")
    assert complaint(evaluate.main, capsys, copied).endswith(
        f"no good checkpoint in {copied}/checkpoints: it holds none; "
        f"to train it anew: python train.py {copied}/config.yaml\n"
    )


def test_scores_that_cannot_be_written_are_printed_and_a_failure(grid_run, capsys, monkeypatch):
    def full(path: Path, content: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(evaluate, "write_json", full)
    with pytest.raises(SystemExit) as stop:
        run(evaluate.main, grid_run, "--threads", 1, "--games", 2, "--max_frames", 5)
    output = capsys.readouterr()
    assert stop.value.code == 1 and "error: the scores could not be written: [Errno 28]" in output.err
    assert re.search(r"^mean +\S+$", output.out, re.MULTILINE) and not re.search(r"^scores ", output.out, re.MULTILINE)


def test_a_missing_run_is_refused_with_the_nearest(copied, capsys):
    error = complaint(evaluate.main, capsys, copied.parent / "copeid")
    assert error == f"error: no run at {copied.parent}/copeid; nearest in {copied.parent}: copied\n"
    assert "is not a run (no config.yaml)" in complaint(evaluate.main, capsys, copied / "checkpoints")
    assert "the run comes first" in complaint(evaluate.main, capsys, "--games", 3, copied)


def test_a_run_whose_configuration_is_damaged_is_refused(copied, capsys):
    edit_config(copied, "agent", neighbors=3)
    assert "config.yaml: unknown option agent.neighbors; did you mean neighbours?" in complaint(
        evaluate.main, capsys, copied
    )
    (copied / "config.yaml").write_text("env: [")
    assert "config.yaml cannot be read as YAML" in complaint(evaluate.main, capsys, copied)


def test_a_checkpoint_of_another_agent_or_world_is_refused(copied, atari_run, capsys):
    room = "MiniGrid-Empty-8x8-v0"
    shutil.copy(atari_run / "config.yaml", copied / "config.yaml")
    error = complaint(evaluate.main, capsys, copied)
    assert f"the checkpoint in {copied} is not of a nec agent on breakout but of a mfec agent on {room}; put" in error


@pytest.mark.parametrize(
    ("room", "changes"),
    [
        ("agent", {"key_size": 32}),
        ("agent", {"capacity": 100}),
        ("agent", {"eviction": "fifo"}),
        ("agent", {"discount": 0.5}),
        ("env", {"observation": "symbolic"}),
        ("env", {"view": "partial"}),
        ("env", {"layouts": 3}),
    ],
)
def test_a_checkpoint_that_does_not_fit_the_options_is_refused(room, changes, copied, capsys):
    edit_config(copied, room, **changes)
    error = complaint(evaluate.main, capsys, copied)
    (changed,) = changes
    assert f"the checkpoint in {copied} is not of its config.yaml: --{room}.{changed} (" in error
    assert len(error) < 600


@pytest.mark.parametrize(
    ("options", "mend"),
    [
        (["--games", 0], "--games: should be greater than or equal to 1 (got 0)"),
        (["--epsilon", 1.5], "--epsilon: should be less than or equal to 1 (got 1.5)"),
        (["--max_frames", 0], "--max_frames: should be greater than or equal to 1 (got 0)"),
        (["--sticky_actions", 0.25], "no such option for MiniGrid-Empty-8x8-v0, only Atari games have it; leave it"),
        (["--no_op_max", 3], "--no_op_max: there is no such option"),
        (["--no_op_max", "few"], "--no_op_max: should be INT or None (got 'few')"),
        (["--game", 3], "unrecognized option --game; did you mean --games?"),
        (["--video", "game.gif"], "--video: should be a file whose name ends in .mp4 (got 'game.gif')"),
        (["--video", "no_such_folder/game.mp4"], "--video: no_such_folder/game.mp4 cannot be written: No such file"),
    ],
)
def test_a_wrong_option_is_refused_before_any_game(options, mend, grid_run, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "play_games", None)
    assert mend in complaint(evaluate.main, capsys, grid_run, *options)


def test_a_device_that_is_not_there_is_refused(grid_run, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "use --device cpu" in complaint(evaluate.main, capsys, grid_run, "--device", "cuda")


def test_help_needs_no_run_and_with_one_shows_its_protocol(atari_run, capsys):
    run(evaluate.main, "--help")
    output = capsys.readouterr().out
    options = re.findall(r"^  --(\w+) .*\n      (\w+)", output, re.MULTILINE)
    assert [name for name, _ in options] == list(evaluate.EvaluationConfig.model_fields)
    assert "None" not in [word for _, word in options]
    with pytest.raises(SystemExit) as stop:
        run(evaluate.main, atari_run, "--help")
    assert not stop.value.code
    assert re.search(r"--max_frames .*108000", " ".join(capsys.readouterr().out.split()))


def test_what_was_remembered_in_the_games_is_recorded(copied, capsys):
    evaluation = evaluation_of(copied, "--games", 4, "--record", 2, "--recorded_memories", 3)
    recording = Recording(copied / "recalls")
    names = [name for name in recording.names() if name.startswith("evaluation")]
    headings = [recording.heading(name) for name in names]
    assert [heading.step for heading in headings] == [400, 400]
    assert [heading.total for heading in headings] == pytest.approx(evaluation["scores"][:2])
    assert [heading.length for heading in headings] == evaluation["lengths"][:2]
    for name in names:
        lines = recording.steps(name).lines
        assert all(line["memories"] is not None and line["step"] is None for line in lines)
        # The training tells which episode a memory is of.
        assert all(isinstance(episode, int) for line in lines for episode in line["memories"]["episode"])
        # What has too few memories is worth trying at any price, which JSON has no number for.
        values = [[np.inf if value is None else value for value in line["values"]] for line in lines]
        acted = [value[line["action"]] for value, line in zip(values, lines, strict=True)]
        assert np.mean(np.isclose(np.max(values, axis=1), acted)) > 0.9


def test_an_agent_without_memories_has_none_to_record(tmp_path, capsys):
    run(train.main, CONFIGS / "grid_world_random.yaml", "--steps", 40, "--runs", tmp_path)
    error = complaint(evaluate.main, capsys, only_run(tmp_path), "--games", 1, "--record", 1)
    assert "--record" in error and "random" in error
