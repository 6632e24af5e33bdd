"""Pictures of a sequence show the numbers they are of, each in its place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from agents import TaskSpec
from agents.sequence_model import SequenceModel, make_sequence_model
from agents.sequence_model_config import SequenceModelConfig
from agents.sequence_pictures import sequence_pictures
from agents.similarity_pictures import WORD_CELL
from tests.memory.test_recollecting import likeness

STEPS, BATCH, SIZE, SLOTS, WIDTH, CELL, GAP = 9, 4, 3, 5, 4, 6, 6


SIMILARITIES = ("key_similarity", "value_similarity", "read_key_similarity", "read_value_similarity")


def make(name: str) -> SequenceModel:
    torch.manual_seed(0)
    sizes = {"dnc": {"slots": SLOTS, "width": WIDTH}, "mnm": {"width": WIDTH, "heads": 2}}
    sizes["ntm"] = sizes["dnc"]
    config = TypeAdapter(SequenceModelConfig).validate_python({"name": name, "hidden": 6, **sizes.get(name, {})})
    return make_sequence_model(config, TaskSpec(SIZE, SIZE), "cpu")


def batch() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (2, STEPS, BATCH, SIZE)).astype(np.float32)
    return bits[0], bits[1], np.ones((STEPS, BATCH), dtype=bool)


def strengths(picture: np.ndarray, rows: int, columns: int, place: int) -> np.ndarray:
    """The numbers of one heat map, between 0 and 1, read from the middles of its cells."""
    left = place * (columns * CELL + GAP)
    middles = picture[CELL // 2 :: CELL, left + CELL // 2 : left + columns * CELL : CELL]
    assert middles.shape[:2] == (rows, columns)
    return middles[..., 1] / (255 * 0.6)


@pytest.mark.parametrize("name", ["dnc", "ntm"])
def test_weights_stand_slot_by_slot_along_time(name):
    model, (inputs, targets, mask) = make(name), batch()
    pictures = sequence_pictures(model, inputs, targets, mask)
    # All sequences are wrong yet: the first is shown, alone.
    weights = model.states(inputs)["read_weights"][:, 0].reshape(STEPS, -1)
    shown = strengths(pictures["recall/read_weights"], weights.shape[1], STEPS, 0)
    np.testing.assert_allclose(shown, weights.T / weights.max(), atol=0.01)
    memory = np.abs(model.states(inputs)["memory"][-1, 0])
    np.testing.assert_allclose(strengths(pictures["recall/memory"], SLOTS, WIDTH, 0), memory / memory.max(), atol=0.01)
    np.testing.assert_allclose(strengths(pictures["recall/inputs"], SIZE, STEPS, 0), inputs[:, 0].T, atol=0.01)
    assert ("recall/links" in pictures) == (name == "dnc")


def test_memory_is_shown_as_it_was_when_a_shorter_sequence_ended():
    """Of a batch of stories the shorter ones are filled up: what is read then is nobody's question."""
    model, (inputs, targets, mask) = make("dnc"), batch()
    mask[STEPS - 4 :] = False
    picture = sequence_pictures(model, inputs, targets, mask)["recall/memory"]
    memory = np.abs(model.states(inputs)["memory"][STEPS - 5, 0])
    np.testing.assert_allclose(strengths(picture, SLOTS, WIDTH, 0), memory / memory.max(), atol=0.01)


def test_keys_of_all_heads_stand_one_below_the_other_along_time():
    model, (inputs, targets, mask) = make("mnm"), batch()
    pictures = sequence_pictures(model, inputs, targets, mask)
    parts = ("inputs", "targets", "predictions", "read_keys", "write_keys", "write_values", *SIMILARITIES)
    assert pictures.keys() == {f"recall/{part}" for part in parts}
    keys = np.abs(model.states(inputs)["read_keys"][:, 0].reshape(STEPS, 2 * WIDTH))
    np.testing.assert_allclose(
        strengths(pictures["recall/read_keys"], 2 * WIDTH, STEPS, 0), keys.T / keys.max(), atol=0.01
    )


