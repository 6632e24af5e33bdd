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


def nearest(
    queries: Tensor, keys: Tensor, squared_norms: Tensor, centre: Tensor, neighbours: int
) -> tuple[Tensor, Tensor]:
    """The nearest keys of each query, nearest first.

    `queries [batch, key_size]`, `keys [rows, key_size]`, `centre [key_size]` any point near the keys, `squared_norms
    [rows]` the squared distances of the keys to it. Returns Euclidean distances and row indices, each `[batch, min(
    neighbours, rows)]`. Among equally distant keys any may be returned.

    `|q - k|^2` is expanded around `centre` so that keys far from the origin do not drown their differences in float32
    rounding; a few candidates more than asked for are then scored again by plain subtraction, so that the distances
    returned carry no cancellation at all.
    """
    rows = keys.shape[0]
    neighbours = min(neighbours, rows)
    candidates = min(neighbours + max(4, neighbours // 8), rows)
    pieces = queries.split(max(1, _MOST_SCORES // rows))
    indices = torch.cat([_candidates(piece - centre, keys, squared_norms, candidates) for piece in pieces])
    distances = (queries[:, None] - keys[indices]).square().sum(dim=2).sqrt()
    distances, order = distances.topk(neighbours, dim=1, largest=False, sorted=True)
    return distances, indices.gather(1, order)


def _candidates(centred: Tensor, keys: Tensor, squared_norms: Tensor, count: int) -> Tensor:
    """Rows of the `count` smallest scores of each query, `[batch, count]`.

    The smallest scores can only lie in the blocks with the smallest minima. Finding those first replaces a top-k over
    all rows (its cost rivals the matrix product's) by a vectorised minimum and a top-k over few.
    """
    scores = torch.addmm(squared_norms, centred, keys.T, alpha=-2.0)
    blocks = keys.shape[0] // _BLOCK
    if blocks <= 2 * count:
        return scores.topk(count, dim=1, largest=False, sorted=False).indices
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
    return rows.gather(1, few.topk(count, dim=1, largest=False, sorted=False).indices)
