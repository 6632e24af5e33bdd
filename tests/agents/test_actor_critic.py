"""The network over a core: sequences with episodes in them against episodes alone, and games step by step."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from agents import WorldSpec
from agents.actor_critic import NO_ACTION, ActorCritic, Games, Inputs, draw, make_actor_critic
from agents.cores import AnyCoreConfig, make_core
from agents.encoders import Encoder
from memory.neural import FeedForward

SHAPE = (2, 3, 3)
ACTIONS = 3
SMALL = {"hidden": 6, "controller": "gru", "slots": 5, "width": 4}
CORES: dict[str, dict[str, Any]] = {
    "gru": {"name": "gru", "hidden": 6},
    "lstm": {"name": "lstm", "hidden": 6},
    "none": {"name": "none", "hidden": 6},
    "ntm": {"name": "ntm", **SMALL},
    "dnc": {"name": "dnc", **SMALL},
}
EACH_CORE = pytest.mark.parametrize("core", CORES)


def network_over(core: str, feedback: bool = True, compiled: int = 0) -> ActorCritic:
    torch.manual_seed(0)
    config: AnyCoreConfig = TypeAdapter(AnyCoreConfig).validate_python(CORES[core])
    spec = WorldSpec(1, ACTIONS, SHAPE, observation_high=255.0, frame_stack=1)
    network = make_actor_critic(spec, lambda size: make_core(config, size), 7, feedback=feedback, compiled=compiled)
    # Readouts that tell the states of the core apart, which a new policy's hardly does.
    torch.nn.init.normal_(network.policy.weight)
    return network


def inputs_of(time: int, batch: int, begins: np.ndarray | None = None, seed: int = 0) -> Inputs:
    """Steps of episodes that begin where `begins` says, and by chance."""
    rng = np.random.default_rng(seed)
    begins = rng.random((time, batch)) < 0.3 if begins is None else begins
    return Inputs(
        torch.from_numpy(rng.integers(0, 256, (time, batch, *SHAPE), dtype=np.uint8)),
        torch.from_numpy(np.where(begins, NO_ACTION, rng.integers(0, ACTIONS, (time, batch)))),
        torch.from_numpy(np.where(begins, 0.0, rng.normal(size=(time, batch))).astype(np.float32)),
        torch.from_numpy(begins),
    )


@EACH_CORE
def test_episodes_in_a_sequence_are_what_they_are_alone(core: str) -> None:
    """Each unrolled for itself, one sequence at a time, from where the core begins."""
    network = network_over(core)
    inputs = inputs_of(12, 4)
    before = inputs_of(3, 4, seed=1)
    state = network(before, network.core.initial_state(4)).state
    log_probabilities, values, *_ = network(inputs, state)
    for sequence in range(4):
        starts = [0, *(time for time in range(1, 12) if inputs.begins[time, sequence]), 12]
        for start, end in itertools.pairwise(starts):
            alone = Inputs(*(part[start:end, sequence : sequence + 1] for part in inputs))
            first = network.core.initial_state(1)
            if not inputs.begins[start, sequence]:
                sequence_before = Inputs(*(part[:, sequence : sequence + 1] for part in before))
                first = network(sequence_before, network.core.initial_state(1)).state
            # That it begins is told by its state alone.
            alone = alone._replace(begins=torch.zeros_like(alone.begins))
            expected, expected_values, *_ = network(alone, first)
            torch.testing.assert_close(log_probabilities[start:end, sequence], expected[:, 0], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(values[start:end, sequence], expected_values[:, 0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("core", ["gru", "lstm", "ntm", "dnc"])
def test_gradients_flow_back_to_an_episode_s_begin_and_no_further(core: str) -> None:
    network = network_over(core)
    begins = np.zeros((6, 2), dtype=bool)
    begins[3, 0] = True
    inputs = inputs_of(6, 2, begins)
    inputs.previous_rewards.requires_grad_()
    _, values, *_ = network(inputs, network.core.initial_state(2))
    values[5].sum().backward()
    reached = inputs.previous_rewards.grad
    assert reached is not None
    assert (reached[:, 0] != 0).tolist() == [False, False, False, True, True, True]
    assert (reached[:, 1] != 0).all()


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_several_steps_in_a_call_never_reach_over_an_episode_s_begin(
    steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How a sequence is cut up, with nothing compiled."""
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    begins = np.zeros((14, 3), dtype=bool)
    begins[[0, 4, 5, 11], [0, 2, 1, 0]] = True
    inputs = inputs_of(14, 3, begins)
    mine, expected = (
        network(inputs, network.core.initial_state(3))
        for network in (network_over("dnc", compiled=steps), network_over("dnc"))
    )
    torch.testing.assert_close(mine.log_probabilities, expected.log_probabilities)
    torch.testing.assert_close(mine.values, expected.values)
    torch.testing.assert_close(mine.state.memory, expected.state.memory)


def test_what_a_core_begins_with_is_learned_from_every_episode_s_begin() -> None:
    network = network_over("ntm")
    begins = np.zeros((4, 1), dtype=bool)
    begins[2] = True
    inputs = inputs_of(4, 1, begins)
    with torch.no_grad():
        carried = network.core.initial_state(1)
    for some_begin, learned in ((True, True), (False, False)):
        network.zero_grad()
        _, values, *_ = network(inputs._replace(begins=inputs.begins & some_begin), carried)
        values[3].sum().backward()
        gradient = network.core.initial_reads.grad
        assert (gradient is not None and bool(gradient.any())) == learned