def check_similarities(picture: np.ndarray, now: np.ndarray, written: np.ndarray, cell: int) -> None:
    """A heat map without its margins, of vectors `[time, vectors, width]`."""
    steps = len(now)
    middles = picture[cell // 2 :: cell, cell // 2 :: cell].astype(float) / 255
    assert middles.shape[:2] == (steps, steps)
    for row in range(steps):
        for column in range(steps):
            if column >= row:
                assert (middles[row, column] == 1).all()
                continue
            similarity = likeness(now[row], written[column])
            strength = abs(similarity)
            expected = (0.0, 0.6 * strength, strength) if similarity < 0 else (strength, 0.6 * strength, 0.2)
            np.testing.assert_allclose(middles[row, column], expected, atol=0.01)


def test_what_is_written_and_read_stands_beside_what_was_written_before():
    """Up to the last step that counts, of each sequence for itself."""
    model, (inputs, targets, mask) = make("mnm"), batch()
    with torch.no_grad():
        guesses = (model.predict(torch.from_numpy(inputs))[0] > 0).float().numpy()
    targets = 1 - guesses
    targets[:, 2] = guesses[:, 2]
    mask[STEPS - 2 :, 2] = False
    pictures = sequence_pictures(model, inputs, targets, mask)
    states = model.states(inputs)
    pairs = {
        "key_similarity": ("write_keys", "write_keys"),
        "value_similarity": ("write_values", "write_values"),
        "read_key_similarity": ("read_keys", "write_keys"),
        "read_value_similarity": ("reads", "write_values"),
    }
    for name, (now, written) in pairs.items():
        picture, left = pictures[f"recall/{name}"], 0
        for sequence, steps in ((2, STEPS - 2), (0, STEPS)):
            said = states[now][:steps, sequence].reshape(steps, -1, WIDTH)
            own = picture[: steps * CELL, left : left + steps * CELL]
            check_similarities(own, said, states[written][:steps, sequence], CELL)
            left += steps * CELL + GAP


def test_words_stand_at_both_axes_where_they_have_room():
    torch.manual_seed(0)
    config = TypeAdapter(SequenceModelConfig).validate_python({"name": "mnm", "hidden": 6, "width": WIDTH})
    model = make_sequence_model(config, TaskSpec(SIZE, SIZE, categorical=True), "cpu")
    rng = np.random.default_rng(0)
    for steps in (STEPS, 200):
        numbers = rng.integers(0, SIZE, (2, steps, 1))
        mask = np.ones((steps, 1), dtype=bool)
        words = ("a", "kitchen", "")
        picture = sequence_pictures(model, *numbers, mask, words)["recall/key_similarity"]
        keys = model.states(numbers[0])["write_keys"][:, 0]
        if steps > STEPS:
            assert picture.shape == (200 * CELL, 200 * CELL, 3)
            continue
        margin = len(picture) - steps * WORD_CELL
        assert margin > 30 and picture.shape == (*2 * [margin + steps * WORD_CELL], 3)
        check_similarities(picture[margin:, margin:], keys, keys, WORD_CELL)
        ink = 255 - picture[..., 0].astype(int)
        rows = ink[margin:, :margin].reshape(steps, -1).sum(axis=1)
        columns = ink[:margin, margin:].T.reshape(steps, -1).sum(axis=1)
        for time, number in enumerate(numbers[0, :, 0]):
            # The longer a word, the more ink; and the same one beside a row and above a column.
            assert rows[time] == columns[time] == rows[list(numbers[0, :, 0]).index(number)]
            assert (rows[time] == 0) == (words[number] == "")
        by_word = {words[number]: rows[time] for time, number in enumerate(numbers[0, :, 0])}
        assert by_word["kitchen"] > 3 * by_word["a"]


def test_a_right_prediction_stands_beside_a_wrong_one():
    model, (inputs, targets, mask) = make("gru"), batch()
    with torch.no_grad():
        guesses = (model.predict(torch.from_numpy(inputs))[0] > 0).float().numpy()
    targets = 1 - guesses
    targets[:, 2] = guesses[:, 2]
    pictures = sequence_pictures(model, inputs, targets, mask)
    assert pictures.keys() == {"recall/inputs", "recall/targets", "recall/predictions"}
    for place, sequence in enumerate((2, 0)):
        shown = strengths(pictures["recall/targets"], SIZE, STEPS, place)
        np.testing.assert_allclose(shown, targets[:, sequence].T, atol=0.01)


def test_what_is_not_asked_for_is_not_shown_as_predicted():
    model, (inputs, targets, mask) = make("gru"), batch()
    mask[:4] = False
    shown = strengths(sequence_pictures(model, inputs, targets, mask)["recall/predictions"], SIZE, STEPS, 0)
    assert (shown[:, :4] < 0.01).all() and (shown[:, 4:] > 0.1).all()


def test_showing_leaves_the_model_as_it_is():
    model, (inputs, targets, mask) = make("dnc"), batch()
    before = {name: tensor.clone() for name, tensor in model.core.state_dict().items()}
    state = torch.get_rng_state()
    sequence_pictures(model, inputs, targets, mask)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.core.state_dict().items())
