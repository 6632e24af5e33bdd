"""NEC against its equations in plain loops, and its gradients against finite differences."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import agents
from agents import Transition, WorldSpec
from agents.nec import NEC, NECConfig
from memory.episodic import EpisodicMemory, InverseDistance, Store, TrainableMemories, maximum
from tests.agents.fake_world import FakeWorld, hash_each, learn_all, play, transition_of

DELTA = 1e-3
NEVER = 10**9
SMALL = {"key_size": 4, "neighbours": 3, "batch_size": 8, "replay_capacity": 400, "learning_rate": 1e-3}


def make_nec(spec: WorldSpec, **options: object) -> NEC:
    torch.manual_seed(0)
    config = NECConfig.model_validate({**SMALL, "epsilon_end": 1, "learning_starts": NEVER, **options})
    agent = agents.make(config, spec, np.random.default_rng(0), "cpu")
    assert isinstance(agent, NEC)
    return agent


def eq_1(query: np.ndarray, keys: Sequence[np.ndarray], values: Sequence[float], delta: float = DELTA) -> float:
    """The mean of the values, weighted by inverse distance, in plain loops."""
    kernel = []
    for key in keys:
        squared_distance = 0.0
        for mine, its in zip(query, key, strict=True):
            squared_distance += (float(mine) - float(its)) ** 2
        kernel.append(1.0 / (squared_distance + delta))
    return sum(weight / sum(kernel) * float(value) for weight, value in zip(kernel, values, strict=True))


def nearest_slots(query: np.ndarray, keys: np.ndarray, neighbours: int) -> list[int]:
    distances = [float(np.sum((query.astype(np.float64) - key) ** 2)) for key in keys]
    return sorted(range(len(keys)), key=distances.__getitem__)[:neighbours]


def action_value(query: np.ndarray, store: Store, neighbours: int) -> float:
    if not len(store):
        return 0.0
    slots = nearest_slots(query, store.keys.numpy(), neighbours)
    return eq_1(query, [store.keys[slot].numpy() for slot in slots], [store.values[slot].item() for slot in slots])


def finite_differences(function: Callable[[], float], array: np.ndarray, entries: Sequence[tuple[int, ...]]) -> list:
    """Central differences of a function in some entries of an array it reads."""
    slopes = []
    for entry in entries:
        kept = array[entry]
        array[entry] = kept + 1e-6
        above = function()
        array[entry] = kept - 1e-6
        below = function()
        array[entry] = kept
        slopes.append((above - below) / 2e-6)
    return slopes


# What it answers


def test_q_is_the_weighted_mean_of_the_nearest_values_and_0_without_memories() -> None:
    world = FakeWorld(num_actions=4)
    agent = make_nec(world.spec)
    play(world, agent, 60)
    agent.memory.stores[3].load_state_dict(Store(agent.config.capacity, 4).state_dict())
    assert sorted(len(store) > 3 for store in agent.memory.stores) == [False, True, True, True]
    observations = np.random.default_rng(5).integers(0, 256, (20, *world.spec.observation_shape), dtype=np.uint8)
    queries = agent.encoder(torch.from_numpy(observations)).detach().numpy()
    expected = np.array([[action_value(query, store, 3) for store in agent.memory.stores] for query in queries])
    _, values = agent._action_values(observations, touch=False)
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-4)
    greedy = agent.act(observations, np.zeros(20, dtype=np.uint64), epsilon=0.0)
    assert greedy.tolist() == expected.argmax(axis=1).tolist()


# Gradients


def small_network(seed: int) -> tuple[nn.Sequential, list[np.ndarray]]:
    """A network in float64, and views of its parameters as arrays."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    return network, [parameter.detach().numpy() for parameter in network.parameters()]


