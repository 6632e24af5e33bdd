"""Every agent, saved and loaded into one built afresh, goes on bit for bit as if nothing had happened."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

import agents
from agents import AgentConfig, Metrics, WorldSpec, episodic_q
from memory.episodic import table
from tests.agents.fake_world import FakeWorld, play
from training import checkpoint

GRID = {"shape": (2, 5, 5), "frame_stack": 1}
STACKED_GRID = {"shape": (4, 3, 3), "frame_stack": 4}
# The least that the convolutions take; their weights lie in memory in another order than their shape tells.
SCREENS = {"shape": (4, 36, 36), "frame_stack": 4}

LEARNS_SOON = {"learning_starts": 20, "batch_size": 4, "replay_capacity": 300, "learning_rate": 1e-3}
REC = {
    "name": "rec",
    "architecture": "dense",
    "hidden": 8,
    "key_size": 4,
    "neighbours": 3,
    "capacity": 25,
    "epsilon_end": 60,
    "updates_per_probe": 5,
    **LEARNS_SOON,
}
NEC = {"name": "nec", "key_size": 4, "neighbours": 3, "capacity": 25, "epsilon_end": 60, **LEARNS_SOON}
DQN = {"name": "dqn", "features": 8, "updates_per_target": 7, "epsilon_begin": 10, "epsilon_end": 60, **LEARNS_SOON}
PPO = {
    "name": "recurrent_ppo",
    "core": {"name": "gru", "hidden": 8},
    "features": 8,
    "rollout": 12,
    "truncation": 4,
    "epochs": 2,
    "minibatches": 2,
    "learning_rate": 1e-2,
}
NTM = {"name": "ntm", "controller": "gru", "hidden": 8, "slots": 6, "width": 4, "read_heads": 2}
DNC = {"name": "dnc", "hidden": 8, "slots": 6, "width": 4, "read_heads": 2}
MNM = {"name": "mnm", "hidden": 8, "width": 4, "memory_hidden": 6, "heads": 2}
MFEC = {"name": "mfec", "key_size": 4, "neighbours": 3, "capacity": 25, "epsilon": 0.2}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "random": ({"name": "random"}, GRID),
    "mfec": (MFEC, GRID),
    "mfec fifo": ({**MFEC, "eviction": "fifo"}, STACKED_GRID),
    "nec": (NEC, GRID),
    "rec": (REC, GRID),
    "rec screens": ({**REC, "architecture": "convolutional", "credit": "hybrid"}, SCREENS),
    "rec foretold": ({**REC, "credit": "synthetic", "reinstatement": "variational_autoencoder"}, STACKED_GRID),
    "rec slow": ({**REC, "slow_updates": 5, "freshening": "candidates", "candidates": 6}, GRID),
    "rec asleep": (
        {
            **REC,
            "credit": "frozen",
            "query_gradient": False,
            "drift_penalty": 0.0,
            "freshening": "none",
            "consolidation_updates": 3,
            "consolidation_apart": 5,
        },
        SCREENS,
    ),
    "rec moved": ({**REC, "freshening": "drift_map", "updates_per_map": 4}, GRID),
    "rec pretrained": (
        {**REC, "reinstatement": "autoencoder", "pretraining": 9, "pretraining_offline": True, "freshening": "sweep"},
        GRID,
    ),
    "nec screens": (NEC, SCREENS),
    "nec adam": ({**NEC, "optimiser": "adam", "eviction": "fifo"}, SCREENS),
    "nec frozen": ({**NEC, "train_encoder": False}, STACKED_GRID),
    "dqn": (DQN, STACKED_GRID),
    "dqn screens": ({**DQN, "n_step": 3}, SCREENS),
    "dqn adam": ({**DQN, "optimiser": "adam", "double": True}, SCREENS),
    "recurrent_ppo": (PPO, GRID),
    "recurrent_ppo screens": ({**PPO, "core": {"name": "lstm", "hidden": 8}, "anneal_steps": 150}, SCREENS),
    "recurrent_ppo ntm": ({**PPO, "core": NTM, "clip_rewards": True}, GRID),
    "recurrent_ppo dnc": ({**PPO, "core": DNC, "feedback": False}, GRID),
    "recurrent_ppo mnm": ({**PPO, "core": MNM}, GRID),
    "recurrent_ppo none": (
        {**PPO, "core": {"name": "none", "hidden": 8}, "truncation": None, "minibatches": 1},
        STACKED_GRID,
    ),
}


def build(config: dict[str, Any], spec: WorldSpec, seed: int) -> Any:
    torch.manual_seed(seed)
    checked: AgentConfig = TypeAdapter(AgentConfig).validate_python(config)
    return agents.make(checked, spec, np.random.default_rng(seed), "cpu")


def flat(tree: Any, path: str = "") -> dict[str, Any]:
    """Leaves of a tree by their path; arrays and tensors as their type, shape and bytes."""
    if isinstance(tree, dict):
        return {key: leaf for name, branch in tree.items() for key, leaf in flat(branch, f"{path}/{name}").items()}
    if isinstance(tree, list | tuple):
        return flat(dict(enumerate(tree)), path)
    if isinstance(tree, torch.Tensor):
        tree = tree.detach().numpy()
    if isinstance(tree, np.ndarray):
        return {path: (tree.dtype.name, tree.shape, tree.tobytes())}
    return {path: tree}


def differences(first: Any, second: Any) -> list[str]:
    mine, its = flat(first), flat(second)
    return [path for path in mine.keys() | its.keys() if path not in mine or path not in its or mine[path] != its[path]]


def told(lived: list[tuple[list[int], list[Metrics]]]) -> list[tuple[list[int], list[Metrics]]]:
    """Actions and metrics, but for the bytes of the tables: how much room they keep ahead is not state."""
    return [
        (actions, [{tag: value for tag, value in each.items() if tag != "memory/megabytes"} for each in metrics])
        for actions, metrics in lived
    ]


@pytest.mark.parametrize("case", ["nec screens", "nec frozen", "rec"])
def test_a_life_is_the_same_whether_keys_are_rounded_or_not(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neighbours are exact either way; so what was seen of a run holds on a processor of another kind."""
    monkeypatch.setattr(table, "_FEWEST_ROUNDED", 0)
    config, options = CASES[case]
    lives, searched = [], []
    for rounds in (False, True):
        monkeypatch.setattr(episodic_q, "multiplies_bfloat16", lambda device, rounds=rounds: rounds)
        agent = build(config, FakeWorld(3, num_actions=3, **options).spec, seed=1)
        lives.append(told(play(FakeWorld(3, num_actions=3, **options), agent, 120)))
        searched.append(agent.memory.table.rounded is not None)
    assert searched == [False, True]
    assert lives[0] == lives[1]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("num_envs", "steps"), [(1, 100), (3, 5), (3, 60)])
