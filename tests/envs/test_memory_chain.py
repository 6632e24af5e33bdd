"""Memory chains against one in plain Python, and what playing them is worth."""

from __future__ import annotations

import numpy as np
import pydantic
import pytest

from envs import MemoryChainConfig, make, screens
from envs.array_world import split_mix


class PlainChain:
    """One chain, its observation put together from lists."""

    def __init__(self, seed: int, length: int, bits: int) -> None:
        drawn = split_mix(np.array([seed], dtype=np.uint64), np.arange(bits + 1)).tolist()
        self.length, self.time = length, 0
        self.asked = (drawn[0] >> 32) * bits >> 32
        self.bits = [draw >> 63 for draw in drawn[1:]]

    def look(self) -> list[list[int]]:
        is_first, is_last = self.time == 0, self.time == self.length - 1
        return [
            [int(255 * (1 - self.time / self.length) + 1e-9)] * len(self.bits),
            [255 * (is_last and place == self.asked) for place in range(len(self.bits))],
            [255 * (is_first and bit == 1) for bit in self.bits],
            [255 * (is_first and bit == 0) for bit in self.bits],
        ]

    def step(self, action: int) -> tuple[float, bool]:
        self.time += 1
        if self.time < self.length:
            return 0.0, False
        return (1.0 if action == self.bits[self.asked] else -1.0), True


@pytest.mark.parametrize(("length", "bits"), [(1, 1), (2, 5), (7, 1), (100, 3)])
def test_all_chains_do_what_one_in_plain_python_does(length: int, bits: int) -> None:
    world = make(MemoryChainConfig(length=length, bits=bits), 4)
    rng = np.random.default_rng(0)
    asked = set()
    for episode in range(12):
        seeds = [4 * episode + env for env in range(4)]
        plain = [PlainChain(seed, length, bits) for seed in seeds]
        observations, _ = world.reset(seed=seeds)
        for _ in range(length):
            assert world.observation_space.contains(observations)
            assert observations.tolist() == [[chain.look()] for chain in plain]
            actions = rng.integers(0, 2, 4)
            observations, rewards, terminations, truncations, _ = world.step(actions)
            expected = [chain.step(action) for chain, action in zip(plain, actions.tolist(), strict=True)]
            assert list(zip(rewards.tolist(), terminations.tolist(), strict=True)) == expected
            assert rewards.dtype == np.float64 and not truncations.any()
        assert terminations.all() and not observations.any()
        asked |= {chain.asked for chain in plain}
    assert asked == set(range(bits))


@pytest.mark.parametrize(("length", "bits"), [(30, 1), (2, 10)])
def test_remembering_comes_to_one_and_guessing_to_nothing(length: int, bits: int) -> None:
    world = make(MemoryChainConfig(length=length, bits=bits), 2_000)
    for remembers in (True, False):
        observations, _ = world.reset(seed=5)
        first, last = observations, observations
        for time in range(length):
            last = observations
            told = (first[:, 0, 2] & last[:, 0, 1]).any(axis=1).astype(int)
            actions = told if remembers and time == length - 1 else np.ones(2_000, dtype=int)
            observations, rewards, *_ = world.step(actions)
        if remembers:
            assert (rewards == 1.0).all()
        else:
            # Five standard errors of a fair coin.
            assert rewards.mean() == pytest.approx(0.0, abs=5 / np.sqrt(2_000))


def test_an_episode_depends_on_its_seed_alone() -> None:
    alone, among = (make(MemoryChainConfig(length=5, bits=3), num_envs) for num_envs in (1, 3))
    for seed in range(20):
        among.reset(seed=[100, 101, 102])
        kept, *_ = among.step(np.zeros(3, dtype=int))
        there = among.reset(seed=[seed], options={"reset_mask": np.array([False, True, False])})
        np.testing.assert_array_equal(there[0][[0, 2]], kept[[0, 2]])
        here = alone.reset(seed=[seed])
        for time in range(5):
            assert np.array_equal(here[0][0], there[0][1]) and here[1]["state_hash"][0] == there[1]["state_hash"][1]
            *step_here, infos_here = alone.step(np.array([1]))
            *step_there, infos_there = among.step(np.array([0, 1, 0]))
            assert all(one[0] == other[1] for one, other in zip(step_here[1:], step_there[1:], strict=True))
            here, there = (step_here[0], infos_here), (step_there[0], infos_there)
            if time == 3:
                assert step_there[2].tolist() == [True, False, True]
                there = among.reset(seed=[7, 8], options={"reset_mask": step_there[2]})


def test_screens_show_what_is_observed() -> None:
    video, plain = screens(MemoryChainConfig(length=2, bits=3)), PlainChain(3, 2, 3)
    for picture in (video.reset(3), video.step(1)):
        assert picture.shape == (128, 96, 3) and picture.dtype == np.uint8
        tiles = picture.reshape(4, 32, 3, 32, 3)[:, 5, :, 7]
        assert tiles.tolist() == [[[number] * 3 for number in row] for row in plain.look()]
        plain.step(1)


def test_what_a_world_says_of_itself() -> None:
    world = make(MemoryChainConfig(), 2)
    assert (world.frame_stack, world.frames_per_step, world.reveals_labels) == (1, 1, False)
    assert world.action_names == ("0", "1") and MemoryChainConfig(length=2, bits=8).title == "MemoryChain-2x8"


@pytest.mark.parametrize("option", ["length", "bits"])
def test_bad_options_are_refused(option: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=f"{option}\n.*greater than or equal to 1"):
        MemoryChainConfig.model_validate({option: 0})
