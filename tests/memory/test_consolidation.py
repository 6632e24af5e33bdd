"""Consolidation against plain loops: which memories come back together, and what they leave unexplained."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from memory.episodic import EpisodicMemory, InverseDistance, Tabular
from memory.episodic.consolidation import draw_together, unexplained


def make_memory(counts: list[int], neighbours: int = 3, key_size: int = 4) -> EpisodicMemory:
    generator = torch.Generator().manual_seed(0)
    memory = EpisodicMemory(len(counts), 50, key_size, neighbours=neighbours, kernel=InverseDistance(0.1))
    actions = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    if len(actions):
        keys = torch.randn(len(actions), key_size, generator=generator)
        values = torch.randn(len(actions), generator=generator)
        memory.write(actions, keys, values, np.arange(len(actions), dtype=np.uint64), Tabular(0.1), 1)
    return memory


def plain_unexplained(keys: torch.Tensor, values: torch.Tensor, neighbours: int, delta: float) -> torch.Tensor:
    errors = []
    for mine in range(len(keys)):
        squared = {other: ((keys[mine] - keys[other]) ** 2).sum() for other in range(len(keys)) if other != mine}
        nearest = sorted(squared, key=lambda other: squared[other].item())[:neighbours]
        weights = [1 / (squared[other] + delta) for other in nearest]
        answer = sum(weight * values[other] for weight, other in zip(weights, nearest, strict=True)) / sum(weights)
        errors.append((answer - values[mine]) ** 2)
    return torch.stack(errors).mean() / values.var(correction=0)


@pytest.mark.parametrize(("count", "neighbours"), [(12, 3), (12, 50), (3, 3)])
def test_what_is_left_and_its_gradient_are_those_of_plain_loops(count, neighbours):
    memory = make_memory([3, count], neighbours)
    slots = torch.arange(count) + memory.capacity
    values = memory.stores[1].values[:count]
    keys, plain_keys = (memory.stores[1].keys[:count].clone().requires_grad_() for _ in range(2))
    found, expected = unexplained(memory, slots, keys), plain_unexplained(plain_keys, values, neighbours, 0.1)
    torch.testing.assert_close(found, expected)
    found.backward()
    expected.backward()
    torch.testing.assert_close(keys.grad, plain_keys.grad)


def test_equal_values_leave_nothing():
    memory = make_memory([12])
    memory.table.values.fill_(2.0)
    assert unexplained(memory, torch.arange(12), memory.stores[0].keys[:12]).item() == pytest.approx(0.0, abs=1e-6)


def test_distinct_memories_of_one_action_come_back_actions_by_how_many_they_have():
    memory, rng = make_memory([30, 2, 10]), np.random.default_rng(0)
    drawn: Counter[int] = Counter()
    for _ in range(2_000):
        slots = draw_together(memory, 5, rng).tolist()
        assert len(set(slots)) == 5
        [action] = {slot // memory.capacity for slot in slots}
        assert all(slot % memory.capacity < len(memory.stores[action]) for slot in slots)
        drawn[action] += 1
    assert set(drawn) == {0, 2}
    assert drawn[0] / 2_000 == pytest.approx(0.75, abs=0.05)


def test_all_of_an_action_come_back_where_it_has_no_more():
    assert sorted(draw_together(make_memory([7]), 400, np.random.default_rng(0)).tolist()) == list(range(7))


@pytest.mark.parametrize("counts", [[0, 0], [1, 0], [2, 2]])
def test_none_come_back_where_no_action_has_enough(counts):
    with pytest.raises(ValueError, match="no action has 3 memories"):
        draw_together(make_memory(counts), 5, np.random.default_rng(0))
