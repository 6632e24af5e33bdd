"""What everything that carries a state from step to step has in common: the recurrent core, and what is done to states.

An agent or a sequence model takes any core and knows no more of it than this file.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

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
    watch: Callable[[State], object] = lambda state: None,
) -> tuple[Tensor, State]:
    """Step a core through inputs `[time, batch, input_size]`; outputs `[time, batch, output_size]`, and the last state.

    Args:
        core: what is stepped. It may be compiled: the loop over time is Python, for any length, and the step is not.
        inputs: of all steps.
        state: before the first.
        watch: is shown the state after every step.
    """
    outputs = []
    for step_inputs in inputs.unbind(0):
        output, state = core(step_inputs, state)
        outputs.append(output)
        watch(state)
    return torch.stack(outputs), state


def compiled(core: RecurrentCore[State]) -> Callable[[Tensor, State], tuple[Tensor, State]]:
    """The step of a core, compiled when it is first called: one or two minutes for two to three times the speed.

    What calls the compiled kernels is compiled too: of steps as small as these, Python's part would be a fifth.
    """
    return torch.compile(core, fullgraph=True, options={"cpp_wrapper": True})
