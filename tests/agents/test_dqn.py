"""DQN: its batches against a history that keeps everything, its targets against sums done by hand, its clock."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import agents
from agents import WorldSpec
from agents.dqn import DQN, DQNConfig
from tests.agents.fake_world import FakeWorld, learn_all, transition_of

NEVER = 10**9


def make_dqn(spec: WorldSpec, seed: int = 0, **options: object) -> DQN:
    torch.manual_seed(seed)
    small = {"features": 8, "batch_size": 8, "replay_capacity": 400, "learning_starts": NEVER}
    config = DQNConfig.model_validate({**small, **options})
    agent = agents.make(config, spec, np.random.default_rng(seed), "cpu")
    assert isinstance(agent, DQN)
    return agent


# Batches


@dataclass
class Step:
    """One step of one environment, and where it lies in the order of all frames it ever took in."""

    row: int
    observation: np.ndarray
    action: int
    reward: float
    terminated: bool
    ended: bool
    next_observation: np.ndarray


def live(agent: DQN, world: FakeWorld, steps: int) -> list[list[Step]]:
    """Every step of each environment; an episode's first observation takes in a whole stack of frames."""
    histories: list[list[Step]] = [[] for _ in range(world.spec.num_envs)]
    rows = [-1] * world.spec.num_envs
    starting = [True] * world.spec.num_envs
    for _ in range(steps):
        transition = world.step(agent.act(world.observations, world.state_hashes))
        agent.observe(transition)
        for env, history in enumerate(histories):
            rows[env] += world.spec.frame_stack if starting[env] else 1
            starting[env] = bool(transition.ended[env])
            history.append(
                Step(
                    rows[env],
                    transition.observations[env],
                    int(transition.actions[env]),
                    float(transition.rewards[env]),
                    bool(transition.terminations[env]),
                    starting[env],
                    transition.next_observations[env],
                )
            )
            rows[env] += starting[env]
    return histories


def n_step_target(history: list[Step], start: int, n_step: int, discount: float, clip: bool) -> tuple:
    """Sum of discounted rewards, discount of the value it leads to, and the observation that value is of."""
    total, reached, index = 0.0, 1.0, start
    while True:
        step = history[index]
        total += reached * (min(1.0, max(-1.0, step.reward)) if clip else step.reward)
        reached *= discount
        index += 1
        if step.ended or index == start + n_step or index == len(history):
            return total, 0.0 if step.terminated else reached, step.next_observation


@settings(max_examples=60)
@given(
    num_envs=st.integers(1, 3),
    frame_stack=st.sampled_from([1, 4]),
    n_step=st.integers(1, 6),
    discount=st.sampled_from([0.9, 1.0]),
    clip=st.booleans(),
    steps=st.integers(1, 90),
    spare=st.integers(0, 40),
    end_chance=st.sampled_from([0.0, 0.05, 0.3]),
    seed=st.integers(0, 100),
)
def test_a_batch_holds_n_step_returns_that_stop_where_the_episode_or_the_replay_does(
    num_envs: int,
    frame_stack: int,
    n_step: int,
    discount: float,
    clip: bool,
    steps: int,
    spare: int,
    end_chance: float,
    seed: int,
) -> None:
    world = FakeWorld(num_envs, frame_stack=frame_stack, end_chance=end_chance, seed=seed)
    agent = make_dqn(
        world.spec,
        n_step=n_step,
        discount=discount,
        clip_rewards=clip,
        replay_capacity=num_envs * (2 * frame_stack + spare),
    )
    histories = live(agent, world, steps)
    # All rows that can be drawn at once, in place of a random draw.
    envs, slots = np.nonzero(agent.replay.complete)
    agent.replay.draw = lambda rng, batch: (envs, slots)  # type: ignore[method-assign]
    batch = [tensor.numpy() for tensor in agent._batch()]
    assert [array.dtype.name for array in batch] == ["uint8", "int64", "float32", "float32", "uint8"]
    assert agent.replay.complete.any(axis=1).all()
    for env, slot, observation, action, total, reached, next_observation in zip(envs, slots, *batch, strict=True):
        start = max(
            index
            for index, step in enumerate(histories[env])
            if step.row % agent.replay.rows == slot and np.array_equal(step.observation, observation)
        )
        step = histories[env][start]
        expected_total, expected_reached, expected_next = n_step_target(histories[env], start, n_step, discount, clip)
        assert action == step.action
        assert total == pytest.approx(expected_total, rel=1e-5, abs=1e-5)
        assert reached == pytest.approx(expected_reached, rel=1e-6)
        np.testing.assert_array_equal(next_observation, expected_next)


@pytest.mark.parametrize(("clip", "expected"), [(True, [1.0, -1.0, 0.5, 0.0]), (False, [400.0, -3.0, 0.5, 0.0])])
def test_rewards_are_clipped_to_one_only_if_told(clip: bool, expected: list[float]) -> None:
    spec = WorldSpec(1, 2, (1, 3, 3), observation_high=255.0, frame_stack=1)
    agent = make_dqn(spec, clip_rewards=clip, replay_capacity=20)
    for reward in (400.0, -3.0, 0.5, 0.0):
        agent.observe(transition_of(np.zeros((1, 3, 3)), 0, 0, reward, np.zeros((1, 3, 3))))
    assert agent.replay.columns["rewards"][0, :4].tolist() == expected


# Targets


class Table(nn.Module):
    """Action values of two states, told apart by their only pixel; each value a weight."""

    def __init__(self, action_values: list[list[float]]) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.tensor(action_values))

    def forward(self, observations: Tensor) -> Tensor:
        return self.values[observations.flatten(1)[:, 0].long()]


