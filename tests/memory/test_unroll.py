"""Stepping through sequences with checkpoints: the same outputs, losses and gradients, in less memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from memory.neural import DNC, LSTM, MNM, CompiledCore, RecurrentCore, named_tensors, unroll

INPUT = 3
CORES = {
    "lstm": lambda: LSTM(INPUT, 8),
    "dnc": lambda: DNC(LSTM(INPUT + 4, 8), 6, 4),
    "mnm-p": lambda: MNM(LSTM(INPUT + 16, 8), 16, 16),
    "mnm-g": lambda: MNM(LSTM(INPUT + 16, 8), 16, 16, rule="g"),
}


class MostBytes(TorchDispatchMode):
    """The most bytes of tensors that were alive at a time, of those made within."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self._upper = 0
        self._alive: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self._alive[StorageWeakRef(storage)] = storage.nbytes()
                self._upper += storage.nbytes()
        # Those that have gone are looked for only where the most might be exceeded.
        if self._upper > self.most:
            self._alive = {one: size for one, size in self._alive.items() if not one.expired()}
            self._upper = sum(self._alive.values())
            self.most = max(self.most, self._upper)
        return made


def passes(
    core: RecurrentCore[Any], steps: int, every: int, step: Any = None, record: Sequence[str] = ()
) -> list[Tensor]:
    """Outputs, auxiliary losses, states and gradients of a forward and a backward pass."""
    torch.manual_seed(1)
    inputs = torch.randn(steps, 2, INPUT, requires_grad=True)
    core.zero_grad()
    state = core.initial_state(2)
    outputs, last, recorded, losses = unroll(core, inputs, state, record, step=step, checkpoint_every=every)
    extra = [] if losses is None else [losses]
    (outputs.square().mean() + sum(one.mean() for one in extra)).backward()
    gradients = [one.grad.clone() for one in core.parameters() if one.grad is not None]
    assert inputs.grad is not None and inputs.grad.any()
    return [outputs, *extra, *named_tensors(last).values(), *recorded.values(), inputs.grad, *gradients]


@pytest.mark.parametrize("name", CORES)
@pytest.mark.parametrize("every", [1, 4, 7, 50])
def test_checkpoints_change_no_number(name: str, every: int) -> None:
    torch.manual_seed(0)
    core = CORES[name]()
    names = tuple(named_tensors(core.initial_state(1)))
    for mine, its in zip(passes(core, 11, every, record=names), passes(core, 11, 0, record=names), strict=True):
        assert torch.equal(mine, its) or torch.allclose(mine, its, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["mnm-p", "mnm-g"])
def test_checkpoints_save_most_of_the_memory(name: str) -> None:
    torch.manual_seed(0)
    core = CORES[name]()
    most = {}
    for every in (0, 6):
        with MostBytes() as watched:
            passes(core, 36, every)
        most[every] = watched.most
    # Of 36 states, at most 6 that were kept and the 6 of one segment are alive.
    assert most[6] < 0.5 * most[0]


def test_without_gradients_there_is_nothing_to_keep() -> None:
    core = CORES["mnm-p"]()
    inputs, state = torch.randn(5, 2, INPUT), core.initial_state(2)
    with torch.no_grad():
        outputs = unroll(core, inputs, state, checkpoint_every=2).outputs
    assert torch.equal(outputs, unroll(core, inputs, state).outputs)


def test_a_step_may_be_a_traced_module() -> None:
    torch.manual_seed(0)
    core = CORES["mnm-p"]()
    traced = torch.compile(core, fullgraph=True, backend="eager")
    for mine, its in zip(passes(core, 5, 2, traced), passes(core, 5, 0), strict=True):
        torch.testing.assert_close(mine, its)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dnc", "mnm-p"])
def test_a_compiled_step_has_checkpoints_too(name: str) -> None:
    torch.manual_seed(0)
    core = CORES[name]()
    for mine, its in zip(passes(core, 11, 4, CompiledCore(core, 1).step), passes(core, 11, 0), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-5)
