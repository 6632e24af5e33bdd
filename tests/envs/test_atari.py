"""Atari against the plain emulator, frame by frame, and against itself: what an episode may depend on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pydantic
import pytest
import xxhash
from ale_py import ALEInterface, LoggerMode, roms
from gymnasium.vector import AutoresetMode

from envs import AtariConfig, make, screens
from envs.world import World

ALEInterface.setLoggerMode(LoggerMode.Error)


class Moment(NamedTuple):
    """What the plain emulator shows after a step."""

    grey: np.ndarray
    colour: np.ndarray
    reward: int
    over: bool
    lives: int


def plain_play(config: AtariConfig, seed: int, actions: np.ndarray) -> Iterator[Moment]:
    """Play on the emulator itself, without no-op starts; the first moment is that before any action."""
    ale = ALEInterface()
    ale.setFloat("repeat_action_probability", config.sticky_actions)
    ale.setInt("random_seed", seed)
    rom = roms.get_rom_path(config.game)
    assert rom is not None
    ale.loadROM(rom)
    ale.reset_game()
    yield Moment(ale.getScreenGrayscale(), ale.getScreenRGB(), 0, False, ale.lives())
    meanings = ale.getMinimalActionSet()
    for action in actions:
        grey, colour, reward = [], [], 0
        for _ in range(config.frame_skip):
            reward += ale.act(meanings[action])
            grey.append(ale.getScreenGrayscale())
            colour.append(ale.getScreenRGB())
            if ale.game_over():
                break
        yield Moment(np.max(grey[-2:], axis=0), np.max(colour[-2:], axis=0), reward, ale.game_over(), ale.lives())


def shrunk(screen: np.ndarray) -> np.ndarray:
    """A screen `[210, 160]` averaged over 84 x 84 equal areas: 2.5 rows and 40/21 columns in each."""
    rows = screen.repeat(2, axis=0).reshape(84, 5, 160).mean(axis=1)
    return rows.repeat(21, axis=1).reshape(84, 84, 40).mean(axis=2)


STICKY = AtariConfig(game="breakout", sticky_actions=0.25)


@pytest.fixture(scope="module")
def pair() -> World:
    """Two games at once, for the tests that need no other setting: each begins with a reset of both."""
    return make(STICKY, 2)


def random_actions(world: World, steps: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, world.single_action_space.n, (steps, world.num_envs))


def play(world: World, actions: np.ndarray) -> list[tuple[np.ndarray, ...]]:
    """Observations, rewards, terminations and hashes of an unbroken stretch of steps."""
    history: list[tuple[np.ndarray, ...]] = []
    for action in actions:
        observations, rewards, terminations, truncations, infos = world.step(action)
        assert not truncations.any()
        history.append((observations, rewards, terminations, infos["state_hash"]))
    return history


def alike(one: list[tuple[np.ndarray, ...]], other: list[tuple[np.ndarray, ...]], first: int, second: int) -> bool:
    """Whether environment `first` of one history saw the same as environment `second` of another."""
    return len(one) == len(other) and all(
        np.array_equal(a[first], b[second]) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)
    )


@pytest.mark.parametrize("sticky", [0.0, 0.25])
def test_a_whole_game_is_the_plain_emulators(sticky: float) -> None:
    config = AtariConfig(game="ms_pacman", sticky_actions=sticky, no_op_max=0)
    world = make(config, 1)
    actions = random_actions(world, 1000)[:, 0]
    observations, infos = world.reset(seed=[11])
    assert not observations[0, :-1].any()
    score = plain_score = 0.0
    for step, moment in enumerate(plain_play(config, 11, actions)):
        if step:
            observations, rewards, terminations, truncations, infos = world.step(actions[step - 1 : step])
            score += rewards[0]
            plain_score += moment.reward
            assert rewards.dtype == np.float64 and rewards[0] == moment.reward
            assert terminations[0] == moment.over and not truncations[0]
        assert infos["lives"][0] == moment.lives
        assert infos["state_hash"][0] == xxhash.xxh3_64_intdigest(observations[0].tobytes())
        if moment.over:
            break
        assert np.abs(observations[0, -1] - shrunk(moment.grey)).max() < 0.51
    assert moment.over and score == plain_score and score >= 100


def test_an_episode_depends_on_its_seed_and_actions_alone(pair: World) -> None:
    alone = make(STICKY, 1)
    actions = random_actions(pair, 140)
    pair.reset(seed=[1, 2])
    play(pair, actions[:40])
    first, _ = pair.reset(seed=[77], options={"reset_mask": np.array([False, True])})
    there = play(pair, actions[40:])
    again, _ = alone.reset(seed=77)
    assert np.array_equal(first[1], again[0])
    here = play(alone, actions[40:, 1:])
    assert alike(here, there, 0, 1)
    alone.reset(seed=78)
    assert not alike(play(alone, actions[40:, 1:]), here, 0, 0)


def test_a_masked_reset_leaves_the_others_alone(pair: World) -> None:
    actions = random_actions(pair, 100)
    pair.reset(seed=[4, 5])
    undisturbed = play(pair, actions)
    pair.reset(seed=[4, 5])
    observations, _, _, hashes = play(pair, actions[:60])[-1]
    begun, infos = pair.reset(seed=[9], options={"reset_mask": np.array([False, True])})
    assert np.array_equal(begun[0], observations[0]) and infos["state_hash"][0] == hashes[0]
    assert not np.array_equal(begun[1], observations[1]) and infos["lives"][1] == 5
    after = play(pair, actions[60:])
    assert alike(after, undisturbed[60:], 0, 0) and not alike(after, undisturbed[60:], 1, 1)


def test_expected_episodes_are_those_that_nobody_expected() -> None:
    config = AtariConfig(game="breakout", sticky_actions=0.25, no_op_max=5)
    plain, told = make(config, 3), make(config, 3)
    actions = random_actions(plain, 60)
    # Begun in the background and taken; expected in vain; two at once; by spares that played before; not expected.
    rounds = [
        ([[31]], [False, True, False]),
        ([[32, 33]], [True, False, False]),
        ([[34, 35]], [True, False, True]),
        ([[36, 37], [36]], [False, True, False]),
        ([], [True, True, True]),
    ]
    for world in (plain, told):
        world.reset(seed=[1, 2, 3])
    seeds = iter([31, 33, 34, 35, 36, 41, 42, 43])
    for (expectations, mask), some in zip(rounds, np.split(actions, 5), strict=True):
        for expected in expectations:
            told.expect(expected)
        one, other = play(plain, some), play(told, some)
        assert all(alike(one, other, game, game) for game in range(3))
        begin = {"seed": list(itertools.islice(seeds, sum(mask))), "options": {"reset_mask": np.array(mask)}}
        (first, infos), (second, other_infos) = plain.reset(**begin), told.reset(**begin)
        assert np.array_equal(first, second)
        assert all(np.array_equal(infos[name], other_infos[name]) for name in infos)
    one, other = play(plain, actions), play(told, actions)
    assert all(alike(one, other, game, game) for game in range(3))
    told.close()


@pytest.mark.parametrize("reported", [True, False])
def test_a_lost_life_does_not_end_the_game(reported: bool) -> None:
    world = make(AtariConfig(game="breakout", life_loss_ends_episode=reported), 1)
    _, infos = world.reset(seed=[3])
    assert infos["life_lost"].dtype == bool and not infos["life_lost"].any()
    lives, lost, terminated = [5], [], False
    for action in random_actions(world, 1000):
        _, _, terminations, _, infos = world.step(action)
        lives.append(int(infos["lives"][0]))
        lost.append(bool(infos["life_lost"][0]))
        terminated = bool(terminations[0])
        if terminated:
            break
    assert terminated and lives[-1] == 0
    falls = [after < before and after > 0 for before, after in itertools.pairwise(lives)]
    assert sum(falls) == 4
    assert lost == (falls if reported else [False] * len(falls))


@pytest.mark.parametrize("frame_stack", [1, 3])
def test_the_stack_slides_by_one_screen(frame_stack: int) -> None:
    world = make(AtariConfig(game="breakout", frame_stack=frame_stack), 1)
    before, _ = world.reset(seed=[1])
    assert world.frame_stack == frame_stack and before.shape == (1, frame_stack, 84, 84)
    changed = False
    for observations, *_ in play(world, random_actions(world, 40)):
        assert np.array_equal(observations[:, :-1], before[:, 1:])
        changed |= not np.array_equal(observations[:, -1], before[:, -1])
        before = observations
    assert changed


def test_no_op_starts_are_the_frames_from_none_to_the_most() -> None:
    world = make(AtariConfig(game="ms_pacman", no_op_max=2), 8)
    observations, _ = world.reset(seed=0)
    one_frame = AtariConfig(game="ms_pacman", frame_skip=1)
    frames = [moment.grey for moment in plain_play(one_frame, 0, np.zeros(3, dtype=int))]
    distances = [[np.abs(seen[-1] - shrunk(frame)).max() for frame in frames] for seen in observations]
    assert np.min(distances, axis=1).max() < 0.51
    assert set(np.argmin(distances, axis=1)) == {0, 1, 2}


def test_screens_show_the_same_episode_in_colour() -> None:
    config = AtariConfig(game="breakout", sticky_actions=0.25, no_op_max=0)
    colour = screens(config)
    actions = np.random.default_rng(0).integers(0, 4, 120)
    for step, moment in enumerate(plain_play(config, 21, actions)):
        picture = colour.step(int(actions[step - 1])) if step else colour.reset(21)
        assert picture.dtype == np.uint8 and np.array_equal(picture, moment.colour)


def test_an_ended_game_is_not_stepped_until_it_is_reset() -> None:
    world = make(AtariConfig(game="breakout", max_frames_per_episode=32), 2)
    with pytest.raises(RuntimeError, match=r"environments \[0, 1\]"):
        world.step(np.zeros(2, dtype=int))
    with pytest.raises(RuntimeError, match="first reset"):
        world.reset(seed=[1], options={"reset_mask": np.array([True, False])})
    world.reset(seed=[1, 2])
    for _ in range(4):
        world.step(np.zeros(2, dtype=int))
    world.reset(seed=[3], options={"reset_mask": np.array([False, True])})
    for step in range(4):
        _, _, terminations, truncations, _ = world.step(np.zeros(2, dtype=int))
        assert not terminations.any() and truncations.tolist() == [step == 3, False]
    with pytest.raises(RuntimeError, match=r"environments \[0\]"):
        world.step(np.zeros(2, dtype=int))
    world.reset(seed=[4], options={"reset_mask": truncations})
    world.step(np.zeros(2, dtype=int))


def test_wrong_actions_and_seeds_are_refused(pair: World) -> None:
    pair.reset(seed=[1, 2])
    for seed in ([1], [1, 2, 3], [1, -2], -1):
        with pytest.raises(ValueError, match="seed"):
            pair.reset(seed=seed)
    for actions in (np.array([0, 4]), np.array([-1, 0]), np.zeros(3, dtype=int), np.zeros(2)):
        with pytest.raises(ValueError, match="actions"):
            pair.step(actions)
    for mask in (np.array([1, 0]), np.array([True])):
        with pytest.raises(ValueError, match="reset_mask"):
            pair.reset(seed=[1], options={"reset_mask": mask})


def test_seeds_of_any_size_and_of_none(pair: World) -> None:
    actions = random_actions(pair, 30)

    def played(seed: int | list[int] | None) -> list[tuple[np.ndarray, ...]]:
        pair.reset(seed=seed)
        return play(pair, actions)

    small = played([5, 6])
    for seed in ([2**63 + 5, 2**40 + 6], 5):
        same = played(seed)
        assert alike(same, small, 0, 0) and alike(same, small, 1, 1)
    drawn = played(None)
    pair.reset(seed=5)
    assert alike(played(None), drawn, 0, 0)
    assert not alike(drawn, small, 0, 0)


def test_the_spaces_hold_what_comes() -> None:
    world = make(AtariConfig(game="breakout", full_action_space=True, frame_skip=2), 1)
    observations, _ = world.reset(seed=[1])
    assert world.observation_space.contains(observations)
    assert world.single_observation_space.contains(world.step(np.array([17]))[0][0])
    assert world.single_action_space.n == 18 and world.action_space.contains(np.array([17]))
    assert world.metadata["autoreset_mode"] == AutoresetMode.DISABLED
    assert world.frames_per_step == 2


@pytest.mark.parametrize(("wrong", "right"), [("MsPacman", "ms_pacman"), ("qbret", "qbert"), ("combat", "adventure")])
def test_a_misspelt_game_is_answered_with_the_nearest(wrong: str, right: str) -> None:
    with pytest.raises(pydantic.ValidationError) as caught:
        AtariConfig(game=wrong)
    message = caught.value.errors()[0]["msg"]
    assert repr(wrong) in message and right in message and "\n" not in message
