"""The command line of train.py, from end to end."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
import torch
import yaml
from programs import CONFIGS, ROOT, complaint, only_run, run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import assembly
import train
from recall.record import Recording
from tests.digits import make_digits
from training import checkpoint
from training.command_line import load_yaml

PRESET = CONFIGS / "grid_world_mfec.yaml"


@pytest.mark.parametrize("agent", ["random", "mfec", "nec", "rec", "dqn", "recurrent_ppo"])
def test_a_run_leaves_all_it_promises(agent, tmp_path, capsys):
    preset = CONFIGS / f"grid_world_{agent}.yaml"
    arguments = ["--env.max_steps", 15, "--steps", 200, "--steps_per_log", 60, "--threads", 1, "--runs", tmp_path]
    run(train.main, preset, *arguments, "--seed", 3, "--num_envs", 4)
    output = capsys.readouterr().out.strip().split("\n")
    path = only_run(tmp_path)
    assert path.name.startswith(f"grid_world_{agent}__seed3__")

    asked = yaml.safe_load(preset.read_text())
    asked["env"]["max_steps"] = 15
    asked |= {"steps": 200, "steps_per_log": 60, "threads": 1, "runs": str(tmp_path), "seed": 3, "num_envs": 4}
    assert load_yaml(assembly.RunConfig, path / "config.yaml") == assembly.RunConfig.model_validate(asked)

    versions = json.loads((path / "versions.json").read_text())
    assert versions["torch"] == torch.__version__
    assert versions["command"][1:3] == [str(preset), "--env.max_steps"]

    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows]
    assert steps == sorted(set(steps)) and steps[-1] == 200 and len(steps) == 4
    board = EventAccumulator(str(path / "tensorboard")).Reload()
    for tag in ("charts/steps_per_second", "charts/episodic_return"):
        assert [event.step for event in board.Scalars(tag)] == [row["step"] for row in rows if tag in row]

    step, state = checkpoint.load(path / "checkpoints")
    assert (step, state["agent_name"], state["world"]) == (200, agent, "MiniGrid-Empty-8x8-v0")

    result = json.loads((path / "result.json").read_text())
    assert result["steps"] == result["frames"] == 200
    # Four environments, 50 steps each: at least three episodes of at most 15 end in each.
    assert result["episodes"] >= 12
    assert result["episodes_averaged"] == min(20, result["episodes"])
    last = output[-1]
    assert f"{agent.upper()} on MiniGrid-Empty-8x8-v0" in last
    assert f"return of the last {result['episodes_averaged']} episodes {result['return_last_episodes']:.6g} " in last
    assert f"random play {result['random_score']:.6g})" in last
    assert f"Run: {path}." in last and last.endswith(f"tensorboard --logdir {tmp_path}")


@pytest.mark.parametrize("agent", ["mfec", "nec", "rec", "dqn"])
def test_what_was_remembered_is_recorded(agent, tmp_path):
    options = ["--env.max_steps", 15, "--env.observation", "pixels", "--steps", 600, "--steps_per_picture", 300]
    recording = ["--steps_per_recording", 100, "--recording_percent", 100, "--recorded_memories", 3]
    run(train.main, CONFIGS / f"grid_world_{agent}.yaml", *options, *recording, "--threads", 1, "--runs", tmp_path)
    path = only_run(tmp_path)
    found = Recording(path / "recalls")
    if agent == "dqn":
        assert not found.recalls.exists()
        return
    headings = [found.heading(name) for name in found.names()]
    assert len(headings) >= 4 and all(heading.length for heading in headings[:-1])
    assert headings[0].actions[:3] == ["left", "right", "forward"] and headings[0].world == "MiniGrid-Empty-8x8-v0"
    lines = [line for heading in headings for line in found.steps(heading.name).lines]
    most = [max(map(line["memories"]["action"].count, line["memories"]["action"]), default=0) for line in lines]
    assert set(most) <= {0, 1, 2, 3} and max(most) == 3
    origins = {origin for line in lines for origin in line["memories"]["origin"]}
    assert all(found.observation(origin) is not None for origin in origins)
    board = EventAccumulator(str(path / "tensorboard"), size_guidance={"histograms": 0}).Reload()
    assert [event.step for event in board.Images("recall/panel")] == [300, 600]
    assert [event.step for event in board.Histograms("recall/age")] == [300, 600]
    assert (path / "tensorboard" / "00600" / "memories" / "sprite.png").exists()


def test_nothing_is_recorded_where_nothing_is_wanted(tmp_path):
    options = ["--env.max_steps", 15, "--steps", 200, "--steps_per_recording", 0, "--threads", 1, "--runs", tmp_path]
    run(train.main, PRESET, *options)
    assert not (only_run(tmp_path) / "recalls").exists()


def test_a_resumed_run_goes_on_with_its_record(tmp_path):
    options = ["--env.max_steps", 15, "--env.observation", "pixels", "--steps_per_recording", 100]
    options += ["--recording_percent", 100, "--threads", 1]
    run(train.main, PRESET, *options, "--steps", 800, "--runs", tmp_path / "whole")
    run(train.main, PRESET, *options, "--steps", 400, "--runs", tmp_path / "parts")
    path = only_run(tmp_path / "parts")
    run(train.main, "--resume", path, "--steps", 800)
    whole, parts = Recording(only_run(tmp_path / "whole") / "recalls"), Recording(path / "recalls")
    later = [name for name in whole.names() if int(name.split("-")[1]) > 400]
    assert len(later) >= 2 and set(later) <= set(parts.names())
    for name in later:
        assert parts.steps(name) == whole.steps(name)
    assert all((parts.observation(step) == whole.observation(step)).all() for step in range(1, 801))


@pytest.mark.parametrize("first", [0, 100])
def test_a_record_that_is_begun_later_tells_nothing_of_before(first, tmp_path):
    """Recording may be switched on, or off and on again, by a resume: steps and episodes keep their numbers."""
    options = ["--env.max_steps", 15, "--env.observation", "pixels", "--recording_percent", 100, "--threads", 1]
    begun = ["--steps", 400, "--runs", tmp_path / "parts", "--steps_per_recording", first]
    run(train.main, PRESET, *options, *begun)
    path = only_run(tmp_path / "parts")
    if first:
        run(train.main, "--resume", path, "--steps", 600, "--steps_per_recording", 0)
    run(train.main, "--resume", path, "--steps", 1_200, "--steps_per_recording", 100)
    run(train.main, PRESET, *options, "--steps", 1_200, "--runs", tmp_path / "whole", "--steps_per_recording", 100)
    whole, parts = Recording(only_run(tmp_path / "whole") / "recalls"), Recording(path / "recalls")
    last = 600 if first else 400
    later = [name for name in parts.names() if int(name.split("-")[1]) > last]
    assert later and set(later) <= set(whole.names())
    known = 0
    for name in later:
        assert parts.heading(name).title == whole.heading(name).title
        for mine, its in zip(parts.steps(name).lines, whole.steps(name).lines, strict=True):
            assert (mine["step"], mine["action"]) == (its["step"], its["action"])
            told, true = ({**line["memories"]} for line in (mine, its))
            for place, (episode, origin) in enumerate(zip(told["episode"], told["origin"], strict=True)):
                assert episode in (None, true["episode"][place])
                assert episode is None or origin > last
                known += episode is not None
    assert known


def test_pictures_are_shown_at_their_beat(tmp_path):
    preset = CONFIGS / "mnist_memory_classifier.yaml"
    arguments = ["--env.dataset", make_digits(tmp_path), "--steps", 320, "--threads", 1, "--runs", tmp_path / "runs"]
    run(train.main, preset, *arguments, "--steps_per_picture", 100)
    board = EventAccumulator(str(only_run(tmp_path / "runs") / "tensorboard")).Reload()
    assert [event.step for event in board.Images("recall/reconstructions")] == [128, 224, 320]


def test_random_play_ends_where_it_is_told_to():
    options = {"env": {"name": "memory_chain", "length": 3}, "agent": {"name": "random"}}
    config = assembly.RunConfig.model_validate(options)
    # Twenty episodes of three steps; too few say little, and no score is made of them.
    for asked, is_played in (([False] * 100, True), ([False] * 50 + [True], False), ([True], False)):
        answers = iter(asked)
        assert (assembly.random_score(config, lambda: next(answers)) is not None) == is_played  # noqa: B023


def test_the_random_score_is_the_published_one_or_else_played():
    def score(**env: object) -> float:
        return assembly.random_score(assembly.RunConfig.model_validate({"env": env, "agent": {"name": "random"}}))

    assert score(name="atari", game="ms_pacman") == 307.3
    # Not one of the 57: twenty episodes of at most two steps, too few to score in.
    assert score(name="atari", game="adventure", max_frames_per_episode=8) == 0.0


@pytest.mark.parametrize(
    ("arguments", "mend"),
    [
        (["--env.id", "MiniGrid-Empty-8x8"], "--env.id: no grid world is called 'MiniGrid-Empty-8x8'; nearest: "),
        (["--agent.neighbors", "3"], "unrecognized option --agent.neighbors; did you mean --agent.neighbours?"),
        (["--agent.neighbors=3"], "unrecognized option --agent.neighbors; did you mean --agent.neighbours?"),
        (["--neighbours", "3"], "unrecognized option --neighbours; did you mean --agent.neighbours?"),
        (["--zzz", "3"], "unrecognized option --zzz; see --help"),
        (["extra"], "unrecognized options: extra"),
        (["--agent.neighbours", "0"], "--agent.neighbours: should be greater than or equal to 1 (got 0)"),
        (["--agent.epsilon", "2"], "--agent.epsilon: should be less than or equal to 1 (got 2.0)"),
        (["--steps", "-5"], "--steps: should be greater than or equal to 1 (got -5)"),
        (["--steps", "many"], "--steps: should be a whole number (got 'many')"),
        (["--agent.discount", "high"], "--agent.discount: should be a number (got 'high')"),
        (["--env.max_steps", "x"], "--env.max_steps: should be INT or None (got 'x')"),
        (["--agent.eviction", "lfu"], "invalid choice 'lfu' for argument '--agent.eviction'. Expected one of ('lru'"),
        (["--steps"], "missing value for argument '--steps'"),
    ],
)
def test_a_wrong_override_is_refused_in_one_line(arguments, mend, capsys):
    assert mend in complaint(train.main, capsys, PRESET, *arguments)


def test_a_run_does_not_learn_what_it_is_tested_on(capsys):
    error = complaint(train.main, capsys, CONFIGS / "babi_lstm.yaml", "--env.split", "test")
    assert "env.split is test: a run would learn what it is to be tested on; it must be train" in error


def test_memory_forcing_of_sequences_of_many_lengths_is_refused_before_any_is_learned(tmp_path, capsys):
    options = ["--agent.forcing", "memory", "--runs", tmp_path]
    error = complaint(train.main, capsys, CONFIGS / "copy_dnc.yaml", *options)
    assert "agent: --agent.forcing memory compares memories of sequences of one length" in error


def test_a_core_is_chosen_by_name_and_keeps_what_both_have(tmp_path):
    options = ["--agent.core.name=ntm", "--agent.core.slots", 8, "--agent.core.read-heads", 2, "--agent.rollout", 32]
    options += ["--agent.truncation", 32]
    preset = CONFIGS / "minigrid_memory_gru.yaml"
    run(train.main, preset, *options, "--steps", 64, "--num_envs", 8, "--threads", 1, "--runs", tmp_path)
    core = load_yaml(assembly.RunConfig, only_run(tmp_path) / "config.yaml").agent.core
    of_preset = load_yaml(assembly.RunConfig, preset).agent.core
    assert (core.name, core.slots, core.read_heads, core.hidden) == ("ntm", 8, 2, of_preset.hidden)


@pytest.mark.parametrize(
    ("arguments", "mend"),
    [
        (
            ["--agent.core.name", "dnd"],
            "--agent.core.name: should be one of 'gru', 'lstm', 'none', 'ntm', 'dnc', 'mnm' (got",
        ),
        (["--agent.core.name"], "missing value for argument '--agent.core.name'"),
        (["--agent.core.slots", "8"], "unrecognized option --agent.core.slots; did you mean"),
        (["--agent.core.name", "dnc", "--agent.core.slot", "8"], "did you mean --agent.core.slots?"),
        (
            ["--agent.core.name", "dnc", "--agent.core.slots", "0"],
            "--agent.core.slots: should be greater than or equal",
        ),
        (["--agent.core.hidden", "0"], "--agent.core.hidden: should be greater than or equal to 1 (got 0)"),
        (["--agent.truncation", "7"], "rollout must be a multiple of truncation, got 256 and 7"),
        (["--agent.minibatches", "129"], "agent: minibatches must be at most 64, the sequences in a rollout of 256"),
        (["--agent.name", "dqn"], "invalid choice 'dqn' for argument '--agent.name'"),
    ],
)
def test_a_wrong_core_is_refused_in_one_line(arguments, mend, tmp_path, capsys):
    preset = CONFIGS / "minigrid_memory_gru.yaml"
    assert mend in complaint(train.main, capsys, preset, *arguments, "--runs", tmp_path)


def test_an_unknown_game_is_refused_with_the_nearest(capsys):
    error = complaint(train.main, capsys, CONFIGS / "quickstart.yaml", "--env.game", "mspacman")
    assert error.startswith("error: --env.game: no Atari game is called 'mspacman'; nearest: ms_pacman")


@pytest.mark.parametrize(
    ("content", "mend"),
    [
        ("env: [", "preset.yaml cannot be read as YAML: "),
        ("", "preset.yaml should hold options by name, env, agent, seed, "),
        ("env: {name: atari}\nsteps: 5\nsteps: 7", "steps is given twice, again in line 3"),
        ("seed: 2001-99-99", "preset.yaml cannot be read as YAML: month must be in 1..12"),
        ("env: " + 5_000 * "[", "preset.yaml cannot be read as YAML: maximum recursion depth"),
        ("env: {name: atari}", "preset.yaml: agent is missing"),
        (
            "env: {name: atari}\nagent: {name: mfecc}",
            "agent.name: should be one of 'random', 'mfec', 'nec', 'rec', 'dqn', 'recurrent_ppo', 'memory_classifier'",
        ),
        ("env: {name: atari}\nagent: {key_size: 8}", "preset.yaml: agent.name is missing"),
        ("env: {name: atari}\nagent: {name: mfec, neighbors: 3}", "option agent.neighbors; did you mean neighbours?"),
        ("env: {name: atari}\nagent: {name: mfec}\nstep: 3", "unknown option step; did you mean steps?"),
        ("env: {name: atari}\nagent: {name: mfec, n_step: 3}", "unknown option agent.n_step; there are name, key_size"),
        (
            "env: {name: atari}\nagent: {name: nec, n_step: 0}",
            "agent.n_step: should be greater than or equal to 1 (got",
        ),
        (
            "env: {name: atari, game: Q*bert}\nagent: {name: nec}",
            "env.game: no Atari game is called 'Q*bert'; nearest: q",
        ),
    ],
)
def test_a_wrong_preset_is_refused_in_one_line(content, mend, tmp_path, capsys):
    preset = tmp_path / "preset.yaml"
    preset.write_text(content)
    assert mend in complaint(train.main, capsys, preset)


def test_a_missing_preset_is_refused_with_the_nearest(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    error = complaint(train.main, capsys, "configs/atari_mfe.yaml")
    assert error == "error: no preset 'configs/atari_mfe.yaml'; did you mean configs/atari_mfec.yaml?\n"
    assert "; did you mean configs/atari_mfec.yaml?" in complaint(train.main, capsys, "atari_mfec")
    assert "; there are configs/associative_recall_dnc.yaml, " in complaint(train.main, capsys, "xyz")
    assert "the preset comes first" in complaint(train.main, capsys, "--steps", "3", PRESET)


def test_what_this_machine_cannot_do_is_refused_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "use --device cpu" in complaint(train.main, capsys, PRESET, "--device", "cuda")
    (tmp_path / "file").touch()
    assert f"--runs: no run can be made in {tmp_path}/file" in complaint(
        train.main, capsys, PRESET, "--runs", tmp_path / "file"
    )


def test_help_tells_what_every_option_is_for(capsys):
    run(train.main, "--help")
    options = re.findall(r"^  (--\S+) (.*)\n      (.*)$", capsys.readouterr().out, re.MULTILINE)
    help_of = {name: (kind, text) for name, kind, text in options}
    assert {"--seed", "--env.game", "--env.tile_size", "--agent.kernel_delta", "--agent.double"} <= set(help_of)
    assert not [name for name, (_, text) in help_of.items() if text.startswith(("None", " "))]
    assert help_of["--env.frame_stack"][0] == "INT [>= 1, <= 4]"

    with pytest.raises(SystemExit) as stop:
        run(train.main, PRESET, "--help")
    assert not stop.value.code
    assert "--agent.key_size INT" in capsys.readouterr().out


def test_a_reader_that_leaves_early_is_no_error():
    process = subprocess.Popen(
        [sys.executable, "train.py", "--help"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 1
