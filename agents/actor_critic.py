"""A policy and a value over any recurrent core, and what passes from step to step of the games they play."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from agents.agent import WorldSpec
from agents.encoders import Encoder
from memory.neural import (
    GRU,
    LSTM,
    CompiledCore,
    FeedForward,
    RecurrentCore,
    Unrolled,
    joined,
    map_states,
    named_tensors,
    unroll,
    with_tensors,
)

NO_ACTION = -1
"""What was done before an episode's first step."""


class Inputs(NamedTuple):
    """What the network is shown of some steps, each `[time, batch, ...]`."""

    observations: Tensor
    """uint8."""
    previous_actions: Tensor
    """int64, `NO_ACTION` where an episode begins."""
    previous_rewards: Tensor
    """float32, 0 where an episode begins."""
    begins: Tensor
    """bool: whether this is an episode's first step, at which the core's state begins anew."""


class Answers(NamedTuple):
    """What the network says to some steps."""

    log_probabilities: Tensor
    """Logarithms of the actions' probabilities, `[time, batch, actions]`."""
    values: Tensor
    """`[time, batch]`."""
    state: Any
    """Of the core after the last step."""
    losses: Tensor | None
    """What the core asks to be paid for each step, `[time, batch]`; None of a core that asks nothing."""


class ActorCritic(nn.Module):
    """Encoder, core, and two readouts of its output: one for the policy, one for the value.

    Args:
        encoder: from observations to features.
        core: over features, and what was done and earned the step before.
        num_actions: to choose among.
        feedback: whether the core is told what was done and earned the step before.
        readout_hidden: units of a layer of ReLU in each readout; 0: they are linear.
        compiled: steps of the core that torch compiles into one call; 0: none.
    """

    def __init__(
        self,
        encoder: Encoder,
        core: RecurrentCore[Any],
        num_actions: int,
        *,
        feedback: bool,
        readout_hidden: int = 0,
        compiled: int = 0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.core = core
        policy = nn.Linear(readout_hidden or core.output_size, num_actions)
        value = nn.Linear(readout_hidden or core.output_size, 1)
        self.policy = _readout(core.output_size, readout_hidden, policy)
        self.value = _readout(core.output_size, readout_hidden, value)
        controllers = (part for part in core.modules() if isinstance(part, GRU | LSTM | FeedForward))
        for part in (encoder, self.policy, self.value, *controllers):
            draw_orthogonal(part)
        # The first policy is all but uniform, whatever the core is (Andrychowicz et al. 2021, arXiv 2006.05990).
        nn.init.orthogonal_(policy.weight, 0.01)
        nn.init.orthogonal_(value.weight, 1.0)
        self.feedback = feedback
        self._eager: Callable[[Tensor, Any], Unrolled[Any]] = functools.partial(unroll, core)
        self._unroll = CompiledCore(core, compiled).unroll if compiled else self._eager
        self.register_buffer("actions", torch.arange(num_actions), persistent=False)
        self.actions: Tensor

    def forward(self, inputs: Inputs, state: Any, eager: bool = False) -> Answers:
        """Unroll the core through some steps, its state beginning anew where episodes do.

        Args:
            inputs: of all steps.
            state: of the core before the first; of no effect where an episode begins with it.
            eager: whether to step the core as it is even where it is compiled: to compile it anew for a batch of
                another size takes longer.
        """
        time, batch = inputs.begins.shape
        # Not ReLU: on small observations it happened that all units died, of one cue, and with them what it told.
        features = self.encoder(inputs.observations.flatten(0, 1)).tanh().unflatten(0, (time, batch))
        if self.feedback:
            done = (inputs.previous_actions[..., None] == self.actions).to(features)
            features = torch.cat([features, done, inputs.previous_rewards[..., None]], dim=-1)
        # Once for all steps; gradients reach what the core learns to begin with from every episode's beginning.
        initial = self.core.initial_state(batch)
        some_begin = inputs.begins.any(dim=1).tolist()
        starts = [0, *(step for step in range(1, time) if some_begin[step])]
        pieces: list[Unrolled[Any]] = []
        for start, end in itertools.pairwise([*starts, time]):
            if some_begin[start]:
                state = where(inputs.begins[start], initial, state)
            pieces.append((self._eager if eager else self._unroll)(features[start:end], state))
            state = pieces[-1].state
        outputs, state, _, losses = joined(pieces)
        return Answers(self.policy(outputs).log_softmax(dim=-1), self.value(outputs).squeeze(-1), state, losses)


def _readout(inputs: int, hidden: int, last: nn.Linear) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), last) if hidden else last


