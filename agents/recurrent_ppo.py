"""Proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347) over any recurrent core, or over none.

An actor-critic that remembers in the state of its core alone. With one epoch and one minibatch it is advantage
actor-critic (A2C): of the policy that acted, the clipped objective has A2C's gradient (Huang et al. 2022,
arXiv 2205.09123).
"""

from __future__ import annotations

import copy
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from agents.actor_critic import ActorCritic, Games, Inputs, draw
from agents.agent import Metrics, Transition
from agents.cores import AnyCoreConfig, GRUConfig
from agents.finite import check_finite
from agents.optimisers import load_optimiser
from agents.rollout import Rollout, generalised_advantages
from agents.statistics import MeanMetrics
from memory.neural import map_states


class RecurrentPPOConfig(BaseModel):
    """Proximal policy optimisation over a recurrent core; A2C with one epoch and one minibatch."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    name: Literal["recurrent_ppo"] = "recurrent_ppo"
    """Which agent this is."""
    core: AnyCoreConfig = GRUConfig(hidden=128)
    """What remembers."""
    features: int = Field(128, ge=1)
    """Units of the encoder's output."""
    normalise_observations: bool = False
    """Bring each number of an observation to a mean of 0 and a deviation of 1, over all observations so far. What is
    rarely seen is then as loud as what is always there."""
    feedback: bool = True
    """Whether the core is told the action of the step before, and its reward, clipped to [-1, 1]."""
    readout_hidden: int = Field(0, ge=0)
    """Units of a layer between the core's output and each of policy and value; 0: both are linear in it. What two
    things together decide, such as a cue that was seen and what is seen now, is more easily learned with one."""
    rollout: int = Field(128, ge=1)
    """Steps of every environment for each update."""
    truncation: int | None = Field(None, ge=1)
    """Steps through which gradients flow; the rollout is a multiple of it. Empty: the whole rollout."""
    epochs: int = Field(4, ge=1)
    """Passes over a rollout."""
    minibatches: int = Field(1, ge=1)
    """Parts of a rollout, of whole sequences, that a gradient is followed of in a pass."""
    learning_rate: float = Field(1e-3, gt=0.0)
    """Of Adam, at first."""
    anneal_steps: int = Field(0, ge=0)
    """Agent steps in which the learning rate falls to 0 in a straight line; 0: it stays."""
    adam_epsilon: float = Field(1e-5, gt=0.0)
    """What Adam adds to the root of the mean squared gradient."""
    gradient_norm: float = Field(0.5, gt=0.0)
    """Longer gradients are scaled down to this length."""
    discount: float = Field(0.99, ge=0.0, le=1.0)
    """Discount for each step."""
    gae_lambda: float = Field(0.95, ge=0.0, le=1.0)
    """How much advantages lean on rewards (1) rather than on values (0)."""
    reward_scale: float = Field(1.0, gt=0.0)
    """Factor of the rewards that are learned from, and of those the core is told; scores are never scaled."""
    clip_rewards: bool = False
    """Learn from rewards clipped to [-1, 1], once scaled; scores are never clipped."""
    clip: float = Field(0.2, gt=0.0)
    """How far the ratio of an action's new chance to its old may come from 1 before its gradient is 0."""
    value_weight: float = Field(0.5, ge=0.0)
    """Factor of half the values' mean squared error."""
    entropy_weight: float = Field(0.01, ge=0.0)
    """Factor of the policy's entropy, which is rewarded."""
    normalise_advantages: bool = False
    """Scale the advantages of a rollout to a mean of 0 and a deviation of 1. Where rewards are rare, what is scaled up
    is noise: the policy loses its entropy before it finds any."""
    greedy: bool = False
    """In evaluations, take the likeliest action rather than one drawn by the policy."""
    compiled: int = Field(0, ge=0)
    """Steps of the core that torch compiles into one call: a minute or more at the start, and more with every step,
    then faster. More than 1 pays where episodes seldom begin: where one does in any environment, a call ends. 0: none.
    Numbers round otherwise than without."""

    @property
    def window(self) -> int:
        """Steps through which gradients flow."""
        return self.truncation or self.rollout

    @model_validator(mode="after")
    def _in_windows(self) -> Self:
        if self.rollout % self.window:
            raise ValueError(f"rollout must be a multiple of truncation, got {self.rollout} and {self.truncation}")
        return self


