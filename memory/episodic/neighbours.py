"""Exact nearest neighbours by matrix products and a two-stage top-k.

No index: the keys of an episodic agent move while it learns, and an index over moving keys is stale by design. A scan
costs a pass over the keys, whatever the number of queries, so batch the queries.

A key's score is its squared distance expanded around a centre c, `|k - c|^2 - 2 (q - c) k`, which lacks only what is
the same for all keys. The best by score, and some more, are scored again by plain subtraction; where rounding may still
have hidden a nearer key, the query is asked again: of scores in bfloat16 by scores in float32, of these by subtraction
from all keys, which is slow, and rare while the centre is near the keys.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from memory.episodic.rounding import LARGEST_REACH, SMALLEST_REACH, rounded_queries, score_error
from memory.episodic.table import BLOCK, Table

_ROUNDING = 2.0**-22
"""Rounding of a float32 product relative to its terms, four times the unit roundoff, for each root of its length."""
_SMALLEST_GROUP, _LARGEST_GROUP = 4, 32
"""Rows of which one minimum is taken, powers of two that divide `BLOCK`."""
_MOST_SCORES = 2**25
"""Queries are taken in pieces so that the score matrix stays under 128 MiB."""
_MOST_SUBTRACTED = 2**18
"""Numbers of candidates' keys that are subtracted from at a time, 1 MiB, so that they stay in the processor's cache."""


class Neighbours(NamedTuple):
    """The nearest keys of each query, nearest first; among equally distant ones any."""

    distances: Tensor
    """Euclidean, `[batch, neighbours]`; inf where a store has no more keys."""
    rows: Tensor
    """Rows of the table, int64 `[batch, neighbours]`; those at an infinite distance repeat the nearest."""
    keys: Tensor
    """The keys in those rows, `[batch, neighbours, key_size]`."""


def nearest(
    table: Table,
    queries: Tensor,
    stores: Tensor,
    neighbours: int,
    *,
    shared: bool = False,
    rounded: bool | None = None,
) -> Neighbours:
    """The nearest keys of each query in a store of its own.

    Args:
        table: holds the stores.
        queries: `[batch, key_size]`.
        stores: the store to search for each query, none of them empty, int64 `[batch]`.
        neighbours: how many to find.
        shared: whether all stores are asked the same, in the same order; one product can then serve them.
        rounded: whether rounded keys choose the candidates; None: where that pays.

    Returns:
        Neighbours `[batch, width]`, as wide as the fullest of the stores allows.
    """
    asked, store, counts = stores.unique(return_inverse=True, return_counts=True)
    # How many queries before it are of the same store.
    column = torch.empty_like(store)
    order = store.argsort(stable=True)
    column[order] = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[store[order]]
    plan = _plan(table, asked.tolist(), neighbours, shared, rounded)
    centred = queries - table.centre
    scores = centred.new_empty(len(queries), plan.candidates)
    rows = stores.new_empty(scores.shape)
    for first in range(0, int(counts.max()), plan.columns):
        piece = ((column >= first) & (column < first + plan.columns)).nonzero().squeeze(1)
        scores[piece], rows[piece] = _candidates(table, centred[piece], stores[piece], column[piece] - first, plan)
    return _ranked(table, queries, centred, stores, scores, rows, plan)


def without(found: Neighbours, rows: Tensor, neighbours: int) -> Neighbours:
    """The nearest of what was found apart from one row of the table for each query.

    Args:
        found: one more than is wanted, where there were as many.
        rows: int64 `[batch]`. A query that found nothing else keeps it.
        neighbours: how many are wanted.
    """
    mine = (found.rows == rows[:, None]) & (found.distances.isfinite().sum(dim=1, keepdim=True) > 1)
    distances, order = found.distances.masked_fill(mine, torch.inf).sort(dim=1, stable=True)
    distances, order = distances[:, :neighbours], order[:, :neighbours]
    order = torch.where(distances.isinf(), order[:, :1], order)
    keys = found.keys.gather(1, order[:, :, None].expand(-1, -1, found.keys.shape[2]))
    return Neighbours(distances, found.rows.gather(1, order), keys)


class _Plan(NamedTuple):
    """How some stores are searched."""

    stores: list[int]
    """Those that are asked."""
    searched: slice
    """Rows of the table that they lie in."""
    columns: int
    """Most queries of one store at a time."""
    width: int
    """Neighbours that come back."""
    candidates: int
    """Keys that they are chosen from."""
    group: int
    """Rows of which the smallest score is found first."""
    rounded: bool
    """Whether candidates are chosen by rounded keys."""
    shared: bool
    """Whether all stores are asked the same."""


def _plan(table: Table, stores: list[int], neighbours: int, shared: bool, rounded: bool | None) -> _Plan:
    if rounded is None:
        rounded = table.rounding_pays
    spans = [table.span(store) for store in stores]
    searched = slice(min(span.start for span in spans), max(span.stop for span in spans))
    longest = max(table.lengths[store] for store in stores)
    width = min(neighbours, longest)
    # By rounded scores of NEC's keys on Atari 3 in 1,000 queries are asked again at most, 7 in 100 if twice the width.
    more = 4 + 2 * width if rounded else max(4, width // 8)
    candidates = min(width + more, longest)
    # A minimum to compare for each group, and all its scores for each candidate; the former have to be copied, too.
    group = 2 ** round(math.log2(2 * longest / candidates) / 2)
    return _Plan(
        stores=stores,
        searched=searched,
        columns=max(1, _MOST_SCORES // (searched.stop - searched.start)),
        width=width,
        candidates=candidates,
        group=min(max(group, _SMALLEST_GROUP), _LARGEST_GROUP),
        rounded=rounded,
        shared=shared,
    )


def _candidates(table: Table, centred: Tensor, stores: Tensor, column: Tensor, plan: _Plan) -> tuple[Tensor, Tensor]:
    """The smallest scores of each query in its store and their rows, `[batch, candidates]`; inf for no more.

    They can only lie in the groups with the smallest minima. Finding those first replaces a top-k over all rows (its
    cost rivals the matrix product's) by a vectorised minimum and a top-k over few.
    """
    groups = _scores(table, centred, stores, column, plan).unflatten(0, (-1, plan.group))
    found = _minima(groups)
    longest = max(table.allocated(store) for store in plan.stores) // plan.group
    minima = centred.new_full((len(table.lengths), found.shape[1], longest), torch.inf)
    for store in plan.stores:
        span = table.span(store)
        own = slice(*((row - plan.searched.start) // plan.group for row in (span.start, span.stop)))
        minima[store, :, : own.stop - own.start] = found[own].T
    smallest = minima[stores, column].topk(min(plan.candidates, longest), dim=1, largest=False, sorted=False)
    best = (table.starts(stores) - plan.searched.start)[:, None] // plan.group + smallest.indices
    best.clamp_max_(len(groups) - 1)
    few = groups.transpose(1, 2)[best, column[:, None]].float()
    few.masked_fill_(smallest.values.isposinf()[:, :, None], torch.inf)
    final = few.flatten(1).topk(plan.candidates, dim=1, largest=False, sorted=False)
    rows = best.gather(1, final.indices // plan.group) * plan.group + final.indices % plan.group
    return final.values, rows + plan.searched.start


def _scores(table: Table, centred: Tensor, stores: Tensor, column: Tensor, plan: _Plan) -> Tensor:
    """The scores of the searched rows, in bfloat16 if they are of rounded keys.

    Returns:
        `[rows, columns]`: those of a query in the rows of its store and the column of its own; the rest is anything.
    """
    queries = rounded_queries(centred) if plan.rounded else centred
    # Products of other numbers of columns take up to half as long again.
    width = min(-(-(int(column.max()) + 1) // 8) * 8, plan.columns)
    asked = queries.new_zeros(len(table.lengths), width, queries.shape[1])
    asked[stores, column] = queries
    searched = plan.searched
    scores = table.scratch(searched.stop - searched.start, width, dtype=queries.dtype)
    # A column for each query: with the keys first the library reads them once, whatever the number of queries.
    keys, squared_norms = table.keys[searched], table.squared_norms[searched, None]
    if plan.shared and not plan.rounded:
        return torch.addmm(squared_norms, keys, asked[plan.stores[0]].T, alpha=-2.0, out=scores)
    asked = asked[table.owners[searched.start // BLOCK : searched.stop // BLOCK]].mT
    blocks = scores.unflatten(0, (-1, BLOCK))
    if plan.rounded:
        assert table.rounded is not None, "nothing is rounded"
        torch.bmm(table.rounded[searched].unflatten(0, (-1, BLOCK)), asked, out=blocks)
    else:
        squared_norms, keys = (rows.unflatten(0, (-1, BLOCK)) for rows in (squared_norms, keys))
        torch.baddbmm(squared_norms, keys, asked, alpha=-2.0, out=blocks)
    return scores


def _minima(groups: Tensor) -> Tensor:
    """The smallest scores in `groups [groups, rows, columns]`."""
    if groups.dtype == torch.float32:
        return groups.amin(dim=1)
    # In bfloat16 that would take five times as long.
    while groups.shape[1] > 1:
        groups = torch.minimum(*groups.chunk(2, dim=1))
    return groups.squeeze(1)


def _ranked(
    table: Table, queries: Tensor, centred: Tensor, stores: Tensor, scores: Tensor, candidates: Tensor, plan: _Plan
) -> Neighbours:
    """The nearest of the candidates `[batch, count]` of each query, by plain subtraction."""
    distances = _distances(table, queries, candidates)
    # A row that holds no memory of the store.
    distances.masked_fill_(scores.isposinf(), torch.inf)
    distances, order = distances.topk(plan.width, dim=1, largest=False, sorted=True)
    rows = candidates.gather(1, order)
    rows = torch.where(distances.isinf(), rows[:, :1], rows)
    uncertain = _uncertain(table, centred, stores, scores, distances[:, -1], plan.rounded)
    if plan.rounded and len(uncertain):
        again = nearest(table, queries[uncertain], stores[uncertain], plan.width, rounded=False)
        distances[uncertain], rows[uncertain] = again.distances, again.rows
    else:
        for query in uncertain.tolist():
            span = table.filled(int(stores[query]))
            exact = (table.keys[span] - queries[query]).square_().sum(dim=1).sqrt_()
            distances[query], slots = exact.topk(plan.width, largest=False, sorted=True)
            rows[query] = slots + span.start
    return Neighbours(distances, rows, _take(table.keys, rows))


def _distances(table: Table, queries: Tensor, rows: Tensor) -> Tensor:
    """How far each of `queries [batch, key_size]` is from the keys in rows of its own, `[batch, count]`."""
    at_a_time = max(1, _MOST_SUBTRACTED // (rows.shape[1] * queries.shape[1]))
    pieces = []
    for some, own in zip(queries.split(at_a_time), rows.split(at_a_time), strict=True):
        keys = table.scratch(own.numel(), queries.shape[1], dtype=torch.float32)
        torch.index_select(table.keys, 0, own.flatten(), out=keys)
        pieces.append(keys.unflatten(0, own.shape).sub_(some[:, None]).square_().sum(dim=2).sqrt_())
    return torch.cat(pieces)


def _uncertain(
    table: Table, centred: Tensor, stores: Tensor, scores: Tensor, farthest: Tensor, rounded: bool
) -> Tensor:
    """The queries for which a key that is no candidate might, but for rounding, be nearer than the last neighbour.

    The distance of such a key from the centre is at most the query's and that of the last neighbour from the query. A
    store with no more keys than candidates has no such key.
    """
    candidates = scores.shape[1]
    if max(table.lengths) <= candidates:
        return torch.zeros(0, dtype=torch.int64, device=scores.device)
    squared = centred.square().sum(dim=1)
    lengths = squared.sqrt()
    reaches = lengths + farthest
    if rounded:
        # What scores lack of the squared distance, less what they may err by.
        certain = squared - score_error(centred, reaches, farthest)
        product = lengths * reaches
    else:
        certain = squared + 2 * centred @ table.centre
        product = lengths * (reaches + table.centre_length)
    certain -= _ROUNDING * centred.shape[1] ** 0.5 * (squared + 2 * product + reaches.square())
    # Not `>`: what overflowed may be no number.
    doubtful = ~(farthest.square() <= scores.amax(dim=1) + certain)
    if rounded:
        doubtful |= ~((reaches > SMALLEST_REACH) & (reaches < LARGEST_REACH))
    more = torch.tensor(table.lengths, device=stores.device)[stores] > candidates
    return (more & doubtful).nonzero().squeeze(1)


def _take(keys: Tensor, rows: Tensor) -> Tensor:
    """`keys[rows]`; indexing by a tensor of two dimensions takes three times as long."""
    return keys.index_select(0, rows.flatten()).unflatten(0, rows.shape)
