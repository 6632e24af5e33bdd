"""The drift penalty is the gradient it says it is, against the running mean it says, and holds an encoder back."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from memory.episodic.credit import Approximate, Exact
from memory.episodic.drift import Anchor, DriftPenalty, RunningMean, drift
from memory.episodic.reinstatement import Raw


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def make_encoder():
    return nn.Sequential(nn.Flatten(), nn.Linear(9, 6), nn.Tanh(), nn.Linear(6, 4))


class Double(nn.Module):
    def forward(self, observations):
        return observations.double()


def push(encoder, size):
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += size * torch.randn_like(parameter)


def test_the_gradient_is_that_of_the_formula_against_the_running_mean():
    encoder = make_encoder().double()
    penalty = DriftPenalty(encoder, weight=7.0, updates=4)
    mean = [parameter.detach().clone() for parameter in encoder.parameters()]
    for _ in range(3):
        push(encoder, 0.3)
        mean = [old + 0.25 * (now.detach() - old) for old, now in zip(mean, encoder.parameters(), strict=True)]
        observations = torch.rand(5, 3, 3, dtype=torch.float64)
        keys = encoder(observations).detach().requires_grad_()
        found = penalty.penalise(observations, keys)
        before = make_encoder().double()
        for parameter, value in zip(before.parameters(), mean, strict=True):
            parameter.data.copy_(value)

        def drift_of(keys, before=before, observations=observations):
            return (1 - functional.cosine_similarity(keys, before(observations), dim=1)).mean().item()

        assert found == pytest.approx(drift_of(keys.detach()))
        for index in range(keys.numel()):
            step = torch.zeros(keys.numel(), dtype=torch.float64)
            step[index] = 1e-6
            step = step.view_as(keys)
            slope = (drift_of(keys.detach() + step) - drift_of(keys.detach() - step)) / 2e-6
            assert keys.grad.flatten()[index].item() == pytest.approx(7.0 * slope, abs=1e-7)


def test_its_gradient_comes_on_top_of_what_keys_are_asked_for_already():
    encoder = make_encoder()
    penalty = DriftPenalty(encoder, weight=1.0, updates=10)
    push(encoder, 0.3)
    observations = torch.rand(5, 3, 3)
    plain, asked = (encoder(observations).detach().requires_grad_() for _ in range(2))
    asked.grad = torch.ones_like(asked)
    copy.deepcopy(penalty).penalise(observations, plain)
    penalty.penalise(observations, asked)
    torch.testing.assert_close(asked.grad, plain.grad + 1)
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_an_encoder_pushed_one_way_goes_less_far_with_it():
    def distance(weight: float) -> float:
        torch.manual_seed(0)
        encoder = make_encoder()
        observations, direction = torch.rand(20, 3, 3), torch.randn(4)
        first = encoder(observations).detach()
        penalty = DriftPenalty(encoder, weight, updates=50)
        optimiser = torch.optim.Adam(encoder.parameters(), lr=1e-2)
        for _ in range(100):
            optimiser.zero_grad()
            embedded = encoder(observations)
            keys = embedded.detach().requires_grad_()
            (keys @ direction).mean().backward()
            penalty.penalise(observations, keys)
            embedded.backward(keys.grad)
            optimiser.step()
        return (1 - functional.cosine_similarity(encoder(observations), first, dim=1)).mean().item()

    assert distance(30.0) < 0.5 * distance(0.0)


def test_without_a_weight_it_does_nothing_and_nonsense_is_refused():
    encoder = make_encoder()
    penalty = DriftPenalty(encoder, 0.0, 10)
    keys = torch.rand(2, 4).requires_grad_()
    assert penalty.penalise(torch.rand(2, 3, 3), keys) is None and keys.grad is None
    for weight, updates in ((-1.0, 10), (1.0, 0)):
        with pytest.raises(ValueError, match="at least"):
            DriftPenalty(encoder, weight, updates)


def test_saved_and_loaded_it_goes_on_the_same():
    encoder = make_encoder()
    penalty = DriftPenalty(encoder, 1.0, 5)
    observations = torch.rand(3, 3, 3)
    push(encoder, 0.3)
    penalty.penalise(observations, encoder(observations).detach().requires_grad_())
    other = DriftPenalty(encoder, 1.0, 5)
    other.load_state_dict(copy.deepcopy(penalty.state_dict()))
    push(encoder, 0.3)
    keys = [encoder(observations).detach().requires_grad_() for _ in range(2)]
    assert penalty.penalise(observations, keys[0]) == other.penalise(observations, keys[1])
    assert torch.equal(keys[0].grad, keys[1].grad)


def test_euclidean_drift_is_counted_in_the_spread_of_keys():
    encoder = make_encoder().double()
    penalty = DriftPenalty(encoder, weight=3.0, updates=5, geometry="euclidean")
    twin = copy.deepcopy(encoder)
    push(encoder, 0.3)
    observations = torch.rand(6, 3, 3, dtype=torch.float64)
    for mean, now in zip(twin.parameters(), encoder.parameters(), strict=True):
        mean.data += 0.2 * (now.data - mean.data)
    with torch.no_grad():
        before = twin(observations)
    centre = before.mean(dim=0)
    spread = sum(float((key - centre).square().sum()) for key in before)
    keys = encoder(observations).detach().requires_grad_()
    moved = sum(float((new - old).square().sum()) for new, old in zip(keys.detach(), before, strict=True))
    assert penalty.penalise(observations, keys) == pytest.approx(moved / spread)
    torch.testing.assert_close(keys.grad, 3.0 * 2 * (keys.detach() - before) / spread)


def test_a_running_mean_follows_at_its_own_pace_and_has_no_other_parameters():
    encoder = make_encoder()
    mean = RunningMean(encoder, updates=4)
    expected = [parameter.detach().clone() for parameter in encoder.parameters()]
    for _ in range(3):
        push(encoder, 0.3)
        mean.follow()
        expected = [old + 0.25 * (now.detach() - old) for old, now in zip(expected, encoder.parameters(), strict=True)]
    found = list(mean.parameters())
    assert len(found) == len(expected) and not any(parameter.requires_grad for parameter in found)
    for mine, its in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, its)
    twin = RunningMean(make_encoder(), updates=4)
    twin.load_state_dict(mean.state_dict())
    observations = torch.rand(2, 3, 3)
    assert torch.equal(twin(observations), mean(observations)) and not mean(observations).requires_grad


@pytest.mark.parametrize("geometry", ["cosine", "euclidean"])
@pytest.mark.parametrize("kind", [Exact, Approximate])
def test_an_anchor_pulls_fresh_embeddings_to_stored_keys_whichever_of_them_infer(kind, geometry):
    """Its gradient in the encoder is that of the formula written out on what the encoder makes of the memories."""
    encoder, raw = make_encoder().double(), Raw(6, (3, 3))
    slots, observations = torch.arange(6), torch.randint(0, 5, (6, 3, 3), dtype=torch.uint8)
    raw.remember(slots, observations)
    with torch.no_grad():
        stored = encoder(observations.double())
    push(encoder, 0.3)
    credit = kind(nn.Sequential(Double(), encoder), raw)
    attached = credit.attach(slots, stored)
    penalty = Anchor(3.0, geometry).penalty(attached, credit.fresh, stored)
    penalty.backward()
    found = [parameter.grad.clone() for parameter in encoder.parameters()]
    encoder.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    fresh = encoder(observations.double())
    centre = stored.mean(dim=0)
    for mine, its in zip(fresh, stored, strict=True):
        if geometry == "cosine":
            total = total + (1 - mine @ its / (mine.norm() * its.norm())) / 6
        else:
            total = total + (mine - its).square().sum() / (stored - centre).square().sum()
    (3.0 * total).backward()
    assert penalty.item() == pytest.approx(3.0 * total.item())
    for mine, parameter in zip(found, encoder.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad)


def test_an_anchor_without_weight_asks_for_nothing():
    keys = torch.rand(3, 2)
    assert Anchor(0.0).penalty(keys, keys, keys) is None
    with pytest.raises(ValueError, match="at least 0"):
        Anchor(-1.0)


def test_a_batch_of_one_observation_drowns_nothing():
    """Nothing is spread in it: a tenth of the keys' length is then a drift of a hundred, and not of a million."""
    keys = 1.1 * torch.tensor([[3.0, 4.0]] * 6)
    before = keys / 1.1
    assert drift(keys, before, "euclidean").item() == pytest.approx(0.1**2 / 0.01**2, rel=1e-4)
    before = before + 0.5 * torch.randn(6, 2)
    expected = (keys - before).square().sum(1).mean() / (before - before.mean(0)).square().sum(1).mean()
    assert drift(keys, before, "euclidean").item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.isfinite(drift(torch.ones(3, 2), torch.zeros(3, 2), "euclidean"))
