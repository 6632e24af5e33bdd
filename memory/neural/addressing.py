"""The equations by which a network finds places in its memory: content, shift, sharpness, allocation and order.

A memory is `[batch, slots, width]`; what finds places in it are weights `[batch, heads, slots]` or, of the one head
that writes, `[batch, slots]`. Everything is batched over sequences and heads, and finite with its gradients for any
finite parameters that a head can have.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

EPSILON = 1e-6
"""Added to squared lengths, to weights before their logarithm, and mixed into usage: at zero, gradients stay finite."""


def split(flat: Tensor, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Parts of `[batch, size]`, each `[batch, *shape]`, in order and without a copy; of the shape (): `[batch]`.

    A network speaks to its memory in one vector, of which all that is bounded in one way lies together: so that
    bounding it is one operation, however many heads there are.
    """
    parts = flat.split([math.prod(shape) for shape in shapes], dim=-1)
    return [part.reshape(len(flat), *shape) for part, shape in zip(parts, shapes, strict=True)]


def content_weights(keys: Tensor, strengths: Tensor, memory: Tensor, masks: Tensor | None = None) -> Tensor:
    """The softmax of cosine similarities times strengths (Graves et al. 2014, equations 5 and 6).

    With masks, key and memory are multiplied by them before they are compared (Csordas and Schmidhuber 2019,
    masking): without, what a slot holds beside the key counts against it. No masked copy of the memory is made.

    Args:
        keys: `[batch, heads, width]`.
        strengths: `[batch, heads]`.
        memory: `[batch, slots, width]`.
        masks: `[batch, heads, width]`.

    Returns:
        `[batch, heads, slots]`, each row of sum 1.
    """
    if masks is None:
        products = keys.bmm(memory.mT)
        lengths = memory.square().sum(-1)[:, None]
    else:
        keys = keys * masks
        products = (keys * masks).bmm(memory.mT)
        lengths = masks.square().bmm(memory.square().mT)
    # One at a time, for the product of two squared lengths could overflow.
    scales = strengths[..., None] * (keys.square().sum(-1, keepdim=True) + EPSILON).rsqrt()
    return (products * scales * (lengths + EPSILON).rsqrt()).softmax(-1)


def shift(weights: Tensor, shifts: Tensor) -> Tensor:
    """Rotate weights by every distance, and mix (the circular convolution of Graves et al. 2014, equation 8).

    Args:
        weights: `[batch, heads, slots]`.
        shifts: `[batch, heads, 2 * range + 1]`, distributions over rotations from `-range` to `range`, of no more
            places than there are slots.

    Returns:
        `[batch, heads, slots]`.
    """
    reach = shifts.shape[-1] // 2
    if not reach:
        return weights * shifts
    around = torch.cat([weights[..., -reach:], weights, weights[..., :reach]], dim=-1)
    return (around.unfold(-1, shifts.shape[-1], 1) @ shifts.flip(-1)[..., None]).squeeze(-1)


def sharpen(weights: Tensor, powers: Tensor) -> Tensor:
    """Weights to a power, normalised (Graves et al. 2014, equation 9; Csordas and Schmidhuber 2019, sharpness).

    In logarithms, where no power underflows to a sum of zero.

    Args:
        weights: `[batch, heads, slots]`, not negative but by rounding; EPSILON is added to each.
        powers: `[batch, heads]`.
    """
    return (powers[..., None] * (weights.clamp(min=0.0) + EPSILON).log()).softmax(-1)


def usage_after(usage: Tensor, write_weights: Tensor, retention: Tensor) -> Tensor:
    """How far each slot is in use: more by what was written, less by what was freed (Graves et al. 2016, Methods).

    Args:
        usage: `[batch, slots]`, of the step before.
        write_weights: `[batch, slots]`, of the step before.
        retention: `[batch, slots]`, what the free gates leave.
    """
    return torch.addcmul(usage, 1 - usage, write_weights) * retention


def retention(free_gates: Tensor, read_weights: Tensor) -> Tensor:
    """What is left of each slot, `[batch, slots]`, by heads that free what they read (Graves et al. 2016, Methods).

    Args:
        free_gates: `[batch, heads]`.
        read_weights: `[batch, heads, slots]`, of the step before.
    """
    return (1 - free_gates[..., None] * read_weights).prod(dim=1)


