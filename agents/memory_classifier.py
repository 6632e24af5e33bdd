"""The memory classifier of Hansen 2017 (arXiv 1701.03866): an embedding that learns through stored memories alone.

The class of an image is read from the labels of the images stored last, weighted by how much their embeddings are like
its own. No gradient goes through its own embedding: whatever is learned is learned through the memories.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from agents.agent import Metrics, Transition, WorldSpec
from agents.finite import check_finite
from agents.learning_memory import LearningMemory, make_learning_memory
from agents.learning_memory_config import LearningMemoryConfig
from memory.episodic import CosineSoftmax, Store, maximum
from memory.episodic.credit import Sample, scale_gradient
from memory.episodic.freshening import UncertainFirst
from memory.episodic.pretraining import OfflinePretraining
from memory.episodic.recollecting import key_space, recollection
from memory.episodic.reinstatement import VariationalAutoencoder
from memory.episodic.staleness import PROBED, Probe
from memory.recollection import KeySpace, Recollection


class MemoryClassifierConfig(LearningMemoryConfig):
    """The memory classifier. The defaults are the paper's setting, with exact reinstatement."""

    name: Literal["memory_classifier"] = "memory_classifier"
    """Which agent this is."""
    sampled: int = Field(0, ge=0)
    """Memories that get credit in an update, drawn anew each time; 0: all."""
    eviction: Literal["oldest", "uncertain"] = "oldest"
    """Which memory makes place: the oldest, or (variational autoencoder) one whose reconstruction is least certain."""
    temperature: float = Field(0.1, gt=0.0)
    """Of the softmax over cosine similarities; at 1 all memories count nearly the same."""
    updates_per_probe: int = Field(100, ge=1)
    """Updates between two looks at how stale the memory is."""

    @model_validator(mode="after")
    def _knows_who_is_uncertain(self) -> MemoryClassifierConfig:
        self._needs_variational("eviction", self.eviction == "uncertain")
        if self.freshening == "candidates":
            raise ValueError("freshening candidates needs an agent that recalls neighbours; here all memories answer")
        return self


@dataclass
class _Asked:
    """A batch that was answered by memory, on autograd's graph until its labels are known."""

    embedded: Tensor
    """What the encoder made of it, `[batch, key_size]`."""
    slots: Tensor
    """The memories that get credit, int64 `[n]`."""
    keys: Tensor
    """Their keys as credit attached them, `[n, key_size]`."""
    chances: Tensor
    """The answer, `[batch, num_classes]`."""


