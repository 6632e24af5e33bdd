"""Pretraining offline learns from what came first, and from nothing else."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from memory.episodic.pretraining import OfflinePretraining

SHAPE = (2, 3)


class Witness:
    """A reinstatement that keeps what it was to learn from."""

    def __init__(self) -> None:
        self.batches = []

    def learn(self, keys, observations):
        self.batches.append((keys, observations))
        return float(len(self.batches))


def pretraining_of(observations=10, batches=4, batch_size=5, seed=0):
    torch.manual_seed(0)
    encoder, witness = nn.Sequential(nn.Flatten(), nn.Linear(6, 3)), Witness()
    generator = torch.Generator().manual_seed(seed)
    return OfflinePretraining(encoder, witness, SHAPE, observations, batches, batch_size, generator), encoder, witness


def test_it_waits_for_what_is_wanted_and_draws_from_that_alone():
    pretraining, encoder, witness = pretraining_of()
    observations = torch.randint(0, 256, (14, *SHAPE), dtype=torch.uint8)
    pretraining.gather(observations[:7])
    assert pretraining.learn() is None and not pretraining.is_over
    pretraining.gather(observations[7:])
    assert pretraining.nbytes == 60
    assert [pretraining.learn()[0] for _ in range(4)] == [1.0, 2.0, 3.0, 4.0] and pretraining.learn() is None
    first = {one.numpy().tobytes() for one in observations[:10]}
    drawn = {one.numpy().tobytes() for _, batch in witness.batches for one in batch}
    assert drawn <= first and len(drawn) > 5
    for keys, batch in witness.batches:
        assert len(batch) == 5 and not keys.requires_grad
        torch.testing.assert_close(keys, encoder(batch.float()).detach())
    assert pretraining.is_over and pretraining.nbytes == 0
    pretraining.gather(observations)
    assert pretraining.nbytes == 0


def test_saved_and_loaded_it_goes_on():
    observations = torch.randint(0, 256, (10, *SHAPE), dtype=torch.uint8)
    whole, _, expected = pretraining_of()
    whole.gather(observations)
    while whole.learn() is not None:
        pass
    begun, _, first = pretraining_of()
    begun.gather(observations)
    begun.learn()
    begun.learn()
    resumed, _, rest = pretraining_of(seed=1)
    resumed.load_state_dict(copy.deepcopy(begun.state_dict()))
    resumed._generator.set_state(begun._generator.get_state())
    while resumed.learn() is not None:
        pass
    for (_, found), (_, wanted) in zip(first.batches + rest.batches, expected.batches, strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("wrong", ["observations", "batches", "batch_size"])
def test_nothing_to_learn_from_is_refused(wrong):
    with pytest.raises(ValueError, match="must be at least 1"):
        pretraining_of(**{wrong: 0})