def test_a_restored_agent_goes_on_bit_for_bit(case: str, num_envs: int, steps: int, tmp_path: Path) -> None:
    config, options = CASES[case]
    world = FakeWorld(num_envs, num_actions=3, **options)
    agent = build(config, world.spec, seed=1)
    early = play(world, agent, steps)

    checkpoint.save(tmp_path, {"agent": agent.state_dict()}, step=steps)
    _, state = checkpoint.load(tmp_path)
    restored = build(config, world.spec, seed=2)
    restored.load_state_dict(state["agent"])
    assert not differences(agent.state_dict(), restored.state_dict())

    same_world = copy.deepcopy(world)
    assert told(play(world, agent, 40)) == told(play(same_world, restored, 40))
    assert not differences(agent.state_dict(), restored.state_dict())
    if steps > 5 and case != "random":
        assert any(metrics for _, metrics in early), "nothing was learned before the save"


@pytest.mark.parametrize("case", ["nec screens", "rec"])
def test_so_it_does_where_keys_are_rounded(case: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(table, "_FEWEST_ROUNDED", 0)
    monkeypatch.setattr(episodic_q, "multiplies_bfloat16", lambda device: True)
    test_a_restored_agent_goes_on_bit_for_bit(case, 3, 60, tmp_path)


@pytest.mark.parametrize("case", CASES)
def test_a_restored_agent_does_not_share_its_state_with_the_saved_one(case: str) -> None:
    """A state kept in memory may change with the agent it is of, but not by the one it was loaded into."""
    config, options = CASES[case]
    world = FakeWorld(num_envs=2, **options)
    agent = build(config, world.spec, seed=1)
    play(world, agent, 60)
    before = copy.deepcopy(agent.state_dict())
    restored = build(config, world.spec, seed=2)
    restored.load_state_dict(agent.state_dict())
    play(copy.deepcopy(world), restored, 30)
    assert not differences(agent.state_dict(), before)
    assert differences(restored.state_dict(), before)


@pytest.mark.parametrize("case", CASES)
def test_an_evaluation_leaves_no_trace_but_in_the_random_generator(case: str) -> None:
    """Batches of any size, between any two steps: not even the statistics or the order of eviction move."""
    config, options = CASES[case]
    world = FakeWorld(num_envs=2, **options)
    agent = build(config, world.spec, seed=1)
    play(world, agent, 60)
    other = FakeWorld(num_envs=5, seed=9, **options)
    before = copy.deepcopy(agent.state_dict())
    for _ in range(70):  # more than the 64 steps after which a training step would sample its recall
        other.step(agent.act(other.observations, other.state_hashes, epsilon=0.1))
    assert {path.split("/")[1] for path in differences(agent.state_dict(), before)} == {"rng"}

    # In the middle of a step too: what is observed is what was acted on last in training.
    twin = copy.deepcopy(agent)
    same_world = copy.deepcopy(world)
    for _ in range(30):
        actions = agent.act(world.observations, world.state_hashes)
        assert actions.tolist() == twin.act(same_world.observations, same_world.state_hashes).tolist()
        generator = copy.deepcopy(agent.rng)
        agent.act(other.observations, other.state_hashes, epsilon=0.0)
        agent.rng.bit_generator.state = generator.bit_generator.state
        agent.observe(world.step(actions))
        twin.observe(same_world.step(actions))
        assert agent.learn() == twin.learn()
    assert not differences(agent.state_dict(), twin.state_dict())


@pytest.mark.parametrize("case", CASES)
def test_a_seed_decides_everything(case: str) -> None:
    config, options = CASES[case]
    lives = []
    for seed in (1, 1, 2):
        world = FakeWorld(num_envs=2, **options)
        agent = build(config, world.spec, seed)
        lives.append((play(world, agent, 30), flat(agent.state_dict())))
    assert lives[0] == lives[1]
    assert lives[0] != lives[2]
