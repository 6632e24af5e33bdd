"""The protocol of an agent: what the training loop and the evaluator know of it, and what it knows of its world."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from memory.recollection import KeySpace, Recollection, SimilarMoments

Metrics = dict[str, float]


@dataclass(frozen=True)
class WorldSpec:
    """What an agent must know of a world to be built for it."""

    num_envs: int
    num_actions: int
    observation_shape: tuple[int, ...]
    observation_high: float
    """Largest value an observation holds; encoders divide by it."""
    frame_stack: int
    """How many leading channels slide by one from an observation to the next; 1 where nothing slides."""
    reveals_labels: bool = False
    """Whether transitions come with what the right action would have been."""


@dataclass(frozen=True)
class TaskSpec:
    """What a sequence model must know of a task to be built for it."""

    input_size: int
    """Length of an input; of words, how many there are."""
    target_size: int
    """Bits to be predicted at each step, or classes of which one is."""
    generative: bool = False
    """Whether an input is what was to be predicted the step before."""
    categorical: bool = False
    """Whether inputs and targets are numbers of words."""
    same_length: bool = False
    """Whether all batches are of as many steps."""


@dataclass(frozen=True)
class Transition:
    """One step of every environment, each field `[num_envs, ...]`.

    `next_observations` are what the step led to: where an episode ended, its true last observation. Rewards are
    unclipped. The environment's reset comes after, and reaches the agent as the next transition's `observations`.
    """

    observations: np.ndarray
    state_hashes: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray
    next_observations: np.ndarray
    labels: np.ndarray | None = None
    """What the right action would have been, int64, in worlds that reveal it after acting."""

    @property
    def ended(self) -> np.ndarray:
        """Where an episode ended, for either reason, bool `[num_envs]`."""
        return self.terminations | self.truncations

    def steps(self, step: int) -> np.ndarray:
        """The agent step of each environment, int64 `[num_envs]`, where there have been `step` with the last of them.

        One number names an observation of a run: no two environments share one.
        """
        return np.arange(step - len(self.actions), step) + 1


@dataclass(frozen=True)
class Moment:
    """One step of one game of an evaluation."""

    game: int
    """Its number, from 0."""
    observation: np.ndarray
    state_hash: np.uint64
    action: int
    """What was done about it."""
    reward: float
    """What that brought."""
    ended: bool
    """Whether it ended the game."""
    env: int = 0
    """Which of the games that are played side by side it is."""
    player: Player | None = None
    """Who acted; None where the agent did, by the observation alone."""


class NonFiniteError(ArithmeticError):
    """A loss, a gradient or a key ceased to be finite; it was not followed and not stored.

    Attributes:
        batch: the tensors that were being learned from, by name.
    """

    def __init__(self, message: str, batch: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.batch = dict(batch)


class Agent(Protocol):
    """Five methods, and everything that changes while it runs is in its state."""

    def act(self, observations: np.ndarray, state_hashes: np.ndarray, epsilon: float | None = None) -> np.ndarray:
        """Choose an action for each of a batch of observations.

        With `epsilon` given, act as in an evaluation: with that chance of a random action, and without leaving a
        trace in the agent but in its random generator. The batch may then have any size; without, it holds one
        observation of each environment, and `observe` must follow.

        Args:
            observations: uint8 `[batch, *observation_shape]`.
            state_hashes: uint64 `[batch]`, equal for states that are the same.

        Returns:
            int64 `[batch]`.
        """
        ...

    def observe(self, transition: Transition) -> None:
        """Take in what the actions just chosen led to."""
        ...

    def learn(self) -> Metrics | None:
        """Do one piece of learning that is due and return its metrics; None when nothing is due.

        Raises:
            NonFiniteError: where learning would follow what is not finite, or has come to what is not.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes while the agent runs, as nested dicts and lists of arrays, tensors and numbers."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        ...


class Player(Protocol):
    """Plays games side by side, and remembers of each what has happened in it."""

    def act(self, observations: np.ndarray, epsilon: float) -> np.ndarray:
        """Choose an action for each game, with chance `epsilon` a random one; `observe` must follow.

        Args:
            observations: uint8 `[num_games, *observation_shape]`.
            epsilon: a chance.

        Returns:
            int64 `[num_games]`.
        """
        ...

    def observe(self, rewards: np.ndarray, ended: np.ndarray) -> None:
        """Take in the unclipped rewards of the actions just chosen, and whether they ended a game, each `[num_games]`.

        The next observation of a game that ended is another game's first.
        """
        ...


@runtime_checkable
class Recurrent(Protocol):
    """An agent that acts by more than the observation, and so must be followed through whole games."""

    def player(self, num_games: int) -> Player:
        """Somebody who plays as the agent would now; the agent does not notice, not even in its random generator."""
        ...


@runtime_checkable
class Recollecting(Protocol):
    """An agent, or a player, that can tell which memories it acts by."""

    def recollect(
        self, observation: np.ndarray, state_hash: np.uint64, most: int, env: int = 0
    ) -> Recollection | SimilarMoments:
        """What acting on one observation would rest on at this moment; leaves the agent as it is.

        Args:
            observation: uint8 `observation_shape`.
            state_hash: of it.
            most: memories to list for each action; in all, where they speak for none.
            env: whose observation it is, for those who remember what went before it.
        """
        ...


@runtime_checkable
class Remembering(Recollecting, Protocol):
    """An agent that can tell which memories it acts by, and which it has."""

    def key_space(self, most: int) -> KeySpace:
        """At most so many of its memories, as points."""
        ...


@runtime_checkable
class Illustrated(Protocol):
    """An agent that has something to show."""

    def pictures(self) -> Mapping[str, np.ndarray]:
        """Observations to be shown, uint8 `[rows, columns, *observation_shape]` by tag; leaves the agent as it is."""
        ...
