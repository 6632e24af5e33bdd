"""Lessons against plain loops: which memories are asked and answer, and what they leave unexplained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from memory.episodic import EpisodicMemory, InverseDistance, Tabular
from memory.episodic.lessons import Lesson, Lessons, rescaled
from tests.memory import oracle

NEVER = 10**9


def make_memory(origins: list[list[int]], key_size: int = 4) -> EpisodicMemory:
    """A memory of an action for each list, observed at those agent steps."""
    generator = torch.Generator().manual_seed(0)
    memory = EpisodicMemory(len(origins), 50, key_size, neighbours=3, kernel=InverseDistance(0.1))
    actions = torch.repeat_interleave(torch.arange(len(origins)), torch.tensor([len(one) for one in origins]))
    keys = torch.randn(len(actions), key_size, generator=generator)
    values = 10 * torch.randn(len(actions), generator=generator)
    memory.write(
        actions,
        keys,
        values,
        np.arange(len(actions), dtype=np.uint64),
        Tabular(0.1),
        1,
        origins=torch.tensor([step for one in origins for step in one]),
    )
    return memory


def nearest_apart(
    keys: Sequence[Sequence[float]], steps: Sequence[int], mine: int, apart: int, until: int
) -> list[int]:
    """Places of those of before that lie apart, nearest first."""
    others = [other for other, step in enumerate(steps) if abs(step - steps[mine]) >= apart and step < until]
    return sorted(others, key=lambda other: sum((a - b) ** 2 for a, b in zip(keys[mine], keys[other], strict=True)))


@pytest.mark.parametrize("width", [3, 50])
def test_a_lesson_asks_the_nearest_that_lie_apart(width):
    steps = [0, 0, 3, 4, 9, 10, 11, 30, 31, 33, 34, 50]
    memory = make_memory([[5, 6, 7], steps])
    keys = memory.stores[1].keys.tolist()
    lesson = Lessons(memory, 10, until=50).draw(100, width, np.random.default_rng(0))
    places = (lesson.slots - memory.capacity).tolist()
    assert len(set(places)) == len(places)
    assert sorted(places[one] for one in lesson.asked) == list(range(len(steps) - 1)), "all of before"
    for asked, answering, valid in zip(lesson.asked, lesson.answering, lesson.valid, strict=True):
        mine = places[asked]
        nearest = nearest_apart(keys, steps, mine, 10, 50)
        assert [places[one] for one in answering[valid]] == nearest[:width]


def test_who_has_none_that_lies_apart_is_not_asked():
    memory = make_memory([[0, 5, 10]])
    lesson = Lessons(memory, 6, until=NEVER).draw(100, 3, np.random.default_rng(0))
    assert sorted(lesson.slots[lesson.asked].tolist()) == [0, 2]
    assert lesson.valid.sum(dim=1).tolist() == [1, 1]


def test_actions_are_drawn_by_how_many_memories_can_be_asked():
    """Of the third action ten of fifty: the others are of later."""
    memory = make_memory([[*range(30)], [0, 2], [*range(10), *range(100, 140)], [], [3]])
    lessons, rng = Lessons(memory, 5, until=50), np.random.default_rng(0)
    assert lessons.actions == [0, 2]
    drawn: Counter[int] = Counter()
    for _ in range(2_000):
        lesson = lessons.draw(5, 2, rng)
        assert lesson.asked.unique().numel() == 5
        [action] = {slot // memory.capacity for slot in lesson.slots.tolist()}
        drawn[action] += 1
    assert set(drawn) == {0, 2}
    assert drawn[0] / 2_000 == pytest.approx(0.75, abs=0.05)


def test_values_are_rescaled():
    values = torch.tensor([-8.0, -3.0, 0.0, 3.0, 8.0, 15.0, 1e6])
    torch.testing.assert_close(rescaled(values), torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 999.0005]))


def plain_unexplained(
    lesson: Lesson, keys: torch.Tensor, values: torch.Tensor, all_values: torch.Tensor, delta: float
) -> torch.Tensor:
    errors = []
    for asked, answering, valid in zip(lesson.asked, lesson.answering, lesson.valid, strict=True):
        weights = [1 / (((keys[asked] - keys[other]) ** 2).sum() + delta) for other in answering[valid]]
        answer = sum(weight * values[one] for weight, one in zip(weights, answering[valid], strict=True)) / sum(weights)
        errors.append((answer - values[asked]) ** 2)
    return torch.stack(errors).mean() / all_values.var(correction=0)


@pytest.mark.parametrize("most", [4, 100])
def test_what_is_left_and_its_gradient_are_those_of_plain_loops(most):
    memory = make_memory([[0, 1], [*range(12), 90, 91]])
    lessons = Lessons(memory, 4, until=50)
    lesson = lessons.draw(most, 5, np.random.default_rng(0))
    values = torch.tensor([oracle.rescaled(value) for value in memory.stores[1].values.tolist()])
    keys, plain_keys = (torch.randn(len(lesson.slots), 4).requires_grad_() for _ in range(2))
    plain_keys.data.copy_(keys.data)
    found = lessons.unexplained(lesson, keys)
    expected = plain_unexplained(lesson, plain_keys, values[lesson.slots - memory.capacity], values[:12], 0.1)
    torch.testing.assert_close(found, expected)
    found.backward()
    expected.backward()
    torch.testing.assert_close(keys.grad, plain_keys.grad)


def test_errors_are_of_values_on_the_scale_that_is_given():
    memory = make_memory([[*range(12)]])
    lesson = Lessons(memory, 1, until=NEVER).draw(12, 3, np.random.default_rng(0))
    keys = torch.randn(len(lesson.slots), 4)
    asked, values = lesson.slots, memory.stores[0].values
    found = Lessons(memory, 1, until=NEVER, scale=torch.exp).unexplained(lesson, keys)
    torch.testing.assert_close(found, plain_unexplained(lesson, keys, values.exp()[asked], values.exp(), 0.1))
    later = torch.arange(6, 12)
    assert not torch.allclose(
        Lessons(memory, 1, until=5, scale=torch.exp).errors(later), Lessons(memory, 1, until=5).errors(later)
    )


def test_equal_values_leave_nothing():
    memory = make_memory([[*range(12)]])
    memory.table.values.fill_(2.0)
    lessons = Lessons(memory, 1, until=NEVER)
    lesson = lessons.draw(12, 3, np.random.default_rng(0))
    assert lessons.unexplained(lesson, torch.randn(len(lesson.slots), 4)).item() == pytest.approx(0.0, abs=1e-6)


def test_what_is_of_later_is_judged_by_what_is_of_before_and_apart():
    steps = [[3, 4, 9, 10, 11, 30, 31, 33, 34, 50], [20, 21], [1, 2]]
    memory = make_memory(steps)
    lessons = Lessons(memory, 10, until=12)
    slots = lessons.later(100, np.random.default_rng(0))
    assert sorted(slots.tolist()) == [5, 6, 7, 8, 9], "nothing of before answers for the second action"
    keys = memory.stores[0].keys
    values = torch.tensor([oracle.rescaled(value) for value in memory.stores[0].values.tolist()])
    for slot, error in zip(slots.tolist(), lessons.errors(slots), strict=True):
        nearest = nearest_apart(keys.tolist(), steps[0], slot, 10, 12)[: memory.neighbours]
        weights = [1 / ((keys[slot] - keys[other]).square().sum() + 0.1) for other in nearest]
        answer = sum(weight * values[other] for weight, other in zip(weights, nearest, strict=True)) / sum(weights)
        torch.testing.assert_close(error, (answer - values[slot]).square())
    assert len(lessons.later(3, np.random.default_rng(0)).unique()) == 3


def test_many_are_judged_as_few_are(monkeypatch: pytest.MonkeyPatch):
    lessons = Lessons(make_memory([[*range(40)], [*range(0, 80, 2)]]), 5, until=20)
    slots = lessons.later(100, np.random.default_rng(0))
    assert len(slots) > 40
    at_once = lessons.errors(slots)
    monkeypatch.setattr("memory.episodic.lessons._MOST_DISTANCES", 300)
    torch.testing.assert_close(lessons.errors(slots), at_once)
    monkeypatch.setattr("memory.episodic.lessons._AT_ONCE", 9)
    torch.testing.assert_close(lessons.errors(slots), at_once)


def test_where_nothing_lies_apart_no_lesson_is_drawn():
    with pytest.raises(ValueError, match="no two memories of before lie 1,000 agent steps apart"):
        Lessons(make_memory([[*range(40)]]), 1_000, until=20).draw(5, 2, np.random.default_rng(0))


def test_a_fifth_of_all_memories_is_of_later():
    memory = make_memory([[*range(0, 40, 2)], [*range(1, 41, 2)]])
    lessons = Lessons(memory, 1)
    assert lessons.until == 31
    assert len(lessons.later(100, np.random.default_rng(0))) == 8


def test_what_is_judged_lies_apart_from_all_that_is_learned_from():
    memory, rng = make_memory([[*range(0, 100, 2)], [*range(1, 100, 2)]]), np.random.default_rng(0)
    lessons = Lessons(memory, 7)
    origins = memory.table.origins
    judged = origins[memory.rows_of(lessons.later(100, rng))]
    learned = torch.cat([origins[memory.rows_of(lessons.draw(5, 5, rng).slots)] for _ in range(200)])
    assert judged.min() - learned.max() >= 7
    assert sorted(learned.unique().tolist()) == [*range(int(judged.min()) - 7)], "all the others come to be asked"


def test_an_empty_memory_teaches_nothing():
    lessons = Lessons(make_memory([[], []]), 1)
    assert lessons.actions == []
    assert len(lessons.later(5, np.random.default_rng(0))) == 0


def test_memories_of_one_time_teach_nothing():
    lessons = Lessons(make_memory([[0, 1, 2], [5]]), 3, until=NEVER)
    assert lessons.actions == []
    assert len(lessons.later(5, np.random.default_rng(0))) == 0
