"""What everything that carries a state from step to step has in common: the recurrent core, and what is done to states.

An agent or a sequence model takes any core and knows no more of it than this file.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

State = TypeVar("State", bound=tuple[Any, ...])
Step = Callable[[Tensor, State], tuple[Tensor, State]]
"""From inputs and a state to outputs and the next state."""


class RecurrentCore(nn.Module, abc.ABC, Generic[State]):
    """A network that is stepped: `output, state = core(inputs, state)`, a whole batch at a time.

    A state is a NamedTuple whose fields are tensors `[batch, ...]` or again such tuples. It holds all that passes from
    one step to the next, so that memory lives nowhere else: not in buffers, and not in the core. What a step has to
    show beside its output, such as the weights it read with, is part of the state too. A memory that is held in the
    weights of a network is a state whose fields are weights `[batch, out, in]`.

    Attributes:
        input_size: length of an input.
        output_size: length of an output, features from which a readout predicts.
    """

    def __init__(self, input_size: int, output_size: int) -> None:
        if input_size < 1 or output_size < 1:
            raise ValueError(f"input_size and output_size must be at least 1, got {input_size} and {output_size}")
        super().__init__()
        self.input_size = input_size
        self.output_size = output_size

    @abc.abstractmethod
    def initial_state(self, batch: int) -> State:
        """What a sequence begins with, for `batch` of them; parameters may be in it, and learn through it."""

    @abc.abstractmethod
    def forward(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """One step: inputs `[batch, input_size]` to outputs `[batch, output_size]` and the next state."""

    def auxiliary_loss(self, state: State) -> Tensor | None:
        """What the step that led to a state asks to be paid beside the task, `[batch]`; None: nothing, ever.

        Whoever trains a core adds to its loss the mean over batch and steps. It is weighted already, and may be asked
        of any state but an initial one.
        """
        return None


def map_states(function: Callable[..., Tensor], *states: State) -> State:
    """The state whose every tensor is `function` of the tensors in its place in some states of one structure.

    `map_states(Tensor.detach, state)` truncates back-propagation; with `torch.where` on a mask, sequences that ended
    begin anew and the others go on.
    """
    first = states[0]
    fields = [
        function(*parts) if isinstance(parts[0], Tensor) else map_states(function, *parts)
        for parts in zip(*states, strict=True)
    ]
    return type(first)(*fields)


def named_tensors(state: tuple[Any, ...], prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a state by name, `controller.hidden` for one of a nested tuple: to be recorded or saved."""
    names = type(state)._fields  # type: ignore[attr-defined]
    tensors: dict[str, Tensor] = {}
    for name, field in zip(names, state, strict=True):
        if isinstance(field, Tensor):
            tensors[prefix + name] = field
        else:
            tensors |= named_tensors(field, f"{prefix}{name}.")
    return tensors


def with_tensors(state: State, tensors: Mapping[str, Tensor]) -> State:
    """A state of the structure of `state` with the tensors that `named_tensors` gave, on the device of `state`.

    Raises:
        ValueError: where names or shapes beyond the batch are not those of `state`.
    """
    mine = named_tensors(state)
    if mine.keys() != tensors.keys():
        raise ValueError(f"a state of {', '.join(mine)} cannot take the tensors {', '.join(tensors)}")
    for name, tensor in mine.items():
        if tensor.shape[1:] != tensors[name].shape[1:]:
            raise ValueError(f"{name} must be [batch, *{list(tensor.shape[1:])}], got {list(tensors[name].shape)}")
    left = iter(mine)
    return map_states(lambda tensor: tensors[next(left)].to(tensor.device, copy=True), state)


class Unrolled(NamedTuple, Generic[State]):
    """What came of stepping a core through a sequence."""

    outputs: Tensor
    """Of every step, `[time, batch, output_size]`."""
    state: State
    """After the last."""
    recorded: dict[str, Tensor]
    """Parts of the state after every step, by the names of `named_tensors`, each `[time, batch, ...]`."""
    losses: Tensor | None
    """What the steps ask to be paid beside the task, `[time, batch]`; None of a core that asks nothing."""


