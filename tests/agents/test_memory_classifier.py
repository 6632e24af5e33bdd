"""The memory classifier remembers the newest images, reads classes as a plain loop does, and learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from envs.mnist import load_images
from tests.digits import make_digits
from train import RunConfig, make_agent, make_world
from training.loop import TrainingLoop
from training.seeding import EpisodeSeeds


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return make_digits(tmp_path_factory.mktemp("digits"), noise=180)


def life(digits, steps, seed=0, num_envs=8, **agent):
    config = RunConfig.model_validate(
        {
            "env": {"name": "mnist", "dataset": str(digits), "images_per_episode": 20},
            "agent": {"name": "memory_classifier", "hidden": 24, "key_size": 12, "capacity": 120, **agent},
            "num_envs": num_envs,
            "seed": seed,
        }
    )
    world = make_world(config)
    agent = make_agent(config, world)
    records = list(TrainingLoop(world, agent, EpisodeSeeds(seed)).run(steps))
    return agent, records


def test_it_remembers_the_newest_images_with_their_labels(digits):
    agent, _ = life(digits, 400, reinstatement="raw")
    assert len(agent.store) == 120
    assert sorted(agent.store.written_at.tolist()) == sorted(step for step in range(288, 401, 8) for _ in range(8))
    with torch.no_grad():
        pixels = agent.memory.reinstatement.recall(torch.arange(120), agent.store.keys)
    images = pixels.round().to(torch.uint8)
    pictures, labels = load_images(str(digits), "train")
    known = {picture.tobytes(): label for picture, label in zip(pictures, labels, strict=True)}
    for image, label in zip(images[:, 0].numpy(), agent.store.values.tolist(), strict=True):
        assert known[image.tobytes()] == label


def test_classes_are_read_as_by_a_plain_loop(digits):
    agent, _ = life(digits, 400, credit="frozen")
    queries = torch.randn(3, 12)
    chances = agent.class_probabilities(queries)
    for query, found in zip(queries, chances, strict=True):
        weights = []
        for key in agent.store.keys:
            weights.append(float(functional.cosine_similarity(query, key, dim=0)) / 0.1)
        exponentials = np.exp(weights)
        expected = np.zeros(10)
        for weight, label in zip(exponentials / exponentials.sum(), agent.store.values.tolist(), strict=True):
            expected[int(label)] += weight
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "credit", ["frozen", "trainable_keys", "backpropagation", "synthetic", "exact", "approximate", "hybrid"]
)
@pytest.mark.parametrize("reinstatement", ["raw", "lossless", "autoencoder", "variational_autoencoder"])
def test_any_credit_goes_with_any_reinstatement(credit, reinstatement, digits):
    agent, records = life(digits, 160, credit=credit, reinstatement=reinstatement)
    metrics = [metric for record in records for metric in record.metrics]
    assert all(np.isfinite(value) for metric in metrics for value in metric.values())
    assert ("losses/reconstruction" in metrics[-1]) == ("autoencoder" in reinstatement)
    before = life(digits, 8, credit=credit, reinstatement=reinstatement)[0]
    moved = any(
        not torch.equal(old, new)
        for old, new in zip(before.memory.encoder.parameters(), agent.memory.encoder.parameters(), strict=True)
    )
    assert moved == (credit not in ("frozen", "trainable_keys"))


def test_no_gradient_goes_through_the_query(digits):
    """With exact credit of no memory at all there would be none: the query's own embedding is cut off."""
    agent, _ = life(digits, 400, reinstatement="raw")
    observations = torch.randint(0, 256, (4, 1, 6, 6), dtype=torch.uint8)
    agent.memory.encoder.zero_grad(set_to_none=True)
    queries = agent.memory.encoder(observations.float())
    agent._assign_credit(queries.detach(), torch.tensor([1, 2, 3, 4]))
    found = [parameter.grad.clone() for parameter in agent.memory.encoder.parameters()]
    agent.memory.encoder.zero_grad(set_to_none=True)
    keys = agent.memory.encoder(agent.memory.reinstatement.recall(torch.arange(120), agent.store.keys))
    weights = torch.softmax(functional.normalize(queries.detach()) @ functional.normalize(keys).T / 0.1, dim=1)
    chances = weights @ functional.one_hot(agent.store.values.long(), 10).float()
    functional.nll_loss(chances.log(), torch.tensor([1, 2, 3, 4])).backward()
    for mine, parameter in zip(found, agent.memory.encoder.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("freshening", ["recall", "sweep"])
def test_freshened_keys_are_those_of_now(freshening, digits):
    agent, _ = life(digits, 800, reinstatement="raw", freshening=freshening, freshened=120, learning_rate=3e-3)
    stale, _ = life(digits, 800, reinstatement="raw", learning_rate=3e-3)

    def drift(agent) -> float:
        with torch.no_grad():
            fresh = agent.memory.encoder(agent.memory.reinstatement.recall(torch.arange(120), agent.store.keys))
        return float((fresh - agent.store.keys).norm(dim=1).mean() / fresh.norm(dim=1).mean())

    assert drift(agent) < 0.2 * drift(stale)
    if freshening == "sweep":
        assert drift(agent) < 1e-6


def test_it_learns_through_memories_alone(digits):
    """Above the frozen embedding, on images so noisy that a random embedding confuses them."""

    def accuracy(**agent) -> float:
        _, records = life(digits, 8_000, learning_rate=1e-3, reinstatement="raw", **agent)
        return float(np.mean([m["charts/accuracy"] for r in records[-200:] for m in r.metrics]))

    frozen, exact = accuracy(credit="frozen"), accuracy(credit="exact")
    assert exact > 0.9 and exact > frozen + 0.1


def test_it_learns_with_convolutions(digits):
    agent, records = life(digits, 6_000, architecture="convolutional", learning_rate=1e-3, reinstatement="raw")
    assert any(isinstance(layer, torch.nn.Conv2d) for layer in agent.memory.encoder)
    accuracy = [metrics["charts/accuracy"] for record in records for metrics in record.metrics]
    assert np.mean(accuracy[-100:]) > max(0.8, np.mean(accuracy[:100]) + 0.2)


def test_while_the_decoder_is_pretrained_the_encoder_stands_still(digits):
    before = life(digits, 8, pretraining=30)[0]
    during, records = life(digits, 240, pretraining=30, learning_rate=1e-3)
    after = life(digits, 248, pretraining=30, learning_rate=1e-3)[0]

    def same(one, other):
        return all(
            torch.equal(a, b)
            for a, b in zip(one.memory.encoder.parameters(), other.memory.encoder.parameters(), strict=True)
        )

    assert same(before, during) and not same(during, after)
    # Ten times as fast, until then.
    assert [agent.memory.reinstatement.optimiser.param_groups[0]["lr"] for agent in (during, after)] == [1e-3, 1e-3]
    begun = life(digits, 80, pretraining=30, learning_rate=1e-3)[0]
    assert begun.memory.reinstatement.optimiser.param_groups[0]["lr"] == pytest.approx(1e-2)
    assert not any("losses/classification" in metrics for record in records for metrics in record.metrics)


def test_a_drift_penalty_keeps_keys_comparable(digits):
    def drift(**agent) -> float:
        agent, _ = life(digits, 1_600, credit="approximate", reinstatement="raw", learning_rate=3e-3, **agent)
        return agent.staleness()["key_drift"]

    assert drift(drift_penalty=10.0) < 0.7 * drift()


def test_uncertain_memories_go_first_where_that_is_asked_for(digits):
    oldest, _ = life(digits, 800, reinstatement="variational_autoencoder")
    uncertain, _ = life(digits, 800, reinstatement="variational_autoencoder", eviction="uncertain")
    assert oldest.store.written_at.min() == 688 and uncertain.store.written_at.min() < 600
    with pytest.raises(ValueError, match="eviction needs reinstatement variational_autoencoder"):
        life(digits, 8, eviction="uncertain")


def test_a_world_without_labels_is_refused():
    config = RunConfig.model_validate({"env": {"name": "grid_world"}, "agent": {"name": "memory_classifier"}})
    world = make_world(config)
    with pytest.raises(ValueError, match="needs a world that reveals labels"):
        list(TrainingLoop(world, make_agent(config, world), EpisodeSeeds(0)).run(2))
