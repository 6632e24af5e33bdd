"""What an agent says it remembers is what it acts by: the values recomputed from its memories are its own."""

from __future__ import annotations

import copy
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

import agents
from agents import AgentConfig, WorldSpec
from agents.agent import Remembering, Transition
from agents.exploration import epsilon_greedy
from memory.recollection import Recollection
from tests.agents.fake_world import FakeWorld, hash_each, play

LEARNS = {"learning_starts": 60, "batch_size": 4, "replay_capacity": 400, "learning_rate": 1e-2, "key_size": 4}
REC = {"name": "rec", "architecture": "dense", "hidden": 8, "neighbours": 7, "capacity": 60, **LEARNS}
AGENTS: dict[str, dict[str, Any]] = {
    "mfec": {"name": "mfec", "key_size": 4, "neighbours": 7, "capacity": 60, "epsilon": 0.3},
    "mfec full": {"name": "mfec", "key_size": 4, "neighbours": 3, "capacity": 12, "epsilon": 0.3},
    "nec": {"name": "nec", "neighbours": 7, "capacity": 60, "epsilon_end": 40, **LEARNS},
    "rec": {**REC, "epsilon_end": 40},
    "rec autoencoder": {**REC, "epsilon_end": 40, "reinstatement": "autoencoder"},
    "rec slow": {**REC, "epsilon_end": 40, "slow_updates": 5},
}


def make(options: dict[str, Any], spec: WorldSpec) -> Remembering:
    torch.manual_seed(0)
    config = TypeAdapter(AgentConfig).validate_python(options)
    agent = agents.make(config, spec, np.random.default_rng(0), "cpu")
    assert isinstance(agent, Remembering)
    return agent


def acted_by(agent: agents.Agent, observations: np.ndarray) -> np.ndarray:
    """The action values behind `act`, caught where the agent chooses among them, `[batch, actions]`."""
    module = "agents.mfec" if hasattr(agent, "projection") else "agents.nec"
    with mock.patch(f"{module}.epsilon_greedy", wraps=epsilon_greedy) as choose:
        agent.act(observations, hash_each(observations), epsilon=0.0)
    return choose.call_args.args[0]


@pytest.mark.parametrize("options", AGENTS.values(), ids=list(AGENTS))
def test_the_values_recomputed_from_the_memories_listed_are_those_acted_by(options):
    world = FakeWorld(pictures=30)
    agent = make(options, world.spec)
    found = []
    for _ in range(200):
        play(world, agent, 1)
        observation = world.observations[:1]
        [values] = acted_by(agent, observation)
        one = agent.recollect(observation[0], hash_each(observation)[0], most=2)
        np.testing.assert_array_equal(one.action_values, values)
        np.testing.assert_allclose(one.explained_values(), values, rtol=1e-5, atol=1e-5)
        found.append(one)
    assert any(np.isfinite(one.action_values).all() and len(one.actions) == 6 for one in found)
    # What is not listed was not always nothing: the rest is part of the sum.
    assert any((np.abs(one.rest[np.isfinite(one.rest)]) > 0.01).any() for one in found) or options["neighbours"] <= 3


@pytest.mark.parametrize("options", AGENTS.values(), ids=list(AGENTS))
def test_recollecting_leaves_no_trace(options):
    world = FakeWorld()
    agent = make(options, world.spec)
    play(world, agent, 150)
    twin_world, twin = copy.deepcopy((world, agent))
    for _ in range(30):
        agent.recollect(world.observations[0], world.state_hashes[0], most=3)
        assert play(world, agent, 1) == play(twin_world, twin, 1)


def test_the_memories_listed_are_the_heaviest_of_each_action_with_their_provenance():
    world = FakeWorld(num_envs=1, pictures=30)
    agent = make({**AGENTS["nec"], "learning_starts": 10**9}, world.spec)
    seen = {}
    for _ in range(300):
        observation, number = world.observations[0].copy(), world.state_hashes[0]
        step = agent.step + 1
        [(actions, _)] = play(world, agent, 1)
        seen.setdefault((actions[0], number), (step, observation))
    query = world.observations[0]
    found = agent.recollect(query, world.state_hashes[0], most=3)
    for action, store in enumerate(agent.memory.stores):
        with torch.no_grad():
            key = agent.encoder(torch.from_numpy(query[None]))
        recall = store.read(key, 7, agent.memory.kernel, touch=False)
        mine = found.actions == action
        np.testing.assert_allclose(found.weights[mine], recall.weights[0, :3], rtol=1e-6)
        assert found.slots[mine].tolist() == recall.indices[0, :3].tolist()
        for slot, origin in zip(found.slots[mine], found.origins[mine], strict=True):
            assert (action, store.hashes[slot]) in seen and seen[action, store.hashes[slot]][0] == origin
    assert (found.keyed_at == found.origins).all() and (found.written_at >= found.origins).all()