@pytest.mark.parametrize("seed", range(3))
def test_gradients_reach_network_keys_and_values_as_finite_differences_say(seed: int) -> None:
    """In float64; one store is smaller than the number of neighbours, so that its rows are padded."""
    rng = np.random.default_rng(seed)
    memory = EpisodicMemory(2, 50, 3, neighbours=4, kernel=InverseDistance(DELTA))
    stored = np.array([0] * 20 + [1] * 2)
    memory.write(
        torch.from_numpy(stored),
        torch.from_numpy(rng.normal(0, 0.5, (22, 3)).astype(np.float32)),
        torch.from_numpy(rng.normal(0, 3, 22).astype(np.float32)),
        np.arange(22, dtype=np.uint64),
        maximum,
        written_at=0,
    )
    network, parameters = small_network(seed)
    inputs, actions, returns = rng.normal(0, 1, (6, 5)), np.array([0, 1, 0, 0, 1, 0]), rng.normal(0, 3, 6)

    queries = network(torch.from_numpy(inputs))
    recall = memory.read(queries.detach().float(), torch.from_numpy(actions))
    recall = replace(recall, keys=recall.keys.double(), values=recall.values.double())
    recall = TrainableMemories(memory, 0.0, 0.0).attach(queries, recall)
    functional.mse_loss(recall.estimates(), torch.from_numpy(returns)).backward()
    assert recall.keys.grad is not None and recall.values.grad is not None

    keys, values = recall.keys.detach().numpy(), recall.values.detach().numpy()

    def loss() -> float:
        total = 0.0
        for row, action in enumerate(actions):
            width = 4 if action == 0 else 2
            first, first_bias, second, second_bias = parameters
            query = second @ np.tanh(first @ inputs[row] + first_bias) + second_bias
            total += (eq_1(query, list(keys[row, :width]), list(values[row, :width])) - returns[row]) ** 2
        return total / len(actions)

    for array, gradient in [
        *zip(parameters, [parameter.grad for parameter in network.parameters()], strict=True),
        (keys, recall.keys.grad),
        (values, recall.values.grad),
    ]:
        assert gradient is not None
        entries = list(np.ndindex(array.shape))
        expected = finite_differences(loss, array, entries)
        assert np.abs(expected).max() > 0
        np.testing.assert_allclose(gradient.numpy().ravel(), expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max())


def lived_agent(**options: object) -> NEC:
    """An agent with memories, a network that has moved since they were written, and the next update due."""
    world = FakeWorld()
    agent = make_nec(world.spec, **options)
    play(world, agent, 80)
    for _ in range(5):
        agent._update()
    return agent


def test_an_update_moves_network_keys_and_values_along_the_gradient_of_the_paper_s_loss() -> None:
    """The agent's own update against finite differences of the loss over its network and its dictionaries."""
    agent = lived_agent(key_learning_rate=1e-3)
    before = copy.deepcopy(agent)
    envs, slots = agent.replay.draw(copy.deepcopy(agent.rng), 8)
    observations = agent.replay.observations(envs, slots).reshape(8, -1) / 255.0
    actions = agent.replay.columns["actions"][envs, slots].tolist()
    returns = agent.replay.columns["returns"][envs, slots].tolist()
    weights = [parameter.detach().double().numpy() for parameter in agent.encoder.parameters()]
    keys = [store.keys.double().numpy() for store in agent.memory.stores]
    values = [store.values.double().numpy() for store in agent.memory.stores]

    def query(row: int) -> np.ndarray:
        first, first_bias, second, second_bias = weights
        return second @ np.maximum(first @ observations[row] + first_bias, 0) + second_bias

    recalled = [nearest_slots(query(row), keys[action], 3) for row, action in enumerate(actions)]

    def loss() -> float:
        total = 0.0
        for row, action in enumerate(actions):
            estimate = eq_1(query(row), list(keys[action][recalled[row]]), list(values[action][recalled[row]]))
            total += (estimate - returns[row]) ** 2
        return total / 8

    metrics = agent._update()
    assert metrics["losses/return_error"] == pytest.approx(loss(), rel=1e-3)

    rng = np.random.default_rng(0)
    for array, parameter in zip(weights, agent.encoder.parameters(), strict=True):
        entries = [tuple(int(rng.integers(size)) for size in array.shape) for _ in range(12)]
        assert parameter.grad is not None
        expected = np.array(finite_differences(loss, array, entries))
        scale = parameter.grad.abs().max().item()
        assert scale > 0
        gradients = [parameter.grad[entry].item() for entry in entries]
        np.testing.assert_allclose(gradients, expected, rtol=1e-2, atol=1e-3 * scale)

    key_steps, key_gradients = [], []
    for action in range(3):
        used = sorted({slot for row, slots in enumerate(recalled) if actions[row] == action for slot in slots})
        old, new = before.memory.stores[action], agent.memory.stores[action]
        unused = [slot for slot in range(len(old)) if slot not in used]
        assert torch.equal(old.keys[unused], new.keys[unused]) and torch.equal(old.values[unused], new.values[unused])
        entries = [(slot, dimension) for slot in used for dimension in range(4)]
        key_gradients += finite_differences(loss, keys[action], entries)
        key_steps += [(new.keys[entry] - old.keys[entry]).item() for entry in entries]
        value_gradients = np.array(finite_differences(loss, values[action], [(slot,) for slot in used]))
        value_steps = (new.values[used] - old.values[used]).numpy()
        # Each query moves its memories in full: the mean over the batch is undone, and the 2 of the square.
        expected = -agent.config.value_learning_rate * value_gradients * 8 / 2
        np.testing.assert_allclose(value_steps, expected, rtol=1e-2, atol=1e-4)
    alignment = np.dot(key_steps, key_gradients) / np.linalg.norm(key_steps) / np.linalg.norm(key_gradients)
    assert alignment < -0.999


