"""Credit through memories: the oracle against autograd, the others against the oracle where they must agree."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from memory.episodic import CosineSoftmax, Store, maximum
from memory.episodic.credit import (
    Approximate,
    Backpropagation,
    Exact,
    Frozen,
    Hybrid,
    Sample,
    SyntheticGradient,
    TrainableKeys,
    scale_gradient,
)
from memory.episodic.reinstatement import Raw

CAPACITY, SHAPE, KEY_SIZE, CLASSES = 12, (3, 3), 4, 3


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def make_encoder():
    return nn.Sequential(nn.Flatten(), nn.Linear(9, 6), nn.Tanh(), nn.Linear(6, KEY_SIZE))


def observations_of(count):
    return torch.randint(0, 3, (count, *SHAPE), dtype=torch.uint8)


def loss_of(keys, queries, labels, wanted):
    """The classifier's: cosine softmax over all memories, and the logarithm of the right class's weight."""
    weights = CosineSoftmax(0.3)(queries, keys[None], torch.ones(1, len(keys), dtype=torch.bool))
    chances = weights @ nn.functional.one_hot(labels, CLASSES).float()
    return nn.functional.nll_loss(chances.clamp_min(1e-6).log(), wanted)


def move(encoder):
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 0.3 * torch.randn_like(parameter)


def raw_of(observations):
    raw = Raw(CAPACITY, SHAPE)
    raw.remember(torch.arange(CAPACITY), observations)
    return raw


def gradients(encoder):
    return [None if parameter.grad is None else parameter.grad.clone() for parameter in encoder.parameters()]


def one_update(credit, encoder, stored, labels, queries, wanted):
    """The gradients of the encoder from one loss through all memories."""
    encoder.zero_grad(set_to_none=True)
    keys = credit.attach(torch.arange(len(stored)), stored)
    loss = loss_of(keys, queries, labels, wanted)
    loss.backward()
    credit.settle()
    return loss.item(), gradients(encoder)


@pytest.fixture
def problem():
    encoder, observations = make_encoder(), observations_of(CAPACITY)
    with torch.no_grad():
        stored = encoder(observations.float())
    return encoder, observations, stored, torch.randint(0, CLASSES, (CAPACITY,)), torch.randn(5, KEY_SIZE)


def assert_same(left, right, tolerance=1e-6):
    for mine, its in zip(left, right, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=tolerance)


def test_with_every_pass_kept_backpropagation_is_autograd(problem):
    """Memories written in three batches, with weights that moved in between, against one graph of everything."""
    encoder, observations, _, labels, queries = problem
    wanted = torch.randint(0, CLASSES, (5,))
    credit = Backpropagation(encoder, CAPACITY)
    kept, weights, slots = [], [], torch.arange(CAPACITY).flip(0)
    for piece in slots.split(5):
        credit.remember(piece, observations[piece], torch.zeros(0), torch.zeros(0))
        weights.append({name: one.detach().clone().requires_grad_() for name, one in encoder.named_parameters()})
        kept.append((piece, functional_call(encoder, weights[-1], observations[piece].float())))
        with torch.no_grad():
            for parameter in encoder.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    keys = torch.zeros(CAPACITY, KEY_SIZE)
    for piece, one in kept:
        keys = keys.index_copy(0, piece, one)
    expected_loss = loss_of(keys, queries, labels, wanted)
    names = list(weights[0])
    every = torch.autograd.grad(expected_loss, [one[name] for one in weights for name in names])
    expected = [sum(every[start :: len(names)]) for start in range(len(names))]

    loss, found = one_update(credit, encoder, keys.detach(), labels, queries, wanted)
    assert loss == pytest.approx(expected_loss.item())
    assert_same(found, expected)
    # The passes are kept for the next update too, and go with the last memory of theirs.
    assert_same(one_update(credit, encoder, keys.detach(), labels, queries, wanted)[1], expected)
    assert len(credit._passes) == 3
    credit.remember(slots[:5], observations[:5], torch.zeros(0), torch.zeros(0))
    assert len(credit._passes) == 3
    again = Backpropagation(encoder, CAPACITY)
    again.load_state_dict(copy.deepcopy(credit.state_dict()))
    assert_same(
        one_update(again, encoder, keys.detach(), labels, queries, wanted)[1],
        one_update(credit, encoder, keys.detach(), labels, queries, wanted)[1],
        tolerance=0.0,
    )


@pytest.mark.parametrize("kind", [Exact, Approximate])
def test_reinstatement_is_backpropagation_where_the_encoder_has_not_moved(kind, problem):
    encoder, observations, stored, labels, queries = problem
    wanted = torch.randint(0, CLASSES, (5,))
    raw, oracle = raw_of(observations), Backpropagation(encoder, CAPACITY)
    oracle.remember(torch.arange(CAPACITY), observations, torch.zeros(0), torch.zeros(0))
    expected_loss, expected = one_update(oracle, encoder, stored, labels, queries, wanted)
    loss, found = one_update(kind(encoder, raw), encoder, stored, labels, queries, wanted)
    assert loss == pytest.approx(expected_loss)
    assert_same(found, expected)


def test_where_the_encoder_moved_exact_infers_with_fresh_keys_and_approximate_with_stored_ones(problem):
    encoder, observations, stored, labels, queries = problem
    wanted = torch.randint(0, CLASSES, (5,))
    raw = raw_of(observations)
    move(encoder)
    fresh = encoder(observations.float()).detach()
    exact, approximate = Exact(encoder, raw), Approximate(encoder, raw)
    slots = torch.arange(CAPACITY)
    torch.testing.assert_close(exact.attach(slots, stored), fresh)
    torch.testing.assert_close(approximate.attach(slots, stored), stored)

    # Straight through: the gradient of the loss at the stored keys, carried on from the fresh ones.
    leaf = stored.clone().requires_grad_()
    loss_of(leaf, queries, labels, wanted).backward()
    encoder.zero_grad(set_to_none=True)
    encoder(observations.float()).backward(leaf.grad)
    expected = gradients(encoder)
    assert_same(one_update(approximate, encoder, stored, labels, queries, wanted)[1], expected)

    # Those whose keys have drifted apart can be left out.
    agree = nn.functional.cosine_similarity(fresh, stored, dim=1)
    trusting = Approximate(encoder, raw, trust=agree.median().item())
    encoder.zero_grad(set_to_none=True)
    encoder(observations.float()).backward(leaf.grad * (agree >= agree.median())[:, None])
    expected = gradients(encoder)
    assert_same(one_update(trusting, encoder, stored, labels, queries, wanted)[1], expected)


def test_credit_of_a_sample_is_unbiased_however_stale_the_rest_is(problem):
    encoder, observations, stored, labels, queries = problem
    wanted = torch.randint(0, CLASSES, (5,))
    raw = raw_of(observations)
    move(encoder)
    credit = Approximate(encoder, raw)
    expected_loss, expected = one_update(credit, encoder, stored, labels, queries, wanted)
    sample = Sample(4, torch.Generator().manual_seed(1))

    def one_draw():
        slots, counts_for = sample.draw(CAPACITY)
        assert len(set(slots.tolist())) == 4 and counts_for == CAPACITY / 4
        encoder.zero_grad(set_to_none=True)
        keys = scale_gradient(credit.attach(slots, stored[slots]), counts_for)
        loss = loss_of(stored.index_copy(0, slots, keys), queries, labels, wanted)
        loss.backward()
        assert loss.item() == pytest.approx(expected_loss, rel=1e-5)
        return gradients(encoder)

    draws = [one_draw() for _ in range(800)]
    for index, gradient in enumerate(expected):
        found = torch.stack([one[index] for one in draws])
        deviation = found.std(dim=0) / len(draws) ** 0.5
        assert ((found.mean(dim=0) - gradient).abs() < 5 * deviation + 1e-6).all()
    for count in (0, CAPACITY, CAPACITY + 1):
        slots, counts_for = Sample(count, torch.Generator()).draw(CAPACITY)
        assert slots.tolist() == list(range(CAPACITY)) and counts_for == 1.0
    state = copy.deepcopy(sample.state_dict())
    following = sample.draw(CAPACITY)[0]
    again = Sample(4, torch.Generator())
    again.load_state_dict(state)
    assert torch.equal(again.draw(CAPACITY)[0], following)


def test_frozen_gives_nothing_and_trainable_keys_move(problem):
    encoder, _, stored, labels, queries = problem
    wanted = torch.randint(0, CLASSES, (5,))
    assert not Frozen().attach(torch.arange(CAPACITY), stored).requires_grad
    store = Store(CAPACITY, KEY_SIZE, eviction="fifo")
    store.write(stored, labels.float(), np.arange(CAPACITY, dtype=np.uint64), maximum, written_at=0)
    leaf = stored.clone().requires_grad_()
    loss_of(leaf, queries, labels, wanted).backward()
    _, found = one_update(TrainableKeys(store, 0.5), encoder, stored, labels, queries, wanted)
    assert found == [None] * 4
    usual = leaf.grad.square().mean().sqrt()
    torch.testing.assert_close(store.keys, stored - 0.5 * leaf.grad / usual)


def synthetic_for(context_size=CLASSES):
    model = nn.Linear(KEY_SIZE + context_size, KEY_SIZE)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    return SyntheticGradient(model, torch.optim.Adam(model.parameters(), lr=0.05), CAPACITY, context_size)


def asked_at_the_write(credit, slots, observations, keys, context):
    """The gradient that keys get when they are written."""
    leaf = keys.clone().requires_grad_()
    credit.remember(slots, observations, leaf, context)
    return leaf.grad


@pytest.mark.parametrize("size", [1e-9, 1e-5, 1.0])
def test_synthetic_gradients_begin_with_none_and_come_to_those_of_a_memorys_life(size, problem):
    """Foretold from the key's direction and the label; the gradients are a linear function of both, as the model is."""
    _, observations, stored, labels, _ = problem
    context = nn.functional.one_hot(labels, CLASSES).float()
    slots = torch.arange(CAPACITY)
    credit = synthetic_for()
    assert not asked_at_the_write(credit, slots, observations, stored, context).any()
    directions = stored / stored.square().mean(dim=1, keepdim=True).sqrt()
    gradient = torch.cat([directions, context], dim=1) @ torch.randn(KEY_SIZE + CLASSES, KEY_SIZE) * size
    for _ in range(1_500):
        credit.attach(slots, stored).backward(gradient)
        told = credit.settle()
    assert told["synthetic"] < 1e-4
    # Three are written at a time, so that a memory of twelve lives for four updates, and gets four gradients.
    written = slice(0, 3)
    found = asked_at_the_write(credit, slots[written], observations[written], stored[written], context[written])
    expected = 4 * gradient[written]
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.05 * expected.abs().max().item())


