"""Scores of words against plain loops, and models that read and answer in them."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from agents import SequenceModelConfig, TaskSpec, make_sequence_model
from agents.sequence_model import SequenceModel
from agents.sequence_pictures import sequence_pictures
from agents.sequence_scores import class_losses, correct_sequences, mean_loss, score_metrics, sequence_scores
from tests.agents.test_state import differences
from training import checkpoint

WORDS = 7
MODELS: dict[str, dict[str, Any]] = {
    "one-hot": {"name": "lstm", "hidden": 8},
    "embedded": {"name": "lstm", "hidden": 8, "embedding": 3},
    "dnc": {"name": "dnc", "hidden": 8, "slots": 4, "width": 3, "embedding": 5},
}
EACH = pytest.mark.parametrize("name", MODELS)


def build(name: str, seed: int = 0, **options: Any) -> SequenceModel:
    torch.manual_seed(seed)
    config: SequenceModelConfig = TypeAdapter(SequenceModelConfig).validate_python({**MODELS[name], **options})
    return make_sequence_model(config, TaskSpec(WORDS, WORDS, categorical=True), "cpu")


def recalled(rng: np.random.Generator, batch: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A word, some others of length unlike in each sequence, and the question for the first: its placeholder, 0."""
    inputs = np.zeros((5, batch), dtype=np.int64)
    targets = np.zeros_like(inputs)
    for column in range(batch):
        length = int(rng.integers(1, 4))
        inputs[:length, column] = rng.integers(1, WORDS, length)
        targets[length, column] = inputs[0, column]
    return inputs, targets, targets > 0


def test_scores_of_words_equal_plain_loops() -> None:
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(6, 4, WORDS)) * 3, rng.integers(WORDS, size=(6, 4))
    mask = rng.random((6, 4)) < 0.4
    mask[:, 3] = mask[0, 3] = False
    mask[2, 3], targets[2, 3], logits[2, 3] = True, 1, np.eye(WORDS)[1]
    arrays = torch.from_numpy(logits), torch.from_numpy(targets), torch.from_numpy(mask)
    scores = sequence_scores(*arrays)
    all_nats = all_wrong = all_answers = 0.0
    for sequence in range(4):
        nats, wrong, answers = 0.0, 0, 0
        for time in range(6):
            if mask[time, sequence]:
                chances = [math.exp(one) for one in logits[time, sequence]]
                nats -= math.log(chances[targets[time, sequence]] / sum(chances))
                wrong += chances.index(max(chances)) != targets[time, sequence]
                answers += 1
        assert scores["nats"][sequence].item() == pytest.approx(nats)
        assert (scores["wrong_answers"][sequence].item(), scores["answers"][sequence].item()) == (wrong, answers)
        assert correct_sequences(scores)[sequence].item() == (wrong == 0)
        all_nats, all_wrong, all_answers = all_nats + nats, all_wrong + wrong, all_answers + answers
    assert mean_loss(scores, *arrays[1:]).item() == pytest.approx(all_nats / all_answers)
    metrics = score_metrics(scores)
    assert metrics["charts/error_percent"] == pytest.approx(100 * all_wrong / all_answers)
    assert metrics["charts/nats_per_sequence"] == pytest.approx(all_nats / 4)
    assert 0.25 <= metrics["charts/correct_sequences"] < 1
    assert not class_losses(*arrays)[~arrays[2]].any()


def test_gradients_of_word_losses_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 2, WORDS, dtype=torch.float64, requires_grad=True)
    targets, mask = torch.randint(WORDS, (3, 2)), torch.tensor([[True, False], [False, True], [True, True]])
    assert torch.autograd.gradcheck(lambda each: class_losses(each, targets, mask), logits)


@EACH
def test_a_model_that_knows_nothing_scores_the_log_of_all_words(name: str) -> None:
    model = build(name)
    torch.nn.init.zeros_(model.readout.weight)
    torch.nn.init.zeros_(model.readout.bias)
    batch = recalled(np.random.default_rng(0))
    np.testing.assert_allclose(model.score(*batch)["nats"], math.log(WORDS), rtol=1e-5)
    assert model.learn(*batch)["losses/cross_entropy"] == pytest.approx(math.log(WORDS), rel=1e-5)


@EACH
def test_what_fills_up_a_sequence_changes_nothing(name: str) -> None:
    inputs, targets, mask = recalled(np.random.default_rng(0))
    longer = tuple(np.pad(array, ((0, 3), (0, 0))) for array in (inputs, targets, mask))
    states = []
    for batch in ((inputs, targets, mask), longer):
        model = build(name)
        model.learn(*batch)
        states.append(model.state_dict())
    assert not differences(*states)


@EACH
def test_a_restored_model_of_words_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    model, rng = build(name), np.random.default_rng(0)
    for _ in range(5):
        model.learn(*recalled(rng))
    checkpoint.save(tmp_path, {"model": model.state_dict()}, step=5)
    restored = build(name, seed=1)
    restored.load_state_dict(checkpoint.load(tmp_path)[1]["model"])
    same = copy.deepcopy(rng)
    assert [model.learn(*recalled(rng)) for _ in range(5)] == [restored.learn(*recalled(same)) for _ in range(5)]
    assert not differences(restored.state_dict(), model.state_dict())
    assert ("embedding" in model.state_dict()) == (name != "one-hot")


@EACH
def test_every_model_learns_to_answer_with_the_word_read_first(name: str) -> None:
    model, rng = build(name, learning_rate=2e-2, hidden=16), np.random.default_rng(0)
    wrong = [model.learn(*recalled(rng, 32))["charts/error_percent"] for _ in range(250)]
    assert np.mean(wrong[:5]) > 60
    assert np.mean(wrong[-20:]) < 5


def test_pictures_have_a_row_for_every_word() -> None:
    pictures = sequence_pictures(build("dnc"), *recalled(np.random.default_rng(0)))
    for tag in ("inputs", "targets", "predictions"):
        picture = pictures[f"recall/{tag}"]
        assert picture.dtype == np.uint8 and picture.shape[0] == 6 * WORDS
    assert {"recall/read_weights", "recall/links"} <= set(pictures)


def test_an_embedding_of_bits_is_refused() -> None:
    config: SequenceModelConfig = TypeAdapter(SequenceModelConfig).validate_python({"name": "lstm", "embedding": 3})
    with pytest.raises(ValueError, match="embedding is for tasks of words, such as babi"):
        make_sequence_model(config, TaskSpec(3, 2), "cpu")
