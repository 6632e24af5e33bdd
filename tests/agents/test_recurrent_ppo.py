"""PPO over a core: its first gradient against A2C's, worked out step by step; what it bootstraps; that it remembers."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import agents
from agents import Metrics, NonFiniteError, Transition, WorldSpec
from agents.actor_critic import NO_ACTION, Inputs
from agents.agent import Recurrent
from agents.recurrent_ppo import RecurrentPPO, RecurrentPPOConfig, clipped_objective
from envs.grid_world import GridWorldConfig, make_grid_world
from tests.agents.fake_world import CueWorld, FakeWorld, learn_all, play
from tests.agents.test_state import differences
from training.evaluation import play_games

GRID: dict[str, Any] = {"shape": (2, 3, 3), "frame_stack": 1}


def make_ppo(spec: WorldSpec, seed: int = 0, **options: Any) -> RecurrentPPO:
    torch.manual_seed(seed)
    small = {"core": {"name": "gru", "hidden": 8}, "features": 8, "rollout": 12}
    config = RecurrentPPOConfig.model_validate({**small, **options})
    agent = agents.make(config, spec, np.random.default_rng(seed), "cpu")
    assert isinstance(agent, RecurrentPPO)
    return agent


def live(agent: RecurrentPPO, world: FakeWorld | CueWorld, steps: int) -> list[Transition]:
    """Let it live without learning."""
    transitions = []
    for _ in range(steps):
        transitions.append(world.step(agent.act(world.observations, world.state_hashes)))
        agent.observe(transitions[-1])
    return transitions


def told_before(transitions: list[Transition], time: int, env: int) -> tuple[int, float, bool]:
    """Action and clipped reward of the step before in the same episode, and whether there was none."""
    if time == 0 or transitions[time - 1].ended[env]:
        return NO_ACTION, 0.0, True
    last = transitions[time - 1]
    return int(last.actions[env]), float(np.clip(last.rewards[env], -1, 1)), False


def step_alone(agent: RecurrentPPO, observation: np.ndarray, told: tuple[int, float, bool], state: Any) -> Any:
    """One step of one environment: the policy's logarithms `[actions]`, the value, and the state after it."""
    action, reward, begins = told
    # Episodes begin by hand, not by the network.
    inputs = Inputs(
        torch.from_numpy(observation)[None, None],
        torch.tensor([[action]]),
        torch.tensor([[reward]], dtype=torch.float32),
        torch.tensor([[False]]),
    )
    state = agent.network.core.initial_state(1) if begins else state
    log_probabilities, values, state, _ = agent.network(inputs, state)
    return log_probabilities[0, 0], values[0, 0], state


def a2c_loss(agent: RecurrentPPO, transitions: list[Transition], window: int) -> Tensor:
    """What advantage actor-critic minimises, in plain loops; gradients are cut every `window` steps."""
    config = agent.config
    steps, losses = len(transitions), []
    for env in range(len(transitions[0].actions)):
        lived, state = [], agent.network.core.initial_state(1)
        for time, transition in enumerate(transitions):
            if time % window == 0:
                state = type(state)(*(field.detach() for field in state))
            told = told_before(transitions, time, env)
            log_probabilities, value, state = step_alone(agent, transition.observations[env], told, state)
            reward = transition.rewards[env]
            next_told = (int(transition.actions[env]), float(np.clip(reward, -1, 1)), False)
            with torch.no_grad():
                _, beyond, _ = step_alone(agent, transition.next_observations[env], next_told, state)
            lived.append((log_probabilities, value, beyond.item()))
        advantage = 0.0
        for time in reversed(range(steps)):
            transition, (log_probabilities, value, beyond) = transitions[time], lived[time]
            next_value = 0.0 if transition.terminations[env] else beyond
            error = float(transition.rewards[env]) + config.discount * next_value - value.item()
            carried = 0.0 if transition.ended[env] else config.discount * config.gae_lambda * advantage
            advantage = error + carried
            target = advantage + value.item()
            entropy = -sum(one.exp() * one for one in log_probabilities)
            losses.append(
                -log_probabilities[transition.actions[env]] * advantage
                + config.value_weight * 0.5 * (value - target) ** 2
                - config.entropy_weight * entropy
            )
    return torch.stack(losses).mean()