@EACH_CORE
def test_games_played_step_by_step_are_what_their_sequences_are(core: str) -> None:
    network = network_over(core)
    games = Games(network, 4)
    inputs = inputs_of(9, 4, np.concatenate([np.ones((1, 4)), np.eye(8, 4, k=-1)]).astype(bool))
    expected, expected_values, *_ = network(inputs, network.core.initial_state(4))
    actions, rewards = inputs.previous_actions.numpy(), inputs.previous_rewards.numpy()
    for time in range(9):
        for name, part in games.before().items():
            np.testing.assert_array_equal(part, getattr(inputs, name)[time].numpy())
        log_probabilities, values = games.see(inputs.observations[time].numpy())
        np.testing.assert_allclose(log_probabilities, expected[time].detach(), atol=1e-5)
        np.testing.assert_allclose(values, expected_values[time].detach(), atol=1e-5)
        if time == 8:
            break
        ended = inputs.begins[time + 1].numpy()
        # Where a game ends, what was done and earned last is nothing to the next.
        games.advance(np.where(ended, 1, actions[time + 1]), np.where(ended, 1.0, rewards[time + 1]), ended)


def test_to_foresee_is_to_see_where_nothing_ended() -> None:
    network = network_over("gru")
    games = Games(network, 3)
    inputs = inputs_of(3, 3, np.zeros((3, 3), dtype=bool))
    actions, rewards = inputs.previous_actions.numpy(), inputs.previous_rewards.numpy()
    games.see(inputs.observations[0].numpy())
    foreseen = games.foresee(inputs.observations[1].numpy(), actions[1], rewards[1])
    games.advance(actions[1], rewards[1], np.array([False, True, False]))
    _, values = games.see(inputs.observations[1].numpy())
    np.testing.assert_array_equal(foreseen == values, [True, False, True])


def test_without_feedback_what_was_done_and_earned_is_not_told() -> None:
    inputs = inputs_of(5, 2)
    others = inputs._replace(previous_actions=inputs.previous_actions * 0, previous_rewards=inputs.previous_rewards + 1)
    for feedback in (False, True):
        network = network_over("gru", feedback)
        state = network.core.initial_state(2)
        assert torch.equal(network(inputs, state)[1], network(others, state)[1]) != feedback


def test_actions_are_drawn_as_often_as_the_policy_says() -> None:
    probabilities = np.array([[0.1, 0.2, 0.7], [0.5, 0.5, 0.0]])
    with np.errstate(divide="ignore"):
        many = np.repeat(np.log(probabilities), 20_000, axis=0)
    for epsilon in (0.0, 0.3):
        actions = draw(many, np.random.default_rng(0), epsilon)
        shares = [np.bincount(part, minlength=3) / 20_000 for part in np.split(actions, 2)]
        # The deviation of a share is at most 0.5 / sqrt(20,000) = 0.0035.
        np.testing.assert_allclose(shares, (1 - epsilon) * probabilities + epsilon / 3, atol=0.015)
    assert set(draw(many, np.random.default_rng(0), greedy=True)[:20_000]) == {2}


def is_orthogonal(weight: Tensor, gain: float) -> bool:
    """Whether the rows, or if there are more of them the columns, stand upright on each other and are of one length."""
    small = weight if weight.shape[0] <= weight.shape[1] else weight.T
    return bool(torch.allclose(small @ small.T, gain**2 * torch.eye(len(small)), atol=1e-4))


def test_layers_begin_orthogonal_and_a_memory_as_it_would_by_itself() -> None:
    spec = WorldSpec(1, ACTIONS, SHAPE, observation_high=255.0, frame_stack=1)
    for name in ("gru", "lstm", "none"):
        config: AnyCoreConfig = TypeAdapter(AnyCoreConfig).validate_python(CORES[name])
        network = make_actor_critic(
            spec, lambda size, config=config: make_core(config, size), 7, feedback=True, readout_hidden=9
        )
        hidden, _, last = network.policy
        assert is_orthogonal(hidden.weight, 2**0.5) and is_orthogonal(last.weight, 0.01)
        assert is_orthogonal(network.encoder.layers[1].weight, 2**0.5)
        assert not last.bias.any() and not network.encoder.layers[1].bias.any()
        if name == "none":
            assert is_orthogonal(network.core.layer.weight, 2**0.5)
        else:
            assert all(is_orthogonal(gate, 1.0) for gate in network.core.cell.weight_hh.split(6))
            assert not is_orthogonal(network.core.cell.weight_hh, 1.0)

    cores = []

    def dnc(size: int) -> Any:
        config: AnyCoreConfig = TypeAdapter(AnyCoreConfig).validate_python(CORES["dnc"])
        cores.append(make_core(config, size))
        cores.append(copy.deepcopy(cores[0]))
        return cores[0]

    make_actor_critic(spec, dnc, 7, feedback=True)
    drawn, alone = (core.state_dict() for core in cores)
    changed = {name for name, tensor in drawn.items() if not torch.equal(tensor, alone[name])}
    assert changed == {"controller.cell.weight_ih", "controller.cell.weight_hh"}


def test_a_hidden_layer_lets_two_things_decide_together() -> None:
    """What neither of two outputs of the core tells alone, such as whether they are equal, is not linear in them."""
    torch.manual_seed(0)
    told = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
    equal = told.prod(dim=1)
    errors = []
    for hidden in (0, 16):
        readout = ActorCritic(Encoder((2,), 1.0, 3), FeedForward(3, 2), 2, feedback=False, readout_hidden=hidden).value
        optimiser = torch.optim.Adam(readout.parameters(), lr=0.03)
        for _ in range(300):
            loss = (readout(told).squeeze(-1) - equal).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        errors.append(loss.item())
    assert errors[0] > 0.9 and errors[1] < 0.01
