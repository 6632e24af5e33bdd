"""Sequence tasks: what is shown determines the answer, nothing else does, and a saved task goes on."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from pydantic import BaseModel, ValidationError

import envs
from envs.copy_task import AssociativeRecallConfig, CopyConfig, RepeatCopyConfig
from envs.dictionary import DictionaryConfig
from envs.sequence_task import Sequences


def drawn(config: BaseModel, batches: int = 1, batch: int = 4, seed: int = 0) -> list[Sequences]:
    task = envs.make_task(config, np.random.default_rng(seed))
    return [task.draw(batch) for _ in range(batches)]


def rows(steps: np.ndarray) -> list[list[float]]:
    return [list(map(float, step)) for step in steps]


def of_one(sequences: Sequences, number: int) -> tuple[list[list[float]], list[list[float]], list[bool]]:
    """Inputs, targets and mask of one sequence, as lists over time."""
    return rows(sequences.inputs[:, number]), rows(sequences.targets[:, number]), sequences.mask[:, number].tolist()


@pytest.mark.parametrize(
    "config",
    [
        CopyConfig(),
        CopyConfig(min_length=3, max_length=3),
        RepeatCopyConfig(),
        RepeatCopyConfig(min_length=3, max_length=3),
        RepeatCopyConfig(min_repeats=2, max_repeats=2),
        RepeatCopyConfig(min_length=3, max_length=3, min_repeats=2, max_repeats=2),
        AssociativeRecallConfig(),
        AssociativeRecallConfig(min_items=3, max_items=3),
        DictionaryConfig(),
        DictionaryConfig(min_pairs=3, max_pairs=3),
    ],
)
def test_a_task_knows_whether_its_batches_are_of_one_length(config: BaseModel) -> None:
    lengths = {len(sequences.inputs) for sequences in drawn(config, batches=20)}
    assert envs.make_task(config, np.random.default_rng(0)).same_length == (len(lengths) == 1)


def test_copy_asks_for_what_was_shown_after_the_mark() -> None:
    lengths = set()
    for sequences in drawn(CopyConfig(), batches=200):
        for number in range(4):
            inputs, targets, mask = of_one(sequences, number)
            length = mask.index(True) - 1
            assert inputs[length] == [0.0] * 8 + [1.0]
            assert all(step[8] == 0 for step in inputs[:length])
            assert targets[length + 1 :] == [step[:8] for step in inputs[:length]]
            assert mask == [False] * (length + 1) + [True] * length
            assert inputs[length + 1 :] == [[0.0] * 9] * length and not np.any(targets[: length + 1])
        lengths.add(length)
    assert lengths == set(range(1, 21))
    assert np.concatenate([one.targets[one.mask].ravel() for one in drawn(CopyConfig(), 200)]).mean() == pytest.approx(
        0.5, abs=0.01
    )


def test_the_setting_of_the_memory_forcing_paper() -> None:
    config = CopyConfig(bits=6, min_length=12, max_length=12)
    (sequences,) = drawn(config, batch=3)
    assert sequences.inputs.shape == (25, 3, 7) and sequences.targets.shape == (25, 3, 6)
    assert sequences.mask.sum() == 3 * 12
    assert config.title == "copy 12 x 6" and CopyConfig().title == "copy 1-20 x 8"


def test_repeat_copy_asks_for_as_many_as_the_mark_tells_and_an_end() -> None:
    marks: dict[int, float] = {}
    for sequences in drawn(RepeatCopyConfig(), batches=300):
        for number in range(4):
            inputs, targets, mask = of_one(sequences, number)
            start = mask.index(True)
            length = start - 1
            answer = targets[start:]
            repeats = (len(answer) - 1) // length
            shown = [step[:8] for step in inputs[:length]]
            assert [step[:8] for step in answer] == shown * repeats + [[0.0] * 8]
            assert [step[8] for step in answer] == [0.0] * (length * repeats) + [1.0]
            assert inputs[length][:8] == [0.0] * 8 and all(mask[start:])
        marks[repeats] = inputs[length][8]
    assert sorted(marks) == list(range(1, 11))
    told = [marks[repeats] for repeats in range(1, 11)]
    assert np.mean(told) == pytest.approx(0, abs=1e-6) and np.std(told) == pytest.approx(1, abs=1e-6)
    assert told == sorted(told)


def test_a_number_of_repetitions_that_never_changes_is_marked_by_nothing() -> None:
    (sequences,) = drawn(RepeatCopyConfig(min_repeats=3, max_repeats=3))
    assert np.isfinite(sequences.inputs).all() and sequences.inputs[..., 8].max() == 0


def test_associative_recall_asks_for_the_item_after_the_one_shown_again() -> None:
    counts, places = set(), set()
    for sequences in drawn(AssociativeRecallConfig(), batches=200):
        for number in range(4):
            inputs, targets, mask = of_one(sequences, number)
            start = mask.index(True)
            begins = [time for time, step in enumerate(inputs) if step[6] == 1]
            items = [[step[:6] for step in inputs[time + 1 : time + 4]] for time in begins]
            asks = [time for time, step in enumerate(inputs) if step[7] == 1]
            assert begins == list(range(0, 4 * len(items), 4)) and asks == [4 * len(items), start - 1]
            query = [step[:6] for step in inputs[asks[0] + 1 : asks[1]]]
            answers = [after for item, after in itertools.pairwise(items) if item == query]
            assert targets[start:] in answers and len(query) == 3
            assert mask == [False] * start + [True] * 3 and not np.any(inputs[start:])
            counts.add(len(items))
            places.add((len(items), items.index(query)))
    assert counts == set(range(2, 7))
    assert places == {(count, place) for count in counts for place in range(count - 1)}


def test_a_dictionary_is_asked_for_every_value_by_its_key_in_another_order() -> None:
    counts, orders = set(), set()
    for sequences in drawn(DictionaryConfig(key_bits=5, value_bits=3, min_pairs=2), batches=200):
        for number in range(4):
            inputs, targets, mask = of_one(sequences, number)
            pairs = mask.index(True)
            assert {abs(bit) for step in inputs[:pairs] for bit in step[:8]} == {1.0}
            shown = {tuple(step[:5]): [(bit + 1) / 2 for bit in step[5:8]] for step in inputs[:pairs]}
            assert len(shown) == pairs and mask == [False] * pairs + [True] * pairs
            assert [step[8] for step in inputs] == [0.0] * pairs + [1.0] * pairs
            assert all(step[5:8] == [0.0] * 3 for step in inputs[pairs:]) and not np.any(targets[:pairs])
            asked = [tuple(step[:5]) for step in inputs[pairs:]]
            assert sorted(asked) == sorted(shown)
            assert targets[pairs:] == [shown[key] for key in asked]
            if pairs == 3:
                orders.add(tuple(list(shown).index(key) for key in asked))
        counts.add(pairs)
    assert counts == set(range(2, 9)) and len(orders) == 6
    bits = np.concatenate([one.inputs[~one.mask][:, :-1].ravel() for one in drawn(DictionaryConfig(), 200)])
    assert bits.mean() == pytest.approx(0.0, abs=0.02)


def test_a_dictionary_may_hold_all_keys_there_are() -> None:
    (sequences,) = drawn(DictionaryConfig(key_bits=2, value_bits=1, min_pairs=4, max_pairs=4))
    assert all(
        {tuple(key) for key in sequences.inputs[:4, one, :2]} == {(-1, -1), (-1, 1), (1, -1), (1, 1)}
        for one in range(4)
    )
    assert DictionaryConfig().title == "dictionary 1-8 pairs of 8 and 8"
    assert DictionaryConfig(min_pairs=8).title == "dictionary 8 pairs of 8 and 8"


CONFIGS = [CopyConfig(), RepeatCopyConfig(), AssociativeRecallConfig(), DictionaryConfig()]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_a_saved_task_goes_on_and_a_seed_decides_everything(config: BaseModel) -> None:
    task = envs.make_task(config, np.random.default_rng(3))
    task.draw(2)
    state = task.state_dict()
    expected = [task.draw(2) for _ in range(3)]
    restored = envs.make_task(config, np.random.default_rng(4))
    restored.load_state_dict(state)
    for mine, its in zip([restored.draw(2) for _ in range(3)], expected, strict=True):
        assert all(np.array_equal(left, right) for left, right in zip(mine, its, strict=True))
    assert not np.array_equal(drawn(config, seed=1, batch=9)[0].inputs, drawn(config, seed=2, batch=9)[0].inputs)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_shapes_and_types_are_as_told(config: BaseModel) -> None:
    task = envs.make_task(config, np.random.default_rng(0))
    inputs, targets, mask = task.draw(5)
    assert inputs.shape == (len(inputs), 5, task.input_size) and inputs.dtype == np.float32
    assert targets.shape == (len(inputs), 5, task.target_size) and targets.dtype == np.float32
    assert mask.shape == (len(inputs), 5) and mask.dtype == bool
    assert set(np.unique(targets)) <= {0.0, 1.0} and not targets[~mask].any()


@pytest.mark.parametrize(
    ("make", "mend"),
    [
        (lambda: CopyConfig(min_length=21), "min_length must be at most max_length, got 21 and 20"),
        (lambda: RepeatCopyConfig(max_repeats=1, min_repeats=2), "min_repeats must be at most max_repeats, got 2 and"),
        (lambda: AssociativeRecallConfig(min_items=7), "min_items must be at most max_items, got 7 and 6"),
        (lambda: DictionaryConfig(min_pairs=9), "min_pairs must be at most max_pairs, got 9 and 8"),
        (lambda: DictionaryConfig(key_bits=2), "max_pairs must be at most 4, the different keys of 2 bits, got 8"),
    ],
)
def test_a_range_that_is_none_is_refused(make, mend: str) -> None:
    with pytest.raises(ValidationError, match=mend):
        make()
