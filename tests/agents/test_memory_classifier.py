"""The memory classifier remembers the newest images, reads classes as a plain loop does, and learns."""

from __future__ import annotations

import copy
from typing import get_args

import numpy as np
import pytest
import torch
from torch.nn import functional

from agents import NonFiniteError, Transition
from agents.learning_memory_config import CreditName
from assembly import RunConfig, make_agent, make_world
from envs.mnist import load_images
from tests.digits import make_digits
from training.command_line import UsageError
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
    observations = torch.randint(0, 256, (3, 1, 6, 6), dtype=torch.uint8)
    chances = agent.class_probabilities(observations)
    queries = agent.memory.encoder(observations).detach()
    for query, found in zip(queries, chances, strict=True):
        weights = []
        for key in agent.store.keys:
            weights.append(float(functional.cosine_similarity(query, key, dim=0)) / 0.1)
        exponentials = np.exp(weights)
        expected = np.zeros(10)
        for weight, label in zip(exponentials / exponentials.sum(), agent.store.values.tolist(), strict=True):
            expected[int(label)] += weight
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("credit", get_args(CreditName))
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


def update_of(agent, credited=None, counts_for=1.0, fresh=True, query_gradient=False):
    """One update of the agent, and the gradient of its loss written out: through the credited memories alone."""
    observations = torch.randint(0, 256, (8, 1, 6, 6), dtype=torch.uint8)
    labels = torch.arange(8)
    credited = torch.arange(len(agent.store)) if credited is None else credited
    stored, values = agent.store.keys.clone(), agent.store.values.long()
    encoder = copy.deepcopy(agent.memory.encoder)
    recalled = encoder(agent.memory.reinstatement.recall(credited, stored[credited]))
    keys = recalled.detach() if fresh else stored[credited]
    keys = keys + counts_for * (recalled - recalled.detach())
    queries = encoder(observations.float())
    queries = queries if query_gradient else queries.detach()
    keys = stored.index_copy(0, credited, keys)
    weights = torch.softmax(functional.normalize(queries) @ functional.normalize(keys).T / 0.1, dim=1)
    functional.nll_loss((weights @ functional.one_hot(values, 10).float()).log(), labels).backward()
    expected = [parameter.grad for parameter in encoder.parameters()]

    steps = []
    agent.memory.optimiser.step = lambda: steps.append([p.grad.clone() for p in agent.memory.encoder.parameters()])
    nothing = np.zeros(8, dtype=np.uint64)
    agent.act(observations.numpy(), nothing)
    zeros = np.zeros(8)
    agent.observe(
        Transition(observations.numpy(), nothing, zeros, zeros, zeros, zeros, observations.numpy(), labels.numpy())
    )
    agent.learn()
    return steps[0], expected


def assert_same(found, expected):
    for mine, its in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-3, atol=1e-7)


def test_an_update_follows_the_gradient_through_all_memories_and_not_through_the_query(digits):
    agent, _ = life(digits, 400, reinstatement="raw")
    assert_same(*update_of(agent))
    found, through_query = update_of(agent, query_gradient=True)
    assert any((mine - its).abs().max() > 1e-3 for mine, its in zip(found, through_query, strict=True))


def test_a_sample_counts_for_all_memories(digits):
    agent, _ = life(digits, 400, reinstatement="raw", credit="approximate", sampled=30)
    drawn = torch.randperm(120, generator=copy.deepcopy(agent.sample._generator).clone_state())[:30]
    assert_same(*update_of(agent, credited=drawn, counts_for=4.0, fresh=False))


def test_the_encoders_share_of_the_reconstruction_error_reaches_it(digits):
    """Of frozen credit nothing else does, and half the share makes half the gradient."""
    found = []
    for share in (1.0, 0.5):
        agent, _ = life(digits, 400, credit="frozen", reconstruction_share=share)
        found.append(update_of(agent)[0])
    assert any(gradient.any() for gradient in found[0])


def test_options_reach_their_mechanisms(digits):
    assert life(digits, 8, credit="approximate", trust=0.75)[0].memory.credit._trust == 0.75
    for conditioned, width in ((True, 10), (False, 0)):
        agent = life(digits, 8, credit="synthetic", label_conditioned=conditioned)[0]
        assert agent.memory.credit._context.shape == (120, width)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"precision": "auto"}, "precision needs architecture nature"),
        ({"trust": 0.5}, "trust needs credit approximate"),
        ({"credit": "frozen", "drift_penalty": 1.0}, "drift_penalty needs an encoder that learns"),
        ({"reinstatement": "raw", "pretraining": 5}, "pretraining needs an autoencoder"),
        ({"reinstatement": "lossless", "reconstruction_share": 0.1}, "reconstruction_share needs an autoencoder"),
        ({"pretraining_offline": True}, "pretraining_offline needs pretraining above 0"),
        ({"freshening": "candidates"}, "needs an agent that recalls neighbours"),
        ({"credit": "synthetic", "anchor_penalty": 1}, "anchor_penalty needs a credit that reinstates"),
        ({"freshened": 7}, "freshened needs freshening sweep"),
        ({"updates_per_map": 7}, "updates_per_map needs freshening drift_map"),
        (
            {"freshening": "drift_map", "freshen_trusted": True, "reinstatement": "variational_autoencoder"},
            "freshen_trusted needs freshening that embeds anew",
        ),
        ({"credit": "backpropagation", "freshening": "sweep"}, "freshening needs a credit"),
        ({"freshen_trusted": True}, "freshen_trusted needs reinstatement variational_autoencoder"),
    ],
)
def test_options_without_effect_are_refused(digits, options, complaint):
    with pytest.raises(ValueError, match=complaint):
        life(digits, 8, **options)


