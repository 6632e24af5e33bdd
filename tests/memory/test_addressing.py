"""Every equation of addressing against plain loops in float64, gradients against finite differences, and extremes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from memory.neural import addressing
from tests.memory import neural_oracle as oracle

BATCH, HEADS, SLOTS, WIDTH = 3, 2, 5, 4


class Draw:
    """Random arguments of the equations, float64."""

    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(BATCH, *shape, generator=self.generator, dtype=torch.float64)

    def unit(self, *shape: int) -> Tensor:
        return torch.rand(BATCH, *shape, generator=self.generator, dtype=torch.float64)

    def distribution(self, *shape: int) -> Tensor:
        return self.normal(*shape).softmax(-1)


def arguments(name: str) -> tuple[Tensor, ...]:
    draw = Draw()
    links = draw.unit(SLOTS, SLOTS) / SLOTS
    return {
        "content_weights": (draw.normal(HEADS, WIDTH), 9 * draw.unit(HEADS), draw.normal(SLOTS, WIDTH)),
        "masked content_weights": (
            draw.normal(HEADS, WIDTH),
            9 * draw.unit(HEADS),
            draw.normal(SLOTS, WIDTH),
            draw.unit(HEADS, WIDTH),
        ),
        "shift": (draw.distribution(HEADS, SLOTS), draw.distribution(HEADS, 3)),
        "far shift": (draw.distribution(HEADS, SLOTS), draw.distribution(HEADS, 5)),
        "no shift": (draw.distribution(HEADS, SLOTS), draw.distribution(HEADS, 1)),
        "sharpen": (draw.distribution(HEADS, SLOTS), 1 + 5 * draw.unit(HEADS)),
        "retention": (draw.unit(HEADS), draw.distribution(HEADS, SLOTS)),
        "usage_after": (draw.unit(SLOTS), draw.distribution(SLOTS), draw.unit(SLOTS)),
        "allocation_weights": (draw.unit(SLOTS),),
        "write": (
            draw.normal(SLOTS, WIDTH),
            draw.distribution(HEADS, SLOTS),
            draw.unit(HEADS, WIDTH),
            draw.normal(HEADS, WIDTH),
        ),
        "one head's write": (
            draw.normal(SLOTS, WIDTH),
            draw.distribution(1, SLOTS),
            draw.unit(1, WIDTH),
            draw.normal(1, WIDTH),
        ),
        "precedence_after": (draw.distribution(SLOTS), 0.9 * draw.distribution(SLOTS)),
        "links_after": (
            links,
            0.9 * draw.distribution(SLOTS),
            draw.distribution(SLOTS),
            draw.distribution(HEADS, SLOTS),
        ),
    }[name]


def by_head(equation: Any, shared: tuple[int, ...] = ()) -> Any:
    """An oracle of one head as one of all heads; arguments by index in `shared` are those of all."""

    def of_all(*row: Any) -> list[Any]:
        return [
            equation(*(part if index in shared else part[head] for index, part in enumerate(row)))
            for head in range(HEADS)
        ]

    return of_all


def links_after(links: Any, write_weights: Any, precedence: Any, read_weights: Any) -> list[Any]:
    """The links, and of every head the weights backward and forward."""
    links = oracle.links_after(links, write_weights, precedence)
    return [
        links,
        [oracle.backward_weights(links, head) for head in read_weights],
        [oracle.forward_weights(links, head) for head in read_weights],
    ]


EQUATIONS = {
    "content_weights": by_head(oracle.content_weights, shared=(2,)),
    "masked content_weights": by_head(oracle.content_weights, shared=(2,)),
    "shift": by_head(oracle.shift),
    "far shift": by_head(oracle.shift),
    "no shift": by_head(oracle.shift),
    "sharpen": by_head(oracle.sharpen),
    "retention": oracle.retention,
    "usage_after": oracle.usage_after,
    "allocation_weights": oracle.allocation_weights,
    "write": oracle.write,
    "one head's write": oracle.write,
    "precedence_after": oracle.precedence_after,
    "links_after": links_after,
}
EACH = pytest.mark.parametrize("name", EQUATIONS)


def function(name: str) -> Any:
    return getattr(addressing, name.split()[-1])


def tensors(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


@EACH
def test_an_equation_equals_plain_loops(name: str) -> None:
    given = arguments(name)
    results = tensors(function(name)(*given))
    assert all(result.dtype == torch.float64 for result in results)
    for row in range(BATCH):
        expected = EQUATIONS[name](*(tensor[row].tolist() for tensor in given))
        for result, numbers in zip(results, expected if len(results) > 1 else [expected], strict=True):
            np.testing.assert_allclose(result[row].numpy(), numbers, rtol=1e-11, atol=1e-14)
    singles = tensors(function(name)(*(tensor.float() for tensor in given)))
    for single, result in zip(singles, results, strict=True):
        np.testing.assert_allclose(single.numpy(), result.numpy(), rtol=2e-4, atol=1e-5)


@EACH
def test_gradients_equal_finite_differences(name: str) -> None:
    given = [tensor.requires_grad_() for tensor in arguments(name)]
    assert torch.autograd.gradcheck(function(name), given)


def test_the_links_can_be_differentiated_twice() -> None:
    given = [tensor.requires_grad_() for tensor in arguments("links_after")]
    assert torch.autograd.gradgradcheck(addressing.links_after, given)


def test_a_gradient_of_links_reads_no_more_than_the_arguments() -> None:
    """The update fills a fresh square in place: neither its arguments nor the gradient it is handed may change."""
    given = [tensor.requires_grad_() for tensor in arguments("links_after")]
    before = [tensor.detach().clone() for tensor in given]
    results = addressing.links_after(*given)
    gradients = [torch.ones_like(result) for result in results]
    torch.autograd.backward(results, gradients)
    assert all(torch.equal(tensor, old) for tensor, old in zip(given, before, strict=True))
    assert all(gradient.eq(1).all() for gradient in gradients)


def test_a_shift_moves_weights_towards_higher_slots() -> None:
    weights = torch.tensor([[[0.0, 0.0, 1.0, 0.0]]])
    assert addressing.shift(weights, torch.tensor([[[0.0, 0.0, 1.0]]]))[0, 0].tolist() == [0, 0, 0, 1]
    assert addressing.shift(weights, torch.tensor([[[1.0, 0.0, 0.0]]]))[0, 0].tolist() == [0, 1, 0, 0]


def test_what_is_least_in_use_is_allocated_first() -> None:
    empty = addressing.allocation_weights(torch.zeros(1, 4))
    torch.testing.assert_close(empty, torch.tensor([[1.0, 0.0, 0.0, 0.0]]), rtol=0, atol=2e-6)
    one_left = addressing.allocation_weights(torch.tensor([[1.0, 1.0, 0.0, 1.0]]))
    torch.testing.assert_close(one_left, torch.tensor([[0.0, 0.0, 1.0, 0.0]]), rtol=0, atol=2e-6)
    full = addressing.allocation_weights(torch.ones(1, 4))
    torch.testing.assert_close(full, torch.zeros(1, 4), rtol=0, atol=2e-6)


def test_masks_hide_what_slots_hold_beside_the_key() -> None:
    memory = torch.tensor([[[1.0, 0.0, 9.0, -9.0], [0.0, 1.0, 0.0, 0.0]]])
    key, strength = torch.tensor([[[1.0, 0.0, 0.0, 0.0]]]), torch.tensor([[20.0]])
    mask = torch.tensor([[[1.0, 1.0, 0.0, 0.0]]])
    assert addressing.content_weights(key, strength, memory)[0, 0, 0] < 0.85
    assert addressing.content_weights(key, strength, memory, mask)[0, 0, 0] > 0.999


EXTREMES = (0.0, 1e-30, 1e-7, 0.5, 1.0, 1.0 + 2e-7, 21.0)


@EACH
def test_extremes_give_finite_numbers_and_gradients(name: str) -> None:
    """10,000 rows of each equation whose arguments are zero, tiny, huge, one-hot, or a rounding error too large."""
    rng = np.random.default_rng(0)
    given = []
    for place, tensor in enumerate(arguments(name)):
        shape = (10_000, *tensor.shape[1:])
        numbers = rng.choice(EXTREMES[:6], shape)
        if name == "sharpen":
            numbers = 1 + rng.choice(EXTREMES, shape) if place else rng.choice((-2e-6, *EXTREMES[:6]), shape)
        elif name.endswith("content_weights") and place < 3:
            # Whatever a memory may have grown to.
            numbers = rng.choice(EXTREMES, shape) * (1 if place == 1 else rng.choice([-1.0, 1.0, 1e10], shape))
        elif name in ("precedence_after", "links_after") or (name.endswith("write") and place):
            one_hot = np.eye(shape[-1])[rng.integers(shape[-1], size=shape[:-1])]
            row_is_one_hot = rng.random((shape[0], *[1] * (len(shape) - 1))) < 0.5
            numbers = np.where(row_is_one_hot, one_hot, numbers)
        given.append(torch.from_numpy(numbers).float().requires_grad_())
    results = tensors(function(name)(*given))
    assert all(result.isfinite().all() for result in results)
    sum((result * torch.from_numpy(rng.standard_normal(result.shape)).float()).sum() for result in results).backward()
    assert all(tensor.grad is not None and tensor.grad.isfinite().all() for tensor in given)
