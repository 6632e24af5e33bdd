"""The instruments against plain loops, and freshening against what it should do to them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from memory.episodic import CosineSoftmax, EpisodicMemory, InverseDistance, Store, maximum
from memory.episodic.freshening import Freshening, UncertainFirst
from memory.episodic.reinstatement import Raw
from memory.episodic.staleness import Probe, compared

COUNT, SHAPE = 40, (3, 3)


@pytest.fixture
def parts():
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(9, 5))
    store, raw = Store(COUNT, 5, eviction="fifo"), Raw(COUNT, SHAPE)
    probe = Probe(store, SHAPE, 20, torch.Generator().manual_seed(0))
    # So many values that no two memories are equally near, which rounding would decide between.
    observations = torch.randint(0, 50, (COUNT, *SHAPE), dtype=torch.uint8)
    for start in range(0, COUNT, 8):
        piece = observations[start : start + 8]
        with torch.no_grad():
            keys = encoder(piece.float())
        store.write(keys, torch.rand(8), np.arange(start, start + 8, dtype=np.uint64), maximum, written_at=start)
        slots = store.find(np.arange(start, start + 8, dtype=np.uint64))
        raw.remember(slots, piece)
        probe.remember(slots, piece)
    return encoder, store, raw, probe, observations


def move(encoder, amount=0.3):
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += amount * torch.randn_like(parameter)


@pytest.mark.parametrize("nearest_alone", [False, True])
@pytest.mark.parametrize("kernel", [CosineSoftmax(0.2), InverseDistance(1e-3)])
def test_what_is_recalled_is_compared_as_by_plain_loops(kernel, nearest_alone):
    torch.manual_seed(1)
    fresh, values = torch.randn(12, 4), torch.rand(12)
    stored = fresh + 0.8 * torch.randn(12, 4)
    recalls, shifts, value_shifts, ranks, flips = [], [], [], [], []
    for query in range(12):
        others = [memory for memory in range(12) if memory != query]
        order = {}
        for name, keys in (("fresh", fresh), ("stored", stored)):
            keys = kernel.comparable(keys)
            distances = {memory: float((kernel.comparable(fresh)[query] - keys[memory]).norm()) for memory in others}
            order[name] = sorted(others, key=distances.get)[:3]
        recalls.append(len(set(order["fresh"]) & set(order["stored"])) / 3)
        weights = []
        for name, keys in (("fresh", fresh), ("stored", stored)):
            asked = [memory in order[name] or not nearest_alone for memory in others]
            weights.append(kernel(fresh[query][None], keys[others][None], torch.tensor([asked]))[0])
        shifts.append(0.5 * sum(abs(float(left - right)) for left, right in zip(*weights, strict=True)))
        estimates = [float(weight @ values[others]) for weight in weights]
        value_shifts.append(abs(estimates[0] - estimates[1]))
        flips.append((estimates[0] > 0.5) != (estimates[1] > 0.5))
        now, then = kernel.comparable(fresh), kernel.comparable(stored)
        mine = float((now[query] - then[query]).norm())
        ranks.append(1 / (1 + sum(float((now[query] - key).norm()) < mine for key in then)))
    expected_shift = np.mean(value_shifts) / float(values.std())
    found = compared(fresh, stored, values, kernel, 3, nearest_alone=nearest_alone)
    assert found["value_shift"] == pytest.approx(expected_shift, rel=1e-4)
    found = compared(fresh, stored, values, kernel, 3, lambda weights, values: weights @ values > 0.5, nearest_alone)
    assert found == pytest.approx(
        {
            "neighbour_recall": np.mean(recalls),
            "kernel_shift": np.mean(shifts),
            "self_rank": np.mean(ranks),
            "decision_flips": np.mean(flips),
        },
        rel=1e-4,
    )


def test_nothing_is_stale_before_the_encoder_moves(parts):
    encoder, _, raw, probe, _ = parts
    found = probe.staleness(encoder, raw, CosineSoftmax(0.2), neighbours=5)
    assert found["key_drift"] < 1e-6 and found["neighbour_recall"] == 1.0 and found["kernel_shift"] < 1e-5
    assert found["self_rank"] == 1.0 and found["value_shift"] < 1e-5
    move(encoder)
    found = probe.staleness(encoder, raw, CosineSoftmax(0.2), neighbours=5)
    assert found["key_drift"] > 0.05 and found["neighbour_recall"] < 1.0 and found["kernel_shift"] > 0.01
    assert found["error_ratio"] < 1e-5, "true observations mend everything"
    assert "error_ratio" not in probe.staleness(encoder, None, CosineSoftmax(0.2), neighbours=5)
    assert probe.staleness(encoder, raw, CosineSoftmax(0.2), neighbours=11) == {}


def test_the_error_ratio_tells_when_freshening_does_harm(parts):
    encoder, _, raw, probe, _ = parts

    class Wrong(Raw):
        def recall(self, slots, keys):
            return 1.0 - super().recall(slots, keys)

    wrong = Wrong(COUNT, SHAPE)
    wrong.load_state_dict(raw.state_dict())
    move(encoder, 0.01)
    assert probe.staleness(encoder, wrong, CosineSoftmax(0.2), neighbours=5)["error_ratio"] > 1.0


def test_a_sweep_freshens_all_in_turn_within_its_budget(parts):
    encoder, store, raw, probe, observations = parts
    move(encoder)
    with torch.no_grad():
        fresh = encoder(observations.float())
    stale = store.keys.clone()
    freshening = Freshening(store, encoder, raw, budget=15)
    assert freshening.sweep() == 15
    torch.testing.assert_close(store.keys[:15], fresh[:15])
    assert torch.equal(store.keys[15:], stale[15:])
    again = Freshening(store, encoder, raw, budget=15)
    again.load_state_dict(freshening.state_dict())
    assert again.sweep() + again.sweep() == 30
    torch.testing.assert_close(store.keys, fresh)
    assert probe.staleness(encoder, raw, CosineSoftmax(0.2), neighbours=5)["neighbour_recall"] == 1.0
    with pytest.raises(ValueError, match="budget must be at least 1"):
        Freshening(store, encoder, raw, budget=0)


def test_only_what_is_trusted_is_freshened(parts):
    encoder, store, raw, _, observations = parts
    move(encoder)
    with torch.no_grad():
        fresh = encoder(observations.float())
    stale = store.keys.clone()
    uncertainty = torch.arange(COUNT, 0.0, -1.0)
    freshening = Freshening(store, encoder, raw, COUNT, lambda keys: uncertainty)
    assert freshening.freshen(torch.arange(COUNT)) == COUNT // 2
    torch.testing.assert_close(store.keys[COUNT // 2 :], fresh[COUNT // 2 :])
    assert torch.equal(store.keys[: COUNT // 2], stale[: COUNT // 2])


def test_a_probe_keeps_what_was_written_last(parts):
    encoder, store, _, probe, _ = parts
    newer = torch.randint(0, 3, (4, *SHAPE), dtype=torch.uint8)
    numbers = np.arange(100, 104, dtype=np.uint64)
    with torch.no_grad():
        store.write(encoder(newer.float()), torch.rand(4), numbers, maximum, written_at=90)
    slots = store.find(numbers)
    probe.remember(slots, newer)
    assert probe.staleness(encoder, None, CosineSoftmax(0.2), neighbours=5)["key_drift"] < 1e-6
    twin = Probe(store, SHAPE, 20, torch.Generator().manual_seed(0))
    twin.load_state_dict(probe.state_dict())
    assert twin.staleness(encoder, None, CosineSoftmax(0.2), neighbours=5)["key_drift"] < 1e-6


def test_the_least_certain_memories_make_way(parts):
    """Each of forty memories is as uncertain as its key is long; all are looked at, the newest among them."""
    _, store, _, _, _ = parts
    generator = torch.Generator().manual_seed(0)
    going = UncertainFirst(store, lambda keys: keys.norm(dim=1), generator)
    before = store.hashes.copy()
    expected = set(before[store.keys.norm(dim=1).topk(4).indices.numpy()].tolist())
    going.make_way(4)
    assert len(store) == COUNT
    store.write(torch.rand(4, 5), torch.rand(4), np.arange(100, 104, dtype=np.uint64), maximum, written_at=99)
    assert set(before.tolist()) - set(store.hashes.tolist()) == expected


def test_nothing_makes_way_while_there_is_room(parts):
    store = Store(50, 5, eviction="fifo")
    store.write(torch.rand(10, 5), torch.rand(10), np.arange(10, dtype=np.uint64), maximum, written_at=0)
    UncertainFirst(store, lambda keys: keys.norm(dim=1), torch.Generator()).make_way(40)
    assert (store.table.last_used[:10] >= 0).all()


def test_keys_that_are_fresh_already_are_not_embedded_again(parts):
    encoder, store, raw, _, _ = parts
    move(encoder)
    slots = torch.tensor([3, 1, 30])
    with torch.no_grad():
        fresh = encoder(raw.recall(slots, store.keys[slots]))
    refuses = nn.Module()
    assert Freshening(store, refuses, raw, 10).freshen(slots, fresh) == 3
    assert torch.equal(store.keys[slots], fresh)
    # Only the surer half of them, and each its own.
    before = store.keys.clone()
    sure = Freshening(store, refuses, raw, 10, uncertainty=lambda keys: torch.tensor([1.0, 0.1, 0.5]))
    assert sure.freshen(slots, fresh + 1) == 2
    assert torch.equal(store.keys[slots], torch.stack([before[3], fresh[1] + 1, fresh[2] + 1]))


def test_every_memory_is_as_likely_to_be_probed_and_a_slot_keeps_its_place():
    store = Store(60, 2, eviction="fifo")
    counts = np.zeros(60)
    for seed in range(300):
        probe = Probe(store, (1,), 10, torch.Generator().manual_seed(seed))
        for piece in torch.arange(60).split(7):
            probe.remember(piece, piece[:, None].to(torch.uint8))
        assert len(probe._place_of) == 10 and sorted(probe._place_of.values()) == list(range(10))
        for slot, place in probe._place_of.items():
            counts[slot] += 1
            assert probe._observations[place].item() == slot
    # 3,000 draws over 60 slots: 50 each, give or take four standard deviations.
    assert counts.sum() == 3_000 and np.abs(counts - 50).max() < 4 * (50 * 5 / 6) ** 0.5
    slot, place = next(iter(probe._place_of.items()))
    probe.remember(torch.tensor([slot]), torch.tensor([[200]], dtype=torch.uint8))
    assert probe._place_of[slot] == place and probe._observations[place].item() == 200


@pytest.mark.parametrize("kernel", [CosineSoftmax(0.2), InverseDistance(1e-3)])
def test_drift_and_error_are_those_of_plain_loops_in_all_and_by_age(parts, kernel):
    """Every memory is probed; what comes back is off by one grey, so that the error is not nothing."""
    encoder, store, raw, _, observations = parts
    probe = Probe(store, SHAPE, COUNT, torch.Generator())
    slots = torch.arange(COUNT)
    written = [int(store.find(np.array([number], dtype=np.uint64))) for number in range(COUNT)]
    probe.remember(torch.tensor(written), observations)
    move(encoder)

    class OffByOne(Raw):
        def recall(self, slots, keys):
            return raw.recall(slots, keys) + 1

    found = probe.staleness(encoder, OffByOne(1, SHAPE), kernel)
    with torch.no_grad():
        fresh = kernel.comparable(encoder(raw.recall(slots, store.keys)))
        mended = kernel.comparable(encoder(raw.recall(slots, store.keys) + 1))
    stored = kernel.comparable(store.keys)
    drifts = [float((fresh[slot] - stored[slot]).norm()) for slot in range(COUNT)]
    errors = [float((fresh[slot] - mended[slot]).norm()) for slot in range(COUNT)]
    between = sorted(float((fresh[i] - fresh[j]).norm()) for i in range(COUNT) for j in range(i))
    apart = between[(len(between) - 1) // 2]
    assert found["key_drift"] == pytest.approx(np.mean(drifts) / apart, rel=1e-4)
    assert found["error_ratio"] == pytest.approx(sum(errors) / sum(drifts), rel=1e-4)
    # Written eight at a time: quarters of ten, cut within those of an age as they come.
    newest_first = sorted(range(COUNT), key=lambda slot: -int(store.written_at[slot]))
    for number in range(4):
        quarter = newest_first[10 * number : 10 * number + 10]
        drift = np.mean([drifts[slot] for slot in quarter]) / apart
        assert found[f"key_drift_quarter_{number + 1}"] == pytest.approx(drift, rel=1e-4)
        age = np.mean([32 - int(store.written_at[slot]) for slot in quarter])
        assert found[f"key_age_quarter_{number + 1}"] == pytest.approx(age)
        ratio = sum(errors[slot] for slot in quarter) / sum(drifts[slot] for slot in quarter)
        assert found[f"error_ratio_quarter_{number + 1}"] == pytest.approx(ratio, rel=1e-4)


def test_keys_that_changed_in_length_alone_are_not_stale_to_a_kernel_of_directions():
    torch.manual_seed(0)
    fresh, values = torch.randn(30, 4), torch.rand(30)
    found = compared(fresh, fresh * (1 + torch.rand(30, 1)), values, CosineSoftmax(0.2), 5)
    assert found["neighbour_recall"] == 1.0 and found["self_rank"] == 1.0 and found["kernel_shift"] < 1e-5


def test_keys_are_as_old_as_their_embedding_and_not_as_their_last_write(parts):
    """Freshened keys are new, moved ones and those of rewritten values are not."""
    encoder, store, raw, probe, _ = parts
    slots = torch.tensor([*probe._place_of])
    store.write(store.keys.clone(), torch.rand(COUNT), store.hashes.copy(), maximum, written_at=100)
    ages = 100 - (8.0 * torch.arange(5)).repeat_interleave(8)[torch.from_numpy(store.hashes.astype(np.int64))]
    found = probe.staleness(encoder, None, CosineSoftmax(0.2), neighbours=5)
    assert found["key_age"] == pytest.approx(float(ages[slots].mean()))
    store.table.move_keys(store.rows_of(slots), store.keys[slots] + 1.0)
    assert probe.staleness(encoder, None, CosineSoftmax(0.2), neighbours=5)["key_age"] == found["key_age"]
    store.table.now = 130
    Freshening(store, encoder, raw, 10).freshen(slots)
    store.table.now = 150
    found = probe.staleness(encoder, None, CosineSoftmax(0.2), neighbours=5)
    assert found["key_age"] == found["key_age_quarter_4"] == 20.0
    twin = Store(COUNT, 5, eviction="fifo")
    twin.load_state_dict(store.state_dict())
    assert twin.table.now == 150 and torch.equal(twin.table.keyed_at[:COUNT], store.table.keyed_at[:COUNT])


def test_what_is_forgotten_leaves_the_others_where_they_are():
    torch.manual_seed(0)
    store = Store(60, 2, eviction="fifo")
    probe = Probe(store, (1,), 10, torch.Generator().manual_seed(0))
    probe.remember(torch.arange(30), torch.arange(30, dtype=torch.uint8)[:, None])
    kept = sorted(probe._place_of)
    gone = [kept[0], kept[4], kept[-1]]
    probe.forget(torch.tensor([*gone, 59]))
    assert sorted(probe._place_of) == [slot for slot in kept if slot not in gone]
    assert sorted(probe._place_of.values()) == list(range(7))
    for slot, place in probe._place_of.items():
        assert probe._observations[place].item() == slot
    probe.remember(torch.arange(30, 60), torch.arange(30, 60, dtype=torch.uint8)[:, None])
    assert sorted(probe._place_of.values()) == list(range(10))
    for slot, place in probe._place_of.items():
        assert probe._observations[place].item() == slot


def test_memories_that_last_are_as_likely_to_be_probed_as_those_rewritten_all_the_time():
    """Half of sixty slots are told once, the other half fifty times more: each slot keeps its one chance."""
    lasting = 0
    for seed in range(100):
        probe = Probe(Store(60, 2, eviction="lru"), (1,), 10, torch.Generator().manual_seed(seed))
        probe.remember(torch.arange(60), torch.zeros(60, 1, dtype=torch.uint8))
        before = sorted(probe._place_of)
        for _ in range(50):
            probe.remember(torch.arange(30, 60), torch.ones(30, 1, dtype=torch.uint8))
        assert sorted(probe._place_of) == before
        assert all(probe._observations[place].item() == (slot >= 30) for slot, place in probe._place_of.items())
        lasting += sum(slot < 30 for slot in probe._place_of)
    # Half of 1,000, give or take four standard deviations of as many coins.
    assert abs(lasting - 500) < 4 * 250**0.5


def test_a_sweep_reaches_every_action_while_their_dictionaries_grow():
    """Between two sweeps more is inserted, before the place where the sweep stands too, than a sweep freshens."""
    memory = EpisodicMemory(3, 60, 2, neighbours=1, kernel=InverseDistance(1e-3))
    raw, freshened = Raw(180, (1,)), set[int]()

    class Encoder(nn.Module):
        def forward(self, observations):
            return observations.repeat(1, 2)

    freshening = Freshening(memory, Encoder(), raw, budget=5)
    for round_ in range(20):
        hashes = np.arange(9 * round_, 9 * round_ + 9, dtype=np.uint64)
        actions = torch.arange(9) % 3
        memory.write(actions, torch.rand(9, 2), torch.rand(9), hashes, maximum, written_at=round_)
        before = memory.table.keys[memory.rows_of(memory.filled_slots())].clone()
        assert freshening.sweep() == 5
        changed = (memory.table.keys[memory.rows_of(memory.filled_slots())] != before).any(dim=1)
        freshened |= set(memory.filled_slots()[changed].tolist())
    assert {slot // 60 for slot in freshened} == {0, 1, 2}
    # Of a hundred, few were freshened twice: the first rounds, in which the memory is small, go around it.
    assert len(freshened) >= 85


def test_memories_far_from_the_origin_are_compared_as_exactly_as_those_near_it():
    torch.manual_seed(0)
    near = torch.randn(40, 4)
    far, values = near + 4096.0, torch.rand(40)
    moved = near + 0.5 * torch.randn(40, 4)
    # So far out that the offset itself rounds by less than the keys are apart.
    found = compared(far, moved + 4096.0, values, InverseDistance(1e-3), 5)
    expected = compared(near, moved, values, InverseDistance(1e-3), 5)
    assert found["neighbour_recall"] == pytest.approx(expected["neighbour_recall"], abs=0.02)
    assert found["self_rank"] == pytest.approx(expected["self_rank"], abs=0.02)


def test_nothing_is_swept_of_an_empty_memory(parts):
    encoder, _, raw, _, _ = parts
    assert Freshening(Store(COUNT, 5, eviction="fifo"), encoder, raw, budget=5).sweep() == 0
