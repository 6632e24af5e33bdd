"""Exact nearest neighbours by matrix products and a two-stage top-k.

No index: the keys of an episodic agent move while it learns, and an index over moving keys is stale by design. A scan
costs a pass over the keys, whatever the number of queries, so batch the queries.

A key's score is its squared distance expanded around a centre c, `|k - c|^2 - 2 (q - c) k`, which lacks only what is
the same for all keys. The best by score, and some more, are scored again by plain subtraction; where rounding may still
have hidden a nearer key, the query is asked again: of scores in bfloat16 by scores in float32, of these by subtraction
from all keys, which is slow, and rare while the centre is near the keys.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from memory.episodic.rounding import LARGEST_REACH, SMALLEST_REACH, rounded_queries, score_error
from memory.episodic.table import BLOCK, Table

_ROUNDING = 2.0**-22
"""Rounding of a float32 product relative to its terms, four times the unit roundoff, for each root of its length."""
_MOST_SCORES = 2**25
"""Queries are taken in pieces so that the score matrix stays under 128 MiB."""


class Neighbours(NamedTuple):
    """The nearest keys of each query, nearest first; among equally distant ones any."""

    distances: Tensor
    """Euclidean, `[batch, neighbours]`; inf where a store has no more keys."""
    rows: Tensor
    """Rows of the table, int64 `[batch, neighbours]`; those at an infinite distance repeat the nearest."""
    keys: Tensor
    """The keys in those rows, `[batch, neighbours, key_size]`."""


def nearest_in_own(
    table: Table, queries: Tensor, stores: Tensor, neighbours: int, *, rounded: bool | None = None
) -> Neighbours:
    """The nearest keys of each query in a store of its own.

    Args:
        table: holds the stores.
        queries: `[batch, key_size]`.
        stores: the store to search for each query, none of them empty, int64 `[batch]`.
        neighbours: how many to find.
        rounded: whether rounded keys choose the candidates; None: where that pays.

    Returns:
        Neighbours `[batch, width]`, as wide as the fullest of the stores allows.
    """
    asked = stores.unique().tolist()
    plan = _plan(table, asked, neighbours, rounded)
    centred = queries - table.centre
    groups = [(stores == store).nonzero().squeeze(1) for store in asked]
    found = [_candidates(table, centred[group], [store], plan) for group, store in zip(groups, asked, strict=True)]
    order = torch.cat(groups).argsort()
    scores, rows = (torch.cat(parts)[order].squeeze(1) for parts in zip(*found, strict=True))
    return _ranked(table, queries, centred, stores, scores, rows, plan)


def nearest_in_each(table: Table, queries: Tensor, stores: Tensor, neighbours: int) -> Neighbours:
    """The nearest keys of each query in each of several stores, by one product with the rows of all.

    Args:
        table: holds the stores.
        queries: `[batch, key_size]`.
        stores: the stores to search, none of them empty, int64 `[stores]`.
        neighbours: how many to find in each.

    Returns:
        Neighbours `[batch * stores, width]`, those of the first query first.
    """
    asked = stores.tolist()
    plan = _plan(table, asked, neighbours)
    centred = queries - table.centre
    scores, rows = _candidates(table, centred, asked, plan)
    times = len(asked)
    return _ranked(
        table,
        queries.repeat_interleave(times, dim=0),
        centred.repeat_interleave(times, dim=0),
        stores.repeat(len(queries)),
        scores.flatten(0, 1),
        rows.flatten(0, 1),
        plan,
    )


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

    width: int
    """Neighbours that come back."""
    candidates: int
    """Keys that they are chosen from."""
    rounded: bool
    """Whether these are chosen by rounded keys."""


def _plan(table: Table, stores: list[int], neighbours: int, rounded: bool | None = None) -> _Plan:
    if rounded is None:
        rounded = table.rounding_pays
    longest = max(table.lengths[store] for store in stores)
    width = min(neighbours, longest)
    # By rounded scores of NEC's keys on Atari 3 in 1,000 queries are asked again at most, 7 in 100 if twice the width.
    more = 4 + 2 * width if rounded else max(4, width // 8)
    return _Plan(width, min(width + more, longest), rounded)


def _candidates(table: Table, centred: Tensor, stores: list[int], plan: _Plan) -> tuple[Tensor, Tensor]:
    """The smallest scores in each of some stores and their rows, `[batch, stores, candidates]`; inf for no more.

    They can only lie in the blocks with the smallest minima. Finding those first replaces a top-k over all rows (its
    cost rivals the matrix product's) by a vectorised minimum and a top-k over few.
    """
    spans = [table.span(store) for store in stores]
    start = min(span.start for span in spans)
    searched = slice(start, max(span.stop for span in spans))
    count, best = plan.candidates, []
    for piece in centred.split(max(1, _MOST_SCORES // (searched.stop - searched.start))):
        blocks = _scores(table, searched, piece, plan.rounded).unflatten(0, (-1, BLOCK))
        minima = (_minima_by_halves(blocks) if plan.rounded else blocks.amin(dim=1)).T.float().contiguous()
        found = [_best_blocks(minima, slice(span.start - start, span.stop - start), count) for span in spans]
        best_blocks = torch.stack([functional.pad(one, (0, count - one.shape[1])) for one in found], dim=1)
        few = blocks.transpose(1, 2)[best_blocks, torch.arange(len(piece), device=piece.device)[:, None, None]].float()
        for number, one in enumerate(found):
            few[:, number, one.shape[1] :] = torch.inf
        smallest = few.flatten(2).topk(count, dim=2, largest=False, sorted=False)
        rows = best_blocks.gather(2, smallest.indices // BLOCK) * BLOCK + smallest.indices % BLOCK
        best.append((smallest.values, rows))
    scores, rows = best[0] if len(best) == 1 else (torch.cat(parts) for parts in zip(*best, strict=True))
    return scores, rows + start


def _scores(table: Table, searched: slice, centred: Tensor, rounded: bool) -> Tensor:
    """The scores of some rows, `[rows, batch]`, in bfloat16 if they are of rounded keys."""
    # A column for each query: with the keys first the library reads them once, whatever the number of queries.
    shape = searched.stop - searched.start, len(centred)
    if rounded:
        assert table.rounded is not None, "nothing is rounded"
        out = table.scratch(*shape, dtype=torch.bfloat16)
        return torch.mm(table.rounded[searched], rounded_queries(centred).T, out=out)
    out = table.scratch(*shape, dtype=torch.float32)
    return torch.addmm(table.squared_norms[searched, None], table.keys[searched], centred.T, alpha=-2.0, out=out)


def _minima_by_halves(blocks: Tensor) -> Tensor:
    """The same as `blocks.amin(dim=1)`, which in bfloat16 takes five times as long."""
    while blocks.shape[1] > 1:
        blocks = torch.minimum(*blocks.chunk(2, dim=1))
    return blocks.squeeze(1)


def _best_blocks(minima: Tensor, span: slice, count: int) -> Tensor:
    """The blocks with the smallest of `minima [batch, blocks]` in a span of rows: `count` of them, or all there are."""
    blocks = slice(span.start // BLOCK, span.stop // BLOCK)
    within = minima[:, blocks]
    return within.topk(min(count, within.shape[1]), dim=1, largest=False, sorted=False).indices + blocks.start


def _ranked(
    table: Table, queries: Tensor, centred: Tensor, stores: Tensor, scores: Tensor, candidates: Tensor, plan: _Plan
) -> Neighbours:
    """The nearest of the candidates `[batch, count]` of each query, by plain subtraction."""
    distances = (queries[:, None] - _take(table.keys, candidates)).square_().sum(dim=2).sqrt_()
    # A row that holds no memory of the store.
    distances.masked_fill_(scores.isposinf(), torch.inf)
    distances, order = distances.topk(plan.width, dim=1, largest=False, sorted=True)
    rows = candidates.gather(1, order)
    rows = torch.where(distances.isinf(), rows[:, :1], rows)
    uncertain = _uncertain(table, centred, stores, scores, distances[:, -1], plan.rounded)
    if plan.rounded and len(uncertain):
        again = nearest_in_own(table, queries[uncertain], stores[uncertain], plan.width, rounded=False)
        distances[uncertain], rows[uncertain] = again.distances, again.rows
    else:
        for query in uncertain.tolist():
            span = table.filled(int(stores[query]))
            exact = (table.keys[span] - queries[query]).square_().sum(dim=1).sqrt_()
            distances[query], slots = exact.topk(plan.width, largest=False, sorted=True)
            rows[query] = slots + span.start
    return Neighbours(distances, rows, _take(table.keys, rows))


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