def test_synthetic_gradients_follow_sizes_that_fall_by_orders_of_magnitude(problem):
    """While a store fills, gradients shrink with the number of memories: what is foretold must too, at once."""
    _, observations, stored, labels, _ = problem
    context = nn.functional.one_hot(labels, CLASSES).float()
    slots = torch.arange(CAPACITY)
    credit = synthetic_for()
    asked_at_the_write(credit, slots, observations, stored, context)
    direction = torch.randn(CAPACITY, KEY_SIZE)
    for size in [1.0] * 300 + [1e-4] * 300:
        credit.attach(slots, stored).backward(direction * size)
        credit.settle()
    found = asked_at_the_write(credit, slots, observations, stored, context)
    assert found.norm() < 3e-4 * direction.norm() and found.norm() > 1e-5 * direction.norm()


def test_a_hybrid_reinstates_and_teaches_the_synthetic_gradient(problem):
    encoder, observations, stored, labels, queries = problem
    wanted = torch.randint(0, CLASSES, (5,))
    raw = raw_of(observations)
    exact = Exact(encoder, raw)
    expected = one_update(exact, encoder, stored, labels, queries, wanted)
    synthetic = synthetic_for()
    hybrid = Hybrid(Exact(encoder, raw), synthetic)
    found = one_update(hybrid, encoder, stored, labels, queries, wanted)
    assert found[0] == pytest.approx(expected[0])
    assert_same(found[1], expected[1])
    other = Hybrid(Exact(encoder, raw), synthetic_for())
    other.load_state_dict(copy.deepcopy(hybrid.state_dict()))
    context = nn.functional.one_hot(labels, CLASSES).float()
    slots = torch.arange(3)
    asked = [asked_at_the_write(one, slots, observations[:3], stored[:3], context[:3]) for one in (hybrid, other)]
    assert asked[0].any() and torch.equal(*asked)


def test_what_credit_infers_with_is_what_it_learns_with(problem):
    encoder, observations, stored, _, _ = problem
    raw = raw_of(observations)
    move(encoder)
    slots = torch.arange(CAPACITY)
    for credit, fresh in (
        (Frozen(), False),
        (Exact(encoder, raw), True),
        (Approximate(encoder, raw), False),
        (synthetic_for(), False),
        (Hybrid(Exact(encoder, raw), synthetic_for()), True),
        (Hybrid(Approximate(encoder, raw), synthetic_for()), False),
    ):
        keys = credit.infer(slots, stored)
        assert not keys.requires_grad
        torch.testing.assert_close(keys, credit.attach(slots, stored).detach())
        assert torch.equal(keys, stored) != fresh