class MemoryClassifier:
    """Classifies by memory, then learns from the label, then remembers the image with it."""

    def __init__(
        self,
        store: Store,
        memory: LearningMemory,
        sample: Sample,
        probe: Probe,
        eviction: UncertainFirst | None,
        offline: OfflinePretraining | None,
        num_classes: int,
        rng: np.random.Generator,
        config: MemoryClassifierConfig,
    ) -> None:
        self.store = store
        self.memory = memory
        self.sample = sample
        self.probe = probe
        self.eviction = eviction
        self.offline = offline
        self.num_classes = num_classes
        self.rng = rng
        self.config = config
        self.kernel = CosineSoftmax(config.temperature)
        self.step = 0
        self.updates = 0
        self._asked: _Asked | None = None
        self._revealed: tuple[Tensor, Tensor] | None = None
        self._accuracy = 0.0

    def act(self, observations: np.ndarray, state_hashes: np.ndarray, epsilon: float | None = None) -> np.ndarray:
        images = torch.from_numpy(observations)
        at_random = self.rng.integers(0, self.num_classes, len(images))
        if not len(self.store):
            return at_random
        if epsilon is None:
            self._asked = self._ask(images)
            return self._asked.chances.detach().argmax(dim=1).numpy()
        classes = self.class_probabilities(images).argmax(dim=1).numpy()
        return np.where(self.rng.random(len(images)) < epsilon, at_random, classes)

    def observe(self, transition: Transition) -> None:
        assert transition.labels is not None, "built for a world that reveals labels"
        self.step += len(transition.actions)
        self._accuracy = float((transition.actions == transition.labels).mean())
        self._revealed = torch.from_numpy(transition.observations), torch.from_numpy(transition.labels)

    def learn(self) -> Metrics | None:
        """Do the update that the labels just revealed allow, and remember their images; or one of pretraining."""
        if self._revealed is None:
            return self._pretrain()
        (observations, labels), self._revealed = self._revealed, None
        asked, self._asked = self._asked, None
        batch = {"observations": observations, "labels": labels}
        metrics = {"charts/accuracy": self._accuracy}
        learns = asked is not None and self._pretrained
        if asked is not None and learns:
            metrics |= self._assign_credit(asked, batch)
        embedded = self.memory.encoder(observations.float()) if asked is None else asked.embedded
        # Before anything is stored, so that a batch that fails leaves the memory as it was.
        self.memory.check_finite(embedded, batch)
        # What an image's own embedding is asked for, as a memory-to-be, gathers on a leaf and goes back at once.
        keys = embedded.detach().requires_grad_()
        metrics |= self._remember(keys, batch)
        if keys.grad is not None:
            embedded.backward(keys.grad)
        self.memory.step(embedded, batch, learns)
        freshens = self._pretrained
        self.updates += 1
        # Before anything is put right: as stale as the memory gets.
        if self.updates % self.config.updates_per_probe == 0:
            metrics |= {f"staleness/{name}": value for name, value in self.staleness().items()}
        if freshens:
            self.memory.keep_up(self.updates, batch)
        return {**metrics, "memory/size": len(self.store), "memory/megabytes": self.nbytes / 2**20}

    @property
    def nbytes(self) -> int:
        """Bytes of the memory: keys, tables, observations, what credit keeps, and what is gathered for pretraining."""
        return self.store.nbytes + self.memory.nbytes + (self.offline.nbytes if self.offline else 0)

    @torch.no_grad()
    def class_probabilities(self, observations: Tensor) -> Tensor:
        """What the memory says of images uint8 `[batch, *shape]`: `[batch, num_classes]`.

        By the keys that credit infers with; by stored ones where only a sample of the memories is credited.
        """
        return self._chances(self._similarities(observations))

    @torch.no_grad()
    def recollect(self, observation: np.ndarray, state_hash: np.uint64, most: int, env: int = 0) -> Recollection:
        """What classifying one image would rest on: each memory speaks for its label, with its weight."""
        image = torch.from_numpy(observation[None])
        [similarities], slots = self._similarities(image), self.store.filled_slots()
        answered = {
            "actions": self.store.values.long(),
            "slots": slots,
            "weights": self.kernel.weights(similarities[None])[0],
            "values": torch.ones(len(slots)),
            "distances": 1.0 - similarities,
        }
        [chances] = self._chances(similarities[None]).double().numpy()
        found = recollection(
            self.store.table, self.store.rows_of(slots), answered, chances, np.zeros(self.num_classes), most
        )
        [query] = self.memory.encoder(image.float())
        return self.memory.looked_at_anew(
            found,
            self.store,
            torch.from_numpy(found.slots),
            lambda fresh: 1.0 - functional.cosine_similarity(fresh, query, dim=1),
        )

    def key_space(self, most: int) -> KeySpace:
        """Some memories, as points; each speaks for its label."""
        rows = self.store.rows_of(self.store.filled_slots())
        return key_space(self.store.table, rows, self.store.values.long(), most)

    def staleness(self) -> dict[str, float]:
        """How stale the memory is now: what `Probe.staleness` measures."""
        return self.probe.staleness(self.memory.encoder, self.memory.reinstatement, self.kernel, decide=self._classes)

    def pictures(self) -> dict[str, np.ndarray]:
        """What comes back of some memories: `LearningMemory.reconstructions`."""
        return self.memory.reconstructions(self.store, self.probe)

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "updates": self.updates,
            "rng": self.rng.bit_generator.state,
            "store": self.store.state_dict(),
            "memory": self.memory.state_dict(),
            "sample": self.sample.state_dict(),
            "probe": self.probe.state_dict(),
            **({"offline": self.offline.state_dict()} if self.offline else {}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.updates = state["step"], state["updates"]
        self.rng.bit_generator.state = state["rng"]
        self.store.load_state_dict(state["store"])
        self.memory.load_state_dict(state["memory"])
        self.sample.load_state_dict(state["sample"])
        self.probe.load_state_dict(state["probe"])
        if self.offline:
            self.offline.load_state_dict(state["offline"])

    @property
    def _pretrained(self) -> bool:
        return self.offline.is_over if self.offline else self.updates >= self.config.pretraining

    def _pretrain(self) -> Metrics | None:
        learned = self.offline.learn() if self.offline else None
        if learned is None:
            return None
        error, observations = learned
        check_finite(torch.tensor(error), [], {"observations": observations})
        return {"losses/reconstruction": error}

    def _ask(self, observations: Tensor) -> _Asked:
        """Answer by memory, and keep what is needed to learn from the answer."""
        embedded = self.memory.encoder(observations.float())
        queries, stored = embedded.detach(), self.store.keys
        if not self._pretrained:
            return _Asked(embedded, stored[:0], stored[:0], self._chances(self.kernel.similarities(queries, stored)))
        slots, counts_for = self.sample.draw(len(stored))
        keys = self.memory.credit.attach(slots, stored[slots])
        similarities = self.kernel.similarities(queries, scale_gradient(keys, counts_for))
        if len(slots) < len(stored):
            similarities = self.kernel.similarities(queries, stored).index_copy(1, slots, similarities)
        return _Asked(embedded, slots, keys, self._chances(similarities))

    def _assign_credit(self, asked: _Asked, batch: dict[str, Tensor]) -> Metrics:
        """The gradient of the loss of this batch, through the memories alone."""
        # A class that no memory speaks for has no chance, and its logarithm no gradient.
        loss = functional.nll_loss(asked.chances.clamp_min(1e-6).log(), batch["labels"])
        told = {}
        if asked.keys.requires_grad:
            if not asked.keys.is_leaf:
                asked.keys.retain_grad()
            self.memory.anchored(loss, asked.keys, self.store.keys[asked.slots]).backward()
            check_finite(loss.detach(), [asked.keys.grad], batch)
            told = self.memory.credit.settle()
        if self.config.freshening == "recall":
            self.memory.freshen(asked.slots, batch)
        return {"losses/classification": loss.item(), **{f"losses/{name}": value for name, value in told.items()}}

    def _remember(self, keys: Tensor, batch: dict[str, Tensor]) -> Metrics:
        """Store the images, and have decoder, credit and penalty add what they ask of their keys' gradient."""
        observations, labels = batch["observations"], batch["labels"]
        metrics: Metrics = {}
        if self.offline and not self.offline.is_over:
            self.offline.gather(observations)
        else:
            metrics |= self.memory.reconstruct(keys, batch)
        if self.eviction is not None:
            self.eviction.make_way(len(keys))
        # Every write is a memory of its own, also of an image that came before.
        numbers = np.arange(self.step - len(keys), self.step, dtype=np.uint64)
        origins = torch.from_numpy(numbers.astype(np.int64)) + 1
        self.store.write(keys.detach(), labels.to(torch.float32), numbers, maximum, self.step, origins=origins)
        slots = self.store.find(numbers)
        self.memory.remember(slots, observations)
        self.probe.remember(slots, observations)
        self.memory.credit.remember(slots, observations, keys, self._one_hot(labels))
        return metrics | self.memory.hold(keys, observations)

    def _similarities(self, observations: Tensor) -> Tensor:
        """Of images uint8 `[batch, *shape]` to all memories, by the keys that answer, `[batch, memories]`."""
        queries, keys = self.memory.encoder(observations.float()), self.store.keys
        if not self.config.sampled:
            keys = self.memory.credit.infer(self.store.filled_slots(), keys)
        return self.kernel.similarities(queries, keys)

    def _chances(self, similarities: Tensor) -> Tensor:
        """What similarities `[batch, memories]` say of each class, `[batch, num_classes]`."""
        return self.kernel.weights(similarities) @ self._one_hot(self.store.values)

    def _classes(self, weights: Tensor, values: Tensor) -> Tensor:
        return (weights @ self._one_hot(values)).argmax(dim=1)

    def _one_hot(self, labels: Tensor) -> Tensor:
        return functional.one_hot(labels.to(torch.int64), self.num_classes).to(torch.float32)


def make_memory_classifier(
    config: MemoryClassifierConfig, world: WorldSpec, rng: np.random.Generator, device: str
) -> MemoryClassifier:
    """Build the agent for a world; on the CPU whatever the device, for its parts are too small to gain by another.

    Raises:
        ValueError: in a world that reveals no labels, or with more images at a time than are remembered.
    """
    if not world.reveals_labels:
        raise ValueError("agent.name: memory_classifier needs a world that reveals labels, such as mnist")
    if config.capacity < world.num_envs:
        raise ValueError(f"agent.capacity must be at least num_envs, {world.num_envs}, got {config.capacity}")
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    store = Store(config.capacity, config.key_size, eviction="fifo")
    memory = make_learning_memory(config, store, config.capacity, world, world.num_actions, generator, "cosine")
    eviction = None
    if config.eviction == "uncertain" and isinstance(memory.reinstatement, VariationalAutoencoder):
        eviction = UncertainFirst(store, memory.reinstatement.uncertainty, generator)
    offline = None
    if config.pretraining_offline:
        offline = OfflinePretraining(
            memory.encoder,
            memory.reinstatement,
            world.observation_shape,
            config.capacity,
            config.pretraining,
            world.num_envs,
            generator,
        )
    sample, probe = Sample(config.sampled, generator), Probe(store, world.observation_shape, PROBED, generator)
    return MemoryClassifier(store, memory, sample, probe, eviction, offline, world.num_actions, rng, config)
