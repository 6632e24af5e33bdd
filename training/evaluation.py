"""Whole games, for a score: every game that is begun is finished, so that short games do not count too often."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from gymnasium.vector import VectorEnv

from agents.agent import Agent, Moment, Recurrent
from training.loop import Episode

Watch = Callable[[Moment], None]
"""Is told of every step of every game, after it was taken; agent and player are as they were when they acted."""


def play_games(
    agent: Agent, world: VectorEnv, seeds: Sequence[int] | np.ndarray, epsilon: float, watchers: Sequence[Watch] = ()
) -> list[Episode]:
    """Let `agent` play one game for each seed, side by side in the environments of `world`.

    One that is `Recurrent` plays through its player, all others by the observation alone.

    The games are fixed beforehand, and an environment whose game has ended takes the next one. To stop after so many
    ended games instead would leave out the long ones that are still running. In the end, environments for which no
    game is left idle along: the agent is not asked (a player is, in vain), and nothing is counted.

    Args:
        agent: is left as it was, but for its random generator.
        world: is left reset, between two games.
        seeds: of the games, `[games]`.
        epsilon: chance of a random action.
        watchers: see above.

    Returns:
        The games in the order of their seeds. Where `agent` acts on the observation alone, the number of environments
        changes only which random actions they are dealt.
    """
    seeds = np.asarray(seeds, dtype=np.int64)
    games = len(seeds)
    returns, lengths = np.zeros(games), np.zeros(games, dtype=np.int64)
    # Which game each environment plays. Beyond the last game it idles, in an episode that some seed must begin.
    game = np.arange(world.num_envs)
    player = agent.player(world.num_envs) if isinstance(agent, Recurrent) else None
    observations, infos = world.reset(seed=seeds[game % games])  # type: ignore[arg-type]
    while (playing := np.flatnonzero(game < games)).size:
        if player is not None:
            actions = player.act(observations, epsilon)
        else:
            actions = np.zeros(world.num_envs, dtype=np.int64)
            actions[playing] = agent.act(observations[playing], infos["state_hash"][playing], epsilon)
        before, hashes = observations, infos["state_hash"]
        observations, rewards, terminations, truncations, infos = world.step(actions)
        returns[game[playing]] += rewards[playing]
        lengths[game[playing]] += 1
        ended = terminations | truncations
        for env in playing.tolist() if watchers else ():
            moment = Moment(
                int(game[env]),
                before[env],
                hashes[env],
                int(actions[env]),
                float(rewards[env]),
                bool(ended[env]),
                env,
                player,
            )
            for watch in watchers:
                watch(moment)
        if player is not None:
            player.observe(rewards, ended)
        if ended.any():
            game[ended] = game.max() + 1 + np.arange(ended.sum())
            observations, infos = world.reset(seed=seeds[game[ended] % games], options={"reset_mask": ended})
    return [Episode(float(score), int(length)) for score, length in zip(returns, lengths, strict=True)]