@torch.no_grad()
def draw_orthogonal(network: nn.Module) -> None:
    """Draw the weights of a network's layers orthogonal, as PPO begins (Huang et al. 2022, ICLR Blog Track).

    Dense layers and convolutions with a gain of the square root of 2, and no biases; of recurrent cells each gate for
    itself, with a gain of 1. As torch draws them, each layer shrinks what it is given to about half, and what two
    sights together tell, seen steps apart, then comes too faint to be learned.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            # By way of another: torch cannot draw into the layout of the convolutions.
            layer.weight.copy_(nn.init.orthogonal_(torch.empty(layer.weight.shape), math.sqrt(2)))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.GRUCell | nn.LSTMCell):
            for weight in (layer.weight_ih, layer.weight_hh):
                for gate in weight.split(layer.hidden_size):
                    nn.init.orthogonal_(gate)


def where(mask: Tensor, first: Any, second: Any) -> Any:
    """The state that is `first` for those of the batch where `mask [batch]` is true, and `second` for the others."""
    return map_states(lambda one, other: torch.where(mask.view(-1, *(1,) * (one.ndim - 1)), one, other), first, second)


class Games:
    """Games played side by side by a network: of each, the core's state and what was done and earned before.

    `see` a step's observations, then `advance`.
    """

    def __init__(self, network: ActorCritic, num_games: int) -> None:
        self.network = network
        with torch.no_grad():
            # Copies: of what a core learns to begin with, its own tensors would change with every update.
            self.state = map_states(torch.clone, network.core.initial_state(num_games))
        self._next_state = self.state
        self.previous_actions = np.full(num_games, NO_ACTION, dtype=np.int64)
        self.previous_rewards = np.zeros(num_games, dtype=np.float32)
        self.begins = np.ones(num_games, dtype=bool)

    def see(self, observations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logarithms of the actions' probabilities `[games, actions]`, and values `[games]`, both float32."""
        inputs = {"observations": observations, **self.before()}
        log_probabilities, values, self._next_state = self._look(inputs, self.state)
        return log_probabilities, values

    def foresee(self, observations: np.ndarray, actions: np.ndarray, rewards: np.ndarray) -> np.ndarray:
        """The values float32 `[games]` of what the actions led to, whether or not the games go on from there."""
        before = {"previous_actions": actions, "previous_rewards": rewards, "begins": np.zeros(len(actions), bool)}
        return self._look({"observations": observations, **before}, self._next_state)[1]

    def glance(self, observation: np.ndarray, game: int) -> tuple[np.ndarray, Any]:
        """What one game would see next, without a trace.

        Returns:
            Logarithms of the actions' probabilities, float32 `[actions]`, and the core's state after it, `[1, ...]`.
        """
        of_game = slice(game, game + 1)
        inputs = {"observations": observation[None], **{name: each[of_game] for name, each in self.before().items()}}
        state = map_states(lambda field: field[of_game], self.state)
        [log_probabilities], _, state = self._look(inputs, state, eager=True)
        return log_probabilities, state

    def advance(self, actions: np.ndarray, rewards: np.ndarray, ended: np.ndarray) -> None:
        """Take in what was done about what was seen, and begin anew where that ended a game; each `[games]`."""
        self.state = self._next_state
        self.previous_actions = np.where(ended, NO_ACTION, actions)
        self.previous_rewards = np.where(ended, 0.0, rewards).astype(np.float32)
        self.begins = ended.copy()

    def before(self) -> dict[str, np.ndarray]:
        """What the network is shown beside the next observations, each `[games]`."""
        return {
            "previous_actions": self.previous_actions,
            "previous_rewards": self.previous_rewards,
            "begins": self.begins,
        }

    def state_dict(self) -> dict[str, Any]:
        """Where the games stand."""
        return {"core": named_tensors(self.state), **self.before()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        self.state = self._next_state = with_tensors(self.state, state["core"])
        self.previous_actions = state["previous_actions"].copy()
        self.previous_rewards = state["previous_rewards"].copy()
        self.begins = state["begins"].copy()

    @torch.no_grad()
    def _look(
        self, inputs: dict[str, np.ndarray], state: Any, eager: bool = False
    ) -> tuple[np.ndarray, np.ndarray, Any]:
        device = self.network.actions.device
        tensors = {name: torch.as_tensor(array, device=device)[None] for name, array in inputs.items()}
        tensors["previous_rewards"] = tensors["previous_rewards"].to(torch.float32)
        answers = self.network(Inputs(**tensors), state, eager=eager)
        return answers.log_probabilities[0].cpu().numpy(), answers.values[0].cpu().numpy(), answers.state


def draw(
    log_probabilities: np.ndarray, rng: np.random.Generator, epsilon: float = 0.0, greedy: bool = False
) -> np.ndarray:
    """Draw an action from each row `[batch, actions]`, or with chance `epsilon` any; int64 `[batch]`.

    The likeliest after Gumbel noise is a draw by the probabilities themselves; without it, where `greedy`, the
    likeliest of all.
    """
    noise = 0.0 if greedy else rng.gumbel(size=log_probabilities.shape)
    actions = (log_probabilities + noise).argmax(axis=1)
    if epsilon:
        uniform = rng.integers(0, log_probabilities.shape[1], len(actions))
        actions = np.where(rng.random(len(actions)) < epsilon, uniform, actions)
    return actions


def make_actor_critic(
    world: WorldSpec,
    core: Callable[[int], RecurrentCore[Any]],
    features: int,
    *,
    feedback: bool,
    readout_hidden: int = 0,
    normalise: bool = False,
    compiled: int = 0,
) -> ActorCritic:
    """Build the network for a world; `core` makes its core from the size of its inputs."""
    encoder = Encoder(world.observation_shape, world.observation_high, features, normalise=normalise)
    input_size = features + (world.num_actions + 1 if feedback else 0)
    return ActorCritic(
        encoder,
        core(input_size),
        world.num_actions,
        feedback=feedback,
        readout_hidden=readout_hidden,
        compiled=compiled,
    )