def allocation_weights(usage: Tensor) -> Tensor:
    """Weights `[batch, slots]` on the slots least in use, from usage of the same shape (Graves et al. 2016, Methods).

    The emptiest slot has what it lacks to be full, the next what it lacks of what is left, and so on. Of slots equally
    in use the first comes first. No gradient goes through the order. The product of those before is a sum of
    logarithms: the backward pass of a running product costs several times as much.
    """
    ordered, order = (EPSILON + (1 - EPSILON) * usage).sort(dim=-1, stable=True)
    logarithms = ordered.log()
    ahead = (logarithms.cumsum(-1) - logarithms).exp()
    return torch.zeros_like(usage).scatter(-1, order, (1 - ordered) * ahead)


def write(memory: Tensor, weights: Tensor, erase: Tensor, values: Tensor) -> Tensor:
    """Memory after all heads have erased and then all have added (Graves et al. 2014, equations 3 and 4).

    One head, which is what a DNC has and an NTM as a rule, takes two operations and one temporary.

    Args:
        memory: `[batch, slots, width]`.
        weights: `[batch, heads, slots]`.
        erase: `[batch, heads, width]`, 0 to 1.
        values: `[batch, heads, width]`.
    """
    if weights.shape[1] == 1:
        change = torch.addcmul(values, erase, memory, value=-1)
        return torch.addcmul(memory, weights.mT, change)
    kept = (1 - weights[..., None] * erase[:, :, None]).prod(dim=1)
    return torch.baddbmm(memory * kept, weights.mT, values)


def precedence_after(precedence: Tensor, write_weights: Tensor) -> Tensor:
    """How far each slot was the last to be written; all `[batch, slots]` (Graves et al. 2016, Methods)."""
    return torch.addcmul(write_weights, 1 - write_weights.sum(-1, keepdim=True), precedence)


def links_after(
    links: Tensor, write_weights: Tensor, precedence: Tensor, read_weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The order of writes after one more of them, and where reads lead along it (Graves et al. 2016, Methods).

    `L[i, j] = (1 - w[i] - w[j]) L[i, j] + w[i] p[j]`, with a diagonal of zeros, is how far slot `i` was written right
    after slot `j`. The square of the slots is what a DNC spends its time and memory on: this passes over it as seldom
    as it can, and keeps one such square a step for the backward pass, the links themselves.

    Args:
        links: `[batch, slots, slots]`, of the step before.
        write_weights: `[batch, slots]`.
        precedence: `[batch, slots]`, of the step before.
        read_weights: `[batch, heads, slots]`, of the step before.

    Returns:
        The links; the weights backward, of what was written before what was read, and forward, of what was written
        after it, both `[batch, heads, slots]`.
    """
    return _Links.apply(links, write_weights, precedence, read_weights)


class _Links(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, links: Tensor, weights: Tensor, precedence: Tensor, reads: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        # A product of a column and a row is no matrix product to torch: that loops over the batch.
        updated = _kept(weights).mul_(links).addcmul_(weights[:, :, None], precedence[:, None])
        updated.diagonal(dim1=1, dim2=2).zero_()
        ctx.save_for_backward(links, weights, precedence, reads, updated)
        return updated, reads.bmm(updated), reads.bmm(updated.mT)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        links, weights, precedence, reads, updated = ctx.saved_tensors
        to_updated, to_back, to_forth = gradients
        to_reads = torch.baddbmm(to_back.bmm(updated.mT), to_forth, updated)
        of_reads = torch.cat([reads, to_forth], dim=1).mT, torch.cat([to_back, reads], dim=1)
        gradient = torch.baddbmm(to_updated, *of_reads)
        gradient.diagonal(dim1=1, dim2=2).zero_()
        lost = gradient * links
        to_weights = precedence[:, None].bmm(gradient.mT).squeeze(1) - lost.sum(1) - lost.sum(2)
        return _kept(weights).mul_(gradient), to_weights, weights[:, None].bmm(gradient).squeeze(1), to_reads


def _kept(weights: Tensor) -> Tensor:
    """What a write leaves of each link, `[batch, slots, slots]`: those to and from a written slot go."""
    return (1 - weights)[:, :, None] - weights[:, None]
