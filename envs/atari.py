"""Atari 2600 games: stacked grey screens 84 x 84, as in Mnih et al. (2015), many games in parallel.

The emulators run in threads of their own (`ale_py.AtariVectorEnv`). Its way of restarting ended games by itself costs
a step whose action is ignored; here the caller resets them with a mask, which avoids that step. The price: a seeded
reset loads the game anew, about 0.1 s (an unseeded one 5 ms, but no episode could ever be played again); it is paid in
the background where the seed was expected.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal, cast

import numpy as np
import pydantic
from ale_py import ALEInterface, AtariVectorEnv, roms
from gymnasium.spaces import Box

from envs.emulators import Emulators
from envs.world import Infos, Screens, World, hash_each, misspelt

_SCREEN = (84, 84)
_COLOUR_SCREEN = (210, 160)


class AtariConfig(pydantic.BaseModel):
    """An Atari game; by default with no-op starts and without sticky actions, as before Machado et al. (2018)."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    name: Literal["atari"] = "atari"
    """The world."""
    game: str = "pong"
    """The game, by its ROM's name: ms_pacman, qbert, ..."""
    frame_skip: int = pydantic.Field(default=4, ge=1, le=1_000)
    """Frames that an action is held for; the screen is the maximum of the last two."""
    frame_stack: int = pydantic.Field(default=4, ge=1, le=4)
    """Screens in an observation, the newest last; before an episode's first screen they are black."""
    sticky_actions: float = pydantic.Field(default=0.0, ge=0.0, lt=1.0)
    """Probability, at every frame, that the emulator repeats the action before (Machado et al. 2018: 0.25)."""
    no_op_max: int = pydantic.Field(default=30, ge=0, lt=2**31)
    """An episode begins with 0 to this many frames in which nothing is done, drawn by its seed."""
    full_action_space: bool = False
    """All 18 actions of the joystick, instead of those that make a difference in the game."""
    fire_on_reset: bool = False
    """Press fire at the beginning of an episode, in games that have it."""
    life_loss_ends_episode: bool = False
    """Report a lost life (`infos["life_lost"]`), for the agent to end its episode; the game and its score go on."""
    max_frames_per_episode: int = pydantic.Field(default=108_000, ge=1, lt=2**31)
    """Frames after which an episode is truncated; 108,000 are half an hour of play."""

    @property
    def title(self) -> str:
        """What the world is called."""
        return self.game

    @pydantic.field_validator("game")
    @classmethod
    def _known(cls, game: str) -> str:
        if game not in _games():
            raise ValueError(misspelt("Atari game", game, _games()))
        return game


@functools.cache
def _games() -> list[str]:
    # The emulator ships four cartridges that it cannot play (games for two), and would end the process on them.
    return [game for game in roms.get_all_rom_ids() if ALEInterface.isSupportedROM(str(roms.get_rom_path(game)))]


def make_atari(config: AtariConfig, num_envs: int) -> Atari:
    """Build the world of a game, `num_envs` times in parallel (16 to 32 are the fastest per step)."""
    return Atari(config, num_envs)


def atari_screens(config: AtariConfig) -> Screens:
    """The game's own pictures, uint8 `[210, 160, 3]`, sticky actions included; higher ones are scaled to that."""
    return Screens(Atari(config, num_envs=1, colour=True), lambda observation: observation[-1])


class Atari(World):
    """Games of Atari; an episode is one whole game.

    Observations are uint8 `[num_envs, frame_stack, 84, 84]`, rewards the game's own points. An episode is a function
    of its seed and its actions: neither its place among the environments nor what was played there before matters.
    Seeds are taken modulo 2^31, which is all that the emulator can tell apart.

    The emulators do not read the frame on which an episode ends: the newest screen of its last observation is the one
    before, joined with the last frame but one if the step got that far.

    Infos, all `[num_envs]`: `state_hash` uint64, of the stacked observation; `lives` int32; `life_lost` bool, whether
    the step cost a life and the game goes on (never if `life_loss_ends_episode` is off).

    Args:
        config: the game.
        num_envs: games in parallel.
        colour: observations are true-colour pictures uint8 `[num_envs, 1, 210, 160, 3]` instead.
    """

    def __init__(self, config: AtariConfig, num_envs: int, *, colour: bool = False) -> None:
        height, width = _COLOUR_SCREEN if colour else _SCREEN
        self.frame_stack = 1 if colour else config.frame_stack
        self.frames_per_step = config.frame_skip
        make = functools.partial(
            AtariVectorEnv,
            config.game,
            num_envs=1,
            img_height=height,
            img_width=width,
            grayscale=not colour,
            stack_num=self.frame_stack,
            frameskip=config.frame_skip,
            repeat_action_probability=config.sticky_actions,
            # It draws from as many numbers as it is told, beginning with 0.
            noop_max=config.no_op_max + 1,
            use_fire_reset=config.fire_on_reset,
            full_action_space=config.full_action_space,
            max_num_frames_per_episode=config.max_frames_per_episode,
            # On by default, and no information would bring the game's own points back.
            reward_clipping=False,
        )
        self._emulators = Emulators(make, num_envs)
        emulator = self._emulators.any
        action_names = [action.name.lower() for action in emulator.ale.get_action_set()]
        super().__init__(num_envs, cast(Box, emulator.single_observation_space), action_names)
        self._reports_life_loss = config.life_loss_ends_episode
        self._lives = np.zeros(num_envs, dtype=np.int32)

    def expect(self, seeds: Sequence[int]) -> None:
        self._emulators.expect([_emulators_seed(seed) for seed in seeds])

    def close_extras(self, **_: object) -> None:
        """Let the threads go."""
        self._emulators.close()

    def _begin(self, mask: np.ndarray, seeds: list[int]) -> tuple[np.ndarray, Infos]:
        emulator_seeds = [_emulators_seed(seed) for seed in seeds]
        observations, self._lives = self._emulators.begin(np.flatnonzero(mask), emulator_seeds)
        return observations, self._infos(observations, np.zeros(self.num_envs, dtype=bool))

    def _advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Infos]:
        observations, points, terminations, truncations, lives = self._emulators.step(actions.astype(np.int64))
        life_lost = (lives < self._lives) & ~terminations & self._reports_life_loss
        self._lives = lives
        return observations, points.astype(np.float64), terminations, truncations, self._infos(observations, life_lost)

    def _infos(self, observations: np.ndarray, life_lost: np.ndarray) -> Infos:
        return {"state_hash": hash_each(observations), "lives": self._lives, "life_lost": life_lost}


def _emulators_seed(seed: int) -> int:
    return int(seed) % 2**31
