"""The kernels against plain loops in float64, and their gradients against finite differences."""

import math

import numpy as np
import pytest
import torch

from memory.episodic.kernels import CosineSoftmax, InverseDistance, UniformMean
from tests.memory import oracle

KERNELS = [
    pytest.param(InverseDistance(), lambda q, k, valid: oracle.inverse_distance(q, k, valid, 1e-3), id="inverse"),
    pytest.param(
        InverseDistance(delta=0.5), lambda q, k, valid: oracle.inverse_distance(q, k, valid, 0.5), id="wide-inverse"
    ),
    pytest.param(CosineSoftmax(), lambda q, k, valid: oracle.cosine_softmax(q, k, valid, 0.1), id="cosine"),
    pytest.param(
        CosineSoftmax(temperature=2.0), lambda q, k, valid: oracle.cosine_softmax(q, k, valid, 2.0), id="warm-cosine"
    ),
    pytest.param(UniformMean(), lambda q, k, valid: oracle.uniform_mean(valid), id="uniform"),
]
EACH_KERNEL = pytest.mark.parametrize(("kernel", "expected"), KERNELS)


def example(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys, validity: full and padded rows, a lone neighbour, a query equal to a real and to a padded key."""
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(4, 3, generator=generator, dtype=dtype)
    keys = torch.randn(4, 5, 3, generator=generator, dtype=dtype)
    keys[0, 2] = queries[0]
    keys[1, 0] = queries[1]
    keys[1, 4] = queries[1]
    valid = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 0]], dtype=torch.bool)
    return queries, keys, valid


@EACH_KERNEL
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_weights_equal_plain_loops(kernel, expected, dtype, tolerance):
    queries, keys, valid = example(dtype)
    weights = kernel(queries, keys, valid)

    assert weights.dtype == dtype
    assert weights.shape == (4, 5)
    for row in range(4):
        loops = expected(queries[row].tolist(), keys[row].tolist(), valid[row].tolist())
        np.testing.assert_allclose(weights[row].numpy(), loops, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(weights.sum(1).numpy(), np.ones(4), rtol=tolerance)
    assert (weights[~valid] == 0).all()
    assert (weights[valid] > 0).all()


@EACH_KERNEL
def test_gradients_equal_finite_differences(kernel, expected):
    queries, keys, valid = example(torch.float64)
    queries.requires_grad_()
    keys.requires_grad_()
    weights = kernel(queries, keys, valid)
    if not weights.requires_grad:
        assert isinstance(kernel, UniformMean), "only the uniform mean may ignore its queries and keys"
        return
    # The second row's query lies on a key, where 1 / (distance^2 + 1e-3) bends sharply: a step of 1e-6 is small enough.
    assert torch.autograd.gradcheck(lambda q, k: kernel(q, k, valid), (queries, keys), eps=1e-6, atol=1e-5)


@EACH_KERNEL
def test_padding_has_no_influence_on_weights_or_gradients(kernel, expected):
    queries, keys, valid = example(torch.float64)
    moved = torch.where(valid[..., None], keys, torch.full_like(keys, 7.0))
    torch.testing.assert_close(kernel(queries, keys, valid), kernel(queries, moved, valid), rtol=0, atol=0)

    keys.requires_grad_()
    weights = kernel(queries, keys, valid)
    if weights.requires_grad:
        (weights * torch.arange(5.0, dtype=torch.float64)).sum().backward()
        assert keys.grad is not None
        assert (keys.grad[~valid] == 0).all()
        assert (keys.grad[valid] != 0).any()


@EACH_KERNEL
@pytest.mark.parametrize(
    ("query", "keys"),
    [
        pytest.param([0.0, 0.0], [[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]], id="zero-vectors"),
        pytest.param([1.0, 2.0], [[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]], id="all-keys-equal-the-query"),
        pytest.param([1e12, -1e12], [[1e12, 1e12], [-1e12, 1.0], [1.0, 1.0]], id="very-far"),
        pytest.param([1e-12, 1e-12], [[-1e-12, 1e-12], [1e-12, 1e-12], [1.0, 1.0]], id="very-near"),
    ],
)
def test_extremes_keep_rows_normalised_and_gradients_finite(kernel, expected, query, keys):
    queries = torch.tensor([query], requires_grad=True)
    stored = torch.tensor([keys], requires_grad=True)
    valid = torch.tensor([[True, True, False]])
    weights = kernel(queries, stored, valid)

    assert weights.sum().item() == pytest.approx(1, abs=1e-6)
    assert weights[0, 2] == 0
    if weights.requires_grad:
        (weights * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
        assert queries.grad is not None and stored.grad is not None
        assert queries.grad.isfinite().all()
        assert stored.grad.isfinite().all()


def test_inverse_distance_is_exact_far_from_the_origin():
    """Squared norms would cancel here: at 1e3 a float32 square is only known to about 0.06."""
    query = torch.full((1, 4), 1000.0)
    keys = query + torch.tensor([[0.0], [0.25], [0.5]]).expand(3, 4)
    weights = InverseDistance()(query, keys[None], torch.ones(1, 3, dtype=torch.bool))
    loops = oracle.inverse_distance(query[0].tolist(), keys.tolist(), [True] * 3, 1e-3)
    np.testing.assert_allclose(weights[0].numpy(), loops, rtol=1e-5)


def test_cosine_softmax_ignores_lengths():
    query, keys = torch.tensor([[3.0, 4.0]]), torch.tensor([[[0.3, 0.4], [30.0, 40.0], [4.0, -3.0]]])
    weights = CosineSoftmax(temperature=1.0)(query, keys, torch.ones(1, 3, dtype=torch.bool))[0].tolist()
    assert weights == pytest.approx([math.e / (2 * math.e + 1), math.e / (2 * math.e + 1), 1 / (2 * math.e + 1)])
