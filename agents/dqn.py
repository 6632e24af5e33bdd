"""Deep Q-Network (Mnih et al. 2015), with double Q-learning and n-step returns as options.

The baseline: what a user would train instead of an agent that remembers.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

from agents.agent import Metrics, Transition, WorldSpec
from agents.encoders import Encoder, Precision
from agents.exploration import LinearSchedule, epsilon_greedy
from agents.finite import check_finite
from agents.optimisers import OptimiserName, load_optimiser, make_optimiser
from agents.replay import Replay
from agents.statistics import MeanMetrics


class DQNConfig(BaseModel):
    """Deep Q-Network. The defaults are the Nature paper's; the presets say where they differ."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    name: Literal["dqn"] = "dqn"
    """Which agent this is."""
    features: int = Field(512, ge=1)
    """Units of the layer before the action values."""
    double: bool = False
    """Choose the bootstrap action by the online network (van Hasselt et al. 2016)."""
    n_step: int = Field(1, ge=1)
    """Rewards summed before bootstrapping."""
    discount: float = Field(0.99, ge=0.0, le=1.0)
    """Discount for each step."""
    clip_rewards: bool = True
    """Learn from rewards clipped to [-1, 1]; scores are never clipped."""
    optimiser: OptimiserName = "rmsprop"
    """What trains the network."""
    learning_rate: float = Field(2.5e-4, gt=0.0)
    """The network's learning rate."""
    batch_size: int = Field(32, ge=1)
    """Transitions in an update."""
    steps_per_update: int = Field(4, ge=1)
    """Agent steps for each update."""
    updates_per_target: int = Field(10_000, ge=1)
    """Updates between two copies of the network to the target network."""
    replay_capacity: int = Field(1_000_000, ge=1)
    """Steps kept; each keeps its newest frame only, 7 KB on Atari, taken as it fills."""
    learning_starts: int = Field(50_000, ge=0)
    """Agent steps before the first update."""
    epsilon_first: float = Field(1.0, ge=0.0, le=1.0)
    """Chance of a random action until `epsilon_begin`."""
    epsilon_last: float = Field(0.1, ge=0.0, le=1.0)
    """Chance of a random action from `epsilon_end` on."""
    epsilon_begin: int = Field(50_000, ge=0)
    """Agent step at which epsilon begins to fall."""
    epsilon_end: int = Field(1_050_000, ge=1)
    """Agent step at which it reaches its last value."""
    precision: Precision = "float32"
    """Arithmetic of the network. bfloat16: 0.6 of the time of an update on processors that multiply it (avx512_bf16,
    AMX, GPUs), several times as long on others; auto: where it is multiplied. Weights stay float32."""


