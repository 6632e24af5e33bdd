"""Sequential MNIST: every pixel from those before it, the true static split where it is at hand, and clear errors."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

import envs
from agents.sequence_scores import sequence_scores
from envs.mnist import DATA_VARIABLE, load_images
from envs.sequential_mnist import SequentialMNIST, SequentialMNISTConfig, check_nats

HAS_DATA = (Path(os.environ.get(DATA_VARIABLE, "")) / "binarized_mnist").is_dir()


def static(images: int = 7) -> SequentialMNIST:
    """A task of few images of random bits."""
    bits = np.random.default_rng(0).integers(2, size=(images, 784), dtype=np.uint8)
    return SequentialMNIST(SequentialMNISTConfig(), bits, np.random.default_rng(1))


def grey() -> SequentialMNIST:
    """A task of few grey images: black, white, and a third white."""
    images = np.repeat(np.array([0, 255, 85], dtype=np.uint8), 784).reshape(3, 784)
    return SequentialMNIST(SequentialMNISTConfig(binarisation="dynamic"), images, np.random.default_rng(1))


def test_an_input_is_the_pixel_before_and_never_the_one_to_be_predicted() -> None:
    task = static()
    inputs, targets, mask = task.draw(3)
    assert inputs.shape == targets.shape == (784, 3, 1) and mask.all() and mask.shape == (784, 3)
    assert not inputs[0].any()
    np.testing.assert_array_equal(inputs[1:], targets[:-1])


def test_all_images_come_before_one_comes_again() -> None:
    task = static(images=7)
    seen = np.concatenate([task.draw(2).targets[:, :, 0].T for _ in range(7)])
    for half in (seen[:7], seen[7:]):
        assert len(np.unique(half, axis=0)) == 7
    assert not np.array_equal(seen[:7], seen[7:])


def test_parts_are_all_images_in_order_the_same_every_time() -> None:
    for task in (static(), grey()):
        parts = np.concatenate([task.part(0, 2).targets, task.part(2, 100).targets], axis=1)
        assert parts.shape == (784, len(task), 1)
        task.draw(2)
        np.testing.assert_array_equal(task.part(0, 100).targets, parts)


def test_grey_is_white_by_chance_anew_for_every_batch() -> None:
    task = grey()
    share = {round(float(column.mean()), 1) for column in task.draw(3).targets[:, :, 0].T}
    assert share == {0.0, 0.3, 1.0}
    first, second = (next(one for one in task.draw(3).targets.T[0] if 0 < one.mean() < 1) for _ in range(2))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("make", [static, grey])
def test_a_saved_task_goes_on(make) -> None:
    task, restored = make(), make()
    task.draw(2)
    restored.load_state_dict(task.state_dict())
    for _ in range(5):
        np.testing.assert_array_equal(task.draw(2).targets, restored.draw(2).targets)


@pytest.mark.skipif(not HAS_DATA, reason="the static split is not at hand")
@pytest.mark.parametrize(("split", "images"), [("train", 50_000), ("validation", 10_000), ("test", 10_000)])
def test_the_static_split_is_that_of_larochelle(split, images: int) -> None:
    task = envs.make_task(SequentialMNISTConfig(split=split), np.random.default_rng(0))
    assert isinstance(task, SequentialMNIST) and len(task) == images
    # 13 % of the pixels of MNIST are white.
    assert task.part(0, 200).targets.mean() == pytest.approx(0.13, abs=0.03)


def test_data_that_is_not_there_or_damaged_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def complaint() -> str:
        with pytest.raises(ValueError) as error:
            envs.make_task(SequentialMNISTConfig(), np.random.default_rng(0))
        return str(error.value)

    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    assert complaint().startswith("set $REINSTATE_DATA to a folder with binarized_mnist/binarized_mnist_packed.npz, or")
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    assert "no binarized_mnist_packed.npz in " in complaint() and "--env.binarisation dynamic" in complaint()
    path = tmp_path / "binarized_mnist" / "binarized_mnist_packed.npz"
    path.parent.mkdir()
    path.write_bytes(b"PK\x03\x04 cut short")
    assert f"{path} cannot be read: " in complaint()
    np.savez(path, test=np.zeros((10_000, 98), dtype=np.uint8))
    assert f"{path} cannot be read: " in complaint()
    np.savez(path, train=np.zeros((50_000, 90), dtype=np.uint8))
    assert "train must be uint8 [50000, 98], got uint8 [50000, 90]" in complaint()


@pytest.mark.skipif(not HAS_DATA, reason="the data are not at hand")
@pytest.mark.parametrize("binarisation", ["static", "dynamic"])
def test_a_model_of_independent_pixels_scores_206_nats(binarisation) -> None:
    """Each pixel white with the mean of its grey: 205.8 over all binarisations by chance, whatever the one at hand."""
    train, _ = load_images("mnist", "train")
    share = np.clip(train.reshape(len(train), -1).mean(axis=0) / 255, 1e-5, 1 - 1e-5)
    logits = torch.from_numpy(np.log(share / (1 - share))).float()[:, None, None]
    config = SequentialMNISTConfig(binarisation=binarisation, split="test")
    task = envs.make_task(config, np.random.default_rng(0))
    assert isinstance(task, SequentialMNIST)
    nats = []
    for start in range(0, 10_000, 2_500):
        _, targets, mask = map(torch.from_numpy, task.part(start, start + 2_500))
        nats.append(sequence_scores(logits.expand_as(targets), targets, mask)["nats"])
    assert torch.cat(nats).mean().item() == pytest.approx(205.8, abs=1.0)


def test_a_score_that_cannot_be_is_a_leak() -> None:
    check_nats(79.2)
    for nats in (46.3, 74.9, float("nan")):
        with pytest.raises(ValueError, match=f"{nats:.1f} nats a test image is less than 75, which no model is known"):
            check_nats(nats)