@pytest.mark.parametrize("truncation", [None, 4, 1])
@pytest.mark.parametrize("clip", [0.2, 1e-6])
def test_the_gradient_of_one_pass_is_that_of_a2c(truncation: int | None, clip: float) -> None:
    """However narrow the clip: of the policy that acted, no ratio has come anywhere."""
    world = FakeWorld(3, **GRID)
    agent = make_ppo(
        world.spec, truncation=truncation, epochs=1, normalise_advantages=False, gradient_norm=1e9, clip=clip
    )
    agent.optimiser = torch.optim.SGD(agent.network.parameters(), lr=1.0)
    torch.nn.init.normal_(agent.network.policy.weight)
    transitions = live(agent, world, 12)
    assert any(one.terminations.any() for one in transitions) and any(one.truncations.any() for one in transitions)
    loss = a2c_loss(agent, transitions, truncation or 12)
    expected = torch.autograd.grad(loss, list(agent.network.parameters()), allow_unused=True)
    before = [parameter.detach().clone() for parameter in agent.network.parameters()]
    metrics = agent.learn()
    assert metrics is not None and agent.learn() is None
    for old, new, gradient in zip(before, agent.network.parameters(), expected, strict=True):
        assert gradient is not None
        torch.testing.assert_close(old - new.detach(), gradient, rtol=1e-3, atol=2e-5)
    assert metrics["charts/approximate_kl"] == pytest.approx(0.0, abs=1e-6)


def test_observations_are_normalised_by_those_of_the_rollouts_before() -> None:
    """While a rollout is lived and learned from nothing moves: else the policy would not be the one that acted."""
    world = FakeWorld(3, **GRID)
    agent = make_ppo(world.spec, normalise_observations=True, epochs=1)
    lived = []
    for _ in range(2):
        normalisation = agent.network.encoder.normalisation
        assert normalisation is not None
        before = normalisation.mean.clone()
        lived += [one.observations for one in live(agent, world, 12)]
        assert torch.equal(normalisation.mean, before)
        metrics = agent.learn()
        assert metrics is not None and metrics["charts/approximate_kl"] == pytest.approx(0.0, abs=1e-6)
        seen = np.concatenate(lived) / world.spec.observation_high
        np.testing.assert_allclose(normalisation.mean, seen.mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(normalisation.variance, seen.var(axis=0), atol=1e-6)


def test_what_a_core_asks_to_be_paid_is_paid() -> None:
    """The mean over all steps, on top of the gradient that there is without it."""
    moved = []
    for factor in (0.0, 1.0):
        world = FakeWorld(3, **GRID)
        agent = make_ppo(world.spec, epochs=1, gradient_norm=1e9)
        agent.optimiser = torch.optim.SGD(agent.network.parameters(), lr=1.0)
        core = agent.network.core
        live(agent, world, 12)
        columns = agent.rollout.columns
        inputs = Inputs(*(torch.from_numpy(columns[name]) for name in Inputs._fields))
        state, hidden = core.initial_state(3), []
        for time in range(12):
            state = agent.network(Inputs(*(part[time : time + 1] for part in inputs)), state).state
            hidden.append(state.hidden)
        asked = torch.stack(hidden).square().sum(dim=-1).mean()
        expected = torch.autograd.grad(asked, list(core.parameters()))
        core.auxiliary_loss = lambda state, factor=factor: factor * state.hidden.square().sum(dim=-1)  # type: ignore[method-assign]
        before = [parameter.detach().clone() for parameter in core.parameters()]
        metrics = agent.learn()
        assert metrics is not None and metrics["losses/auxiliary"] == pytest.approx(factor * asked.item(), rel=1e-5)
        moved.append([old - new.detach() for old, new in zip(before, core.parameters(), strict=True)])
    for without, with_it, gradient in zip(*moved, expected, strict=True):
        torch.testing.assert_close(with_it - without, gradient, rtol=1e-3, atol=1e-6)


def test_more_passes_are_clipped() -> None:
    """What one pass more does to actions already far from their old chance is nothing."""
    world = FakeWorld(3, **GRID)
    agent = make_ppo(world.spec, epochs=30, learning_rate=0.02, entropy_weight=0.0, value_weight=0.0, clip=0.05)
    live(agent, world, 12)
    metrics = agent.learn()
    assert metrics is not None
    assert metrics["charts/clip_fraction"] > 0.3 and metrics["charts/approximate_kl"] > 1e-3


def test_the_objective_is_the_paper_s() -> None:
    log_ratios = torch.tensor([-1.0, -0.1, 0.0, 0.1, 1.0] * 2, dtype=torch.float64, requires_grad=True)
    advantages = torch.tensor([2.0] * 5 + [-3.0] * 5, dtype=torch.float64)
    terms = []
    for log_ratio, advantage in zip(log_ratios.tolist(), advantages.tolist(), strict=True):
        ratio = np.exp(log_ratio)
        terms.append(min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage))
    assert clipped_objective(log_ratios, advantages, 0.2).item() == pytest.approx(np.mean(terms))
    (gradient,) = torch.autograd.grad(clipped_objective(log_ratios, advantages, 0.2), log_ratios)
    # Nothing is gained by a good action more likely than 1.2 times before, nor by a bad one less likely than 0.8 times.
    assert (gradient == 0).tolist() == [False] * 4 + [True] + [True] + [False] * 4
    assert torch.autograd.gradcheck(lambda ratios: clipped_objective(ratios, advantages, 0.2), log_ratios)


