"""What the benchmark of kernels says of a memory, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.kernel_delta import DELTAS, told_apart
from memory.episodic import EpisodicMemory, InverseDistance, Tabular

NEIGHBOURS = 3


@pytest.fixture
def memory() -> EpisodicMemory:
    torch.manual_seed(0)
    memory = EpisodicMemory(2, 50, 4, neighbours=NEIGHBOURS, kernel=InverseDistance())
    actions = torch.arange(40) % 2
    memory.write(actions, torch.randn(40, 4) * 0.1, torch.randn(40), np.arange(40, dtype=np.uint64), Tabular(0.1), 1)
    return memory


def plain_answer(
    key: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, delta: float
) -> tuple[float, list[float]]:
    squared = [float(((key - other) ** 2).sum()) for other in keys]
    nearest = sorted(range(len(keys)), key=squared.__getitem__)[:NEIGHBOURS]
    weights = [1 / (squared[one] + delta) for one in nearest]
    answer = sum(weight * float(values[one]) for weight, one in zip(weights, nearest, strict=True)) / sum(weights)
    return answer, [weight / sum(weights) for weight in weights]


@pytest.mark.parametrize("name", DELTAS)
def test_shares_and_weights_are_those_of_plain_loops(memory, name):
    errors, own, every = [], [], []
    for store in memory.stores:
        for slot in range(len(store)):
            others = [one for one in range(len(store)) if one != slot]
            key, value = store.keys[slot], float(store.values[slot])
            answer, _ = plain_answer(key, store.keys[others], store.values[others], float(name))
            _, weights = plain_answer(key, store.keys, store.values, float(name))
            errors.append((answer - value) ** 2)
            own.append(weights[0])
            every.append(value)
    found = told_apart(memory, most=1_000)
    assert found[f"explained_{name}"] == pytest.approx(1 - np.mean(errors) / np.var(every), abs=1e-4)
    assert found[f"own_weight_{name}"] == pytest.approx(np.mean(own), abs=1e-4)


def test_distances_are_to_the_others(memory):
    found = told_apart(memory, most=1_000)
    squared = [
        sorted(float(((store.keys[slot] - other) ** 2).sum()) for other in store.keys)[1:]
        for store in memory.stores
        for slot in range(len(store))
    ]
    assert found["nearest_squared"] == pytest.approx(np.median([one[0] for one in squared]), rel=0.1)
    assert found["last_squared"] == pytest.approx(np.median([one[NEIGHBOURS - 1] for one in squared]), rel=0.1)


def test_a_sample_is_of_all_actions(memory):
    """What an action is worth is most of the variance here, and only a sample of both tells."""
    memory.table.values[memory.table.filled(1)] += 10.0
    assert told_apart(memory, most=10)["explained_1e-3"] > 0.9