class DQN:
    """Q-learning from replay with a target network."""

    def __init__(
        self,
        network: nn.Module,
        optimiser: torch.optim.Optimizer,
        replay: Replay,
        epsilon: LinearSchedule,
        rng: np.random.Generator,
        config: DQNConfig,
        device: str,
    ) -> None:
        self.network = network
        self.target_network = copy.deepcopy(network).requires_grad_(False)
        self.optimiser = optimiser
        self.replay = replay
        self.epsilon = epsilon
        self.rng = rng
        self.config = config
        self.device = device
        self.step = 0
        self.updates = 0
        self.statistics = MeanMetrics()
        self._starting = np.ones(len(replay.newest), dtype=bool)

    def act(self, observations: np.ndarray, state_hashes: np.ndarray, epsilon: float | None = None) -> np.ndarray:
        with torch.no_grad():
            action_values = self.network(torch.from_numpy(observations).to(self.device)).cpu().numpy()
        if epsilon is None:
            epsilon = self.epsilon(self.step)
            self.statistics.add({"charts/epsilon": epsilon, "charts/q_value": float(action_values.max(axis=1).mean())})
        return epsilon_greedy(action_values, epsilon, self.rng)

    def observe(self, transition: Transition) -> None:
        self.step += len(transition.actions)
        for env in np.flatnonzero(self._starting).tolist():
            self.replay.start(env, transition.observations[env])
        every_env = np.arange(len(transition.actions))
        slots = self.replay.newest % self.replay.rows
        rewards = np.clip(transition.rewards, -1, 1) if self.config.clip_rewards else transition.rewards
        for name, entries in (
            ("actions", transition.actions),
            ("rewards", rewards),
            ("terminations", transition.terminations),
            ("ended", transition.ended),
        ):
            self.replay.columns[name][every_env, slots] = entries
        self.replay.complete[every_env, slots] = True
        self.replay.append(transition.next_observations)
        self._starting = transition.ended

    def learn(self) -> Metrics | None:
        """Do one update if one is due."""
        due = (self.step - self.config.learning_starts) // self.config.steps_per_update
        if self.updates >= due:
            return None
        self.updates += 1
        metrics = self._update()
        if self.updates % self.config.updates_per_target == 0:
            self.target_network.load_state_dict(self.network.state_dict())
        return metrics

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "updates": self.updates,
            "rng": self.rng.bit_generator.state,
            "network": self.network.state_dict(),
            "target_network": self.target_network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "replay": self.replay.state_dict(),
            "statistics": self.statistics.state_dict(),
            "starting": self._starting,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.updates = state["updates"]
        self.rng.bit_generator.state = state["rng"]
        self.network.load_state_dict(state["network"])
        self.target_network.load_state_dict(state["target_network"])
        load_optimiser(self.optimiser, state["optimiser"])
        self.replay.load_state_dict(state["replay"])
        self.statistics.load_state_dict(state["statistics"])
        self._starting = state["starting"].copy()

    def _update(self) -> Metrics:
        observations, actions, returns, discounts, next_observations = self._batch()
        with torch.no_grad():
            next_values = self.target_network(next_observations)
            chooser = self.network(next_observations) if self.config.double else next_values
            best = chooser.argmax(dim=1, keepdim=True)
            targets = returns + discounts * next_values.gather(1, best).squeeze(1)
        values = self.network(observations).gather(1, actions[:, None]).squeeze(1)
        loss = functional.smooth_l1_loss(values, targets)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        batch = {
            "observations": observations,
            "actions": actions,
            "returns": returns,
            "discounts": discounts,
            "next_observations": next_observations,
        }
        check_finite(loss, (parameter.grad for parameter in self.network.parameters()), batch)
        self.optimiser.step()
        metrics = {"losses/td_error": loss.item(), "losses/q_value": values.mean().item()}
        if self.updates % 100 == 0:
            metrics |= {"memory/replay_megabytes": self.replay.nbytes / 2**20, **self.statistics.flush()}
        return metrics

    def _batch(self) -> tuple[Tensor, ...]:
        """Observations, actions, discounted sums of the next rewards, discounts of, and observations they lead to."""
        envs, slots = self.replay.draw(self.rng, self.config.batch_size)
        columns = self.replay.columns
        # Sums near the newest row are cut short where the ring has no step beyond yet.
        newest = self.replay.newest[envs] % self.replay.rows
        available = (newest - slots) % self.replay.rows
        returns = np.zeros(len(envs))
        discounts = np.ones(len(envs))
        going = np.ones(len(envs), dtype=bool)
        next_slots = slots.copy()
        for step in range(self.config.n_step):
            going &= step < available
            returns += np.where(going, discounts * columns["rewards"][envs, next_slots], 0.0)
            terminated, ended = columns["terminations"][envs, next_slots], columns["ended"][envs, next_slots]
            discounts = np.where(going, discounts * self.config.discount * ~terminated, discounts)
            next_slots = np.where(going, (next_slots + 1) % self.replay.rows, next_slots)
            going &= ~ended
        arrays = (
            self.replay.observations(envs, slots),
            columns["actions"][envs, slots],
            returns.astype(np.float32),
            discounts.astype(np.float32),
            self.replay.observations(envs, next_slots),
        )
        return tuple(torch.from_numpy(array).to(self.device) for array in arrays)


def make_dqn(config: DQNConfig, world: WorldSpec, rng: np.random.Generator, device: str) -> DQN:
    """Build the agent for a world."""
    network = nn.Sequential(
        Encoder(world.observation_shape, world.observation_high, config.features, config.precision),
        nn.ReLU(),
        nn.Linear(config.features, world.num_actions),
    ).to(device)
    return DQN(
        network,
        make_optimiser(config.optimiser, network.parameters(), config.learning_rate),
        Replay(
            config.replay_capacity,
            world.num_envs,
            world.observation_shape,
            world.frame_stack,
            {"actions": np.int64, "rewards": np.float32, "terminations": bool, "ended": bool},
        ),
        LinearSchedule(config.epsilon_first, config.epsilon_last, config.epsilon_begin, config.epsilon_end),
        rng,
        config,
        device,
    )
