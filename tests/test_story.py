"""The command line of story.py, on a run that train.py just did: what it answers and shows is the model's own."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from programs import CONFIGS, complaint, only_run, run

import story
import train
from agents.similarity_pictures import WORD_CELL
from envs.babi_stories import WORDS, encode
from envs.mnist import DATA_VARIABLE
from tests.envs.babi_data import write
from tests.memory.test_recollecting import likeness

STORY = "Mary moved to the bathroom. John went to the hallway. Where is Mary? Daniel left. Where is John? -"


@pytest.fixture(scope="module", params=[0, 2])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few updates without thinking steps, and one with two, whose data are then no longer there."""
    data, root = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("runs")
    write(data)
    options = ["--env.tasks", "1", "--env.thinking_steps", request.param, "--num_envs", 2, "--steps", 3]
    options += ["--agent.hidden", 8, "--agent.compiled", 0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(DATA_VARIABLE, str(data))
        run(train.main, CONFIGS / "babi_mnm.yaml", *options, "--runs", root)
    return only_run(root)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    return tmp_path


def test_every_question_is_answered_with_the_words_it_recalled(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(story.main, path, STORY)
    lines = capsys.readouterr().out.splitlines()
    model, config = story.load_model(path)
    thinking = config.thinking_steps
    numbers = encode(STORY, thinking)
    with torch.no_grad():
        logits, _ = model.predict(torch.from_numpy(numbers)[:, None])
    states = {name: values[:, 0] for name, values in model.states(numbers[:, None]).items()}
    due = np.flatnonzero(numbers == 0)[thinking :: 1 + thinking]
    assert len(due) == 2 and len(lines) == 2 * 7 + 1
    for place, (time, question) in enumerate(zip(due, ("where is mary ?", "where is john ?"), strict=True)):
        chances = logits[time, 0].softmax(-1)
        answer = int(chances.argmax())
        assert lines[7 * place] == f"{question} {WORDS[answer]} ({100 * chances[answer]:.3g} %)"
        by_key = [likeness(states["read_keys"][time], states["write_keys"][step]) for step in range(time)]
        words = [step for step in np.argsort(by_key)[::-1] if numbers[step]]
        for line, step in zip(lines[7 * place + 2 :], words[:5], strict=False):
            similarity, of_values, moment, *around = line.split()
            assert moment == f"{step}:" and around[-1] == f"[{WORDS[numbers[step]]}]"
            assert float(similarity) == pytest.approx(by_key[step], abs=1e-3)
            expected = likeness(states["reads"][time][None], states["write_values"][step])
            assert float(of_values) == pytest.approx(expected, abs=1e-3)


def test_the_picture_holds_four_maps_of_all_words(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(story.main, path, "--picture", "out.png")
    assert "where is daniel ? " in capsys.readouterr().out
    picture = cv2.imread("out.png")
    thinking = story.load_model(path)[1].thinking_steps
    words = len(encode(story.ARTICLE, thinking))
    assert words == 53 + thinking and all(side > 2 * words * WORD_CELL for side in picture.shape[:2])
    run(story.main, path, "john left")
    nothing = "nothing is asked: answers come after question marks\n"
    assert (
        capsys.readouterr().out == f"{nothing}picture: {path.name}-story.png\n"
        and Path(f"{path.name}-story.png").exists()
    )


def test_what_cannot_be_read_is_refused_in_a_line(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "'kitchn' is no word of bAbI; did you mean 'kitchen'?" in complaint(story.main, capsys, path, "the kitchn.")
    assert "should have 2 to 400 words" in complaint(story.main, capsys, path, "")
    assert "should have 2 to 400 words" in complaint(story.main, capsys, path, "john left. " * 200)
    assert "in a folder that is there, not no/such/folder.png" in complaint(
        story.main, capsys, path, STORY, "--picture", "no/such/folder.png"
    )


def test_a_run_of_another_model_or_task_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere" in complaint(story.main, capsys, tmp_path / "nowhere")
    run(train.main, CONFIGS / "copy_gru.yaml", "--steps", 1, "--num_envs", 2, "--runs", tmp_path / "runs")
    error = complaint(story.main, capsys, only_run(tmp_path / "runs"))
    assert "is a run of gru on copy: stories are for mnm on babi, as of configs/babi_mnm.yaml" in error