def test_every_sequence_is_in_one_minibatch_of_each_pass() -> None:
    world = FakeWorld(5, **GRID)
    agent = make_ppo(world.spec, truncation=4, epochs=3, minibatches=4)
    live(agent, world, 12)
    marks = np.arange(12 * 5, dtype=np.float64).reshape(12, 5)
    agent._advantages = lambda: (marks, marks, {})  # type: ignore[method-assign]
    drawn: list[Tensor] = []
    agent._follow = lambda batch, state: drawn.append(batch["returns"]) or {}  # type: ignore[method-assign, func-returns-value]
    agent.learn()
    assert len(drawn) == 3 * 4
    for epoch in range(3):
        sequences = torch.cat(drawn[4 * epoch : 4 * epoch + 4], dim=1)
        assert sorted(map(tuple, sequences.T.tolist())) == [
            tuple(marks[start : start + 4, env]) for start in (0, 4, 8) for env in range(5)
        ]
    assert {batch.shape[1] for batch in drawn} == {3, 4}


def test_the_core_is_told_scaled_and_clipped_rewards_and_learns_from_scaled_ones() -> None:
    for clip_rewards in (False, True):
        world = FakeWorld(3, **GRID)
        agent = make_ppo(world.spec, reward_scale=0.5, clip_rewards=clip_rewards)
        transitions = live(agent, world, 12)
        rewards = np.stack([one.rewards for one in transitions])
        assert np.abs(rewards).max() > 2
        learned = np.clip(rewards / 2, -1, 1) if clip_rewards else rewards / 2
        np.testing.assert_allclose(agent.rollout.columns["rewards"], learned)
        ended = np.stack([one.ended for one in transitions])[:-1]
        told = agent.rollout.columns["previous_rewards"][1:]
        np.testing.assert_allclose(told, np.where(ended, 0, np.clip(rewards / 2, -1, 1)[:-1]), rtol=1e-6)


def test_the_learning_rate_falls_to_nothing() -> None:
    world = FakeWorld(3, **GRID)
    agent = make_ppo(world.spec, learning_rate=0.01, anneal_steps=144)
    rates = []
    for _ in range(5):
        live(agent, world, 12)
        agent.learn()
        rates.append(agent.optimiser.param_groups[0]["lr"])
    assert rates == pytest.approx([0.0075, 0.005, 0.0025, 0.0, 0.0])


def test_values_that_are_not_finite_are_not_followed() -> None:
    world = FakeWorld(3, **GRID)
    agent = make_ppo(world.spec)
    live(agent, world, 12)
    agent.rollout.columns["rewards"][5, 1] = np.nan
    before = copy.deepcopy(agent.network.state_dict())
    with pytest.raises(NonFiniteError, match="the loss is nan") as error:
        agent.learn()
    assert error.value.batch.keys() >= {"observations", "actions", "advantages", "returns"}
    assert not differences(agent.network.state_dict(), before)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="rollout must be a multiple of truncation, got 12 and 5"):
        make_ppo(FakeWorld(**GRID).spec, truncation=5)
    with pytest.raises(ValueError, match="minibatches must be at most 6, the sequences in a rollout of 12 steps of 2"):
        make_ppo(FakeWorld(2, **GRID).spec, truncation=4, minibatches=7)


# Games


