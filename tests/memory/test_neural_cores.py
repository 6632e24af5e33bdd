"""Recurrent cores: whole steps against plain loops, gradients, what must always hold of states, and saved states."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from memory.neural import (
    DNC,
    GRU,
    LSTM,
    MNM,
    NTM,
    CompiledCore,
    FeedForward,
    RecurrentCore,
    map_states,
    named_tensors,
    unroll,
    with_tensors,
)
from memory.neural.dnc import DNCState
from memory.neural.ntm import NTMState
from tests.memory import neural_oracle as oracle
from training import checkpoint

INPUT, HIDDEN, SLOTS, WIDTH, READ_HEADS, WRITE_HEADS = 3, 4, 5, 3, 2, 2
READS = READ_HEADS * WIDTH
CORRECTIONS: list[dict[str, Any]] = [
    {},
    {"masking": True, "mask_floor": 0.1},
    {"deallocation": True},
    {"sharpness": True},
    {"masking": True, "deallocation": True, "sharpness": True},
]


def ntm(controller: type[Any] = LSTM, **options: Any) -> NTM:
    return NTM(controller(INPUT + READS, HIDDEN), SLOTS, WIDTH, read_heads=2, write_heads=WRITE_HEADS, **options)


def dnc(controller: type[Any] = GRU, **options: Any) -> DNC:
    return DNC(controller(INPUT + READS, HIDDEN), SLOTS, WIDTH, read_heads=READ_HEADS, **options)


def mnm(controller: type[Any] = LSTM, **options: Any) -> MNM:
    return MNM(controller(INPUT + WIDTH, HIDDEN), WIDTH, memory_hidden=5, **options)


CORES: dict[str, Callable[[], RecurrentCore[Any]]] = {
    "gru": lambda: GRU(INPUT, HIDDEN),
    "lstm": lambda: LSTM(INPUT, HIDDEN),
    "none": lambda: FeedForward(INPUT, HIDDEN),
    "ntm": ntm,
    "ntm gru": lambda: ntm(GRU, shift_range=2),
    "dnc": dnc,
    "dnc lstm": lambda: dnc(LSTM),
    "dnc corrected": lambda: dnc(masking=True, mask_floor=0.1, deallocation=True, sharpness=True),
    "mnm-p": mnm,
    "mnm-g": lambda: mnm(GRU, rule="g", heads=3, inner_steps=2),
    "mnm-p drawn": lambda: mnm(GRU, heads=2, inner_steps=2, learned_memory=False),
}
EACH_CORE = pytest.mark.parametrize("name", CORES)


def build(name: str, seed: int = 0) -> RecurrentCore[Any]:
    torch.manual_seed(seed)
    return CORES[name]()


def loud(core: Any) -> Any:
    """The same core with an interface that says more than random weights do, so that gates are not all half open."""
    torch.nn.init.normal_(core.interface.weight, std=3.0)
    return core.double()


def cut(flat: list[float], *lengths: int) -> list[list[float]]:
    ends = [0, *itertools.accumulate(lengths)]
    assert ends[-1] == len(flat)
    return [flat[start:end] for start, end in itertools.pairwise(ends)]


def rows(flat: list[float], count: int) -> list[list[float]]:
    width = len(flat) // count
    return [flat[row * width : (row + 1) * width] for row in range(count)]


def spoken(core: Any, inputs: Tensor, state: Any) -> tuple[Tensor, list[list[float]]]:
    """What the controller of a core puts out, and what it says to its memory, a list for each sequence."""
    hidden, _ = core.controller(torch.cat([inputs, state.reads.flatten(1)], dim=1), state.controller)
    said = hidden @ core.interface.weight.T + core.interface.bias
    return hidden, [[max(-20.0, min(20.0, number)) for number in row] for row in said.tolist()]


def ntm_step(said: list[float], state: NTMState, row: int) -> dict[str, Any]:
    heads = READ_HEADS + WRITE_HEADS
    keys, adds, strengths, powers, gates, erase, shifts = cut(
        said, heads * WIDTH, WRITE_HEADS * WIDTH, heads, heads, heads, WRITE_HEADS * WIDTH, heads * 3
    )
    memory = state.memory[row].tolist()
    before = [*state.read_weights[row].tolist(), *state.write_weights[row].tolist()]
    weights = []
    for head in range(heads):
        key = [np.tanh(one) for one in rows(keys, heads)[head]]
        content = oracle.content_weights(key, oracle.softplus(strengths[head]), memory)
        gate = oracle.sigmoid(gates[head])
        mixed = [gate * new + (1 - gate) * old for new, old in zip(content, before[head], strict=True)]
        shifted = oracle.shift(mixed, oracle.softmax(rows(shifts, heads)[head]))
        weights.append(oracle.sharpen(shifted, oracle.oneplus(powers[head])))
    erasing = [[oracle.sigmoid(one) for one in head] for head in rows(erase, WRITE_HEADS)]
    adding = [[np.tanh(one) for one in head] for head in rows(adds, WRITE_HEADS)]
    return {
        "reads": [oracle.read(memory, one) for one in weights[:READ_HEADS]],
        "read_weights": weights[:READ_HEADS],
        "write_weights": weights[READ_HEADS:],
        "memory": oracle.write(memory, weights[READ_HEADS:], erasing, adding),
    }


def dnc_step(core: DNC, said: list[float], state: DNCState, row: int) -> dict[str, Any]:
    heads = READ_HEADS
    powers = 2 * heads if core.sharpness else 0
    masks = (heads + 1) * WIDTH if core.masking else 0
    write_key, read_keys, value, write_strength, strengths, sharpness, erase, free, allocate, gate, mask, modes = cut(
        said, WIDTH, heads * WIDTH, WIDTH, 1, heads, powers, WIDTH, heads, 1, 1, masks, heads * 3
    )
    mask_rows: list[Any] = [None] * (heads + 1)
    if core.masking:
        mask_rows = [
            [core.mask_floor + (1 - core.mask_floor) * oracle.sigmoid(one) for one in part]
            for part in rows(mask, heads + 1)
        ]
    old = {name: getattr(state, name)[row].tolist() for name in state._fields if name != "controller"}
    kept = oracle.retention([oracle.sigmoid(one) for one in free], old["read_weights"])
    usage = oracle.usage_after(old["usage"], old["write_weights"], kept)
    allocation = oracle.allocation_weights(usage)
    content = oracle.content_weights(write_key, oracle.oneplus(write_strength[0]), old["memory"], mask_rows[0])
    to_allocation, writing = oracle.sigmoid(allocate[0]), oracle.sigmoid(gate[0])
    write_weights = [
        writing * (to_allocation * a + (1 - to_allocation) * c) for a, c in zip(allocation, content, strict=True)
    ]
    memory = old["memory"]
    if core.deallocation:
        memory = [[number * keep for number in slot] for slot, keep in zip(memory, kept, strict=True)]
    memory = oracle.write(memory, [write_weights], [[oracle.sigmoid(one) for one in erase]], [value])
    links = oracle.links_after(old["links"], write_weights, old["precedence"])
    read_weights = []
    for head in range(heads):
        backward = oracle.backward_weights(links, old["read_weights"][head])
        forward = oracle.forward_weights(links, old["read_weights"][head])
        if core.sharpness:
            backward = oracle.sharpen(backward, oracle.oneplus(sharpness[head]))
            forward = oracle.sharpen(forward, oracle.oneplus(sharpness[heads + head]))
        content = oracle.content_weights(
            rows(read_keys, heads)[head], oracle.oneplus(strengths[head]), memory, mask_rows[1 + head]
        )
        mode = oracle.softmax(rows(modes, heads)[head])
        read_weights.append(
            [mode[0] * b + mode[1] * c + mode[2] * f for b, c, f in zip(backward, content, forward, strict=True)]
        )
    return {
        "memory": memory,
        "usage": usage,
        "links": links,
        "precedence": oracle.precedence_after(old["precedence"], write_weights),
        "reads": [oracle.read(memory, one) for one in read_weights],
        "read_weights": read_weights,
        "write_weights": write_weights,
    }


def assert_steps_equal(core: Any, step: Callable[[list[float], Any, int], dict[str, Any]]) -> None:
    batch = 2
    state = core.initial_state(batch)
    with torch.no_grad():
        for inputs in torch.randn(6, batch, INPUT, dtype=torch.float64).unbind(0):
            hidden, said = spoken(core, inputs, state)
            output, after = core(inputs, state)
            for row in range(batch):
                for name, expected in step(said[row], state, row).items():
                    np.testing.assert_allclose(getattr(after, name)[row].numpy(), expected, rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(output, torch.cat([hidden, after.reads.flatten(1)], dim=1))
            state = after


@pytest.mark.parametrize("controller", [GRU, LSTM])
def test_a_step_of_the_ntm_equals_plain_loops(controller: type[Any]) -> None:
    torch.manual_seed(1)
    assert_steps_equal(loud(ntm(controller)), ntm_step)


@pytest.mark.parametrize("corrections", CORRECTIONS, ids=lambda options: "+".join(options) or "plain")
def test_a_step_of_the_dnc_equals_plain_loops(corrections: dict[str, Any]) -> None:
    torch.manual_seed(1)
    core = loud(dnc(**corrections))
    assert_steps_equal(core, lambda said, state, row: dnc_step(core, said, state, row))


@EACH_CORE
def test_gradients_through_time_equal_finite_differences(name: str) -> None:
    core = build(name).double()
    inputs = torch.randn(3, 2, INPUT, dtype=torch.float64, requires_grad=True)
    names, parameters = zip(*core.named_parameters(), strict=True)

    class Unrolled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.core = core

        def forward(self, sequence: Tensor) -> Tensor:
            return unroll(self.core, sequence, self.core.initial_state(2))[0]

    def outputs(sequence: Tensor, *weights: Tensor) -> Tensor:
        named = {f"core.{one}": weight for one, weight in zip(names, weights, strict=True)}
        return functional_call(Unrolled(), named, (sequence,))

    # Every direction at once along a random one: each number on its own would take a minute.
    assert torch.autograd.gradcheck(outputs, (inputs, *parameters), fast_mode=True)


@EACH_CORE
def test_sequences_of_a_batch_do_not_meet(name: str) -> None:
    core = build(name)
    inputs = torch.randn(6, 3, INPUT)
    together = unroll(core, inputs, core.initial_state(3)).outputs
    alone = unroll(core, inputs[:, 1:2], core.initial_state(1)).outputs
    torch.testing.assert_close(together[:, 1:2], alone)


@EACH_CORE
def test_a_saved_state_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    core = build(name)
    inputs = torch.randn(8, 2, INPUT)
    whole, last, *_ = unroll(core, inputs, core.initial_state(2))
    first, state, *_ = unroll(core, inputs[:4], core.initial_state(2))
    checkpoint.save(tmp_path, {"state": named_tensors(state)}, step=0)
    saved = checkpoint.load(tmp_path)[1]["state"]
    restored = with_tensors(core.initial_state(2), saved)
    assert type(restored) is type(state)
    second, resumed, *_ = unroll(core, inputs[4:], restored)
    assert torch.equal(torch.cat([first, second]), whole)
    for tensor, expected in zip(named_tensors(resumed).values(), named_tensors(last).values(), strict=True):
        assert torch.equal(tensor, expected)


def test_tensors_that_are_not_of_a_state_are_refused() -> None:
    state = dnc().initial_state(1)
    tensors = named_tensors(state)
    assert set(tensors) == {
        "controller.hidden",
        *("memory", "usage", "links", "precedence", "reads", "read_weights", "write_weights"),
    }
    with pytest.raises(ValueError, match=r"memory must be \[batch, \*\[5, 3\]\], got \[1, 7, 3\]"):
        with_tensors(state, {**tensors, "memory": torch.zeros(1, 7, 3)})
    with pytest.raises(ValueError, match=r"a state of controller.hidden, .* cannot take the tensors controller"):
        with_tensors(state, {name: tensors[name] for name in list(tensors)[:-1]})


def test_states_are_mapped_part_by_part() -> None:
    core = build("dnc lstm")
    state = unroll(core, torch.randn(3, 2, INPUT), core.initial_state(2)).state
    assert not any(tensor.requires_grad for tensor in named_tensors(map_states(Tensor.detach, state)).values())
    begun = map_states(
        lambda old, new: torch.where(torch.tensor([True, False]).view(2, *[1] * (old.ndim - 1)), new, old),
        state,
        core.initial_state(2),
    )
    assert begun.controller.cell[0].eq(0).all() and torch.equal(begun.controller.cell[1], state.controller.cell[1])
    assert begun.links[0].eq(0).all() and torch.equal(begun.links[1], state.links[1])


@EACH_CORE
def test_ten_thousand_extreme_sequences_stay_finite_and_within_bounds(name: str) -> None:
    """Inputs from nothing to 1e30 and an interface that is always at its bounds; gradients through all of it."""
    core = build(name)
    if hasattr(core, "interface"):
        torch.nn.init.normal_(core.interface.weight, std=1000.0)
    rng = np.random.default_rng(0)
    extremes = np.array([0.0, 1e-30, 1e-3, 1.0, 1e3, 1e30])
    steps, sequences = 5, 10_000
    numbers = rng.choice(extremes, (steps, sequences, INPUT)) * rng.choice([-1.0, 1.0], (steps, sequences, INPUT))
    inputs = torch.from_numpy(numbers).float().requires_grad_()
    state = core.initial_state(sequences)
    total = torch.zeros(())
    for step_inputs in inputs.unbind(0):
        output, state = core(step_inputs, state)
        assert all(tensor.isfinite().all() for tensor in (output, *named_tensors(state).values()))
        assert_bounds(named_tensors(state), sums_to_one=isinstance(core, NTM))
        total = total + output.mean()
    total.backward()
    assert inputs.grad is not None and inputs.grad.isfinite().all()
    assert all(one.grad is None or one.grad.isfinite().all() for one in core.parameters())


def assert_bounds(state: dict[str, Tensor], sums_to_one: bool) -> None:
    """What the equations promise of a state, to rounding."""
    slack = 1e-5

    def is_share(tensor: Tensor) -> bool:
        return bool(tensor.min() >= -slack and tensor.max() <= 1 + slack)

    for name in {"read_weights", "write_weights", "precedence"} & state.keys():
        sums = state[name].sum(-1)
        assert is_share(state[name]) and is_share(sums)
        assert not sums_to_one or sums.min() >= 1 - slack
    if "links" in state:
        links = state["links"]
        assert is_share(state["usage"]) and is_share(links)
        assert is_share(links.sum(1)) and is_share(links.sum(2))
        assert links.diagonal(dim1=1, dim2=2).eq(0).all()


def test_heads_of_the_ntm_begin_at_the_first_slot_and_learn_where() -> None:
    core = NTM(LSTM(INPUT + WIDTH, HIDDEN), 128, WIDTH)
    state = core.initial_state(2)
    for weights in (state.read_weights, state.write_weights):
        assert weights.shape == (2, 1, 128) and (weights[..., 0] > 0.95).all()
    outputs = unroll(core, torch.randn(3, 2, INPUT), state).outputs
    outputs.sum().backward()
    for parameter in (core.initial_reads, core.initial_read_weights, core.initial_write_weights):
        assert parameter.grad is not None and parameter.grad.abs().max() > 0


def test_links_lead_from_what_was_written_to_what_was_written_next() -> None:
    """The DNC is told to write slot after slot; its read head then goes forward, and back, along what it wrote."""
    core = DNC(GRU(INPUT + WIDTH, HIDDEN), SLOTS, WIDTH)
    torch.nn.init.zeros_(core.interface.weight)
    # Vectors 3 x 3, strengths 2, gates (erase 3, free, allocation, write), modes (backward, content, forward).
    bias = [0.0] * 9 + [0.0] * 2 + [0.0] * 3 + [-20.0, 20.0, 20.0] + [-20.0, -20.0, 20.0]
    core.interface.bias = torch.nn.Parameter(torch.tensor(bias))
    state = core.initial_state(1)
    with torch.no_grad():
        written = []
        for _ in range(4):
            _, state = core(torch.zeros(1, INPUT), state)
            written.append(int(state.write_weights[0].argmax()))
            assert state.write_weights[0, written[-1]] > 0.999
        assert len(set(written)) == 4
        core.interface.bias[-4] = -20.0  # write no more
        state = state._replace(read_weights=torch.eye(SLOTS)[None, written[:1]])
        for slot in written[1:]:
            _, state = core(torch.zeros(1, INPUT), state)
            assert state.read_weights[0, 0, slot] > 0.99
        core.interface.bias[-3:] = torch.tensor([20.0, -20.0, -20.0])
        for slot in reversed(written[:-1]):
            _, state = core(torch.zeros(1, INPUT), state)
            assert state.read_weights[0, 0, slot] > 0.99


@pytest.mark.parametrize(
    ("make", "mend"),
    [
        (lambda: NTM(GRU(WIDTH, 4), SLOTS, WIDTH), "input_size and output_size must be at least 1, got 0 and 7"),
        (lambda: NTM(GRU(9, 4), 4, WIDTH, shift_range=2), "shift_range must be 0 to 1 for 4 slots, got 2"),
        (lambda: NTM(GRU(9, 4), 4, WIDTH, read_heads=0), "heads must be 1 or more, got 4, 3, 0, 1"),
        (lambda: DNC(GRU(9, 4), 0, WIDTH), "must be at least 1, got 0, 3, 1"),
        (lambda: DNC(GRU(9, 4), 4, WIDTH, mask_floor=1.0), "mask_floor must be 0 or more and below 1, got 1.0"),
        (lambda: MNM(GRU(WIDTH, 4), WIDTH, 5), "input_size and output_size must be at least 1, got 0 and 7"),
        (lambda: mnm(heads=0), "width, memory_hidden, heads and inner_steps must be at least 1, got 3, 5, 0, 1"),
        (lambda: mnm(inner_steps=0), "must be at least 1, got 3, 5, 1, 0"),
        (lambda: mnm(rule="h"), "rule must be g or p, got h"),
        (lambda: mnm(meta_weight=-1.0), "meta_weight must be 0 or more, got -1.0"),
    ],
)
def test_sizes_that_cannot_be_are_refused(make: Callable[[], object], mend: str) -> None:
    with pytest.raises(ValueError, match=mend.replace("[", r"\[")):
        make()


@pytest.mark.parametrize("name", ["ntm", "dnc corrected", "mnm-p", "mnm-g"])
def test_a_step_is_one_graph_to_the_compiler(name: str) -> None:
    """Whatever would break the graph raises here; the slow test runs what is compiled."""
    core = build(name)
    inputs, state = torch.randn(2, INPUT), core.initial_state(2)
    traced, after = torch.compile(core, fullgraph=True, backend="eager")(inputs, state)
    expected, expected_after = core(inputs, state)
    assert torch.equal(traced, expected)
    assert type(after) is type(expected_after)
    several = functools.partial(unroll, core)
    steps = torch.compile(several, fullgraph=True, backend="eager")(inputs.expand(3, -1, -1), state, ("reads",))
    assert torch.equal(steps.outputs, several(inputs.expand(3, -1, -1), state).outputs)
    assert len(steps.recorded["reads"]) == 3


def test_what_is_recorded_is_the_state_after_every_step() -> None:
    core = build("dnc")
    inputs, state = torch.randn(4, 2, INPUT), core.initial_state(2)
    recorded = unroll(core, inputs, state, ("memory", "controller.hidden")).recorded
    assert set(recorded) == {"memory", "controller.hidden"}
    for time in range(4):
        _, state = core(inputs[time], state)
        assert torch.equal(recorded["memory"][time], state.memory)
        assert torch.equal(recorded["controller.hidden"][time], state.controller.hidden)


@pytest.mark.parametrize("length", [1, 2, 3, 6, 7])
def test_several_steps_in_a_call_are_the_steps_of_a_sequence(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """How a sequence is cut up, with nothing compiled: that is for the slow test."""
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    core = build("dnc")
    inputs, state = torch.randn(length, 2, INPUT), core.initial_state(2)
    expected = unroll(core, inputs, state, ("usage",))
    mine = CompiledCore(core, steps=3).unroll(inputs, state, ("usage",))
    assert torch.equal(mine.outputs, expected.outputs)
    assert torch.equal(mine.recorded["usage"], expected.recorded["usage"])
    for one, other in zip(named_tensors(mine.state).values(), named_tensors(expected.state).values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ntm", "dnc corrected", "mnm-p", "mnm-g"])
def test_compiled_steps_give_the_same_outputs_and_gradients(name: str) -> None:
    core = build(name)
    inputs = torch.randn(9, 2, INPUT)
    gradients = []
    for stepped in (functools.partial(unroll, core), CompiledCore(core, steps=4).unroll):
        core.zero_grad()
        steps = stepped(inputs, core.initial_state(2), ("reads",))
        results = [steps.outputs, steps.recorded["reads"], *([] if steps.losses is None else [steps.losses])]
        sum(result.square().sum() for result in results).backward()
        gradients.append([*results, *(one.grad.clone() for one in core.parameters() if one.grad is not None)])
    for mine, its in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-5)