def changed(before: NEC, after: NEC) -> dict[str, bool]:
    """What differs; of the network every parameter must."""
    parameters = zip(before.encoder.parameters(), after.encoder.parameters(), strict=True)
    moved = {not torch.equal(old, new) for old, new in parameters}
    assert len(moved) == 1, "a part of the network moved and a part did not"
    stores = list(zip(before.memory.stores, after.memory.stores, strict=True))
    return {
        "network": moved.pop(),
        "keys": any(not torch.equal(old.keys, new.keys) for old, new in stores),
        "values": any(not torch.equal(old.values, new.values) for old, new in stores),
    }


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"network": True, "keys": True, "values": True}),
        ({"optimiser": "adam"}, {"network": True, "keys": True, "values": True}),
        ({"train_encoder": False}, {"network": False, "keys": False, "values": True}),
        ({"key_learning_rate": 0.0}, {"network": True, "keys": False, "values": True}),
        ({"value_learning_rate": 0.0}, {"network": True, "keys": True, "values": False}),
    ],
)
def test_one_update_changes_what_is_to_be_trained_and_nothing_else(
    options: dict[str, object], expected: dict[str, bool]
) -> None:
    agent = lived_agent(**{"key_learning_rate": 1e-3, **options})
    before = copy.deepcopy(agent)
    agent._update()
    assert changed(before, agent) == expected


def two_memories(value_learning_rate: float, key_learning_rate: float) -> tuple[EpisodicMemory, TrainableMemories]:
    """Memories of one dimension and kernel 1 / (d^2 + 1): of action 0 at 0 and 1, of action 1 at 5."""
    memory = EpisodicMemory(2, 10, 1, neighbours=2, kernel=InverseDistance(1.0))
    memory.write(
        torch.tensor([0, 0, 1]),
        torch.tensor([[0.0], [1.0], [5.0]]),
        torch.tensor([4.0, 10.0, 100.0]),
        np.arange(3, dtype=np.uint64),
        maximum,
        written_at=0,
    )
    return memory, TrainableMemories(memory, key_learning_rate, value_learning_rate)


def update_by_hand(
    memory: EpisodicMemory, memories: TrainableMemories, queries: list[float], actions: list[int], returns: list[float]
) -> None:
    places, stores = torch.tensor(queries)[:, None], torch.tensor(actions)
    recall = memories.attach(places, memory.read(places, stores))
    functional.mse_loss(recall.estimates(), torch.tensor(returns)).backward()
    memories.step(recall, stores)


def test_a_value_moves_by_rate_times_weight_times_error_summed_over_the_queries_that_recalled_it() -> None:
    memory, memories = two_memories(value_learning_rate=0.1, key_learning_rate=0.0)
    update_by_hand(memory, memories, queries=[0.0, 1.0, 5.0], actions=[0, 0, 1], returns=[9.0, 5.0, 90.0])
    # At 0 the kernel is 1 and 1/2: weights 2/3 and 1/3, estimate (2 * 4 + 10) / 3 = 6, error -3.
    # At 1 the weights are the other way round: estimate (4 + 2 * 10) / 3 = 8, error 3.
    expected = [4 - 0.1 * (2 / 3 * -3 + 1 / 3 * 3), 10 - 0.1 * (1 / 3 * -3 + 2 / 3 * 3)]
    assert memory.stores[0].values.tolist() == pytest.approx(expected)
    # The only memory of action 1 has all the weight; its row is padded, which must not count twice.
    assert memory.stores[1].values.tolist() == pytest.approx([100 - 0.1 * 10])
    assert memory.stores[0].keys.tolist() == [[0.0], [1.0]] and memory.stores[1].keys.tolist() == [[5.0]]


