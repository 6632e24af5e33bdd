"""MFEC by episodes written by hand, in a plane where a state is a point and its key are its coordinates."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import pytest
import torch

import agents
from agents import WorldSpec
from agents.mfec import MFEC, MFECConfig
from memory.episodic import maximum
from tests.agents.fake_world import learn_all, transition_of

Point = tuple[int, int]
Step = tuple[Point, int, float]
"""Where, which action, which reward."""


def agent_in_the_plane(num_envs: int = 1, num_actions: int = 2, seed: int = 0, **options: object) -> MFEC:
    spec = WorldSpec(num_envs, num_actions, (1, 1, 2), observation_high=255.0, frame_stack=1)
    config = MFECConfig.model_validate({"key_size": 2, **options})
    agent = agents.make(config, spec, np.random.default_rng(seed), "cpu")
    assert isinstance(agent, MFEC)
    agent.projection.matrix.copy_(torch.eye(2))
    return agent


def observation_of(points: Sequence[Point]) -> np.ndarray:
    return np.array(points, dtype=np.uint8).reshape(-1, 1, 1, 2)


def hash_of(points: Sequence[Point]) -> np.ndarray:
    return np.array([256 * x + y for x, y in points], dtype=np.uint64)


def live(agent: MFEC, steps: Sequence[Step], *, end: str | None = "terminated") -> None:
    """Walk a fixed way, whatever the agent would do, and learn from it."""
    for index, (point, action, reward) in enumerate(steps):
        last = index == len(steps) - 1
        agent.act(observation_of([point]), hash_of([point]))
        agent.observe(
            transition_of(
                observation_of([point])[0],
                hash_of([point])[0],
                action,
                reward,
                observation_of([(255, 255)])[0],
                terminated=last and end == "terminated",
                truncated=last and end == "truncated",
            )
        )
    learn_all(agent)


def remember(agent: MFEC, action: int, returns: dict[Point, float]) -> None:
    """Episodes of one step each."""
    for point, reward in returns.items():
        live(agent, [(point, action, reward)])


def assert_worth(agent: MFEC, point: Point, expected: float) -> None:
    """Action 0 is preferred to an action that is worth a bit less everywhere, but not to one worth a bit more."""
    assert _prefers_first_action(agent, point, expected - 1e-3)
    assert not _prefers_first_action(agent, point, expected + 1e-3)


def _prefers_first_action(agent: MFEC, point: Point, rival: float) -> bool:
    agent = copy.deepcopy(agent)
    neighbours = agent.memory.neighbours
    assert len(agent.memory.stores[1]) == 0
    agent.memory.write(
        torch.ones(neighbours, dtype=torch.int64),
        torch.zeros(neighbours, 2),
        torch.full((neighbours,), rival),
        np.arange(10**6, 10**6 + neighbours, dtype=np.uint64),
        maximum,
        written_at=0,
    )
    (action,) = agent.act(observation_of([point]), hash_of([point]), epsilon=0.0)
    return bool(action == 0)


def stored(agent: MFEC, action: int) -> dict[Point, float]:
    store = agent.memory.stores[action]
    points = [(int(item) // 256, int(item) % 256) for item in store.hashes]
    return dict(zip(points, store.values.tolist(), strict=True))


def test_a_state_seen_before_is_worth_its_own_return_whatever_its_neighbours_say() -> None:
    agent = agent_in_the_plane(neighbours=3)
    remember(agent, 0, {(10, 10): 5.0, (10, 11): 90.0, (11, 10): 900.0, (50, 50): -4.0})
    assert_worth(agent, (10, 10), 5.0)
    assert_worth(agent, (50, 50), -4.0)


def test_what_a_known_state_is_worth_counts_however_few_memories_there_are() -> None:
    """A world with fewer states than neighbours: it would be played at random for ever."""
    agent = agent_in_the_plane(neighbours=11)
    assert agent.act(observation_of([(1, 1)] * 50), hash_of([(1, 1)] * 50), epsilon=0.0).tolist().count(0) not in (
        0,
        50,
    )
    remember(agent, 0, {(1, 1): 0.0})
    live(agent, [((1, 1), 1, 1.0)])
    for point, best in (((1, 1), {1}), ((2, 2), {0, 1})):
        chosen = agent.act(observation_of([point] * 50), hash_of([point] * 50), epsilon=0.0)
        assert set(chosen.tolist()) == best


def test_an_unknown_state_is_worth_the_plain_mean_of_its_nearest_memories() -> None:
    agent = agent_in_the_plane(neighbours=4)
    rng = np.random.default_rng(3)
    returns = {(int(x), int(y)): float(rng.normal(0, 50)) for x, y in rng.integers(0, 256, (40, 2))}
    remember(agent, 0, returns)
    checked = 0
    for x, y in rng.integers(0, 256, (60, 2)).tolist():
        nearest = sorted(returns, key=lambda known: (known[0] - x) ** 2 + (known[1] - y) ** 2)
        distances = [(known[0] - x) ** 2 + (known[1] - y) ** 2 for known in nearest]
        if distances[3] == distances[4] or (x, y) in returns:
            continue
        assert_worth(agent, (x, y), sum(returns[known] for known in nearest[:4]) / 4)
        checked += 1
    assert checked > 40


def test_each_action_is_valued_by_its_own_memories() -> None:
    agent = agent_in_the_plane(num_actions=3, neighbours=1)
    for action, reward in ((0, 1.0), (1, 3.0), (2, 2.0)):
        remember(agent, action, {(10, 10): reward})
    remember(agent, 0, {(200, 200): 9.0})
    points = [(10, 10), (11, 11), (200, 200), (199, 200)]
    assert agent.act(observation_of(points), hash_of(points), epsilon=0.0).tolist() == [1, 1, 0, 0]


def test_a_state_that_comes_back_keeps_the_better_return() -> None:
    agent = agent_in_the_plane(neighbours=1)
    for reward, best in ((5.0, 5.0), (3.0, 5.0), (-7.0, 5.0), (8.0, 8.0)):
        remember(agent, 0, {(10, 10): reward})
        assert stored(agent, 0) == {(10, 10): best}
        assert_worth(agent, (10, 10), best)


def test_a_state_met_twice_in_an_episode_keeps_the_better_of_its_two_returns() -> None:
    agent = agent_in_the_plane()
    live(agent, [((1, 1), 0, 2.0), ((2, 2), 0, -9.0), ((1, 1), 0, 4.0)])
    assert stored(agent, 0) == {(1, 1): 4.0, (2, 2): -5.0}


def test_an_action_with_fewer_memories_than_neighbours_is_tried_first() -> None:
    agent = agent_in_the_plane(num_actions=3, neighbours=3)
    remember(agent, 0, {(1, 1): 1e6, (2, 2): 1e6, (3, 3): 1e6})
    remember(agent, 1, {(1, 1): -5.0, (2, 2): -5.0})
    point = [(9, 9)] * 100
    chosen = agent.act(observation_of(point), hash_of(point), epsilon=0.0)
    # Two actions are short of memories, and none of the two is better.
    assert set(chosen.tolist()) == {1, 2}
    remember(agent, 1, {(3, 3): -5.0})
    assert set(agent.act(observation_of(point), hash_of(point), epsilon=0.0).tolist()) == {2}
    remember(agent, 2, {(1, 1): -5.0, (2, 2): -5.0, (3, 3): -5.0})
    assert set(agent.act(observation_of(point), hash_of(point), epsilon=0.0).tolist()) == {0}


@pytest.mark.parametrize("end", ["terminated", "truncated"])
@pytest.mark.parametrize(
    ("discount", "expected"), [(1.0, [500.0, 499.0, 497.0, 500.0]), (0.5, [63.75, 125.5, 247.0, 500.0])]
)
def test_what_is_stored_are_returns_of_whole_episodes_with_rewards_as_they_came(
    end: str, discount: float, expected: list[float]
) -> None:
    agent = agent_in_the_plane(discount=discount)
    points = [(0, 1), (0, 2), (0, 3), (0, 4)]
    live(agent, [(point, 0, reward) for point, reward in zip(points, (1.0, 2.0, -3.0, 500.0), strict=True)], end=end)
    assert stored(agent, 0) == dict(zip(points, expected, strict=True))


def test_an_episode_is_written_when_it_ends_and_not_before() -> None:
    agent = agent_in_the_plane()
    live(agent, [((1, 1), 0, 1.0), ((2, 2), 1, 1.0)], end=None)
    assert len(agent.memory) == 0
    live(agent, [((3, 3), 0, 1.0)])
    assert stored(agent, 0) == {(1, 1): 3.0, (3, 3): 1.0}
    assert stored(agent, 1) == {(2, 2): 2.0}


def test_of_parallel_environments_only_the_ended_episodes_are_written() -> None:
    agent = agent_in_the_plane(num_envs=3)
    points = [(1, 1), (2, 2), (3, 3)]
    for ended in ([False, False, False], [True, False, True]):
        agent.act(observation_of(points), hash_of(points))
        agent.observe(
            agents.Transition(
                observations=observation_of(points),
                state_hashes=hash_of(points),
                actions=np.array([0, 0, 1]),
                rewards=np.array([1.0, 10.0, 100.0]),
                terminations=np.array(ended),
                truncations=np.zeros(3, dtype=bool),
                next_observations=observation_of(points),
            )
        )
        points = [(x, y + 10) for x, y in points]
    written = learn_all(agent)
    assert [metrics["memory/inserted"] for metrics in written] == [2, 2]
    assert stored(agent, 0) == {(1, 1): 2.0, (1, 11): 1.0}
    assert stored(agent, 1) == {(3, 3): 200.0, (3, 13): 100.0}


def test_the_exact_hit_rate_counts_the_chosen_action_and_the_known_state_rate_any() -> None:
    agent = agent_in_the_plane(neighbours=1, epsilon=0.0)
    remember(agent, 0, {(1, 1): 5.0, (2, 2): 1.0})
    remember(agent, 1, {(1, 1): 1.0, (2, 3): 5.0})
    # At (1, 1) both actions are known; at (2, 2) the known one loses; (9, 9) is new.
    for index, point in enumerate([(1, 1), (2, 2), (9, 9), (1, 1)]):
        (action,) = agent.act(observation_of([point]), hash_of([point]))
        agent.observe(
            transition_of(
                observation_of([point])[0], hash_of([point])[0], action, 0.0, np.zeros((1, 1, 2)), terminated=index == 3
            )
        )
    (metrics,) = learn_all(agent)
    assert metrics["memory/exact_hit_rate"] == pytest.approx(2 / 4)
    assert metrics["memory/known_state_rate"] == pytest.approx(3 / 4)
    assert (metrics["memory/inserted"], metrics["memory/updated"], metrics["memory/size"]) == (2, 2, 6)


def test_a_full_table_forgets_what_was_used_least_recently_and_acting_is_use() -> None:
    agent = agent_in_the_plane(neighbours=1, capacity=3, epsilon=0.0)
    remember(agent, 0, {(1, 1): 1.0, (90, 90): 1.0, (180, 180): 1.0})
    remember(agent, 1, {(1, 1): 9.0})
    agent.act(observation_of([(1, 1)]), hash_of([(1, 1)]))  # an exact match
    agent.act(observation_of([(185, 185)]), hash_of([(185, 185)]))  # a neighbour
    agent.act(observation_of([(90, 90)]), hash_of([(90, 90)]), epsilon=0.0)  # an evaluation, which must not count
    remember(agent, 0, {(250, 250): 1.0})
    assert set(stored(agent, 0)) == {(1, 1), (180, 180), (250, 250)}
