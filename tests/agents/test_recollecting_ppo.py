"""What recurrent PPO over an MNM says it recalls: the core's own keys and values, of the running episode alone."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from agents.actor_critic import Inputs
from agents.agent import Moment, Recollecting, Remembering
from agents.recollecting_ppo import RecollectingPPO
from agents.recurrent_ppo import RecurrentPPO
from envs.grid_world import GridWorldConfig, make_grid_world
from memory.neural import named_tensors
from tests.agents.fake_world import FakeWorld, play
from tests.agents.test_recurrent_ppo import GRID, make_ppo, told_before
from tests.agents.test_state import differences
from tests.memory.test_recollecting import likeness
from training.evaluation import play_games

WIDTH = 4
MNM: dict[str, Any] = {"name": "mnm", "hidden": 8, "width": WIDTH, "memory_hidden": 6, "heads": 2}


def make(spec: Any, seed: int = 0, **options: Any) -> RecollectingPPO:
    agent = make_ppo(spec, seed, **{"core": MNM, "rollout": 500, **options})
    assert isinstance(agent, RecollectingPPO)
    return agent


def states_alone(agent: RecollectingPPO, transitions: list[Any], observation: np.ndarray, env: int) -> list[Any]:
    """The core's state after every step of the running episode of one environment, and after one observation more.

    Stepped through by itself, from the episode's beginning.
    """
    begin = max((time + 1 for time, one in enumerate(transitions) if one.ended[env]), default=0)
    observations = [one.observations[env] for one in transitions[begin:]] + [observation]
    states, state = [], agent.network.core.initial_state(1)
    for time, seen in enumerate(observations, start=begin):
        action, reward, begins = told_before(transitions, time, env)
        inputs = Inputs(
            torch.from_numpy(seen)[None, None],
            torch.tensor([[action]]),
            torch.tensor([[reward]], dtype=torch.float32),
            torch.tensor([[begins]]),
        )
        with torch.no_grad():
            log_probabilities, _, state, _ = agent.network(inputs, state)
        states.append((state, log_probabilities[0, 0]))
    return states


def test_what_is_recalled_is_what_the_core_wrote_and_would_read() -> None:
    world = FakeWorld(3, **GRID)
    agent = make(world.spec)
    transitions: list[Any] = []
    lengths = set()
    for _ in range(60):
        for env in range(3):
            states = states_alone(agent, transitions, world.observations[env], env)
            (now, log_probabilities), before = states[-1], [state for state, _ in states[:-1]]
            found = agent.recollect(world.observations[env], world.state_hashes[env], 5, env)
            np.testing.assert_allclose(found.action_values, log_probabilities.exp(), rtol=1e-4)
            expected = [likeness(now.read_keys[0].numpy(), one.write_keys[0].numpy()) for one in before]
            assert len(found.ages) == min(5, len(before)) and (found.ages <= len(before)).all()
            for age, by_key, by_value in zip(found.ages, found.similarities, found.value_similarities, strict=True):
                assert by_key == pytest.approx(expected[-age], abs=1e-5)
                values = before[-age].write_values[0].numpy()
                assert by_value == pytest.approx(likeness(now.reads.numpy(), values), abs=1e-4)
            if len(before):
                np.testing.assert_allclose(found.similarities, sorted(expected, reverse=True)[:5], atol=1e-5)
            lengths.add(len(before))
        actions = agent.act(world.observations, world.state_hashes)
        transitions.append(world.step(actions))
        agent.observe(transitions[-1])
    assert max(lengths) > 15 and 0 in lengths


def test_its_chances_are_those_it_acts_by() -> None:
    world = FakeWorld(2, **GRID)
    agent = make(world.spec, rollout=10)
    for _ in range(25):
        found = [agent.recollect(world.observations[env], world.state_hashes[env], 3, env) for env in range(2)]
        actions = agent.act(world.observations, world.state_hashes)
        np.testing.assert_allclose([one.action_values for one in found], np.exp(agent._seen[0]), rtol=1e-5)
        agent.observe(world.step(actions))
        agent.learn()


def test_recollecting_leaves_no_trace() -> None:
    world = FakeWorld(2, **GRID)
    agent = make(world.spec, rollout=8)
    play(world, agent, 21)
    twin_world, twin = copy.deepcopy((world, agent))
    for step in range(20):
        agent.recollect(world.observations[step % 2], world.state_hashes[0], 3, step % 2)
        agent.key_space(7)
        assert play(world, agent, 1) == play(twin_world, twin, 1)
    assert not differences(agent.state_dict(), twin.state_dict())


def test_a_restored_agent_recalls_the_same() -> None:
    world = FakeWorld(2, end_chance=0.02, **GRID)
    agent, restored = make(world.spec), make(world.spec, seed=1)
    play(world, agent, 30)
    restored.load_state_dict(copy.deepcopy(agent.state_dict()))
    for env in range(2):
        one, other = (
            each.recollect(world.observations[env], world.state_hashes[env], 5, env) for each in (agent, restored)
        )
        assert len(one.ages) and not differences(vars(one), vars(other))


def test_only_a_core_that_says_what_it_writes_is_asked() -> None:
    spec = FakeWorld(**GRID).spec
    assert isinstance(make(spec), Remembering)
    assert isinstance(make(spec).player(2), Recollecting)
    for core in ("gru", "lstm", "ntm", "dnc", "none"):
        agent = make_ppo(spec, core={"name": core, "hidden": 8})
        assert type(agent) is RecurrentPPO and not isinstance(agent, Recollecting)
        assert not isinstance(agent.player(2), Recollecting) and "moments" not in agent.state_dict()


def test_a_compiled_step_is_not_compiled_anew_for_a_look() -> None:
    world = FakeWorld(3, **GRID)
    agent = make(world.spec)
    play(world, agent, 5)
    agent.network._step = None  # type: ignore[assignment]
    assert len(agent.recollect(world.observations[0], world.state_hashes[0], 5).action_values) == 3


def test_its_key_space_are_the_moments_of_the_running_episodes() -> None:
    world = FakeWorld(2, end_chance=0.02, **GRID)
    agent = make(world.spec)
    written = {}
    for step in range(0, 80, 2):
        play(world, agent, 1)
        keys = named_tensors(agent.games.state)["write_keys"]
        written |= {step + env + 1: keys[env].flatten().numpy() for env in range(2)}
    space = agent.key_space(1_000)
    assert len(space.origins) == agent.diary.moments.lengths.sum() > 5
    assert space.actions is None and space.values is None
    for key, origin in zip(space.keys, space.origins, strict=True):
        np.testing.assert_array_equal(key, written[origin])
    some = agent.key_space(3)
    assert 1 < len(some.origins) <= 3 and set(some.origins) < set(space.origins)
    assert len(make(world.spec).key_space(5).keys) == 0


def test_games_of_an_evaluation_recall_their_own_moments_however_many_are_played_side_by_side() -> None:
    config = GridWorldConfig(id="MiniGrid-Dynamic-Obstacles-5x5-v0", view="full", max_steps=25)
    recalled: list[dict[tuple[int, int], Any]] = []
    for num_envs in (1, 3):
        world = make_grid_world(config, num_envs)
        space = world.single_observation_space
        agent = make_ppo(FakeWorld(1, shape=space.shape, frame_stack=1).spec, core=MNM, greedy=True)
        # By a generator of its own, and a seed with which the games last.
        drawn = torch.Generator().manual_seed(1)
        for parameter in agent.network.parameters():
            torch.nn.init.normal_(parameter, std=0.7, generator=drawn)
        found: dict[tuple[int, int], Any] = {}
        times = dict.fromkeys(range(5), 0)

        def watch(moment: Moment, found: Any = found, times: Any = times) -> None:
            time = times[moment.game]
            times[moment.game] += 1
            assert isinstance(moment.player, Recollecting)
            one = moment.player.recollect(moment.observation, moment.state_hash, 4, moment.env)
            # As it was when it acted: so far it has taken in what came before, and not this step.
            assert one.action_values.argmax() == moment.action and len(one.ages) == min(time, 4)
            assert set(one.ages.tolist()) <= set(range(1, time + 1))
            found[moment.game, time] = one.similarities

        play_games(agent, world, range(100, 105), 0.0, [watch])
        recalled.append(found)
        world.close()
    assert recalled[0].keys() == recalled[1].keys() and len(recalled[0]) > 20
    for step, similarities in recalled[0].items():
        np.testing.assert_allclose(similarities, recalled[1][step], atol=1e-4)
