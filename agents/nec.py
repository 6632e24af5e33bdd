"""Neural Episodic Control (Pritzel et al. 2017, arXiv 1703.01988).

A convolutional network maps an observation to a key; a dictionary for each action answers with the mean of the values
of its nearest keys, weighted by inverse distance. Values are N-step returns, written when the episode ends. The same
answer is trained: the gradient of its error reaches the network, the recalled keys and the recalled values.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from agents.agent import Metrics, Transition, WorldSpec
from agents.encoders import Encoder, Initialisation, Precision
from agents.episodes import Columns, RunningEpisodes, n_step_returns
from agents.episodic_q import EpisodicQConfig, acting_parts, make_memory
from agents.exploration import LinearSchedule, epsilon_greedy
from agents.finite import check_finite
from agents.optimisers import OptimiserName, load_optimiser, make_optimiser
from agents.replay import Replay
from agents.statistics import MeanMetrics, sampled_recall
from memory.episodic import EpisodicMemory, Tabular, TrainableMemories
from memory.episodic.recollecting import key_space, recollect_actions
from memory.episodic.reinstatement import Reinstatement
from memory.episodic.staleness import PROBED, Probe
from memory.recollection import KeySpace, Recollection

_PARTS = ("encoder", "memory", "memories", "episodes", "replay", "statistics")
"""Attributes that have states of their own to save."""


class NECConfig(EpisodicQConfig):
    """Neural Episodic Control. Published settings are the defaults; docs/nec.md says where the paper is silent."""

    name: Literal["nec"] = "nec"
    """Which agent this is."""
    train_encoder: bool = True
    """False freezes the network at its random weights: the baseline every learned embedding must beat."""
    initialisation: Initialisation = "torch"
    """How the network's weights are drawn. On Atari torch's own way leaves keys so near to one another that the kernel
    tells none apart before they are learned; lecun keeps distances as they are from layer to layer."""
    optimiser: OptimiserName = "rmsprop"
    """What trains the network."""
    learning_rate: float = Field(1e-5, gt=0.0)
    """The network's learning rate."""
    key_learning_rate: float = Field(1e-5, ge=0.0)
    """Step of a recalled key against a gradient of usual size; 0 leaves keys as written."""
    own_memory: Literal["counts", "left_out"] = "counts"
    """Whether the memory of a replayed state itself counts when the state is learned on, as in the paper."""
    precision: Precision = "float32"
    """Arithmetic of the network. bfloat16: 0.6 of the time of an update on processors that multiply it (avx512_bf16,
    AMX, GPUs), several times as long on others; auto: where it is multiplied. Weights stay float32."""


