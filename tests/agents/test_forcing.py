"""Professor Forcing and Memory Forcing: what is aimed at, what gradients go through, gates, exact restoring."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from agents import SequenceModelConfig, TaskSpec, make_sequence_model
from agents.forcing import Adversary, Discriminator, FreeRunning, Kept, RightMemories
from agents.sequence_model import SequenceModel
from assembly import task_spec
from envs.sequential_mnist import SequentialMNIST, SequentialMNISTConfig
from tests.agents.test_sequence_model import task as copy_task
from tests.agents.test_state import differences
from training import checkpoint

DNC = {"name": "dnc", "slots": 4, "width": 2, "hidden": 5, "learning_rate": 1e-2}
GATES = {"model_from": 0.0, "discriminator_until": 1.0}
PIXELS = 6


class Pixels(SequentialMNIST):
    """Sequential MNIST of six pixels, three black and three white."""

    def __init__(self, seed: int = 0) -> None:
        images = np.tile(np.array([0, 0, 0, 1, 1, 1], dtype=np.uint8), (8, 1))
        super().__init__(SequentialMNISTConfig(), images, np.random.default_rng(seed))


CASES: dict[str, dict[str, Any]] = {
    "professor": {"forcing": "professor"},
    "memory": {"forcing": "memory"},
    "right memories": {"forcing": "memory", "discriminator_batch": 2, "kept_memories": 6},
}
EACH = pytest.mark.parametrize("case", CASES)


def build(options: dict[str, Any], generative: bool, seed: int = 0) -> SequenceModel:
    torch.manual_seed(seed)
    config: SequenceModelConfig = TypeAdapter(SequenceModelConfig).validate_python(
        {**DNC, **(GATES if options else {}), **options}
    )
    spec = task_spec(Pixels() if generative else copy_task())
    # The batches of these tests are all of one length.
    return make_sequence_model(config, replace(spec, same_length=True), "cpu")


def example(case: str, seed: int = 0) -> tuple[SequenceModel, Any]:
    if case == "right memories":
        return build(CASES[case], generative=False, seed=seed), copy_task(min_length=1, max_length=1, bits=3)
    return build(CASES[case], generative=True, seed=seed), Pixels()


def adversary(features: int = 3, **gates: float) -> Adversary:
    torch.manual_seed(0)
    discriminator = Discriminator(features)
    return Adversary(discriminator, torch.optim.Adam(discriminator.parameters(), lr=1e-3), **{**GATES, **gates})


def test_a_model_draws_from_what_it_predicts() -> None:
    model = build({}, generative=True)
    with torch.no_grad():
        # So sure of everything that drawing is choosing.
        model.readout.weight.mul_(1e5)
        drawn = model.sample(steps=PIXELS, batch=4)
        logits, _ = model.predict(drawn)
    assert drawn.shape == (PIXELS, 4, 1) and not drawn[0].any()
    assert torch.equal(drawn[1:], (logits[:-1] > 0).float())
    model.readout.weight.data.zero_()
    model.readout.bias.data.zero_()
    assert 0.4 < model.sample(steps=200, batch=20)[1:].mean() < 0.6


def test_a_discriminator_learns_to_tell_and_costs_what_it_is_told_by() -> None:
    judge = adversary()
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        aims, behaviours = torch.randn(2, 5, 16, 3, generator=generator)
        judge.learn(aims + 1, behaviours)
    assert judge.accuracy > 0.9
    with torch.no_grad():
        near, far = judge.penalty(aims + 1), judge.penalty(behaviours)
        chances = judge.discriminator(behaviours).sigmoid()
    assert near < 0.5 < far
    assert far.item() == pytest.approx(-np.log(chances.numpy()).mean(), rel=1e-4)


def test_gates_keep_either_side_from_running_ahead() -> None:
    aims, behaviours = torch.zeros(2, 3, 4, 3)
    weak = adversary(model_from=0.75)
    assert weak.penalty(behaviours).item() == 0
    weak.accuracy = 0.76
    assert weak.penalty(behaviours).item() > 0
    strong = adversary(discriminator_until=0.6)
    strong.accuracy = 1.0
    before = copy.deepcopy(strong.state_dict())
    strong.learn(aims, behaviours)
    assert {path.split("/")[1] for path in differences(strong.state_dict(), before)} == {"accuracy"}
    strong.accuracy = 0.5
    strong.learn(aims, behaviours)
    assert differences(strong.state_dict()["discriminator"], before["discriminator"])


def test_the_model_is_moved_by_what_it_drew_and_not_by_what_it_saw() -> None:
    """The penalty alone, with all weight: its gradient is that of the states that drawn inputs led to."""
    model, _ = example("memory")
    assert isinstance(model.forcing, FreeRunning) and set(model.forcing.adversaries) == {"controller.hidden", "memory"}
    drawn = model.sample(PIXELS, 4)
    _, free = model.predict(drawn, model.forcing.records)
    aims = {name: torch.zeros_like(state, requires_grad=True) for name, state in free.recorded.items()}
    states = {name: torch.cat([aims[name], state], dim=1) for name, state in free.recorded.items()}
    total, metrics = model.forcing.penalty(states, torch.zeros(4, dtype=torch.bool))
    total.backward()
    moved = [aim.grad.any() for aim in aims.values() if aim.grad is not None]
    assert not any(moved), "what was aimed at must not move"
    assert all(parameter.grad is not None for parameter in model.core.controller.parameters())
    assert set(metrics) == {"losses/forcing", "forcing/hidden_accuracy", "forcing/memory_accuracy"}
    assert not drawn.requires_grad


def test_memories_are_told_apart_once_there_are_enough_of_both_kinds() -> None:
    forcing = RightMemories(adversary(features=2), batch=2, kept=5)
    before = copy.deepcopy(forcing.adversary.state_dict())

    def penalty(correct: list[bool]) -> float:
        states = {"memory": torch.arange(3.0)[:, None, None, None].expand(3, len(correct), 1, 2)}
        return forcing.penalty(states, torch.tensor(correct))[0].item()

    assert penalty([False] * 6) == 0 and penalty([True, True]) == 0
    assert not differences(forcing.adversary.state_dict(), before)
    assert penalty([True]) > 0
    assert differences(forcing.adversary.state_dict(), before)


def test_the_newest_are_kept() -> None:
    kept = Kept(capacity=3)
    for number in range(5):
        kept.add(torch.full((1, 2, 1), float(number)))
    assert len(kept) == 3
    assert set(kept.draw(50)[0, :, 0].tolist()) == {2.0, 3.0, 4.0}
    assert kept.draw(4).shape == (2, 4, 1)
    restored = Kept(capacity=3)
    restored.load_state_dict(kept.state_dict())
    for one in (kept, restored):
        one.add(torch.full((2, 2, 1), 9.0))
    assert torch.equal(kept.state_dict()["rows"], restored.state_dict()["rows"])
    with pytest.raises(ValueError, match="those kept have 2 steps, got 4"):
        kept.add(torch.zeros(1, 4, 1))


@EACH
def test_a_restored_model_goes_on_bit_for_bit(case: str, tmp_path: Path) -> None:
    model, source = example(case)
    lived = [model.learn(*source.draw(4)) for _ in range(12)]
    assert any(metrics["losses/forcing"] > 0 for metrics in lived)
    checkpoint.save(tmp_path, {"model": model.state_dict()}, step=12)
    restored, _ = example(case, seed=1)
    restored.load_state_dict(checkpoint.load(tmp_path)[1]["model"])
    assert not differences(restored.state_dict(), model.state_dict())
    lives = []
    for one, its_source in ((model, source), (restored, copy.deepcopy(source))):
        torch.manual_seed(5)
        lives.append([one.learn(*its_source.draw(4)) for _ in range(6)])
    assert lives[0] == lives[1]
    assert not differences(restored.state_dict(), model.state_dict())


@EACH
def test_a_model_that_is_forced_still_learns(case: str) -> None:
    model, source = example(case)
    lived = [model.learn(*source.draw(8)) for _ in range(50)]
    first, last = (np.mean([one["losses/cross_entropy"] for one in part]) for part in (lived[:5], lived[-5:]))
    assert last < 0.8 * first


def test_a_sequence_pays_its_likelihood_and_the_discriminators() -> None:
    """The gradient is that of NLL + weight C of a sequence, whose parts weigh the same however many bits it has."""

    class Sum:
        records = ("memory",)
        free_running = False

        def penalty(self, states: Any, correct: Tensor) -> tuple[Tensor, dict[str, float]]:
            return states["memory"].sum((0, 2, 3)).mean(), {}

    model, batch = build({}, generative=False), copy_task(min_length=3, max_length=3, bits=3).draw(4)
    model.forcing, model.forcing_weight, model.gradient_norm = Sum(), 2.5, 1e6  # type: ignore[assignment]
    inputs, targets, mask = map(torch.from_numpy, batch)
    logits, steps = model.predict(inputs, ("memory",))
    bits = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    paid = bits[mask].sum() + 2.5 * steps.recorded["memory"].sum()
    parameters = [*model.core.parameters(), *model.readout.parameters()]
    expected = torch.autograd.grad(paid / (4 * 3 * 3), parameters)
    model.learn(*batch)
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_what_is_kept_comes_back_to_the_device_it_was_on() -> None:
    saved = Kept(3)
    saved.add(torch.ones(2, 4, 5))
    restored = Kept(3, device="meta")
    restored.load_state_dict(saved.state_dict())
    assert restored._rows.device.type == "meta" and restored._rows.shape == (3, 4, 5) and len(restored) == 2


def test_no_weight_is_no_forcing() -> None:
    """A penalty that counts for nothing leaves the model as teacher forcing does, but for rounding."""
    learned = []
    for options in ({}, {"forcing": "memory", "forcing_weight": 0.0}):
        model, source = build(options, generative=True), Pixels()
        for _ in range(3):
            model.learn(*source.draw(4))
        learned.append({name: model.state_dict()[name] for name in ("core", "readout")})
    torch.testing.assert_close(*learned)


@pytest.mark.parametrize(
    ("options", "generative", "mend"),
    [
        (
            {"name": "gru", "forcing": "memory"},
            True,
            "--agent.forcing memory needs a core with a memory matrix, and gru has",
        ),
        ({**DNC, "model_from": 0.5}, True, "model_from needs forcing professor or memory, got forcing teacher"),
        ({**DNC, "forcing": "memory", "dropout": 0.5}, True, "dropout is for forcing teacher alone"),
        ({**DNC, "forcing": "professor"}, False, "--agent.forcing professor needs a task that is generated, such as"),
    ],
)
def test_a_forcing_that_does_not_fit_is_refused(options: dict[str, Any], generative: bool, mend: str) -> None:
    with pytest.raises(ValueError, match=mend):
        config: SequenceModelConfig = TypeAdapter(SequenceModelConfig).validate_python(options)
        make_sequence_model(config, TaskSpec(4, 3, generative, same_length=True), "cpu")


def test_memories_are_only_compared_where_sequences_are_of_one_length() -> None:
    """Unless they are made by the model itself, which is fed as many steps as the true ones."""
    config: SequenceModelConfig = TypeAdapter(SequenceModelConfig).validate_python({**DNC, "forcing": "memory"})
    for generative in (False, True):
        make_sequence_model(config, TaskSpec(4, 4, generative, same_length=True), "cpu")
    make_sequence_model(config, TaskSpec(4, 4, generative=True), "cpu")
    with pytest.raises(ValueError, match=r"--env\.min_length 12 --env\.max_length 12"):
        make_sequence_model(config, TaskSpec(4, 4), "cpu")


def test_no_discriminator_is_dead_as_it_is_drawn() -> None:
    behaviours = 0.1 * torch.randn(20, 8, 320, generator=torch.Generator().manual_seed(0))
    for seed in range(30):
        torch.manual_seed(seed)
        discriminator = Discriminator(320)
        logits = discriminator(behaviours)
        logits.square().sum().backward()
        assert logits.std() > 1e-5, seed
        assert discriminator.recurrent.weight_ih_l0.grad.abs().max() > 1e-6, seed
