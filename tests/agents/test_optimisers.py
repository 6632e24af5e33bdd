"""The optimisers against their published rules, number by number, on a network whose weights lie channels last."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch

from agents.encoders import Encoder
from agents.optimisers import OptimiserName, load_optimiser, make_optimiser

Rule = Callable[[np.ndarray, list[np.ndarray]], np.ndarray]

LEARNING_RATE = 1e-2
STEPS = 4


def screen_encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder((2, 36, 36), 255.0, features=3)


def train(encoder: Encoder, optimiser: torch.optim.Optimizer, steps: range) -> list[list[np.ndarray]]:
    """The gradients of each step."""
    gradients = []
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        observations = torch.randint(0, 256, (4, 2, 36, 36), generator=generator, dtype=torch.uint8)
        optimiser.zero_grad()
        (encoder(observations) - 1.0).square().sum().backward()
        gradients.append([parameter.grad.double().numpy() for parameter in encoder.parameters()])  # type: ignore[union-attr]
        optimiser.step()
    return gradients


def rmsprop_by_hand(weights: np.ndarray, gradients: list[np.ndarray]) -> np.ndarray:
    mean_square = np.zeros_like(weights)
    for gradient in gradients:
        mean_square = 0.95 * mean_square + 0.05 * gradient**2
        weights = weights - LEARNING_RATE * gradient / (np.sqrt(mean_square) + 1e-5)
    return weights


def adam_by_hand(weights: np.ndarray, gradients: list[np.ndarray]) -> np.ndarray:
    mean, mean_square = np.zeros_like(weights), np.zeros_like(weights)
    for step, gradient in enumerate(gradients, start=1):
        mean = 0.9 * mean + 0.1 * gradient
        mean_square = 0.999 * mean_square + 0.001 * gradient**2
        unbiased, unbiased_square = mean / (1 - 0.9**step), mean_square / (1 - 0.999**step)
        weights = weights - LEARNING_RATE * unbiased / (np.sqrt(unbiased_square) + 1.5e-4)
    return weights


@pytest.mark.parametrize(("name", "by_hand"), [("rmsprop", rmsprop_by_hand), ("adam", adam_by_hand)])
def test_weights_follow_the_rule(name: OptimiserName, by_hand: Rule) -> None:
    encoder = screen_encoder()
    before = [parameter.detach().double().numpy() for parameter in encoder.parameters()]
    gradients = train(encoder, make_optimiser(name, encoder.parameters(), LEARNING_RATE), range(STEPS))
    for index, parameter in enumerate(encoder.parameters()):
        expected = by_hand(before[index], [gradient[index] for gradient in gradients])
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["rmsprop", "adam"])
def test_a_loaded_optimiser_goes_on_bit_for_bit_although_a_checkpoint_forgets_the_layout(name: OptimiserName) -> None:
    encoder = screen_encoder()
    optimiser = make_optimiser(name, encoder.parameters(), LEARNING_RATE)
    train(encoder, optimiser, range(STEPS))
    restored = copy.deepcopy(encoder)
    restored_optimiser = make_optimiser(name, restored.parameters(), LEARNING_RATE)
    state = copy.deepcopy(optimiser.state_dict())
    for moments in state["state"].values():
        for moment, tensor in moments.items():
            moments[moment] = tensor.contiguous()
    load_optimiser(restored_optimiser, state)

    train(encoder, optimiser, range(STEPS, 2 * STEPS))
    train(restored, restored_optimiser, range(STEPS, 2 * STEPS))
    assert all(map(torch.equal, encoder.parameters(), restored.parameters()))
