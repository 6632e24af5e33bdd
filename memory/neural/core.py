"""What everything that carries a state from step to step has in common: the recurrent core, and what is done to states.

An agent or a sequence model takes any core and knows no more of it than this file.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

State = TypeVar("State", bound=tuple[Any, ...])


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
    tensors = dict[str, Tensor]()
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


def unroll(
    core: Callable[[Tensor, State], tuple[Tensor, State]],
    inputs: Tensor,
    state: State,
    watch: Callable[[State], object] | None = None,
    *,
    checkpoint_every: int = 0,
) -> tuple[Tensor, State]:
    """Step a core through inputs `[time, batch, input_size]`; outputs `[time, batch, output_size]`, and the last state.

    Args:
        core: what is stepped. It may be compiled: the loop over time is Python, for any length, and the step is not.
        inputs: of all steps.
        state: before the first.
        watch: is shown the state after every step.
        checkpoint_every: steps between two states that are kept for the backward pass, which takes all others again
            (Chen et al. 2016, arXiv 1604.06174): for one more forward pass, memory grows with the square root of the
            steps where this is their square root. Gradients are the same. 0: everything is kept.

    Raises:
        ValueError: if states are to be watched and forgotten, too.
    """
    if not checkpoint_every or not torch.is_grad_enabled():
        return _steps(core, inputs, state, watch)
    if watch is not None:
        raise ValueError(
            "states of which only every few are kept cannot be watched: leave out watch or checkpoint_every"
        )
    outputs = []
    for segment in inputs.split(checkpoint_every):
        output, state = checkpoint(_steps, core, segment, state, use_reentrant=False, preserve_rng_state=False)
        outputs.append(output)
    return torch.cat(outputs), state


def unroll_with_loss(
    core: RecurrentCore[State],
    inputs: Tensor,
    state: State,
    watch: Callable[[State], object] | None = None,
    *,
    step: Callable[[Tensor, State], tuple[Tensor, State]] | None = None,
    checkpoint_every: int = 0,
) -> tuple[Tensor, State, Tensor | None]:
    """As `unroll`, and what the steps ask to be paid: auxiliary losses `[time, batch]`, or None of a core without.

    `step` is what is called in the place of the core, if that was compiled.
    """

    def with_loss(step_inputs: Tensor, before: State) -> tuple[Tensor, State]:
        output, after = (core if step is None else step)(step_inputs, before)
        loss = core.auxiliary_loss(after)
        # Beside the output, for what is not among the outputs of a step is not kept through a checkpoint.
        return output if loss is None else torch.cat([output, loss[:, None]], dim=1), after

    outputs, state = unroll(with_loss, inputs, state, watch, checkpoint_every=checkpoint_every)
    if outputs.shape[-1] == core.output_size:
        return outputs, state, None
    return outputs[..., :-1], state, outputs[..., -1]


def _steps(
    core: Callable[[Tensor, State], tuple[Tensor, State]],
    inputs: Tensor,
    state: State,
    watch: Callable[[State], object] | None = None,
) -> tuple[Tensor, State]:
    outputs = []
    for step_inputs in inputs.unbind(0):
        output, state = core(step_inputs, state)
        outputs.append(output)
        if watch is not None:
            watch(state)
    return torch.stack(outputs), state


def compiled(core: RecurrentCore[State]) -> Callable[[Tensor, State], tuple[Tensor, State]]:
    """The step of a core, compiled when it is first called: one or two minutes for two to three times the speed.

    What calls the compiled kernels is compiled too: of steps as small as these, Python's part would be a fifth.
    """
    return torch.compile(core, fullgraph=True, options={"cpp_wrapper": True})