def test_a_rate_by_which_values_would_diverge_is_refused() -> None:
    """A memory that all states of a batch recall alone is corrected by each of them."""
    memory, memories = two_memories(value_learning_rate=0.05, key_learning_rate=0.0)
    for _ in range(50):
        update_by_hand(memory, memories, queries=[5.0] * 32, actions=[1] * 32, returns=[1.0] * 32)
    assert memory.stores[1].values.tolist() == pytest.approx([1.0])
    NECConfig(value_learning_rate=0.06, batch_size=32)
    with pytest.raises(ValueError, match=r"value_learning_rate times batch_size must be below 2, got 0\.07 times 32"):
        NECConfig(value_learning_rate=0.07, batch_size=32)


def test_what_rec_alone_can_do_is_refused() -> None:
    with pytest.raises(ValueError, match="own_memory"):
        NECConfig.model_validate({"own_memory": "answers"})


def test_keys_follow_their_gradients_over_the_running_mean_of_all_squared_key_gradients() -> None:
    memory, memories = two_memories(value_learning_rate=0.0, key_learning_rate=0.01)
    keys, squared = np.array([0.0, 1.0]), 0.0
    values = [4.0, 10.0]

    def loss() -> float:
        return ((eq_1(np.array([0.25]), [keys[:1], keys[1:]], values, delta=1.0) - 9.0) ** 2 + (100 - 90) ** 2) / 2

    for _ in range(4):
        update_by_hand(memory, memories, queries=[0.25, 5.0], actions=[0, 1], returns=[9.0, 90.0])
        gradients = np.array(finite_differences(loss, keys, [(0,), (1,)]))
        # Three entries were recalled: two of action 0, and one of action 1, alone in its store: no gradient.
        squared = 0.95 * squared + 0.05 * float(np.sum(gradients**2) / 3)
        keys -= 0.01 * gradients / squared**0.5
        np.testing.assert_allclose(memory.stores[0].keys.numpy().ravel(), keys, rtol=1e-4)
        assert memory.stores[1].keys.tolist() == [[5.0]]
    assert memory.stores[0].values.tolist() == values
    assert abs(keys[0]) > 0.01 and abs(keys[1] - 1) > 0.01


# Returns and writes


@pytest.mark.parametrize(("n_step", "discount"), [(1, 0.9), (3, 0.9), (5, 1.0), (100, 0.99)])
def test_replayed_returns_are_n_rewards_and_the_value_recorded_when_acting(n_step: int, discount: float) -> None:
    world = FakeWorld(num_envs=2)
    agent = make_nec(world.spec, n_step=n_step, discount=discount, epsilon_last=0.5, replay_capacity=2000)
    expected: dict[tuple[int, int], tuple[bytes, int, float]] = {}
    rows, starting = [-1, -1], [True, True]
    # For each environment its running episode: row, step, and the value of the state when it was acted in.
    running: list[list[tuple[int, Transition, float]]] = [[], []]
    for _ in range(150):
        before = agent._action_values(world.observations, touch=False)[1].max(axis=1)
        transition = world.step(agent.act(world.observations, world.state_hashes))
        after = agent._action_values(transition.next_observations, touch=False)[1].max(axis=1)
        agent.observe(transition)
        learn_all(agent)
        for env in range(2):
            rows[env] += 4 if starting[env] else 1
            running[env].append((rows[env], transition, float(before[env])))
            starting[env] = bool(transition.ended[env])
            if not starting[env]:
                continue
            rows[env] += 1
            rewards = [float(step.rewards[env]) for _, step, _ in running[env]]
            values = [value for _, _, value in running[env]]
            values.append(0.0 if transition.terminations[env] else float(after[env]))
            for t, (row, step, _) in enumerate(running[env]):
                end = min(t + n_step, len(rewards))
                total = sum(discount ** (j - t) * rewards[j] for j in range(t, end))
                total += discount ** (end - t) * values[end]
                expected[env, row] = step.observations[env].tobytes(), int(step.actions[env]), total
            running[env] = []
    envs, slots = np.nonzero(agent.replay.complete)
    assert set(zip(envs.tolist(), slots.tolist(), strict=True)) == set(expected) and len(expected) > 200
    observations = agent.replay.observations(envs, slots)
    for env, slot, observation in zip(envs.tolist(), slots.tolist(), observations, strict=True):
        shown, action, total = expected[env, slot]
        assert observation.tobytes() == shown
        assert agent.replay.columns["actions"][env, slot] == action
        assert agent.replay.columns["returns"][env, slot] == pytest.approx(total, rel=1e-4, abs=1e-4)