class RecurrentPPO:
    """Acts by a policy over a core's state, and follows its clipped gradient after every rollout."""

    def __init__(
        self,
        network: ActorCritic,
        optimiser: torch.optim.Optimizer,
        rollout: Rollout[Any],
        num_envs: int,
        rng: np.random.Generator,
        config: RecurrentPPOConfig,
    ) -> None:
        self.network = network
        self.optimiser = optimiser
        self.rollout = rollout
        self.games = Games(network, num_envs)
        self.rng = rng
        self.config = config
        self.step = 0
        self._seen = np.zeros(0), np.zeros(0)

    def act(self, observations: np.ndarray, state_hashes: np.ndarray, epsilon: float | None = None) -> np.ndarray:
        """As in the protocol; with `epsilon`, each observation is acted on as an episode's first."""
        if epsilon is not None:
            return Player(self.network, len(observations), self.rng, self.config).act(observations, epsilon)
        self._seen = self.games.see(observations)
        return draw(self._seen[0], self.rng)

    def observe(self, transition: Transition) -> None:
        self.step += len(transition.actions)
        log_probabilities, values = self._seen
        told = self.config.reward_scale * transition.rewards
        clipped = np.clip(told, -1, 1)
        next_values = np.zeros_like(values)
        if transition.truncations.any() or self.rollout.length + 1 == self.rollout.steps:
            next_values = self.games.foresee(transition.next_observations, transition.actions, clipped)
        self.rollout.append(
            self.games.state,
            observations=transition.observations,
            **self.games.before(),
            actions=transition.actions,
            rewards=clipped if self.config.clip_rewards else told,
            terminations=transition.terminations,
            ended=transition.ended,
            log_probabilities=np.take_along_axis(log_probabilities, transition.actions[:, None], axis=1)[:, 0],
            values=values,
            next_values=next_values,
        )
        self.games.advance(transition.actions, clipped, transition.ended)

    def learn(self) -> Metrics | None:
        """Do all the learning that a rollout is for once it is full."""
        if self.rollout.length < self.rollout.steps:
            return None
        metrics = self._update()
        self.rollout.clear()
        return metrics

    def player(self, num_games: int) -> Player:
        """Somebody who plays games beside the training, which goes on as if there had been none."""
        # A stream apart, which where training's generator stands decides, and does not move.
        seed = copy.deepcopy(self.rng).integers(2**63)
        return Player(self.network, num_games, np.random.default_rng(seed), self.config)

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "rng": self.rng.bit_generator.state,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "games": self.games.state_dict(),
            "rollout": self.rollout.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.rng.bit_generator.state = state["rng"]
        self.network.load_state_dict(state["network"])
        load_optimiser(self.optimiser, state["optimiser"])
        self.games.load_state_dict(state["games"])
        self.rollout.load_state_dict(state["rollout"], self.games.state)

    def _update(self) -> Metrics:
        if self.config.anneal_steps:
            left = max(0.0, 1 - self.step / self.config.anneal_steps)
            self.optimiser.param_groups[0]["lr"] = self.config.learning_rate * left
        advantages, returns, metrics = self._advantages()
        columns = {**self.rollout.columns, "advantages": advantages, "returns": returns}
        device = self.network.actions.device
        batch = {
            name: torch.as_tensor(self.rollout.in_windows(columns[name]), device=device)
            for name in (*Inputs._fields, "actions", "log_probabilities", "advantages", "returns")
        }
        state = self.rollout.first_states()
        means = MeanMetrics()
        for _ in range(self.config.epochs):
            order = self.rng.permutation(batch["actions"].shape[1])
            for part in np.array_split(order, self.config.minibatches):
                sequences = torch.as_tensor(part, device=device)
                drawn = {name: tensor[:, sequences] for name, tensor in batch.items()}
                means.add(self._follow(drawn, map_states(lambda field, rows=sequences: field[rows], state)))
        # After all passes, so that the policy that is compared with is the one that acted.
        self.network.encoder.meet(batch["observations"].flatten(0, 1))
        return {**metrics, **means.flush()}

    def _advantages(self) -> tuple[np.ndarray, np.ndarray, Metrics]:
        """Of the rollout `[rollout, num_envs]`, advantages and the returns that values are to become, both float32."""
        columns = self.rollout.columns
        values, ended = columns["values"].astype(np.float64), columns["ended"]
        next_values = columns["next_values"].astype(np.float64)
        next_values[:-1] = np.where(ended[:-1], next_values[:-1], values[1:])
        advantages = generalised_advantages(
            columns["rewards"],
            values,
            next_values,
            columns["terminations"],
            ended,
            self.config.discount,
            self.config.gae_lambda,
        )
        returns = advantages + values
        metrics = {
            "charts/value": float(values.mean()),
            "charts/explained_variance": float(1 - advantages.var() / max(returns.var(), 1e-12)),
            "charts/learning_rate": float(self.optimiser.param_groups[0]["lr"]),
        }
        if self.config.normalise_advantages:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        return advantages.astype(np.float32), returns.astype(np.float32), metrics

    def _follow(self, batch: dict[str, Tensor], state: Any) -> Metrics:
        """One step of the optimiser on some sequences `[window, sequences, ...]`, from the states they began in."""
        inputs = Inputs(*(batch[name] for name in Inputs._fields))
        all_log_probabilities, values, _, asked = self.network(inputs, state)
        log_probabilities = all_log_probabilities.gather(-1, batch["actions"][..., None]).squeeze(-1)
        log_ratios = log_probabilities - batch["log_probabilities"]
        policy_loss = clipped_objective(log_ratios, batch["advantages"], self.config.clip).neg()
        value_loss = (values - batch["returns"]).square().mean()
        entropy = -(all_log_probabilities.exp() * all_log_probabilities).sum(dim=-1).mean()
        loss = policy_loss + self.config.value_weight * value_loss / 2 - self.config.entropy_weight * entropy
        auxiliary = None if asked is None else asked.mean()
        if auxiliary is not None:
            loss = loss + auxiliary
        self.optimiser.zero_grad()
        loss.backward()
        parameters = list(self.network.parameters())
        check_finite(loss, (parameter.grad for parameter in parameters), batch)
        norm = nn.utils.clip_grad_norm_(parameters, self.config.gradient_norm)
        self.optimiser.step()
        with torch.no_grad():
            ratios = log_ratios.exp()
            return {
                "losses/policy": policy_loss.item(),
                "losses/value": value_loss.item(),
                "losses/entropy": entropy.item(),
                **({} if auxiliary is None else {"losses/auxiliary": auxiliary.item()}),
                "losses/gradient_norm": norm.item(),
                "charts/approximate_kl": (ratios - 1 - log_ratios).mean().item(),
                "charts/clip_fraction": ((ratios - 1).abs() > self.config.clip).float().mean().item(),
            }


