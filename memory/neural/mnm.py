"""Metalearned Neural Memory (Munkhdalai, Sordoni, Wang and Trischler 2019, arXiv 1907.09720): a network as a memory.

What is remembered is a function from keys to values, a small feed-forward network with weights of its own in every
sequence. To write a pair is to change these weights, by one of two rules:

    gradient    a step down the squared error of the pair, by hand: what it costs is differentiable once more (MNM-g)
    local       every layer by itself, towards an activation that is predicted from the value alone (MNM-p)

How good the writes are is a loss of its own, the meta loss: the error of a pair right after it was written.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from memory.neural.addressing import split
from memory.neural.core import RecurrentCore

_INITIAL_GAIN = 10.0
"""How much larger the weights of the interface begin than torch draws them. Controllers begin near 0; through tanh's
after tanh's, what would be written of keys and values as small as they are is a thousandth."""
_INITIAL_ANSWER = 0.1
"""How much smaller the memory's last layer begins: what was never written is answered by little."""

Rule = Literal["g", "p"]
"""How is written: by gradient (MNM-g), or by learned local targets (MNM-p)."""


class Layers(NamedTuple):
    """One tensor for each layer of the memory: weights, activations, targets or errors."""

    first: Tensor
    second: Tensor
    third: Tensor


class MNMState(NamedTuple):
    """Between two steps of an MNM."""

    controller: tuple[Any, ...]
    """The controller's own state."""
    weights: Layers
    """Of the memory: `[batch, memory_hidden, width]`, `[batch, memory_hidden, memory_hidden]` and
    `[batch, width, memory_hidden]`."""
    reads: Tensor
    """What was last read, the mean over heads: `[batch, width]`."""
    loss_before: Tensor
    """Mean squared error of the pairs that were last written, before that: `[batch]`."""
    loss_after: Tensor
    """And after it, the meta loss: `[batch]`."""
    write_keys: Tensor
    """Last written, `[batch, heads, width]`, each number between -1 and 1."""
    write_values: Tensor
    """For these keys, likewise."""
    read_keys: Tensor
    """Last read, likewise."""


def activations(weights: Layers, keys: Tensor) -> Layers:
    """What every layer of the memory answers to keys `[batch, heads, width]`; of the third, that is the value.

    Two layers of tanh and one linear one, without biases.
    """
    first = keys.bmm(weights.first.mT).tanh()
    second = first.bmm(weights.second.mT).tanh()
    return Layers(first, second, second.bmm(weights.third.mT))


def gradient_errors(weights: Layers, answers: Layers, values: Tensor) -> Layers:
    """Gradients of the mean squared error of values, with respect to what every layer had before its tanh.

    Args:
        weights: of the memory.
        answers: its activations.
        values: `[batch, heads, width]`, what they ought to be. The mean is over heads and width.
    """
    third = (answers.third - values) * (2 / values[0].numel())
    second = third.bmm(weights.third) * (1 - answers.second.square())
    return Layers(second.bmm(weights.second) * (1 - answers.first.square()), second, third)


def local_errors(answers: Layers, targets: Layers) -> Layers:
    """How far every layer is from its target: the gradients of their mean squared errors, each of its layer alone.

    As the perceptron has it, and as published, no error goes through a tanh or a layer.
    """
    return Layers(
        *((answer - target) * (2 / answer[0].numel()) for answer, target in zip(answers, targets, strict=True))
    )


def reaches(keys: Tensor, answers: Layers) -> Layers:
    """What a step down the errors of every layer is divided by to be normalised, `[batch, 1, 1]` each.

    A head's key is moved by the products of its inputs with those of all heads that write beside it; the largest sum of
    their sizes bounds the largest eigenvalue of their matrix, so that no step goes beyond its targets. The 1 keeps
    inputs near 0 from writing without bound. Of a single head this is normalised least mean squares.
    """
    return Layers(*(1 + given.bmm(given.mT).abs().sum(-1).amax(-1)[:, None, None] for given in _inputs(keys, answers)))