def walk(agent: NEC, points: Sequence[int], rewards: Sequence[float], *, end: str = "terminated", at: int = 0) -> None:
    """One episode of action 0 through states numbered `points`."""
    shape = (4, 3, 3)
    for index, (point, reward) in enumerate(zip(points, rewards, strict=True)):
        agent.act(np.full((1, *shape), point, dtype=np.uint8), np.array([point], dtype=np.uint64))
        last = index == len(points) - 1
        agent.observe(
            transition_of(
                np.full(shape, point), point, 0, reward, np.full(shape, 200),
                terminated=last and end == "terminated", truncated=last and end == "truncated",
            )
        )  # fmt: skip


def one_env_spec() -> WorldSpec:
    return WorldSpec(1, 2, (4, 3, 3), observation_high=255.0, frame_stack=1)


def stored_value(agent: NEC, point: int) -> float:
    (slot,) = agent.memory.stores[0].find(np.array([point], dtype=np.uint64)).tolist()
    return agent.memory.stores[0].values[slot].item()


def fill_with(agent: NEC, value: float) -> None:
    """Make every memory say the same: so does every estimate of an action that has memories."""
    for store in agent.memory.stores:
        store.set_values(torch.arange(len(store)), torch.full((len(store),), value))


def test_the_bootstrap_value_is_the_one_recorded_when_acting_not_a_later_one() -> None:
    agent = make_nec(one_env_spec(), n_step=1, discount=0.5)
    walk(agent, [1], [0.0])
    learn_all(agent)
    fill_with(agent, 8.0)
    walk(agent, [10, 20], [1.0, 2.0], end="running")
    fill_with(agent, 1000.0)
    walk(agent, [30], [4.0])
    learn_all(agent)
    assert stored_value(agent, 10) == pytest.approx(1.0 + 0.5 * 8.0)
    assert stored_value(agent, 20) == pytest.approx(2.0 + 0.5 * 1000.0)
    assert stored_value(agent, 30) == pytest.approx(4.0)


@pytest.mark.parametrize(("end", "last_value"), [("terminated", 0.0), ("truncated", 8.0)])
def test_truncation_bootstraps_from_the_last_observation_and_termination_does_not(end: str, last_value: float) -> None:
    agent = make_nec(one_env_spec(), n_step=10, discount=0.5)
    walk(agent, [1], [0.0])
    learn_all(agent)
    fill_with(agent, 8.0)
    walk(agent, [10, 20], [1.0, 2.0], end=end)
    learn_all(agent)
    assert stored_value(agent, 20) == pytest.approx(2.0 + 0.5 * last_value)
    assert stored_value(agent, 10) == pytest.approx(1.0 + 0.5 * 2.0 + 0.25 * last_value)


@pytest.mark.parametrize("refresh", [False, True])
def test_a_state_written_again_moves_by_the_tabular_rate_and_keeps_its_key_unless_told(refresh: bool) -> None:
    agent = make_nec(one_env_spec(), tabular_learning_rate=0.25, refresh_keys_on_revisit=refresh)
    walk(agent, [7], [8.0])
    learn_all(agent)
    assert stored_value(agent, 7) == 8.0
    old_key = agent.memory.stores[0].keys.clone()
    with torch.no_grad():
        for parameter in agent.encoder.parameters():
            parameter.add_(0.01)
    walk(agent, [7], [-4.0])
    (metrics,) = learn_all(agent)
    assert stored_value(agent, 7) == pytest.approx(8.0 + 0.25 * (-4.0 - 8.0))
    assert (metrics["memory/inserted"], metrics["memory/updated"], len(agent.memory)) == (0, 1, 1)
    expected = agent.encoder(torch.full((1, 4, 3, 3), 7, dtype=torch.uint8)).detach() if refresh else old_key
    torch.testing.assert_close(agent.memory.stores[0].keys, expected)
    assert not torch.equal(agent.encoder(torch.full((1, 4, 3, 3), 7, dtype=torch.uint8)), old_key)


