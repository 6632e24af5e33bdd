"""Exact nearest neighbours by one matrix product and a two-stage top-k.

No index: the keys of an episodic agent move while it learns, and an index over moving keys is stale by design. One
scan costs a pass over the keys, whatever the number of queries, so batch the queries.

A key's score is its squared distance expanded around a centre, `|k - c|^2 - 2 (q - c) k`, which lacks only what is the
same for all keys. The best by score, and a few more, are scored again by plain subtraction; where rounding may still
have hidden a nearer key, that query is answered by subtraction from all keys: slow, and rare while the centre is near
the keys.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from memory.episodic.table import BLOCK, Table

_ROUNDING = 2.0**-22
"""Rounding of a float32 product relative to its terms, four times the unit roundoff, for each root of its length."""
_MOST_SCORES = 2**25
"""Queries are taken in pieces so that the score matrix stays under 128 MiB."""


class Neighbours(NamedTuple):
    """The nearest keys of each query, nearest first; among equally distant ones any."""

    distances: Tensor
    """Euclidean, `[..., neighbours]`; inf where a store has no more keys."""
    rows: Tensor
    """Rows of the table, int64 `[..., neighbours]`; those at an infinite distance repeat the nearest."""
    keys: Tensor
    """The keys in those rows, `[..., neighbours, key_size]`."""


def nearest(table: Table, queries: Tensor, stores: list[int], neighbours: int) -> Neighbours:
    """The nearest keys of each query in each of several stores, none of them empty.

    Args:
        table: holds the stores.
        queries: `[batch, key_size]`.
        stores: numbers of the stores to search.
        neighbours: how many to find in each.

    Returns:
        Neighbours of leading shape `[batch, len(stores)]`, as wide as the fullest of the stores allows.
    """
    searched = table.allocated(stores[0]) if len(stores) == 1 else len(table.keys)
    pieces = queries.split(max(1, _MOST_SCORES // searched))
    found = [_nearest(table, piece, stores, neighbours) for piece in pieces]
    return found[0] if len(found) == 1 else Neighbours(*map(torch.cat, zip(*found, strict=True)))


def _nearest(table: Table, queries: Tensor, stores: list[int], neighbours: int) -> Neighbours:
    lengths = [table.lengths[store] for store in stores]
    width = min(neighbours, max(lengths))
    count = min(width + max(4, width // 8), max(lengths))
    centred = queries - table.centre
    scores, rows = (_in_one if len(stores) == 1 else _in_several)(table, centred, stores, count)
    distances = (queries[:, None, None] - _take(table.keys, rows)).square_().sum(dim=3).sqrt_()
    if min(lengths) < count:
        distances.masked_fill_(scores.isinf(), torch.inf)
    distances, order = distances.topk(width, dim=2, largest=False, sorted=True)
    rows = rows.gather(2, order)
    if min(lengths) < width:
        rows = torch.where(distances.isinf(), rows[:, :, :1], rows)
    for query, position in _uncertain(table, centred, scores, distances, lengths, count):
        span = table.filled(stores[position])
        exact = (table.keys[span] - queries[query]).square().sum(dim=1).sqrt()
        distances[query, position], slots = exact.topk(width, largest=False, sorted=True)
        rows[query, position] = slots + span.start
    return Neighbours(distances, rows, _take(table.keys, rows))


def _in_one(table: Table, centred: Tensor, stores: list[int], count: int) -> tuple[Tensor, Tensor]:
    """The `count` smallest scores in one store and their rows, `[batch, 1, count]` each.

    They can only lie in the blocks with the smallest minima. Finding those first replaces a top-k over all rows (its
    cost rivals the matrix product's) by a vectorised minimum and a top-k over few.
    """
    span = table.span(stores[0])
    scores = torch.addmm(table.squared_norms[span], centred, table.keys[span].T, alpha=-2.0)
    blocks = scores.shape[1] // BLOCK
    if blocks <= 2 * count:
        smallest = scores.topk(count, dim=1, largest=False, sorted=False)
        return smallest.values[:, None], smallest.indices[:, None] + span.start
    by_block = scores.unflatten(1, (blocks, BLOCK))
    best_blocks = by_block.amin(dim=2).topk(count, dim=1, largest=False, sorted=False).indices
    few = by_block.gather(1, best_blocks[:, :, None].expand(-1, -1, BLOCK)).flatten(1)
    smallest = few.topk(count, dim=1, largest=False, sorted=False)
    blocks_of = best_blocks.gather(1, smallest.indices // BLOCK)
    return smallest.values[:, None], (blocks_of * BLOCK + smallest.indices % BLOCK)[:, None] + span.start


def _in_several(table: Table, centred: Tensor, stores: list[int], count: int) -> tuple[Tensor, Tensor]:
    """As `_in_one`, for several stores by one product with the whole table, `[batch, stores, count]` each."""
    wanted = torch.tensor(stores, device=centred.device)[:, None]
    scores = torch.addmm(table.squared_norms, centred, table.keys.T, alpha=-2.0)
    by_block = scores.unflatten(1, (-1, BLOCK))
    minima = by_block.amin(dim=2)[:, None].masked_fill(table.owners != wanted, torch.inf)
    best_blocks = minima.topk(min(count, minima.shape[2]), dim=2, largest=False, sorted=False).indices
    flat_blocks = best_blocks.flatten(1)[:, :, None].expand(-1, -1, BLOCK)
    few = by_block.gather(1, flat_blocks).unflatten(1, best_blocks.shape[1:])
    few = few.masked_fill((table.owners[best_blocks] != wanted)[..., None], torch.inf).flatten(2)
    smallest = few.topk(count, dim=2, largest=False, sorted=False)
    blocks_of = best_blocks.gather(2, smallest.indices // BLOCK)
    return smallest.values, blocks_of * BLOCK + smallest.indices % BLOCK


def _take(keys: Tensor, rows: Tensor) -> Tensor:
    """`keys[rows]`; indexing by a tensor of several dimensions takes three times as long."""
    return keys.index_select(0, rows.flatten()).unflatten(0, rows.shape)


def _uncertain(
    table: Table, centred: Tensor, scores: Tensor, distances: Tensor, lengths: list[int], count: int
) -> list[list[int]]:
    """Query and store where a key that is no candidate might, but for rounding, be nearer than the last neighbour."""
    if max(lengths) <= count:
        return []
    squared = centred.square().sum(dim=1)
    error = squared + 2 * (table.centre_length + table.reach) * squared.sqrt() + table.reach**2
    error *= _ROUNDING * centred.shape[1] ** 0.5
    # The part of the distance that scores leave out, less what they may err by.
    certain = squared + 2 * centred @ table.centre - error
    # Infinite scores are padding: that store has fewer keys than candidates were asked for.
    doubtful = distances[:, :, -1].square() > scores.amax(dim=2) + certain[:, None]
    return doubtful.nonzero().tolist()
