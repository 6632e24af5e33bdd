"""Encoders against layers applied by hand, and the projection against the distances it must keep."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from agents import encoders
from agents.encoders import Encoder, GaussianProjection

SCREEN = (4, 84, 84)
GRID = (21, 8, 8)


def batch_of(shape: tuple[int, ...], high: int, batch: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, high + 1, (batch, *shape), generator=generator, dtype=torch.uint8)


def encoder_for(shape: tuple[int, ...], high: float, features: int = 16, **options: str) -> Encoder:
    torch.manual_seed(0)
    return Encoder(shape, high, features, **options)  # type: ignore[arg-type]


def test_screens_take_the_convolutions_of_the_nature_network() -> None:
    encoder = encoder_for(SCREEN, 255)
    weights = list(encoder.parameters())
    # Mnih et al. 2015: 32 filters of 8 x 8, 64 of 4 x 4, 64 of 3 x 3, which leave 64 maps of 7 x 7.
    expected = [(32, 4, 8, 8), (32,), (64, 32, 4, 4), (64,), (64, 64, 3, 3), (64,), (16, 64 * 7 * 7), (16,)]
    assert [tuple(weight.shape) for weight in weights] == expected

    observations = batch_of(SCREEN, 255)
    hidden = observations.float() / 255
    for index, stride in ((0, 4), (2, 2), (4, 1)):
        hidden = functional.conv2d(hidden, weights[index], weights[index + 1], stride=stride).clamp(min=0)
    expected_features = hidden.flatten(1) @ weights[6].T + weights[7]
    features = encoder(observations)
    assert features.shape == (3, 16) and features.dtype == torch.float32
    torch.testing.assert_close(features, expected_features, rtol=1e-4, atol=1e-5)


def test_small_grids_take_two_dense_layers() -> None:
    encoder = encoder_for(GRID, 1)
    first, first_bias, second, second_bias = encoder.parameters()
    observations = batch_of(GRID, 1)
    hidden = (observations.flatten(1).float() @ first.T + first_bias).clamp(min=0)
    features = encoder(observations)
    assert features.shape == (3, 16) and features.dtype == torch.float32
    torch.testing.assert_close(features, hidden @ second.T + second_bias, rtol=1e-4, atol=1e-5)


def test_flat_observations_take_the_same_as_grids() -> None:
    grid, flat = encoder_for((2, 3, 1), 255), encoder_for((6,), 255)
    observations = batch_of((2, 3, 1), 255)
    assert torch.equal(grid(observations), flat(observations.flatten(1)))


@pytest.mark.parametrize(("shape", "screen"), [((1, 36, 36), True), ((1, 35, 84), False), ((3, 56, 56), True)])
def test_the_convolutions_are_taken_by_whatever_is_large_enough_for_them(shape: tuple[int, ...], screen: bool) -> None:
    encoder = encoder_for(shape, 255)
    assert any(parameter.ndim == 4 for parameter in encoder.parameters()) == screen
    assert encoder(batch_of(shape, 255)).shape == (3, 16)


@pytest.mark.parametrize(("shape", "high"), [(GRID, 10), ((4, 36, 36), 255)])
def test_observations_are_scaled_by_their_largest_value(shape: tuple[int, ...], high: int) -> None:
    ones = torch.ones(1, *shape, dtype=torch.uint8)
    torch.testing.assert_close(encoder_for(shape, high)(ones * high), encoder_for(shape, 1)(ones))


def test_features_are_as_far_apart_as_observations_where_weights_are_drawn_so() -> None:
    """Of four layers each has three times the variance, but for what is cut off: (3 * 0.774)^4 is 29."""
    torch.manual_seed(3)
    squared = {}
    for name in ("torch", "lecun"):
        found = []
        for _ in range(5):
            features = Encoder(SCREEN, 255, 64, initialisation=name)(batch_of(SCREEN, 255, 8))  # type: ignore[arg-type]
            found.append(torch.pdist(features).square().mean().item())
        squared[name] = np.mean(found)
    assert 15 < squared["lecun"] / squared["torch"] < 60
    encoder = Encoder(SCREEN, 255, 64, initialisation="lecun")
    for weight, bias in zip(*[iter(encoder.parameters())] * 2, strict=True):
        inputs = weight[0].numel()
        # Cut at two deviations, a normal keeps 0.774 of its variance.
        assert weight.var().item() * inputs == pytest.approx(0.774, rel=0.1)
        assert weight.abs().max().item() <= 2 * inputs**-0.5 and not bias.any()


def test_observations_that_are_floats_already_are_left_as_they_are() -> None:
    observations = torch.full((2, *GRID), 100.0)
    encoder_for(GRID, 255)(observations)
    assert (observations == 100.0).all()


@pytest.mark.parametrize(("shape", "high"), [(GRID, 1), (SCREEN, 255)])
def test_bfloat16_stays_near_float32_and_trains_float32_weights(shape: tuple[int, ...], high: int) -> None:
    exact, rounded = encoder_for(shape, high), encoder_for(shape, high, precision="bfloat16")
    observations = batch_of(shape, high)
    features, rounded_features = exact(observations), rounded(observations)
    assert rounded_features.dtype == torch.float32
    assert not torch.equal(features, rounded_features), "the arithmetic is not bfloat16"
    # Eight bits of mantissa, 1/256 a number, and the errors of many numbers partly cancel.
    assert (features - rounded_features).norm() <= 0.01 * features.norm()

    features.square().sum().backward()
    rounded_features.square().sum().backward()
    for weight, rounded_weight in zip(exact.parameters(), rounded.parameters(), strict=True):
        assert weight.grad is not None and rounded_weight.grad is not None
        assert rounded_weight.grad.dtype == torch.float32
        # A unit near zero may be on in one and off in the other, which costs its whole gradient.
        assert (weight.grad - rounded_weight.grad).norm() <= 0.15 * weight.grad.norm()


def projection_of(input_size: int, key_size: int, seed: int = 0) -> GaussianProjection:
    return GaussianProjection(input_size, key_size, np.random.default_rng(seed), "cpu")


def test_a_key_is_the_matrix_times_the_observation_in_raw_units() -> None:
    projection = projection_of(2 * 3 * 4, 5)
    observations = batch_of((2, 3, 4), 255).numpy()
    keys = projection(observations)
    assert keys.dtype == torch.float32 and keys.shape == (3, 5)
    for observation, key in zip(observations, keys, strict=True):
        pixels = observation.ravel()
        for dimension in range(5):
            expected = sum(float(pixel) * float(projection.matrix[i, dimension]) for i, pixel in enumerate(pixels))
            assert key[dimension].item() == pytest.approx(expected, rel=1e-5, abs=1e-2)


def test_the_projection_keeps_distances_to_within_what_its_size_allows() -> None:
    observations = batch_of((1, 20, 20), 255, batch=12).numpy()
    keys = projection_of(400, 512)(observations)
    ratios = []
    for first in range(12):
        for second in range(first):
            true = np.linalg.norm(observations[first].astype(float) - observations[second].astype(float))
            ratios.append((keys[first] - keys[second]).norm().item() / true)
    # The squared ratio is chi-squared with 512 degrees: the ratio's deviation is 1/sqrt(2 * 512) = 0.031.
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.02)
    assert min(ratios) > 1 - 5 * 0.031 and max(ratios) < 1 + 5 * 0.031


def test_a_seed_decides_the_projection() -> None:
    assert torch.equal(projection_of(10, 4, seed=3).matrix, projection_of(10, 4, seed=3).matrix)
    assert not torch.equal(projection_of(10, 4, seed=3).matrix, projection_of(10, 4, seed=4).matrix)


@pytest.mark.parametrize("multiplies", [True, False])
def test_auto_is_bfloat16_where_it_is_multiplied(multiplies: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "multiplies_bfloat16", lambda device: multiplies)
    auto, expected = (
        encoder_for(GRID, 1, precision=precision) for precision in ("auto", "bfloat16" if multiplies else "float32")
    )
    observations = batch_of(GRID, 1)
    assert torch.equal(auto(observations), expected(observations))


def test_of_a_processor_that_cannot_be_told_no_instructions_are_assumed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert encoders.multiplies_bfloat16.__wrapped__("cpu") is False