def test_rewards_are_learned_from_unclipped() -> None:
    agent = make_nec(one_env_spec())
    walk(agent, [7], [5000.0])
    learn_all(agent)
    assert stored_value(agent, 7) == 5000.0


# When it learns


@pytest.mark.parametrize(("num_envs", "steps_per_update"), [(1, 4), (3, 4), (8, 4), (5, 1), (2, 16)])
def test_an_update_is_done_for_every_so_many_agent_steps_of_all_environments(
    num_envs: int, steps_per_update: int
) -> None:
    world = FakeWorld(num_envs=num_envs, end_chance=0.5)
    agent = make_nec(world.spec, learning_starts=40, steps_per_update=steps_per_update)
    updates = 0
    for step in range(num_envs, 200, num_envs):
        agent.observe(world.step(agent.act(world.observations, world.state_hashes)))
        updates += sum("losses/return_error" in metrics for metrics in learn_all(agent))
        assert updates == max(0, (step - 40) // steps_per_update)


# How stale its memory is


def test_the_probe_has_the_observations_of_what_is_stored():
    """Evictions, rewrites, and episodes that the replay no longer has whole: what it keeps is of the slot's memory."""
    for options in ({"capacity": 20}, {"replay_capacity": 30}):
        world = FakeWorld(num_envs=1, end_chance=0.02)
        agent = make_nec(world.spec, **options)
        play(world, agent, 900)
        probe = agent.probe
        assert len(probe._place_of) > 15
        stored = {
            slot + action * agent.config.capacity: number
            for action, store in enumerate(agent.memory.stores)
            for slot, number in enumerate(store.hashes.tolist())
        }
        for slot, place in probe._place_of.items():
            assert hash_each(probe._observations[place][None].numpy())[0] == stored[slot]


def test_staleness_is_told_while_the_network_learns_and_does_not_change_what_it_learns():
    def lived(**options) -> list:
        world = FakeWorld()
        return play(world, make_nec(world.spec, learning_starts=50, **options), 300)

    often, never = lived(updates_per_probe=10), lived(updates_per_probe=10**9)
    drifts = [one["staleness/key_drift"] for _, learned in often for one in learned if "staleness/key_drift" in one]
    assert len(drifts) > 5 and 0 < drifts[0] and all(np.isfinite(drifts))
    for (actions, learned), (same_actions, same_learned) in zip(often, never, strict=True):
        assert actions == same_actions
        stripped = [{tag: value for tag, value in one.items() if "staleness" not in tag} for one in learned]
        assert stripped == same_learned
    world = FakeWorld()
    assert make_nec(world.spec, train_encoder=False).probe is None


def test_keys_are_as_old_as_the_step_that_was_acted_in():
    world = FakeWorld(num_envs=1, end_chance=0.0, pictures=300)
    agent = make_nec(world.spec)
    acted = {}
    for step in range(1, 61):
        number = int(world.state_hashes[0])
        actions = agent.act(world.observations, world.state_hashes)
        acted.setdefault((int(actions[0]), number), step)
        world.end_chance = float(step == 60)
        agent.observe(world.step(actions))
    learn_all(agent)
    assert len(acted) > 30
    for action, store in enumerate(agent.memory.stores):
        keyed_at = agent.memory.table.keyed_at[store.rows_of(torch.arange(len(store)))]
        assert keyed_at.tolist() == [acted[action, number] for number in store.hashes.tolist()]


@pytest.mark.parametrize("refresh", [False, True])
def test_an_episode_that_outlasts_the_replay_takes_nothing_from_the_probe_that_still_holds(refresh):
    """States met before keep their keys, and so their observations; with refreshed keys these are lost."""
    world = FakeWorld(num_envs=1, end_chance=0.0)
    agent = make_nec(world.spec, replay_capacity=40, refresh_keys_on_revisit=refresh)
    play(world, agent, 35)
    world.end_chance = 1.0
    play(world, agent, 1)
    known = set(agent.probe.slots.tolist())
    agent._tell_of(
        {"acted_at": np.zeros(2, np.int64), "env": np.array(0), "rows": np.array([-50, -50])},
        np.array(sorted(known)[:2]),
        np.array([refresh, refresh]),
    )
    assert len(set(agent.probe.slots.tolist())) == len(known) - 2 * refresh
