"""Recurrent PPO that can tell what it remembers, where its core is a memory that says what it writes and reads: an MNM.

It keeps the keys and values that were written in the running episode of each environment, and compares with them what
would be read at the next observation. Of other cores it is `RecurrentPPO` that is built here.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch

from agents.actor_critic import Games, make_actor_critic
from agents.agent import Transition, WorldSpec
from agents.cores import MNMConfig, make_core
from agents.recurrent_ppo import Player, RecurrentPPO, RecurrentPPOConfig
from agents.rollout import Rollout
from memory.neural import MNM
from memory.neural.recollecting import WrittenMoments, similar_moments
from memory.recollection import KeySpace, SimilarMoments


class Diary:
    """What games over an MNM wrote in their running episodes, and which of it they would recall."""

    def __init__(self, games: Games) -> None:
        core = games.network.core
        assert isinstance(core, MNM), "of other cores it is not known what a read recalls"
        self.games = games
        self.moments = WrittenMoments(len(games.begins), core.heads, core.width)

    def append(self, ended: np.ndarray) -> None:
        """Take in the step that the games have just advanced by, and whether it ended them, bool `[games]`."""
        keys, values = (tensor.cpu().numpy() for tensor in (self.games.state.write_keys, self.games.state.write_values))
        self.moments.append(keys, values, ended)

    def recollect(self, observation: np.ndarray, most: int, game: int) -> SimilarMoments:
        """The moments of a game's episode that a read at its next observation would recall, `most` of them."""
        log_probabilities, state = self.games.glance(observation, game)
        read_key, read = state.read_keys[0].cpu().numpy(), state.reads[0].cpu().numpy()
        return similar_moments(np.exp(log_probabilities), read_key, read, *self.moments.of(game), most)


class RecollectingPPO(RecurrentPPO):
    """Recurrent PPO over an MNM, which tells which moments of the episode it recalls."""

    @functools.cached_property
    def diary(self) -> Diary:
        """Of the games it learns from."""
        return Diary(self.games)

    def observe(self, transition: Transition) -> None:
        super().observe(transition)
        self.diary.append(transition.ended)

    def recollect(self, observation: np.ndarray, state_hash: np.uint64, most: int, env: int = 0) -> SimilarMoments:
        """Which moments of an environment's episode acting on its next observation would recall."""
        return self.diary.recollect(observation, most, env)

    def key_space(self, most: int) -> KeySpace:
        """Some moments of the running episodes, evenly spaced, by the keys written in them, heads one after another."""
        num_envs = len(self.games.begins)
        keys, origins = [], []
        for env in range(num_envs):
            written, _ = self.diary.moments.of(env)
            keys.append(written.reshape(len(written), written.shape[1] * written.shape[2]))
            # The last step of this environment, and back from there.
            last = self.step - num_envs + env + 1
            origins.append(last - num_envs * np.arange(len(written))[::-1])
        every = max(1, -(-sum(map(len, keys)) // most))
        steps = np.concatenate(origins)[::every]
        return KeySpace(np.concatenate(keys)[::every], steps, steps)

    def player(self, num_games: int) -> RecollectingPlayer:
        """As of every recurrent PPO; it remembers the games that it plays."""
        return RecollectingPlayer(self.network, num_games, super().player(num_games).rng, self.config)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "moments": self.diary.moments.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.diary.moments.load_state_dict(state["moments"])


class RecollectingPlayer(Player):
    """Plays games over an MNM, and tells which moments of each it recalls."""

    @functools.cached_property
    def diary(self) -> Diary:
        """Of the games it plays."""
        return Diary(self.games)

    def observe(self, rewards: np.ndarray, ended: np.ndarray) -> None:
        super().observe(rewards, ended)
        self.diary.append(ended)

    def recollect(self, observation: np.ndarray, state_hash: np.uint64, most: int, env: int = 0) -> SimilarMoments:
        """Which moments of a game acting on its next observation would recall."""
        return self.diary.recollect(observation, most, env)


def make_recurrent_ppo(
    config: RecurrentPPOConfig, world: WorldSpec, rng: np.random.Generator, device: str
) -> RecurrentPPO:
    """Build the agent for a world, one that can tell what it remembers where its core can.

    Raises:
        ValueError: if there are more minibatches than sequences, or on sizes of the core that do not fit one another.
    """
    sequences = world.num_envs * (config.rollout // config.window)
    if config.minibatches > sequences:
        raise ValueError(
            f"minibatches must be at most {sequences}, the sequences in a rollout of {config.rollout} steps of "
            f"{world.num_envs} environments, got {config.minibatches}"
        )
    network = make_actor_critic(
        world,
        lambda input_size: make_core(config.core, input_size),
        config.features,
        feedback=config.feedback,
        readout_hidden=config.readout_hidden,
        normalise=config.normalise_observations,
        compiled=config.compiled,
    ).to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=config.learning_rate, eps=config.adam_epsilon, fused=True)
    columns = {
        "observations": (world.observation_shape, np.uint8),
        "previous_actions": ((), np.int64),
        "previous_rewards": ((), np.float32),
        "begins": ((), bool),
        "actions": ((), np.int64),
        "rewards": ((), np.float64),
        "terminations": ((), bool),
        "ended": ((), bool),
        "log_probabilities": ((), np.float32),
        "values": ((), np.float32),
        "next_values": ((), np.float32),
    }
    rollout = Rollout[Any](config.rollout, config.window, world.num_envs, columns)
    kind = RecollectingPPO if isinstance(config.core, MNMConfig) else RecurrentPPO
    return kind(network, optimiser, rollout, world.num_envs, rng, config)