def huber(error: float) -> float:
    return 0.5 * error**2 if abs(error) < 1 else abs(error) - 0.5


@pytest.mark.parametrize("double", [False, True])
def test_the_target_takes_the_target_network_s_value_of_the_action_the_option_says(double: bool) -> None:
    spec = WorldSpec(1, 3, (1, 1, 1), observation_high=1.0, frame_stack=1)
    agent = make_dqn(spec, double=double)
    online = [[1.0, 2.0, 3.0], [5.0, 4.0, 9.0]]
    target = [[0.0, 0.5, 1.0], [7.0, 6.0, 2.0]]
    agent.network, agent.target_network = Table(online), Table(target)
    agent.optimiser = torch.optim.SGD(agent.network.parameters(), lr=1.0)
    states, actions, returns = [0, 1, 1, 0], [0, 2, 1, 2], [0.25, 1.0, -2.0, 9.0]
    discounts, next_states = [0.9, 0.81, 0.0, 0.9], [1, 0, 1, 1]
    agent._batch = lambda: (  # type: ignore[method-assign]
        torch.tensor(states, dtype=torch.uint8).reshape(4, 1, 1, 1),
        torch.tensor(actions),
        torch.tensor(returns),
        torch.tensor(discounts),
        torch.tensor(next_states, dtype=torch.uint8).reshape(4, 1, 1, 1),
    )
    metrics = agent._update()
    # State 1: the target network's best action is 0, worth 7; the online network's is 2, worth 2 to the target.
    # State 0: both choose action 2, worth 1.
    bootstraps = {0: 1.0, 1: 2.0 if double else 7.0}
    errors = [
        online[state][action] - (total + discount * bootstraps[next_state])
        for state, action, total, discount, next_state in zip(
            states, actions, returns, discounts, next_states, strict=True
        )
    ]
    assert metrics["losses/td_error"] == pytest.approx(sum(map(huber, errors)) / 4)
    assert metrics["losses/q_value"] == pytest.approx((1 + 9 + 4 + 3) / 4)
    expected = np.array(online)
    for state, action, error in zip(states, actions, errors, strict=True):
        expected[state, action] -= min(1.0, max(-1.0, error)) / 4
    np.testing.assert_allclose(agent.network.values.detach().numpy(), expected, rtol=1e-6)
    assert agent.target_network.values.tolist() == target


def test_an_update_draws_from_the_replay_and_moves_every_weight() -> None:
    world = FakeWorld()
    agent = make_dqn(world.spec)
    live(agent, world, 60)
    before = [parameter.detach().clone() for parameter in agent.network.parameters()]
    agent._update()
    assert not any(torch.equal(old, new) for old, new in zip(before, agent.network.parameters(), strict=True))


# The clock


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(mine, its) for mine, its in zip(first.parameters(), second.parameters(), strict=True))


def test_the_target_network_is_copied_every_so_many_updates_and_only_then() -> None:
    world = FakeWorld()
    agent = make_dqn(world.spec, learning_starts=0, steps_per_update=2, updates_per_target=3, learning_rate=1e-2)
    assert same_weights(agent.network, agent.target_network)
    copied = [[parameter.clone() for parameter in agent.network.parameters()]]
    for update in range(1, 14):
        agent.observe(world.step(agent.act(world.observations, world.state_hashes)))
        assert agent.learn() is not None and agent.learn() is None
        if update % 3 == 0:
            copied.append([parameter.clone() for parameter in agent.network.parameters()])
        assert same_weights(agent.network, agent.target_network) == (update % 3 == 0)
        assert all(map(torch.equal, copied[-1], agent.target_network.parameters()))


@pytest.mark.parametrize(("num_envs", "steps_per_update"), [(1, 4), (3, 4), (8, 4), (5, 1), (2, 16)])
def test_an_update_is_done_for_every_so_many_agent_steps_of_all_environments(
    num_envs: int, steps_per_update: int
) -> None:
    world = FakeWorld(num_envs=num_envs)
    agent = make_dqn(world.spec, learning_starts=40, steps_per_update=steps_per_update)
    updates = 0
    for step in range(num_envs, 200, num_envs):
        agent.observe(world.step(agent.act(world.observations, world.state_hashes)))
        updates += len(learn_all(agent))
        assert updates == max(0, (step - 40) // steps_per_update)


def test_epsilon_falls_with_agent_steps_of_all_environments() -> None:
    world = FakeWorld(num_envs=4, num_actions=2)
    agent = make_dqn(world.spec, epsilon_first=1.0, epsilon_last=0.0, epsilon_begin=0, epsilon_end=40)
    greedy = []
    for _ in range(30):
        with torch.no_grad():
            best = agent.network(torch.from_numpy(world.observations)).argmax(dim=1)
        actions = agent.act(world.observations, world.state_hashes)
        greedy.append(bool((actions == best.numpy()).all()))
        agent.observe(world.step(actions))
    assert not all(greedy[:10]) and all(greedy[10:])


def test_the_loss_is_that_of_pytorch_s_smooth_l1() -> None:
    """Keeps the hand-written loss above honest."""
    errors = torch.tensor([-3.0, -1.0, -0.5, 0.0, 0.9, 2.0])
    expected = functional.smooth_l1_loss(errors, torch.zeros(6), reduction="none")
    assert [huber(error) for error in errors.tolist()] == pytest.approx(expected.tolist())
