"""Sequence models: their losses against plain loops, no look ahead, exact restoring, and learning."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

import envs
from agents import NonFiniteError, SequenceModelConfig, make_sequence_model
from agents.sequence_model import SequenceModel
from agents.sequence_scores import bit_losses, sequence_scores
from assembly import task_spec
from envs.copy_task import CopyConfig
from envs.dictionary import DictionaryConfig
from envs.sequence_task import SequenceTask
from tests.agents.test_state import differences
from training import checkpoint

SMALL = {"hidden": 8, "width": 3, "read_heads": 2}
MODELS: dict[str, dict[str, Any]] = {
    "gru": {"name": "gru", "hidden": 8},
    "lstm": {"name": "lstm", "hidden": 8},
    "ntm": {"name": "ntm", "slots": 6, **SMALL},
    "ntm gru": {"name": "ntm", "slots": 6, "controller": "gru", "write_heads": 2, "shift_range": 2, **SMALL},
    "dnc": {"name": "dnc", "slots": 6, **SMALL},
    "dnc corrected": {
        "name": "dnc",
        "slots": 6,
        "controller": "gru",
        "masking": True,
        "mask_floor": 0.1,
        "deallocation": True,
        "sharpness": True,
        **SMALL,
    },
    "mnm-p": {"name": "mnm", "hidden": 16, "width": 3, "memory_hidden": 4, "heads": 2},
    "mnm-g": {"name": "mnm", "rule": "g", "hidden": 16, "width": 3, "memory_hidden": 4, "inner_steps": 2},
}
EACH = pytest.mark.parametrize("name", MODELS)


def task(seed: int = 0, **options: Any) -> SequenceTask:
    return envs.make_task(CopyConfig(**{"bits": 3, "max_length": 4, **options}), np.random.default_rng(seed))


def build(name: str, seed: int = 0, **options: Any) -> SequenceModel:
    torch.manual_seed(seed)
    config: SequenceModelConfig = TypeAdapter(SequenceModelConfig).validate_python({**MODELS[name], **options})
    return make_sequence_model(config, task_spec(task()), "cpu")


def test_losses_and_scores_equal_plain_loops() -> None:
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(5, 3, 2)) * 3, rng.integers(2, size=(5, 3, 2))
    mask = rng.random((5, 3)) < 0.6
    arrays = torch.from_numpy(logits), torch.from_numpy(targets).double(), torch.from_numpy(mask)
    scores = sequence_scores(*arrays)
    for sequence in range(3):
        nats, wrong = 0.0, 0
        for time in range(5):
            for bit in range(2):
                chance = 1 / (1 + math.exp(-logits[time, sequence, bit]))
                if mask[time, sequence]:
                    nats -= math.log(chance if targets[time, sequence, bit] else 1 - chance)
                    wrong += (chance > 0.5) != bool(targets[time, sequence, bit])
        assert scores["nats"][sequence].item() == pytest.approx(nats)
        assert scores["wrong_bits"][sequence].item() == wrong
    assert not bit_losses(*arrays)[~arrays[2]].any()


def test_dropout_leaves_out_what_core_and_readout_read_and_only_while_learning() -> None:
    plain, dropped = build("lstm"), build("lstm", dropout=0.5)
    batch = task().draw(4)
    assert not differences(plain.score(*batch), dropped.score(*batch))
    inputs = torch.from_numpy(batch.inputs)
    with torch.no_grad():
        logits, steps = plain.predict(inputs, dropped=1.0)
        assert torch.equal(logits, plain.readout.bias.expand_as(logits))
        assert torch.equal(steps.outputs, plain.predict(torch.zeros_like(inputs))[1].outputs)
    expected = float(plain.score(*batch)["nats"].sum() / batch.targets[batch.mask].size)
    assert plain.learn(*batch)["losses/cross_entropy"] == pytest.approx(expected)
    assert dropped.learn(*batch)["losses/cross_entropy"] != pytest.approx(expected)


@EACH
def test_a_model_that_knows_nothing_scores_log_two_a_bit(name: str) -> None:
    model = build(name)
    torch.nn.init.zeros_(model.readout.weight)
    torch.nn.init.zeros_(model.readout.bias)
    inputs, targets, mask = task(min_length=4).draw(6)
    np.testing.assert_allclose(model.score(inputs, targets, mask)["nats"], 4 * 3 * math.log(2), rtol=1e-5)
    metrics = model.learn(inputs, targets, mask)
    assert metrics["losses/cross_entropy"] == pytest.approx(math.log(2), rel=1e-5)
    assert metrics["charts/nats_per_sequence"] == pytest.approx(12 * math.log(2), rel=1e-5)
    assert metrics["charts/wrong_bits_per_sequence"] == pytest.approx((targets.sum(axis=(0, 2))).mean())


@EACH
def test_a_logit_depends_on_no_input_after_its_step(name: str) -> None:
    model = build(name)
    inputs = torch.from_numpy(task(min_length=4).draw(2)[0])
    with torch.no_grad():
        before, _ = model.predict(inputs)
        for time in range(len(inputs)):
            changed = inputs.clone()
            changed[time] = 1 - changed[time]
            after, _ = model.predict(changed)
            assert torch.equal(after[:time], before[:time])
            assert not torch.equal(after[time:], before[time:])


@pytest.mark.parametrize("name", ["mnm-p", "mnm-g"])
def test_the_loss_of_a_core_is_learned_from_beside_the_task(name: str) -> None:
    gradients = []
    for weight in (0.0, 2.0, 3.0):
        model = build(name, meta_weight=weight, gradient_norm=1e9)
        inputs, targets, mask = task(seed=3, min_length=3).draw(5)
        # Gradients are linear in the weight; metrics tell what was added to the loss.
        states = model.states(inputs)
        metrics = model.learn(inputs, targets, mask)
        assert metrics["losses/auxiliary"] == pytest.approx(weight * states["loss_after"].mean(), rel=1e-5)
        gradients.append([one.grad.clone() for one in model.core.parameters() if one.grad is not None])
    for without, two, three in zip(*gradients, strict=True):
        torch.testing.assert_close(three - without, 1.5 * (two - without), rtol=1e-3, atol=1e-6)
    assert any((two - without).abs().max() > 1e-4 for without, two, _ in zip(*gradients, strict=True))
    assert "losses/auxiliary" not in build("dnc").learn(inputs, targets, mask)


@pytest.mark.parametrize("name", ["dnc", "mnm-p"])
def test_checkpoints_along_time_change_nothing_that_is_learned(name: str) -> None:
    learned = []
    for every in (0, 3):
        model, source = build(name, checkpoint_every=every), task()
        learned.append(([model.learn(*source.draw(4)) for _ in range(5)], model.state_dict()))
    (metrics, state), (checkpointed, other) = learned
    assert [one["losses/cross_entropy"] for one in checkpointed] == pytest.approx(
        [one["losses/cross_entropy"] for one in metrics], rel=1e-5
    )
    for mine, its in zip(other["core"].values(), state["core"].values(), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-5)


def test_checkpoints_are_refused_where_many_steps_are_one_call() -> None:
    with pytest.raises(ValueError, match="checkpoint_every keeps single steps: compiled should be 0 or 1, got 4"):
        build("dnc", checkpoint_every=2, compiled=4)


@EACH
def test_what_the_mask_leaves_out_teaches_nothing(name: str) -> None:
    inputs, targets, mask = task(min_length=4).draw(5)
    noise = np.where(mask[..., None], targets, 1 - targets)
    states = []
    for shown in (targets, noise):
        model = build(name)
        model.learn(inputs, shown, mask)
        states.append(model.state_dict())
    assert not differences(*states)


@EACH
def test_a_restored_model_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    model, source = build(name), task()
    early = [model.learn(*source.draw(4)) for _ in range(12)]
    assert len({one["losses/cross_entropy"] for one in early}) > 1
    checkpoint.save(tmp_path, {"model": model.state_dict()}, step=12)
    restored = build(name, seed=1)
    assert differences(restored.state_dict(), model.state_dict())
    restored.load_state_dict(checkpoint.load(tmp_path)[1]["model"])
    assert not differences(restored.state_dict(), model.state_dict())
    same_source = copy.deepcopy(source)
    before = copy.deepcopy(restored.state_dict())
    assert [model.learn(*source.draw(4)) for _ in range(8)] == [restored.learn(*same_source.draw(4)) for _ in range(8)]
    assert not differences(restored.state_dict(), model.state_dict())
    assert differences(restored.state_dict(), before)


@EACH
def test_a_score_leaves_no_trace(name: str) -> None:
    model, source = build(name), task()
    model.learn(*source.draw(4))
    before = copy.deepcopy(model.state_dict())
    model.score(*source.draw(3))
    model.states(source.draw(3).inputs)
    assert not differences(model.state_dict(), before)


@EACH
def test_states_are_those_of_every_step(name: str) -> None:
    model = build(name)
    inputs = task(min_length=4).draw(2).inputs
    states = model.states(inputs)
    assert all(state.shape[:2] == inputs.shape[:2] for state in states.values())
    again = model.states(inputs[:5])
    for one, state in states.items():
        np.testing.assert_array_equal(again[one], state[:5])
    assert ("read_weights" in states) == (name.split()[0] in ("ntm", "dnc"))


def test_the_learning_rate_halves_little_by_little_and_goes_on_where_it_was() -> None:
    model, source = build("gru", learning_rate=1e-2, updates_per_halving=4), task()
    rates = []
    for _ in range(6):
        model.learn(*source.draw(2))
        rates.append(model.optimiser.param_groups[0]["lr"])
    restored = build("gru", seed=1, learning_rate=1e-2, updates_per_halving=4)
    restored.load_state_dict(copy.deepcopy(model.state_dict()))
    for _ in range(3):
        restored.learn(*source.draw(2))
        rates.append(restored.optimiser.param_groups[0]["lr"])
    np.testing.assert_allclose(rates, [1e-2 * 2 ** (-update / 4) for update in range(9)])


def test_what_is_not_finite_is_not_learned() -> None:
    model = build("dnc")
    inputs, targets, mask = task().draw(2)
    before = copy.deepcopy(model.state_dict())
    inputs[0, 0, 0] = np.nan
    with pytest.raises(NonFiniteError) as error:
        model.learn(inputs, targets, mask)
    assert set(error.value.batch) == {"inputs", "targets", "mask"}
    assert not differences(model.state_dict(), before)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="shift_range must be 0 to 2 for 6 slots, got 3"):
        build("ntm", shift_range=3)


@EACH
def test_every_model_learns_to_copy_one_vector(name: str) -> None:
    model, source = build(name, learning_rate=1e-2), task(max_length=1)
    wrong = [model.learn(*source.draw(16))["charts/wrong_bits_per_sequence"] for _ in range(120)]
    assert np.mean(wrong[:5]) > 1.0
    assert np.mean(wrong[-5:]) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ntm", "dnc", "mnm-p", "mnm-g"])
def test_a_compiled_model_learns_as_well(name: str) -> None:
    model, source = build(name, learning_rate=1e-2, compiled=3), task(max_length=1)
    wrong = [model.learn(*source.draw(16))["charts/wrong_bits_per_sequence"] for _ in range(200)]
    assert np.mean(wrong[-5:]) < 0.05


@pytest.mark.slow
def test_a_dnc_learns_the_copy_task_of_the_ntm_paper() -> None:
    """At its preset's sizes, in a third of its updates: under a tenth of a wrong bit, where guessing gets 42 wrong."""
    source = envs.make_task(CopyConfig(), np.random.default_rng(0))
    torch.manual_seed(0)
    config: SequenceModelConfig = TypeAdapter(SequenceModelConfig).validate_python({"name": "dnc"})
    model = make_sequence_model(config, task_spec(source), "cpu")
    wrong = [model.learn(*source.draw(16))["charts/wrong_bits_per_sequence"] for _ in range(3_500)]
    assert np.mean(wrong[:20]) > 30
    assert np.mean(wrong[-100:]) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize(("rule", "most_wrong"), [("p", 2.5), ("g", 9.0)])
def test_an_mnm_learns_to_recall_from_a_dictionary(rule: str, most_wrong: float) -> None:
    """At the sizes of its preset: where guessing gets 18 of 36 bits wrong, and what a state can hold without it 12."""
    source = envs.make_task(DictionaryConfig(), np.random.default_rng(0))
    torch.manual_seed(0)
    options = {"name": "mnm", "rule": rule, "learning_rate": 3e-3, "meta_weight": 1.0 if rule == "p" else 0.1}
    config: SequenceModelConfig = TypeAdapter(SequenceModelConfig).validate_python(options)
    model = make_sequence_model(config, task_spec(source), "cpu")
    wrong = [model.learn(*source.draw(16))["charts/wrong_bits_per_sequence"] for _ in range(1_000)]
    assert np.mean(wrong[:20]) > 13
    assert np.mean(wrong[-200:]) < most_wrong