def test_more_images_at_a_time_than_are_remembered_are_refused(digits):
    with pytest.raises(UsageError, match="capacity must be at least num_envs, 8, got 7"):
        life(digits, 8, capacity=7)


def test_a_decoder_that_knows_nothing_yet_freshens_nothing(digits):
    agent, _ = life(digits, 240, credit="approximate", freshening="sweep", pretraining=1_000)
    assert agent.staleness()["key_drift"] < 1e-5


def test_exact_credit_answers_with_fresh_keys_and_approximate_with_stored_ones(digits):
    observations = torch.randint(0, 256, (5, 1, 6, 6), dtype=torch.uint8)
    for credit, fresh in (("exact", True), ("approximate", False)):
        agent, _ = life(digits, 800, reinstatement="raw", credit=credit, learning_rate=3e-3)
        with torch.no_grad():
            keys = agent.memory.encoder(agent.memory.reinstatement.recall(torch.arange(120), agent.store.keys))
            queries = agent.memory.encoder(observations)
        keys = keys if fresh else agent.store.keys
        expected = agent.kernel.weights(agent.kernel.similarities(queries, keys))
        expected = expected @ functional.one_hot(agent.store.values.long(), 10).float()
        torch.testing.assert_close(agent.class_probabilities(observations), expected)


def test_with_epsilon_classes_are_drawn_at_random(digits):
    agent, _ = life(digits, 800, reinstatement="raw")
    observations = np.zeros((4_000, 1, 6, 6), dtype=np.uint8)
    nothing = np.zeros(4_000, dtype=np.uint64)
    usual = agent.act(observations[:1], nothing[:1], epsilon=0.0)[0]
    for epsilon in (0.0, 0.5, 1.0):
        as_usual = (agent.act(observations, nothing, epsilon=epsilon) == usual).mean()
        assert as_usual == pytest.approx(1 - 0.9 * epsilon, abs=0.04 * (epsilon > 0))


@pytest.mark.parametrize("freshening", ["recall", "sweep"])
def test_freshened_keys_are_those_of_now(freshening, digits):
    options = {"freshened": 120} if freshening == "sweep" else {}
    agent, _ = life(digits, 800, reinstatement="raw", freshening=freshening, learning_rate=3e-3, **options)
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


def test_offline_the_encoder_waits_for_a_full_memory_and_the_decoder_learns_all_it_is_to_at_once(digits):
    options = {"pretraining": 300, "pretraining_offline": True, "learning_rate": 1e-3}
    begun, records = life(digits, 112, **options)
    assert not any("losses/reconstruction" in metrics for record in records for metrics in record.metrics)
    full, records = life(digits, 120, **options)
    errors = [metrics["losses/reconstruction"] for metrics in records[-1].metrics if "losses/reconstruction" in metrics]
    assert len(errors) == 300 and np.mean(errors[-20:]) < np.mean(errors[:20]) - 0.01
    after = life(digits, 136, **options)[0]
    for one, other, still in ((begun, full, True), (full, after, False)):
        pairs = zip(one.memory.encoder.parameters(), other.memory.encoder.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs) == still
    assert full.offline.nbytes == 0


def test_what_comes_back_is_shown_beside_what_was_seen(digits):
    agent, _ = life(digits, 800, learning_rate=3e-3)
    seen, stored, fresh = agent.pictures()["recall/reconstructions"]
    known = {picture.tobytes() for picture in load_images(str(digits), "train")[0]}
    assert len(seen) == 8 and all(one.tobytes() in known for one in seen)
    slots = agent.probe.slots[:8]
    with torch.no_grad():
        of_stored = agent.memory.reinstatement.recall(slots, agent.store.keys[slots])
        of_fresh = agent.memory.reinstatement.recall(slots, agent.memory.encoder(torch.from_numpy(seen).float()))
    np.testing.assert_allclose(stored, of_stored, atol=0.51)
    np.testing.assert_allclose(fresh, of_fresh, atol=0.51)
    assert not np.array_equal(stored, fresh)
    assert life(digits, 80, reinstatement="lossless")[0].pictures() == {}


def test_a_drift_penalty_keeps_keys_comparable(digits):
    def drift(**agent) -> float:
        agent, _ = life(digits, 1_600, credit="approximate", reinstatement="raw", learning_rate=3e-3, **agent)
        return agent.staleness()["key_drift"]

    loose = drift()
    assert drift(drift_penalty=100.0) < 0.7 * loose
    assert drift(anchor_penalty=100.0) < 0.7 * loose


def test_uncertain_memories_go_first_where_that_is_asked_for(digits):
    oldest, _ = life(digits, 800, reinstatement="variational_autoencoder")
    uncertain, _ = life(digits, 800, reinstatement="variational_autoencoder", eviction="uncertain")
    assert oldest.store.written_at.min() == 688 and uncertain.store.written_at.min() < 600
    with pytest.raises(ValueError, match="eviction needs reinstatement variational_autoencoder"):
        life(digits, 8, eviction="uncertain")


def test_what_is_not_finite_is_told_as_such(digits):
    with pytest.raises(NonFiniteError):
        life(digits, 800, credit="approximate", freshening="sweep", learning_rate=1e30)


def test_a_world_without_labels_is_refused():
    config = RunConfig.model_validate({"env": {"name": "grid_world"}, "agent": {"name": "memory_classifier"}})
    with pytest.raises(UsageError, match="needs a world that reveals labels"):
        make_agent(config, make_world(config))