def written(weights: Layers, keys: Tensor, answers: Layers, errors: Layers, rates: Layers) -> Layers:
    """Weights after a step against errors: in every layer the outer product of error and input, summed over heads.

    Args:
        weights: of the memory.
        keys: `[batch, heads, width]`.
        answers: activations for the keys.
        errors: of every layer.
        rates: how far to step, `[batch, 1, 1]` of every layer.
    """
    return Layers(
        *(
            torch.baddbmm(weight, (rate * error).mT, given, alpha=-1)
            for weight, error, given, rate in zip(weights, errors, _inputs(keys, answers), rates, strict=True)
        )
    )


class MNM(RecurrentCore[MNMState]):
    """A memory in the weights of a network of three layers, and the controller that writes and reads it.

    In every step the controller says a key and a value for each head, which are written together, and a key to be read
    from the memory after that; what is read is the mean over heads. The output is the controller's, and after it what
    was just read: the paper's output is a linear function of both.

    What is written is bounded, and so are weights. Keys and values lie between -1 and 1. The rate is at most 1, or
    `width / memory_hidden` where that is less: with this the third layer never steps further than to the other side of
    its target, its norm grows by no more than twice the largest target in an inner step, and no weight grows faster
    than with the cube of the steps. So it is of normalised steps, too, at a rate of up to 1.

    Args:
        controller: a core whose inputs are those of the MNM, and after them the `width` numbers of what was read.
        width: length of a key, and of a value.
        memory_hidden: units of the first two layers.
        rule: how is written.
        heads: pairs that are written, and keys that are read, in a step.
        inner_steps: steps of the rule in one write.
        normalised: whether steps are measured by how far they go: a rate of 1 leads a layer, for a single head, all the
            way to its target. As published, they are as long as the mean over heads and units makes them, which at the
            start of training is a tenth of the way for a head, and the fewer the more heads there are.
        learned_memory: whether the weights that every sequence begins with are learned, or stay as they were drawn.
        meta_weight: factor of the meta loss in what is to be paid.

    Raises:
        ValueError: where the controller leaves no room for inputs, or a number is out of its range.
    """

    def __init__(
        self,
        controller: RecurrentCore[Any],
        width: int,
        memory_hidden: int,
        *,
        rule: Rule = "p",
        heads: int = 1,
        inner_steps: int = 1,
        normalised: bool = False,
        learned_memory: bool = True,
        meta_weight: float = 1.0,
    ) -> None:
        if min(width, memory_hidden, heads, inner_steps) < 1:
            raise ValueError(
                "width, memory_hidden, heads and inner_steps must be at least 1, got "
                f"{width}, {memory_hidden}, {heads}, {inner_steps}"
            )
        if rule not in ("g", "p"):
            raise ValueError(f"rule must be g or p, got {rule}")
        if meta_weight < 0:
            raise ValueError(f"meta_weight must be 0 or more, got {meta_weight}")
        super().__init__(controller.input_size - width, controller.output_size + width)
        self.controller = controller
        self.width, self.heads, self.inner_steps = width, heads, inner_steps
        self.normalised = normalised
        self.meta_weight = meta_weight
        self.interface = nn.Linear(controller.output_size, (3 * heads + 1) * width)
        with torch.no_grad():
            self.interface.weight *= _INITIAL_GAIN
            # Heads begin by reading near where they write: else they must find each other before anything is learned.
            _, write_keys, _, read_keys = self.interface.weight.split([width, *[heads * width] * 3])
            read_keys.copy_(write_keys)
        self.rate = nn.Linear(width, 1)
        self.largest_rate = 1.0 if normalised else min(1.0, width / memory_hidden)
        self._layers = (memory_hidden, memory_hidden, width)
        self.targets = nn.Linear(width, sum(self._layers)) if rule == "p" else None
        shapes = ((memory_hidden, width), (memory_hidden, memory_hidden), (width, memory_hidden))
        for name, shape in zip(Layers._fields, shapes, strict=True):
            drawn = nn.init.xavier_normal_(torch.empty(shape), nn.init.calculate_gain("tanh"))
            drawn *= _INITIAL_ANSWER if name == "third" else 1.0
            if learned_memory:
                self.register_parameter(f"initial_{name}", nn.Parameter(drawn))
            else:
                self.register_buffer(f"initial_{name}", drawn)

    def initial_state(self, batch: int) -> MNMState:
        zeros = self.interface.weight.new_zeros(batch)
        pairs = self.interface.weight.new_zeros(batch, self.heads, self.width)
        return MNMState(
            self.controller.initial_state(batch),
            # Copies: a step is compiled for their strides, and those of expanded weights are none that it ever returns.
            Layers(*(getattr(self, f"initial_{name}").repeat(batch, 1, 1) for name in Layers._fields)),
            reads=pairs[:, 0],
            loss_before=zeros,
            loss_after=zeros,
            write_keys=pairs,
            write_values=pairs,
            read_keys=pairs,
        )

    def forward(self, inputs: Tensor, state: MNMState) -> tuple[Tensor, MNMState]:
        hidden, controller = self.controller(torch.cat([inputs, state.reads], dim=-1), state.controller)
        pairs = (self.heads, self.width)
        said = self.interface(hidden).tanh()
        for_rate, write_keys, write_values, read_keys = split(said, (self.width,), pairs, pairs, pairs)
        rates = self.largest_rate * self.rate(for_rate).sigmoid()[..., None]

        weights, answers = state.weights, activations(state.weights, write_keys)
        loss_before = _error(answers.third, write_values)
        targets = self._targets(write_values)
        for inner_step in range(self.inner_steps):
            if inner_step:
                answers = activations(weights, write_keys)
            errors = local_errors(answers, targets) if targets else gradient_errors(weights, answers, write_values)
            weights = written(weights, write_keys, answers, errors, self._steps(rates, write_keys, answers))

        # Together: a step spends its time fetching weights, and so fetches them once less.
        answers = activations(weights, torch.cat([write_keys, read_keys], dim=1))
        rewritten, read = answers.third.chunk(2, dim=1)
        reads = read.mean(1)
        return torch.cat([hidden, reads], dim=-1), MNMState(
            controller,
            weights,
            reads,
            loss_before,
            _error(rewritten, write_values),
            write_keys,
            write_values,
            read_keys,
        )

    def auxiliary_loss(self, state: MNMState) -> Tensor:
        """The meta loss of the last write times its weight, `[batch]`."""
        return self.meta_weight * state.loss_after

    def _targets(self, values: Tensor) -> Layers | None:
        """What the activations ought to be for values `[batch, heads, width]`; None of a rule without targets."""
        return None if self.targets is None else Layers(*self.targets(values).split(self._layers, dim=-1))

    def _steps(self, rates: Tensor, keys: Tensor, answers: Layers) -> Layers:
        """How far every layer steps down its errors, which are means, at rates `[batch, 1, 1]`."""
        if not self.normalised:
            return Layers(rates, rates, rates)
        # By gradient, all errors come from the mean over the third layer.
        means = answers if self.targets is not None else (answers.third,) * 3
        return Layers(
            *(rates * (mean[0].numel() / 2) / reach for mean, reach in zip(means, reaches(keys, answers), strict=True))
        )


def _error(answers: Tensor, values: Tensor) -> Tensor:
    """Mean squared error over heads and width, `[batch]`."""
    return (answers - values).square().mean((1, 2))


def _inputs(keys: Tensor, answers: Layers) -> Layers:
    """What every layer was given to answer."""
    return Layers(keys, answers.first, answers.second)