def unroll(
    core: RecurrentCore[State],
    inputs: Tensor,
    state: State,
    record: Sequence[str] = (),
    *,
    step: Step[State] | None = None,
    checkpoint_every: int = 0,
) -> Unrolled[State]:
    """Step a core through a sequence.

    Args:
        core: what is stepped.
        inputs: of all steps, `[time, batch, input_size]`.
        state: before the first.
        record: names of the tensors of the state that are wanted of every step.
        step: what is called in the place of the core, if that was compiled.
        checkpoint_every: steps between two states that are kept for the backward pass, which takes all others again
            (Chen et al. 2016, arXiv 1604.06174): for one more forward pass, memory grows with the square root of the
            steps where this is their square root. Gradients are the same. 0: everything is kept.
    """
    if not checkpoint_every or not torch.is_grad_enabled():
        return _unroll(core, inputs, state, record, step)
    pieces: list[Unrolled[State]] = []
    for segment in inputs.split(checkpoint_every):
        before = pieces[-1].state if pieces else state
        pieces.append(
            checkpoint(_unroll, core, segment, before, record, step, use_reentrant=False, preserve_rng_state=False)
        )
    return joined(pieces)


class CompiledCore(Generic[State]):
    """A core whose steps torch compiles, one at a time and several in one call, for two to four times the speed.

    Of steps as small as these, most of the time goes into calling what is compiled and into the graph of its gradient:
    several steps in one call share it. What calls the compiled kernels is compiled too. Either is compiled when it is
    first needed, which takes a minute or more, and again for another size of the batch.

    Args:
        core: what is stepped; it stays as it is, and its parameters are shared.
        steps: how many in one call; what is left of a sequence goes one at a time. Time to compile grows with it.

    Raises:
        ValueError: if that is none.
    """

    def __init__(self, core: RecurrentCore[State], steps: int) -> None:
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        self.core = core
        self.steps = steps
        self.step: Step[State] = _compile(core)
        self._several = _compile(functools.partial(_unroll, core))

    def unroll(self, inputs: Tensor, state: State, record: Sequence[str] = ()) -> Unrolled[State]:
        """As `unroll` of the core."""
        pieces: list[Unrolled[State]] = []
        whole = len(inputs) - len(inputs) % self.steps
        for some in inputs[:whole].split(self.steps) if whole else ():
            pieces.append(self._several(some, state, record))
            state = pieces[-1].state
        if len(inputs) > whole:
            pieces.append(_unroll(self.core, inputs[whole:], state, record, self.step))
        return joined(pieces)


def _unroll(
    core: RecurrentCore[State],
    inputs: Tensor,
    state: State,
    record: Sequence[str] = (),
    step: Step[State] | None = None,
) -> Unrolled[State]:
    # Lists as the compiler knows them: it cannot call list[Tensor].
    outputs: list[Tensor] = []
    losses: list[Tensor] = []
    recorded: dict[str, list[Tensor]] = {name: [] for name in record}
    for step_inputs in inputs.unbind(0):
        output, state = (core if step is None else step)(step_inputs, state)
        outputs.append(output)
        loss = core.auxiliary_loss(state)
        if loss is not None:
            losses.append(loss)
        if recorded:
            tensors = named_tensors(state)
            for name, steps in recorded.items():
                steps.append(tensors[name])
    return Unrolled(
        torch.stack(outputs),
        state,
        {name: torch.stack(steps) for name, steps in recorded.items()},
        torch.stack(losses) if losses else None,
    )


def joined(pieces: Sequence[Unrolled[State]]) -> Unrolled[State]:
    """One sequence of several that follow each other."""
    losses = [piece.losses for piece in pieces if piece.losses is not None]
    return Unrolled(
        torch.cat([piece.outputs for piece in pieces]),
        pieces[-1].state,
        {name: torch.cat([piece.recorded[name] for piece in pieces]) for name in pieces[0].recorded},
        torch.cat(losses) if losses else None,
    )


def _compile(function: Callable[..., Any]) -> Callable[..., Any]:
    # Buffers in place gave several steps of an MNM-p in one call wrong gradients, without a word (torch 2.13, CPU).
    return torch.compile(
        function, fullgraph=True, dynamic=False, options={"cpp_wrapper": True, "inplace_buffers": False}
    )
