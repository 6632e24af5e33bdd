"""Metalearned Neural Memory: both rules against autograd and plain loops, bounds, the meta loss, and what is saved."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from memory.neural import GRU, LSTM, MNM, map_states, named_tensors, unroll
from memory.neural.mnm import Layers, activations, gradient_errors, local_errors, written
from tests.memory import neural_oracle as oracle

INPUT, HIDDEN, WIDTH, UNITS, BATCH = 3, 6, 4, 5, 2
RULES = pytest.mark.parametrize("rule", ["g", "p"])
NORMALISED = pytest.mark.parametrize("normalised", [False, True])
HEADS = pytest.mark.parametrize("heads", [1, 3])


def build(seed: int = 0, width: int = WIDTH, units: int = UNITS, controller: Any = GRU, **options: Any) -> MNM:
    torch.manual_seed(seed)
    return MNM(controller(INPUT + width, HIDDEN), width, units, **options)


def random_write(heads: int) -> tuple[Layers, Tensor, Tensor, Tensor]:
    """Weights, keys, values and rates of a write, all of which ask for gradients."""
    torch.manual_seed(heads)
    shapes = [(BATCH, UNITS, WIDTH), (BATCH, UNITS, UNITS), (BATCH, WIDTH, UNITS)]
    weights = Layers(*(torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes))
    keys, values = torch.randn(2, BATCH, heads, WIDTH, dtype=torch.float64).tanh().unbind(0)
    rates = torch.rand(BATCH, 1, 1, dtype=torch.float64)
    return weights, keys.requires_grad_(), values.requires_grad_(), rates.requires_grad_()


def by_autograd(weights: Layers, keys: Tensor, values: Tensor, rates: Tensor) -> Layers:
    # Of each sequence the mean: their sum has the gradient of every one.
    loss = (activations(weights, keys).third - values).square().mean((1, 2)).sum()
    gradients = torch.autograd.grad(loss, tuple(weights), create_graph=True)
    return Layers(*(weight - rates * gradient for weight, gradient in zip(weights, gradients, strict=True)))


def by_hand(weights: Layers, keys: Tensor, values: Tensor, rates: Tensor) -> Layers:
    answers = activations(weights, keys)
    return written(weights, keys, answers, gradient_errors(weights, answers, values), Layers(rates, rates, rates))


@HEADS
def test_a_write_by_gradient_equals_that_of_autograd_and_so_does_its_own_gradient(heads: int) -> None:
    given = random_write(heads)
    weights, keys, values, rates = given
    written_weights, gradients = [], []
    for write in (by_hand, by_autograd):
        after = write(*given)
        written_weights.append(after)
        read = activations(after, values).third.square().sum()
        loss = read + (activations(after, keys).third - values).square().mean()
        gradients.append(torch.autograd.grad(loss, (*weights, keys, values, rates)))
    for mine, its in zip(*written_weights, strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=1e-12)
    for mine, its in zip(*gradients, strict=True):
        assert its.abs().max() > 1e-3
        torch.testing.assert_close(mine, its, rtol=1e-10, atol=1e-10)


@HEADS
def test_local_targets_that_are_steps_down_the_gradient_write_what_gradients_do(heads: int) -> None:
    weights, keys, values, rates = random_write(heads)
    answers = activations(weights, keys)
    gradients = gradient_errors(weights, answers, values)
    targets = Layers(*(one - gradient * one[0].numel() / 2 for one, gradient in zip(answers, gradients, strict=True)))
    after = written(weights, keys, answers, local_errors(answers, targets), Layers(rates, rates, rates))
    for mine, its in zip(after, by_autograd(weights, keys, values, rates), strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=1e-12)
    # Of the third layer, the target is the value.
    torch.testing.assert_close(targets.third, values)


def step_of_loops(core: MNM, said: list[float], state: dict[str, Any]) -> dict[str, Any]:
    """One step of one sequence, from what the controller said."""
    said = [math.tanh(one) for one in said]
    parts = iter([said[place : place + core.width] for place in range(0, len(said), core.width)])
    for_rate = next(parts)
    write_keys, write_values, read_keys = ([next(parts) for _ in range(core.heads)] for _ in range(3))
    score = sum(w * one for w, one in zip(core.rate.weight[0].tolist(), for_rate, strict=True)) + core.rate.bias.item()
    rate = oracle.sigmoid(score) * (1.0 if core.normalised else min(1.0, WIDTH / UNITS))
    weights = [state[f"weights.{name}"] for name in Layers._fields]
    before = oracle.squared_error(weights, write_keys, write_values)
    for _ in range(core.inner_steps):
        if core.targets is None:
            weights = oracle.write_by_gradient(weights, write_keys, write_values, rate, core.normalised)
        else:
            matrix, bias = core.targets.weight.tolist(), core.targets.bias.tolist()
            targets = []
            for value in write_values:
                flat = [a + b for a, b in zip(oracle.layer(matrix, value, squashed=False), bias, strict=True)]
                targets.append([flat[:UNITS], flat[UNITS : 2 * UNITS], flat[2 * UNITS :]])
            weights = oracle.write_to_targets(weights, write_keys, targets, rate, core.normalised)
    answers = [oracle.remembered(weights, key)[2] for key in read_keys]
    return {
        **{f"weights.{name}": matrix for name, matrix in zip(Layers._fields, weights, strict=True)},
        "reads": [sum(numbers) / len(answers) for numbers in zip(*answers, strict=True)],
        "loss_before": before,
        "loss_after": oracle.squared_error(weights, write_keys, write_values),
        "write_keys": write_keys,
        "write_values": write_values,
        "read_keys": read_keys,
    }


@RULES
@HEADS
@NORMALISED
@pytest.mark.parametrize("inner_steps", [1, 2])
def test_a_step_equals_plain_loops(rule: Any, heads: int, normalised: bool, inner_steps: int) -> None:
    core = build(rule=rule, heads=heads, normalised=normalised, inner_steps=inner_steps)
    nn.init.normal_(core.interface.weight, std=2.0)
    core = core.double()
    state = core.initial_state(BATCH)
    with torch.no_grad():
        for inputs in torch.randn(4, BATCH, INPUT, dtype=torch.float64).unbind(0):
            hidden, _ = core.controller(torch.cat([inputs, state.reads], dim=1), state.controller)
            output, after = core(inputs, state)
            said = core.interface(hidden).tolist()
            for row in range(BATCH):
                before = {name: tensor[row].tolist() for name, tensor in named_tensors(state).items()}
                for name, expected in step_of_loops(core, said[row], before).items():
                    found = named_tensors(after)[name][row].numpy()
                    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(output, torch.cat([hidden, after.reads], dim=1))
            state = after


@RULES
@NORMALISED
def test_gradients_of_the_meta_loss_equal_finite_differences(rule: Any, normalised: bool) -> None:
    core = build(rule=rule, heads=2, normalised=normalised).double()
    inputs = torch.randn(3, BATCH, INPUT, dtype=torch.float64)
    names, parameters = zip(*core.named_parameters(), strict=True)

    def losses(*weights: Tensor) -> Tensor:
        named = dict(zip(names, weights, strict=True))
        return torch.func.functional_call(Losses(core), {f"core.{name}": one for name, one in named.items()}, inputs)

    assert torch.autograd.gradcheck(losses, parameters, fast_mode=True)


class Losses(nn.Module):
    """The auxiliary losses of a core along a sequence, as a module: so that its parameters can be given."""

    def __init__(self, core: MNM) -> None:
        super().__init__()
        self.core = core

    def forward(self, inputs: Tensor) -> Tensor:
        losses = unroll(self.core, inputs, self.core.initial_state(inputs.shape[1])).losses
        assert losses is not None
        return losses


@RULES
def test_a_loss_is_that_of_the_step_before_times_its_weight(rule: Any) -> None:
    core, without = build(rule=rule, meta_weight=0.5), GRU(INPUT, HIDDEN)
    inputs = torch.randn(5, BATCH, INPUT)
    steps = unroll(core, inputs, core.initial_state(BATCH), ("loss_after",))
    assert steps.losses is not None and steps.losses.shape == (5, BATCH)
    assert torch.equal(steps.losses, 0.5 * steps.recorded["loss_after"])
    assert torch.equal(steps.losses[-1], 0.5 * steps.state.loss_after)
    assert unroll(without, inputs, without.initial_state(BATCH)).losses is None


@RULES
@NORMALISED
@pytest.mark.parametrize(("width", "units"), [(4, 3), (3, 8)])
def test_a_thousand_writes_at_their_bounds_keep_weights_within_theirs(
    rule: Any, normalised: bool, width: int, units: int
) -> None:
    """Keys and values at 1 or -1, the rate at its largest: a rate of 1 diverges by gradient, with units to spare."""
    sizes: dict[str, Any] = {"width": width, "units": units, "heads": 2, "inner_steps": 2, "controller": LSTM}
    core = build(rule=rule, normalised=normalised, **sizes)
    nn.init.normal_(core.interface.weight, std=1e3)
    nn.init.constant_(core.rate.bias, 1e3)
    state = core.initial_state(50)
    norm = torch.linalg.matrix_norm(state.weights.third, ord=2)
    targets = 0.0
    if core.targets is not None:
        targets = (core.targets.weight.abs().sum(1).max() + core.targets.bias.abs().max()).item()
    with torch.no_grad():
        for step in range(1, 1_001):
            _, state = core(torch.randn(50, INPUT), state)
            if step % 250 == 0:
                assert all(tensor.isfinite().all() for tensor in named_tensors(state).values())
                reach = max(1.0, targets)
                assert (torch.linalg.matrix_norm(state.weights.third, ord=2) <= norm + 2 * 2 * step * reach).all()
    if units > width and rule == "g" and not normalised:
        core.largest_rate, state = 1.0, core.initial_state(50)
        with torch.no_grad():
            for _ in range(1_000):
                _, state = core(torch.randn(50, INPUT), state)
        assert not state.weights.third.isfinite().all()


@HEADS
def test_a_normalised_step_at_the_largest_rate_goes_nearly_all_the_way_and_never_beyond(heads: int) -> None:
    """Of a single head and long inputs, the 1 in its denominator is all that it lacks; of several it is less."""
    core = build(width=60, units=80, heads=heads, normalised=True)
    with torch.no_grad():
        keys = torch.randn(BATCH, heads, 60).sign()
        answers = activations(core.initial_state(BATCH).weights, keys)
        errors = local_errors(answers, Layers(*(torch.zeros_like(one) for one in answers)))
        steps = core._steps(torch.ones(BATCH, 1, 1), keys, answers)
        after = written(core.initial_state(BATCH).weights, keys, answers, errors, steps)
        # Of the third layer alone, that what it is given stays as it was.
        left = answers.second.bmm(after.third.mT)
    shares = left.norm(dim=2) / answers.third.norm(dim=2)
    assert (shares < (0.1 if heads == 1 else 0.95)).all() and (heads > 1 or (shares > 0).all())


@RULES
def test_interface_and_targets_alone_learn_to_write_in_one_step(rule: Any) -> None:
    """The memory, the controller and the rate stay: the meta loss falls more than tenfold in 300 updates."""
    torch.manual_seed(0)
    core = MNM(GRU(INPUT + 16, 32), 16, 16, rule=rule, learned_memory=False)
    nn.init.constant_(core.rate.bias, 1e3)
    trained = [*core.interface.parameters(), *(core.targets.parameters() if core.targets is not None else ())]
    optimiser = torch.optim.Adam(trained, lr=1e-2)
    losses = []
    for _ in range(300):
        _, state = core(torch.randn(32, INPUT), core.initial_state(32))
        loss = core.auxiliary_loss(state).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-20:]) < 0.1 * np.mean(losses[:3])


@HEADS
def test_heads_begin_by_reading_where_they_write(heads: int) -> None:
    core = build(heads=heads)
    nn.init.zeros_(core.interface.bias)
    _, state = core(torch.randn(BATCH, INPUT), core.initial_state(BATCH))
    assert torch.equal(state.read_keys, state.write_keys)
    assert not torch.equal(state.read_keys, state.write_values)


@pytest.mark.parametrize("learned", [True, False])
def test_the_initial_memory_is_saved_with_everything_else(learned: bool) -> None:
    core, other = build(learned_memory=learned), build(seed=1, learned_memory=learned)
    names = {"initial_first", "initial_second", "initial_third"}
    assert names <= core.state_dict().keys()
    assert bool(names & dict(core.named_parameters()).keys()) == learned
    inputs = torch.randn(4, BATCH, INPUT)
    expected = unroll(core, inputs, core.initial_state(BATCH)).outputs
    other.load_state_dict(core.state_dict())
    assert torch.equal(unroll(other, inputs, other.initial_state(BATCH)).outputs, expected)


@RULES
def test_a_detached_state_keeps_what_is_remembered_and_no_gradient(rule: Any) -> None:
    core = build(rule=rule)
    inputs = torch.randn(6, BATCH, INPUT, requires_grad=True)
    state = unroll(core, inputs[:3], core.initial_state(BATCH)).state
    assert all(tensor.requires_grad for tensor in named_tensors(state).values())
    outputs = unroll(core, inputs[3:], map_states(Tensor.detach, state)).outputs
    outputs.sum().backward()
    assert inputs.grad is not None and not inputs.grad[:3].any() and inputs.grad[3:].all()
    untruncated = unroll(core, inputs[3:], state).outputs
    assert torch.equal(outputs, untruncated)


@RULES
def test_parts_of_a_batch_that_begin_anew_forget(rule: Any) -> None:
    core = build(rule=rule)
    inputs = torch.randn(5, BATCH, INPUT)
    state = unroll(core, inputs[:3], core.initial_state(BATCH)).state
    ended = torch.tensor([True, False])
    begun = map_states(
        lambda old, new: torch.where(ended.view(-1, *[1] * (old.ndim - 1)), new, old), state, core.initial_state(BATCH)
    )
    fresh = unroll(core, inputs[3:], core.initial_state(BATCH)).outputs
    going_on = unroll(core, inputs[3:], state).outputs
    outputs = unroll(core, inputs[3:], begun).outputs
    assert torch.equal(outputs[:, 0], fresh[:, 0]) and torch.equal(outputs[:, 1], going_on[:, 1])
