"""The replay against an oracle that keeps every observation whole, in lists, and forgets nothing."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from agents.replay import Replay

Observation = np.ndarray


@dataclass
class OracleReplay:
    """Every row ever taken in, by environment: the whole observation (None where a stack was only being filled)."""

    rows: int
    frame_stack: int
    observations: list[list[Observation | None]]
    completed: set[tuple[int, int]] = field(default_factory=set)

    def newest(self, env: int) -> int:
        return len(self.observations[env]) - 1

    def start(self, env: int, observation: Observation) -> None:
        self.observations[env] += [None] * (self.frame_stack - 1) + [observation]

    def append(self, observations: np.ndarray) -> None:
        for env, observation in enumerate(observations):
            self.observations[env].append(observation)

    def whole(self, env: int, row: int) -> bool:
        """Whether the ring still holds every frame of the row's stack: only the last `rows` frames are left."""
        kept = range(max(0, len(self.observations[env]) - self.rows), len(self.observations[env]))
        return all(frame in kept for frame in range(row - self.frame_stack + 1, row + 1))

    def drawable(self) -> set[tuple[int, int]]:
        self.completed = {(env, row) for env, row in self.completed if self.whole(env, row)}
        return self.completed


class SlidingScreens:
    """Observations of parallel environments: each step a new frame comes in and the oldest goes."""

    def __init__(self, num_envs: int, frame_stack: int, frame_channels: int, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.frame_channels = frame_channels
        self.shape = (frame_stack * frame_channels, 2, 3)
        self.observations = np.zeros((num_envs, *self.shape), dtype=np.uint8)

    def begin(self, env: int) -> Observation:
        """A first observation, all of whose frames are new and differ."""
        self.observations = self.observations.copy()
        self.observations[env] = self.rng.integers(0, 256, self.shape, dtype=np.uint8)
        return self.observations[env]

    def step(self) -> np.ndarray:
        newest = self.rng.integers(
            0, 256, (len(self.observations), self.frame_channels, *self.shape[1:]), dtype=np.uint8
        )
        self.observations = np.concatenate([self.observations[:, self.frame_channels :], newest], axis=1)
        return self.observations


def fresh(capacity: int, num_envs: int, shape: tuple[int, ...], frame_stack: int) -> Replay:
    return Replay(capacity, num_envs, shape, frame_stack, {"number": np.int64, "reward": np.float32})


def row_in(replay: Replay, env: int, slot: int) -> int:
    """The number of the row a slot holds: the last one not beyond the newest that falls on it."""
    return next(row for row in range(int(replay.newest[env]), -1, -1) if row % replay.rows == slot)


def number_of(env: int, row: int) -> int:
    return 1000 * env + row


def assert_equal_to_oracle(replay: Replay, oracle: OracleReplay) -> None:
    envs, slots = np.nonzero(replay.complete)
    drawable = {(env, row_in(replay, env, slot)) for env, slot in zip(envs.tolist(), slots.tolist(), strict=True)}
    assert drawable == oracle.drawable()
    assert len(replay) == len(drawable)
    rebuilt = replay.observations(envs, slots)
    for env, slot, observation in zip(envs.tolist(), slots.tolist(), rebuilt, strict=True):
        row = row_in(replay, env, slot)
        expected = oracle.observations[env][row]
        assert expected is not None and observation.tobytes() == expected.tobytes()
        assert replay.columns["number"][env, slot] == number_of(env, row)
        assert replay.columns["reward"][env, slot] == np.float32(number_of(env, row) / 8)
    for env, kept in enumerate(oracle.observations):
        assert replay.newest[env] == oracle.newest(env)
        recent = range(max(0, len(kept) - 2 * replay.rows), len(kept))
        rows = np.array([row for row in recent if kept[row] is not None])
        assert replay.holds(env, rows).tolist() == [oracle.whole(env, row) for row in rows]


def complete(replay: Replay, oracle: OracleReplay, env: int, rows: list[int]) -> None:
    """Mark these rows of an environment as complete, as an agent does, but for those that are whole no more."""
    for row in np.array(rows)[replay.holds(env, np.array(rows))].tolist():
        replay.columns["number"][env, row % replay.rows] = number_of(env, row)
        replay.columns["reward"][env, row % replay.rows] = number_of(env, row) / 8
        replay.complete[env, row % replay.rows] = True
        oracle.completed.add((env, row))


@settings(max_examples=200)
@given(
    num_envs=st.integers(1, 3),
    frame_stack=st.sampled_from([1, 4]),
    frame_channels=st.integers(1, 2),
    spare=st.integers(0, 12),
    remainder=st.integers(0, 2),
    steps=st.integers(1, 120),
    end_chance=st.sampled_from([0.0, 0.02, 0.1, 0.4, 1.0]),
    seed=st.integers(0, 1000),
    at_end=st.booleans(),
    reload_at=st.integers(0, 120),
    reload_used=st.booleans(),
)
def test_what_can_be_drawn_is_what_is_whole_and_comes_back_as_it_was(
    num_envs: int,
    frame_stack: int,
    frame_channels: int,
    spare: int,
    remainder: int,
    steps: int,
    end_chance: float,
    seed: int,
    at_end: bool,
    reload_at: int,
    reload_used: bool,
) -> None:
    """Programs as the agents run them: rows complete when left (DQN) or when their episode ends (NEC)."""
    rows = 2 * frame_stack + spare
    capacity = rows * num_envs + min(remainder, num_envs - 1)
    screens = SlidingScreens(num_envs, frame_stack, frame_channels, seed)
    replay = fresh(capacity, num_envs, screens.shape, frame_stack)
    oracle = OracleReplay(rows, frame_stack, [[] for _ in range(num_envs)])
    ended = np.ones(num_envs, dtype=bool)
    episodes: list[list[int]] = [[] for _ in range(num_envs)]
    for step in range(steps):
        for env in np.flatnonzero(ended).tolist():
            first = screens.begin(env)
            replay.start(env, first)
            oracle.start(env, first)
        ended = screens.rng.random(num_envs) < end_chance
        for env in range(num_envs):
            episodes[env].append(oracle.newest(env))
            if not at_end or ended[env]:
                complete(replay, oracle, env, episodes[env])
                episodes[env] = []
        observations = screens.step()
        replay.append(observations)
        oracle.append(observations)
        assert_equal_to_oracle(replay, oracle)
        if step == reload_at:
            state = copy.deepcopy(replay.state_dict())
            replay = fresh(capacity, num_envs, screens.shape, frame_stack)
            if reload_used:
                for env in range(num_envs):
                    for _ in range(3):
                        replay.start(env, np.full(screens.shape, 77, dtype=np.uint8))
                replay.complete[:] = True
            replay.load_state_dict(state)
            assert_equal_to_oracle(replay, oracle)
    event(f"turns of the ring: {len(oracle.observations[0]) // rows}")


def filled(capacity: int, num_envs: int, frame_stack: int, steps: int, seed: int = 0) -> Replay:
    """A replay of one endless episode in each environment, every row but the newest complete."""
    screens = SlidingScreens(num_envs, frame_stack, 1, seed)
    replay = fresh(capacity, num_envs, screens.shape, frame_stack)
    for env in range(num_envs):
        replay.start(env, screens.begin(env))
    every_env = np.arange(num_envs)
    for _ in range(steps):
        replay.complete[every_env, replay.newest % replay.rows] = True
        replay.append(screens.step())
    return replay


def test_rows_are_drawn_uniformly_and_complete_ones_only() -> None:
    replay = filled(capacity=2 * 20, num_envs=2, frame_stack=4, steps=50)
    rng = np.random.default_rng(0)
    replay.complete &= rng.random(replay.complete.shape) < 0.6
    replay.complete[1] &= rng.random(20) < 0.5  # fewer in one environment: rows count, not environments
    draws = 50_000
    counts = np.zeros(replay.complete.shape)
    for _ in range(50):
        envs, slots = replay.draw(rng, draws // 50)
        np.add.at(counts, (envs, slots), 1)
    assert np.array_equal(counts > 0, replay.complete)
    share = 1 / replay.complete.sum()
    deviation = (draws * share * (1 - share)) ** 0.5
    assert np.abs(counts[replay.complete] - draws * share).max() < 5 * deviation


def test_a_draw_is_given_by_the_generator() -> None:
    replay = filled(capacity=30, num_envs=1, frame_stack=1, steps=20)
    draws = [replay.draw(np.random.default_rng(seed), 8)[1].tolist() for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize("frame_stack", [1, 4])
def test_bytes_grow_with_filling_and_stop_when_full(frame_stack: int) -> None:
    # A frame of 1 x 2 x 3, an int64, a float32, and whether the row is complete.
    each = 6 + 8 + 4 + 1
    sizes = [filled(capacity=60, num_envs=2, frame_stack=frame_stack, steps=steps).nbytes for steps in range(50)]
    rows = [min(frame_stack + steps, 30) for steps in range(50)]
    assert sizes == [2 * each * count for count in rows]


def test_the_memory_of_a_long_replay_is_taken_only_as_it_fills() -> None:
    statistics = Path("/proc/self/statm")
    if not statistics.exists():
        pytest.skip("needs /proc")

    def resident_pages() -> int:
        return int(statistics.read_text().split()[1])

    before = resident_pages()
    replay = Replay(100_000, 4, (4, 84, 84), 4, {"actions": np.int64})
    assert (resident_pages() - before) * 4096 < 50 * 2**20, "673 MiB were taken at once"
    assert replay.nbytes == 0


def test_a_replay_must_hold_two_stacks_of_each_environment() -> None:
    assert fresh(16, 2, (4, 2, 3), 4).rows == 8
    with pytest.raises(ValueError, match="15 steps is too small for 2 environments: each needs 8"):
        fresh(15, 2, (4, 2, 3), 4)


@pytest.mark.parametrize(
    ("capacity", "num_envs", "shape", "frame_stack", "steps"),
    [
        (40, 2, (4, 2, 3), 4, 10),  # other environments
        (40, 1, (8, 2, 3), 4, 10),  # other frames
        (40, 1, (4, 2, 4), 4, 10),
        (12, 1, (4, 2, 3), 4, 10),  # more rows than there is room for
        (80, 1, (4, 2, 3), 4, 50),  # a ring that has turned: its rows lie where only a ring of its length has them
    ],
)
def test_a_state_that_does_not_fit_is_refused(
    capacity: int, num_envs: int, shape: tuple[int, ...], frame_stack: int, steps: int
) -> None:
    state = filled(capacity=40, num_envs=1, frame_stack=4, steps=steps).state_dict()
    with pytest.raises(ValueError, match="the saved replay has"):
        fresh(capacity, num_envs, shape, frame_stack).load_state_dict(state)


def test_a_ring_that_has_not_turned_fits_into_a_longer_one() -> None:
    short = filled(capacity=40, num_envs=1, frame_stack=4, steps=10)
    long = fresh(80, 1, (4, 2, 3), 4)
    long.load_state_dict(short.state_dict())
    envs, slots = np.nonzero(long.complete)
    assert slots.tolist() == np.nonzero(short.complete)[1].tolist() and len(slots) == 10
    np.testing.assert_array_equal(long.observations(envs, slots), short.observations(envs, slots))


def test_a_state_holds_nothing_that_was_never_taken_in() -> None:
    """Environments are not filled evenly; where one has no frames yet, others' leftovers must not be saved."""
    for _ in range(20):
        _leave_garbage()
        replay = fresh(80, 2, (4, 2, 3), 4)
        for _ in range(3):
            replay.start(0, np.full((4, 2, 3), 9, dtype=np.uint8))
        frames: Any = replay.state_dict()["frames"]
        assert frames[0].all() and not frames[1].any()


def _leave_garbage() -> None:
    """Put bytes where an allocation of the same size is likely to find them."""
    for _ in range(4):
        np.full((2, 40, 1, 2, 3), 255, dtype=np.uint8)
