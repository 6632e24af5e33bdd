"""The drift map moves keys as an affine change of the encoder would, and only those that are due."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from memory.episodic import Store, maximum
from memory.episodic.drift_map import DriftMap
from memory.episodic.staleness import Probe

COUNT, SHAPE, KEY = 60, (3, 3), 4


@pytest.fixture
def parts():
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(9, KEY))
    store = Store(COUNT + 10, KEY, eviction="fifo")
    observations = torch.randint(0, 5, (COUNT, *SHAPE), dtype=torch.uint8)
    probe = Probe(store, SHAPE, 30, torch.Generator().manual_seed(0))
    with torch.no_grad():
        keys = encoder(observations.float())
    store.write(keys, torch.rand(COUNT), np.arange(COUNT, dtype=np.uint64), maximum, written_at=10)
    probe.remember(torch.arange(COUNT), observations)
    return encoder, store, probe, observations


def turn(encoder):
    """What a map of keys can undo: another basis and another origin."""
    with torch.no_grad():
        basis = torch.eye(KEY) + 0.3 * torch.randn(KEY, KEY)
        encoder[1].weight.copy_(basis @ encoder[1].weight)
        encoder[1].bias.copy_(basis @ encoder[1].bias + torch.randn(KEY))


def test_memories_that_were_never_seen_again_are_where_the_encoder_would_put_them(parts):
    encoder, store, probe, observations = parts
    drift_map = DriftMap(store, encoder, probe, ridge=1e-6)
    assert drift_map.move() == 0
    for _ in range(2):
        turn(encoder)
        assert drift_map.move() == COUNT
        with torch.no_grad():
            torch.testing.assert_close(store.keys, encoder(observations.float()), rtol=1e-3, atol=1e-3)


def test_younger_keys_wait_for_the_next_move_and_are_put_right_then(parts):
    """Ten are embedded after a first turn of the encoder, which makes a second before they are moved."""
    encoder, store, _, observations = parts
    probe = Probe(store, SHAPE, COUNT + 10, torch.Generator().manual_seed(0))
    drift_map = DriftMap(store, encoder, probe, ridge=1e-6)
    drift_map.remember(torch.arange(COUNT), observations)
    drift_map.move()
    newer = torch.randint(0, 5, (10, *SHAPE), dtype=torch.uint8)
    with torch.no_grad():
        keys = encoder(newer.float())
    store.write(keys, torch.rand(10), np.arange(100, 110, dtype=np.uint64), maximum, written_at=20)
    drift_map.remember(torch.arange(COUNT, COUNT + 10), newer)
    turn(encoder)
    assert drift_map.move() == COUNT
    assert torch.equal(store.keys[COUNT:], keys)
    resumed = DriftMap(store, encoder, Probe(store, SHAPE, COUNT + 10, torch.Generator()), ridge=1e-6)
    resumed.load_state_dict(copy.deepcopy(drift_map.state_dict()))
    turn(encoder)
    assert resumed.move() == COUNT + 10
    stale = distance(keys, encoder, newer)
    assert distance(store.keys[COUNT:], encoder, newer) < 0.7 * stale


def test_a_key_that_missed_a_move_is_embedded_anew(parts):
    """Acted on at step 5, before the move at step 10, and written after it, as episodes are."""
    encoder, store, _, observations = parts
    drift_map = DriftMap(store, encoder, Probe(store, SHAPE, COUNT + 10, torch.Generator().manual_seed(0)), ridge=1e-6)
    drift_map.remember(torch.arange(COUNT), observations)
    late = torch.randint(0, 5, (10, *SHAPE), dtype=torch.uint8)
    with torch.no_grad():
        keys = encoder(late.float())
    store.table.now = 10
    drift_map.move()
    turn(encoder)
    assert drift_map.move() == COUNT
    hashes = np.arange(100, 110, dtype=np.uint64)
    origins = torch.full((10,), 5)
    store.write(keys, torch.rand(10), hashes, maximum, written_at=12, origins=origins)
    store.table.now = 12
    drift_map.remember(torch.arange(COUNT, COUNT + 10), late)
    seen = torch.cat([observations, late]).float()
    with torch.no_grad():
        torch.testing.assert_close(store.keys, encoder(seen), rtol=1e-3, atol=1e-3)
    store.table.now = 20
    drift_map.move()
    turn(encoder)
    assert drift_map.move() == COUNT + 10
    with torch.no_grad():
        torch.testing.assert_close(store.keys, encoder(seen), rtol=1e-3, atol=1e-3)


def distance(keys, encoder, observations) -> float:
    with torch.no_grad():
        return float((keys - encoder(observations.float())).norm(dim=1).mean())


def test_held_firmly_it_moves_all_keys_alike(parts):
    encoder, store, probe, _ = parts
    drift_map, before = DriftMap(store, encoder, probe, ridge=1e9), store.keys.clone()
    drift_map.move()
    turn(encoder)
    with torch.no_grad():
        then = before[[*probe._place_of]].mean(dim=0)
        now = encoder(probe.observations.float()).mean(dim=0)
    drift_map.move()
    torch.testing.assert_close(store.keys, before + now - then, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bias", [torch.nan, 3e38])
def test_what_is_not_finite_moves_nothing(parts, bias):
    encoder, store, probe, _ = parts
    drift_map, before = DriftMap(store, encoder, probe), store.keys.clone()
    drift_map.move()
    with torch.no_grad():
        encoder[1].bias.fill_(bias)
    with pytest.raises(ValueError, match="must be finite"):
        drift_map.move()
    assert torch.equal(store.keys, before)


def test_without_observations_nothing_is_moved(parts):
    encoder, store, _, _ = parts
    before = store.keys.clone()
    drift_map = DriftMap(store, encoder, Probe(store, SHAPE, 5, torch.Generator()))
    turn(encoder)
    assert drift_map.move() == drift_map.move() == 0
    assert torch.equal(store.keys, before)