def clipped_objective(log_ratios: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """The mean of equation 7 of Schulman et al. 2017: it gains nothing from ratios beyond `1 - clip` and `1 + clip`.

    Args:
        log_ratios: logarithms of the new chance of each action over the one it was taken with.
        advantages: of the actions, of the same shape.
        clip: the paper's epsilon.
    """
    ratios = log_ratios.exp()
    return torch.minimum(ratios * advantages, ratios.clamp(1 - clip, 1 + clip) * advantages).mean()


class Player:
    """Plays games with the weights of an agent, and a core's state of its own for each game."""

    def __init__(
        self, network: ActorCritic, num_games: int, rng: np.random.Generator, config: RecurrentPPOConfig
    ) -> None:
        self.games = Games(network, num_games)
        self.rng = rng
        self.config = config
        self._actions = np.zeros(num_games, dtype=np.int64)

    def act(self, observations: np.ndarray, epsilon: float) -> np.ndarray:
        log_probabilities, _ = self.games.see(observations)
        self._actions = draw(log_probabilities, self.rng, epsilon, self.config.greedy)
        return self._actions

    def observe(self, rewards: np.ndarray, ended: np.ndarray) -> None:
        self.games.advance(self._actions, np.clip(self.config.reward_scale * rewards, -1, 1), ended)