def test_an_exact_match_of_mfec_answers_alone():
    world = FakeWorld(num_envs=1, pictures=6, end_chance=0.2)
    agent = make(AGENTS["mfec"], world.spec)
    alone = 0
    for _ in range(300):
        play(world, agent, 1)
        observation, number = world.observations[0], world.state_hashes
        found = agent.recollect(observation, number[0], most=3)
        for action, store in enumerate(agent.memory.stores):
            slot = store.find(number).item()
            if slot >= 0 and len(store) >= 7:
                mine = found.actions == action
                assert found.slots[mine].tolist() == [slot] and found.weights[mine].tolist() == [1.0]
                assert found.values[mine][0] == store.values[slot]
                alone += 1
    assert alone > 20


def test_rec_tells_how_far_keys_would_be_if_they_were_embedded_anew():
    world = FakeWorld()
    # Slowly: at ten times the rate, whether a unit of the encoder is still alive at the end is a matter of rounding.
    agent = make({**AGENTS["rec"], "freshening": "none", "drift_penalty": 0.0, "learning_rate": 1e-3}, world.spec)
    play(world, agent, 300)
    query = world.observations[0]
    found = agent.recollect(query, world.state_hashes[0], most=3)
    slots = torch.from_numpy(found.actions * 60 + found.slots)
    observations = agent.parts.reinstatement.recall(slots, torch.zeros(len(slots), 4))
    with torch.no_grad():
        distances = (agent.encoder(observations) - agent.encoder(torch.from_numpy(query[None]))).norm(dim=1)
    np.testing.assert_allclose(found.fresh_distances, distances, rtol=1e-5)
    assert np.abs(found.fresh_distances - found.distances).max() > 1e-3
    assert found.reconstructions is None


def test_recalls_are_counted_by_the_memory_itself():
    world = FakeWorld(num_envs=1)
    agent = make({**AGENTS["mfec"], "epsilon": 1.0}, world.spec)
    play(world, agent, 120)
    before = agent.memory.table.uses.clone()
    rows = agent.memory.read_each(torch.zeros(1, 4), [0], touch=True)
    recalled = agent.memory.rows(torch.tensor([0]), rows.indices)[0]
    gained = agent.memory.table.uses - before
    assert gained[recalled].tolist() == [1] * len(recalled) and gained.sum() == len(recalled)


def test_an_empty_memory_has_nothing_to_tell():
    for name, options in AGENTS.items():
        world = FakeWorld()
        found = make(options, world.spec).recollect(world.observations[0], world.state_hashes[0], most=3)
        assert isinstance(found, Recollection) and len(found.actions) == 0, name
        np.testing.assert_array_equal(found.explained_values(), found.action_values)


def labelled_images(step: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(step)
    return rng.integers(0, 256, (4, 1, 6, 6), dtype=np.uint8), rng.integers(0, 3, 4)


@pytest.mark.parametrize("credit", ["exact", "approximate", "synthetic"])
@pytest.mark.parametrize("reinstatement", ["lossless", "variational_autoencoder"])
def test_the_classifiers_chances_are_those_of_its_memories(credit, reinstatement):
    spec = WorldSpec(4, 3, (1, 6, 6), observation_high=255.0, frame_stack=1, reveals_labels=True)
    options = {"name": "memory_classifier", "credit": credit, "reinstatement": reinstatement, "capacity": 40}
    agent = make({**options, "architecture": "dense", "hidden": 8, "key_size": 4, "learning_rate": 1e-2}, spec)
    assert len(agent.recollect(np.zeros((1, 6, 6), np.uint8), np.uint64(0), most=3).actions) == 0
    for step in range(30):
        images, labels = labelled_images(step)
        hashes = np.arange(4, dtype=np.uint64)
        if step:
            found = agent.recollect(images[0], hashes[0], most=2)
        actions = agent.act(images, hashes)
        if step > 1:
            chances = agent._asked.chances.detach()[0].double().numpy()
            np.testing.assert_allclose(found.action_values, chances, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(found.explained_values(), chances, rtol=1e-5, atol=1e-6)
            assert (found.reconstructions is None) == (reinstatement == "lossless")
        flags = np.zeros(4, dtype=bool)
        agent.observe(Transition(images, hashes, actions, np.zeros(4), flags, flags, images, labels=labels))
        while agent.learn() is not None:
            pass