def test_what_is_played_beside_a_training_does_not_change_it() -> None:
    """Not even the random generator; in the middle of a rollout, and of a step."""
    world = FakeWorld(3, **GRID)
    agent = make_ppo(world.spec, rollout=8)
    play(world, agent, 21)
    twin, same_world = copy.deepcopy(agent), copy.deepcopy(world)
    for _ in range(20):
        actions = agent.act(world.observations, world.state_hashes)
        other = FakeWorld(5, seed=9, **GRID)
        player = agent.player(5)
        for _ in range(6):
            transition = other.step(player.act(other.observations, 0.1))
            player.observe(transition.rewards, transition.ended)
        agent.observe(world.step(actions))
        agent.learn()
        play(same_world, twin, 1)
    assert not differences(agent.state_dict(), twin.state_dict())


def test_games_side_by_side_are_those_played_one_by_one() -> None:
    """Their lengths differ: games begin in an environment while others go on beside it."""
    config = GridWorldConfig(id="MiniGrid-Dynamic-Obstacles-5x5-v0", view="full", max_steps=40)
    results = []
    for num_envs in (1, 3, 4):
        world = make_grid_world(config, num_envs)
        space = world.single_observation_space
        spec = WorldSpec(1, int(world.single_action_space.n), space.shape, float(space.high.max()), 1)
        agent = make_ppo(spec, greedy=True)
        assert isinstance(agent, Recurrent)
        # A policy that looks and remembers, to whom it would matter, and that likes to go forward.
        for parameter in agent.network.parameters():
            torch.nn.init.normal_(parameter, std=0.7)
        agent.network.policy.bias.data[2] = 2.0
        results.append(play_games(agent, world, range(100, 109), 0.0))
    assert results[0] == results[1] == results[2]
    assert len({episode.length for episode in results[0]}) > 2


def test_a_player_remembers() -> None:
    """Trained where memory is all, and then played: an evaluation carries the state from step to step."""
    world = CueWorld()
    agent = make_ppo(world.spec)
    player = agent.player(1)
    first, second = np.full((1, 2, 1, 1), 1, np.uint8), np.full((1, 2, 1, 1), 2, np.uint8)
    values = []
    for cue, ended in ((first, False), (second, False), (second, True)):
        player.act(cue, 0.0)
        player.observe(np.zeros(1), np.array([ended]))
        player.act(first, 0.0)
        values.append(player.games.see(first)[1].item())
        player.observe(np.zeros(1), np.array([True]))
    assert values[0] != values[1] and values[0] != values[2] != values[1]


# Learning


def last_rewards(core: str, steps: int, seed: int = 0, length: int = 3, **options: Any) -> float:
    """Mean reward of the last 300 episodes; cues must be remembered for `length` to `length + 2` steps."""
    world = CueWorld(num_envs=16, length=length, seed=seed)
    settings = {
        "core": {"name": core, "hidden": 32},
        "features": 32,
        "rollout": 16,
        "minibatches": 2,
        "discount": 0.9,
        "learning_rate": 5e-3,
        "anneal_steps": 16 * steps,
    }
    agent = make_ppo(world.spec, seed, **{**settings, **options})
    rewards: list[float] = []
    metrics: list[Metrics] = []
    for _ in range(steps):
        transition = world.step(agent.act(world.observations, world.state_hashes))
        agent.observe(transition)
        metrics += learn_all(agent)
        rewards += transition.rewards[transition.ended].tolist()
    assert len(metrics) == steps // 16
    return float(np.mean(rewards[-300:]))


@pytest.fixture
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_a_memory_solves_what_needs_one_and_nothing_else_does() -> None:
    assert last_rewards("gru", 448) > 0.8
    # Chance: the deviation of a mean of 300 is 0.06.
    assert abs(last_rewards("none", 224)) < 0.25


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("core", ["gru", "lstm", "ntm", "dnc"])
@pytest.mark.parametrize("seed", [1, 2])
def test_every_memory_solves_it_from_whatever_seed(core: str, seed: int) -> None:
    assert last_rewards(core, 1_500, seed) > 0.8


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_from_the_same_steps_ppo_learns_more_than_a2c() -> None:
    ppo = [last_rewards("gru", 1_024, seed, length=5) for seed in range(3)]
    a2c = [last_rewards("gru", 1_024, seed, length=5, epochs=1, minibatches=1) for seed in range(3)]
    assert min(ppo) > 0.9 and np.mean(ppo) > np.mean(a2c) + 0.3