class NEC:
    """Acts by its dictionaries and trains network, keys and values on replayed states.

    An action without memories is worth 0. The bootstrap value of a state is the best action's when it was acted in.
    """

    def __init__(
        self,
        encoder: nn.Module,
        optimiser: torch.optim.Optimizer | None,
        memory: EpisodicMemory,
        memories: TrainableMemories,
        episodes: RunningEpisodes,
        replay: Replay,
        epsilon: LinearSchedule,
        probe: Probe | None,
        rng: np.random.Generator,
        config: EpisodicQConfig,
        device: str,
    ) -> None:
        self.encoder = encoder
        self.optimiser = optimiser
        self.memory = memory
        self.memories = memories
        self.episodes = episodes
        self.replay = replay
        self.epsilon = epsilon
        self.probe = probe
        self.rng = rng
        self.config = config
        self.device = device
        self.step = 0
        self.updates = 0
        self.statistics = MeanMetrics()
        self._starting = np.ones(len(replay.newest), dtype=bool)
        self._finished: list[Columns] = []

    def act(self, observations: np.ndarray, state_hashes: np.ndarray, epsilon: float | None = None) -> np.ndarray:
        training = epsilon is None
        keys, action_values = self._action_values(observations, touch=training)
        chance = self.epsilon(self.step) if epsilon is None else epsilon
        actions = epsilon_greedy(action_values, chance, self.rng)
        if training:
            _, known = self.memory.exact(state_hashes, touch=False)
            self._acting_on = {
                "keys": keys.cpu().numpy(),
                "state_values": action_values.max(axis=1),
                "exact_hits": known.cpu().numpy()[np.arange(len(actions)), actions],
            }
            self.statistics.add({"charts/q_value": float(action_values.max(axis=1).mean())})
            if self.statistics.due():
                self.statistics.add(sampled_recall(self.memory, keys, actions, self.step))
        return actions

    def observe(self, transition: Transition) -> None:
        self.step += len(transition.actions)
        for env in np.flatnonzero(self._starting).tolist():
            self.replay.start(env, transition.observations[env])
        self.episodes.append(
            **self._acting_on,
            hashes=transition.state_hashes,
            actions=transition.actions,
            acted_at=transition.steps(self.step),
            rewards=transition.rewards,
            rows=self.replay.newest,
        )
        for env in np.flatnonzero(transition.ended).tolist():
            self._finished.append(self._with_returns(env, transition))
        self.replay.append(transition.next_observations)
        self._starting = transition.ended

    def learn(self) -> Metrics | None:
        """Write one finished episode, or do one update if one is due."""
        if self._finished:
            return self._write(self._finished.pop(0))
        if self.updates >= self._due() or not len(self.replay):
            return None
        self.updates += 1
        return self._update()

    def recollect(self, observation: np.ndarray, state_hash: np.uint64, most: int, env: int = 0) -> Recollection:
        """What acting on one observation would rest on; actions without memories are worth 0."""
        query, [values] = self._action_values(observation[None], touch=False)
        known = np.isin(np.arange(len(values)), self.memory.known_actions)
        return recollect_actions(self.memory, query, values, known, most)

    def key_space(self, most: int) -> KeySpace:
        """Some memories of all actions, as points."""
        slots = self.memory.filled_slots()
        return key_space(self.memory.table, self.memory.rows_of(slots), slots // self.memory.capacity, most)

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "updates": self.updates,
            "rng": self.rng.bit_generator.state,
            **{name: getattr(self, name).state_dict() for name in _PARTS},
            "optimiser": self.optimiser.state_dict() if self.optimiser else None,
            "probe": self.probe.state_dict() if self.probe else None,
            "starting": self._starting,
            "finished": list(self._finished),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.updates = state["updates"]
        self.rng.bit_generator.state = state["rng"]
        for name in _PARTS:
            getattr(self, name).load_state_dict(state[name])
        if self.optimiser:
            load_optimiser(self.optimiser, state["optimiser"])
        if self.probe:
            self.probe.load_state_dict(state["probe"])
        self._starting = state["starting"].copy()
        self._finished = list(state["finished"])

    def _due(self) -> int:
        """Updates that should have been done by now."""
        return (self.step - self.config.learning_starts) // self.config.steps_per_update

    def _action_values(self, observations: np.ndarray, touch: bool) -> tuple[Tensor, np.ndarray]:
        """Keys `[batch, key_size]` and the value of each action (eq. 1) `[batch, actions]`."""
        with torch.no_grad():
            keys = self.encoder(torch.from_numpy(observations).to(self.device))
        values = np.zeros((len(keys), len(self.memory.stores)))
        if known := self.memory.known_actions:
            estimates = self.memory.read_each(keys, known, touch).estimates()
            values[:, known] = estimates.unflatten(0, (-1, len(known))).cpu().numpy()
        return keys, values

    def _with_returns(self, env: int, transition: Transition) -> Columns:
        """The episode that just ended, with its N-step returns (eq. 3)."""
        episode = self.episodes.pop(env)
        last_value = 0.0
        if not transition.terminations[env]:
            _, action_values = self._action_values(transition.next_observations[env : env + 1], touch=True)
            last_value = action_values.max()
        state_values = np.append(episode["state_values"], last_value)
        episode["returns"] = n_step_returns(
            episode["rewards"], state_values, self.config.discount, self.config.n_step
        ).astype(np.float32)
        whole = self.replay.holds(env, episode["rows"])
        slots = episode["rows"][whole] % self.replay.rows
        for name, column in self.replay.columns.items():
            column[env, slots] = episode[name][whole]
        self.replay.complete[env, slots] = True
        episode["env"] = np.array(env)
        return episode

    def _write(self, episode: Columns) -> Metrics:
        actions = torch.from_numpy(episode["actions"]).to(self.device)
        before = self.memory.slots_of(actions, episode["hashes"])
        written = self.memory.write(
            actions,
            torch.from_numpy(episode["keys"]).to(self.device),
            torch.from_numpy(episode["returns"]).to(self.device),
            episode["hashes"],
            Tabular(self.config.tabular_learning_rate),
            written_at=self.step,
            refresh_keys=self.config.refresh_keys_on_revisit,
            origins=torch.from_numpy(episode["acted_at"]),
        )
        if self.probe is not None:
            after = self.memory.slots_of(actions, episode["hashes"])
            keyed = (after >= 0) & (self.config.refresh_keys_on_revisit | (after != before))
            self._tell_of(episode, after.cpu().numpy(), keyed.cpu().numpy())
        return {
            "memory/size": len(self.memory),
            "memory/megabytes": self.memory.nbytes / 2**20,
            "memory/replay_megabytes": self.replay.nbytes / 2**20,
            "memory/inserted": written.inserted,
            "memory/updated": written.updated,
            "memory/evictions": written.evicted,
            "memory/exact_hit_rate": float(episode["exact_hits"].mean()),
            "charts/epsilon": self.epsilon(self.step),
            **self.statistics.flush(),
        }

    def _tell_of(self, episode: Columns, slots: np.ndarray, keyed: np.ndarray) -> None:
        """Tell what keeps observations whose keys were stored.

        Args:
            episode: that was written.
            slots: where its steps are stored, int64 `[steps]`; -1 where they are not.
            keyed: where that is with a key of this episode, bool `[steps]`.
        """
        steps = np.flatnonzero(keyed)
        # Of steps that share a slot the first made the key, or, where keys are refreshed, the last.
        steps = steps[::-1] if self.config.refresh_keys_on_revisit else steps
        slots, which = np.unique(slots[steps], return_index=True)
        steps = steps[which]
        env, rows = int(episode["env"]), episode["rows"][steps]
        there = self.replay.holds(env, rows)
        assert self.probe is not None, "nobody to tell"
        self.probe.forget(torch.from_numpy(slots[~there]))
        slots, rows = slots[there], rows[there]
        for piece, observations in self.replay.observed_in(env, rows):
            self._keep(torch.from_numpy(slots[piece]), torch.from_numpy(observations))

    def _keep(self, slots: Tensor, observations: Tensor) -> None:
        """Keep what is needed of observations uint8 `[n, *shape]`, whose keys were stored in distinct slots `[n]`."""
        assert self.probe is not None, "nothing to keep observations for"
        self.probe.remember(slots, observations)

    def _staleness(self, reinstatement: Reinstatement | None = None) -> Metrics:
        """How stale the memory is, where it is time to look."""
        if self.probe is None or self.updates % self.config.updates_per_probe:
            return {}
        self.memory.table.now = self.step
        found = self.probe.staleness(self.encoder, reinstatement, self.memory.kernel, nearest_alone=True)
        return {f"staleness/{name}": value for name, value in found.items()}

    def _replayed(self) -> tuple[dict[str, Tensor], Tensor | None]:
        """A batch of `observations`, `actions` and `returns`, by name; and where these states are themselves stored,
        int64 `[batch]`, unless that counts like any other memory."""
        envs, slots = self.replay.draw(self.rng, self.config.batch_size)
        drawn = {name: column[envs, slots] for name, column in self.replay.columns.items()}
        hashes = drawn.pop("hashes", None)
        drawn["observations"] = self.replay.observations(envs, slots)
        batch = {name: torch.from_numpy(one).to(self.device) for name, one in drawn.items()}
        return batch, None if hashes is None else self.memory.slots_of(batch["actions"], hashes)

    def _update(self) -> Metrics:
        batch, own = self._replayed()
        keys = self.encoder(batch["observations"])
        actions = batch["actions"]
        recall = self.memories.attach(keys, self.memory.read(keys.detach(), actions, apart_from=own))
        estimates = recall.estimates()
        loss = functional.mse_loss(estimates, batch["returns"])
        if self.optimiser:
            self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        gradients = (recall.keys.grad, recall.values.grad, *(weight.grad for weight in self.encoder.parameters()))
        check_finite(loss, gradients, batch)
        if self.optimiser:
            self.optimiser.step()
        self.memories.step(recall, actions)
        return {"losses/return_error": loss.item(), "losses/q_value": estimates.mean().item(), **self._staleness()}


def make_nec(config: NECConfig, world: WorldSpec, rng: np.random.Generator, device: str) -> NEC:
    """Build the agent for a world."""
    shape, high = world.observation_shape, world.observation_high
    encoder = Encoder(shape, high, config.key_size, config.precision, initialisation=config.initialisation).to(device)
    encoder.requires_grad_(config.train_encoder)
    memory = make_memory(config, world.num_actions, device)
    probe = None
    if config.train_encoder:
        # Of a stream of its own: whether a run is looked into does not change it.
        generator = torch.Generator().manual_seed(int(rng.spawn(1)[0].integers(2**63)))
        probe = Probe(memory, world.observation_shape, PROBED, generator)
    return NEC(
        encoder,
        make_optimiser(config.optimiser, encoder.parameters(), config.learning_rate) if config.train_encoder else None,
        memory,
        TrainableMemories(
            memory, config.key_learning_rate if config.train_encoder else 0.0, config.value_learning_rate
        ),
        **acting_parts(config, world),
        probe=probe,
        rng=rng,
        config=config,
        device=device,
    )
