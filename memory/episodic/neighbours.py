"""Exact nearest neighbours by one matrix product and a two-stage top-k.

No index: the keys of an episodic agent move while it learns, and an index over moving keys is stale by design. One
scan costs a pass over the keys, whatever the number of queries, so batch the queries.
"""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 64
_MOST_SCORES = 2**25
"""Queries are taken in pieces so that the score matrix stays under 128 MiB."""
_ROUNDING = 2.0**-22
"""Rounding of a float32 product relative to its terms, four times the unit roundoff, for each root of its length."""


def nearest(
    queries: Tensor, keys: Tensor, squared_norms: Tensor, centre: Tensor, neighbours: int
) -> tuple[Tensor, Tensor]:
    """The nearest keys of each query, nearest first.

    `|q - k|^2` is expanded around `centre`, so that keys far from the origin do not drown their differences in
    rounding. A few candidates more than asked for are scored again by plain subtraction. Where rounding may still have
    hidden a nearer key (queries far from their neighbours' scale), that query is answered by subtraction from all keys:
    some twenty times slower, and rare while the centre is near the keys.

    Args:
        queries: `[batch, key_size]`.
        keys: `[rows, key_size]`.
        squared_norms: squared distances of the keys to the centre, `[rows]`.
        centre: any point near the keys, `[key_size]`.
        neighbours: how many to find.

    Returns:
        Euclidean distances and row indices, each `[batch, min(neighbours, rows)]`; among equally distant keys any.
    """
    rows = keys.shape[0]
    neighbours = min(neighbours, rows)
    count = min(neighbours + max(4, neighbours // 8), rows)
    pieces = (queries - centre).split(max(1, _MOST_SCORES // rows))
    scores, indices = map(
        torch.cat, zip(*(_candidates(piece, keys, squared_norms, count) for piece in pieces), strict=True)
    )
    distances = (queries[:, None] - keys[indices]).square().sum(dim=2).sqrt()
    distances, order = distances.topk(neighbours, dim=1, largest=False, sorted=True)
    indices = indices.gather(1, order)
    if count < rows:
        uncertain = _uncertain(scores.amax(dim=1), distances[:, -1], queries - centre, squared_norms, centre)
        for row in uncertain.nonzero().squeeze(1).tolist():
            exact = (keys - queries[row]).square().sum(dim=1).sqrt()
            distances[row], indices[row] = exact.topk(neighbours, largest=False, sorted=True)
    return distances, indices


def _candidates(centred: Tensor, keys: Tensor, squared_norms: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` smallest scores and their rows, `[batch, count]` each.

    A score is the squared distance less what is the same for all keys: `|q - c|^2 + 2 (q - c) c`, for the centre c.
    The smallest can only lie in the blocks with the smallest minima. Finding those first replaces a top-k over all rows (its
    cost rivals the matrix product's) by a vectorised minimum and a top-k over few.
    """
    scores = torch.addmm(squared_norms, centred, keys.T, alpha=-2.0)
    blocks = keys.shape[0] // _BLOCK
    if blocks <= 2 * count:
        smallest = scores.topk(count, dim=1, largest=False, sorted=False)
        return smallest.values, smallest.indices
    batch = scores.shape[0]
    whole, tail = scores[:, : blocks * _BLOCK].unflatten(1, (blocks, _BLOCK)), scores[:, blocks * _BLOCK :]
    best_blocks = whole.amin(dim=2).topk(count, dim=1, largest=False, sorted=False).indices
    within = torch.arange(_BLOCK, device=keys.device)
    rows = torch.cat(
        [
            (best_blocks[:, :, None] * _BLOCK + within).flatten(1),
            torch.arange(blocks * _BLOCK, keys.shape[0], device=keys.device).expand(batch, -1),
        ],
        dim=1,
    )
    few = torch.cat([whole.gather(1, best_blocks[:, :, None].expand(-1, -1, _BLOCK)).flatten(1), tail], dim=1)
    smallest = few.topk(count, dim=1, largest=False, sorted=False)
    return smallest.values, rows.gather(1, smallest.indices)


def _uncertain(
    worst_scores: Tensor, farthest: Tensor, centred: Tensor, squared_norms: Tensor, centre: Tensor
) -> Tensor:
    """Where a key that is no candidate might, but for rounding, be nearer than the farthest neighbour; bool `[batch]`."""
    lengths = centred.norm(dim=1)
    largest_norm = squared_norms.amax()
    error = 2 * lengths * (centre.norm() + largest_norm.sqrt()) + largest_norm + lengths.square()
    error = error * (_ROUNDING * centred.shape[1] ** 0.5)
    return farthest.square() > worst_scores + lengths.square() + 2 * centred @ centre - error
