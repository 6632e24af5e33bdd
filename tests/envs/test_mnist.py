"""Streams of images: drawn by their seed, right about their labels, and clear about data that is not there."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

import envs
from envs.mnist import DATA_VARIABLE, MNISTConfig, load_images
from tests.digits import idx


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Pictures of 4 x 5 pixels whose first pixel is the label and whose next ones are their number."""
    path = tmp_path_factory.mktemp("mnist")
    rng = np.random.default_rng(0)
    for prefix, count in (("train", 5_300), ("t10k", 40)):
        images = rng.integers(0, 256, (count, 4, 5), dtype=np.uint8)
        labels = rng.integers(0, 10, count)
        labels[:10] = range(10)
        images[:, 0, 0] = labels
        images[:, 0, 1], images[:, 0, 2] = np.divmod(np.arange(count), 256)
        (path / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (path / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(labels))
    return path


def world(folder: Path, num_envs: int = 3, **options):
    return envs.make(MNISTConfig(dataset=str(folder), **options), num_envs)


def number(observations: np.ndarray) -> list[int]:
    return (observations[:, 0, 0, 1].astype(int) * 256 + observations[:, 0, 0, 2]).tolist()


def test_rewards_and_labels_are_those_of_the_image_acted_on(folder):
    stream = world(folder, images_per_episode=8)
    observations, infos = stream.reset(seed=[1, 2, 3])
    assert observations.shape == (3, 1, 4, 5) and observations.dtype == np.uint8
    assert stream.single_action_space.n == 10 and infos["label"].tolist() == [-1, -1, -1]
    rng = np.random.default_rng(0)
    for step in range(8):
        actions = rng.integers(0, 10, 3)
        actions[0] = observations[0, 0, 0, 0]
        seen = observations
        observations, rewards, terminations, truncations, infos = stream.step(actions)
        assert infos["label"].tolist() == seen[:, 0, 0, 0].tolist()
        assert rewards.tolist() == (actions == seen[:, 0, 0, 0]).tolist()
        assert rewards[0] == 1 and not terminations.any() and truncations.all() == (step == 7)
    np.testing.assert_array_equal(observations, seen)


def test_an_episode_is_its_seed_and_repeats_nothing(folder):
    def images(seed: int, env: int) -> list[int]:
        stream = world(folder, num_envs=2, images_per_episode=400)
        seeds = [9, 9]
        seeds[env] = seed
        observations, _ = stream.reset(seed=seeds)
        seen = [number(observations)[env]]
        for _ in range(399):
            seen.append(number(stream.step(np.zeros(2, dtype=int))[0])[env])
        return seen

    first = images(5, 0)
    assert first == images(5, 1) != images(6, 0)
    # Of 300 training images each is seen once before one is seen twice.
    assert sorted(first[:300]) == list(range(300))


def test_blocks_bring_one_class_at_a_time_to_all_streams(folder):
    stream = world(folder, images_per_episode=30, order="blocks")
    observations, _ = stream.reset(seed=[1, 2, 3])
    for step in range(30):
        assert observations[:, 0, 0, 0].tolist() == [step // 3] * 3
        observations, *_ = stream.step(np.zeros(3, dtype=int))


def test_the_splits_have_nothing_in_common(folder):
    images = {split: load_images(str(folder), split)[0] for split in ("train", "validation", "test")}
    assert [len(images[split]) for split in images] == [300, 5_000, 40]
    numbers = [set((images[s][:, 0, 1].astype(int) * 256 + images[s][:, 0, 2]).tolist()) for s in images]
    assert not numbers[0] & numbers[1] and numbers[0] | numbers[1] == set(range(5_300))


@pytest.mark.parametrize(
    ("damage", "mend"),
    [
        (lambda path: path.unlink(), "no train-images-idx3-ubyte.gz in"),
        (lambda path: path.write_bytes(b"no gzip"), "cannot be read: "),
        (lambda path: path.write_bytes(path.read_bytes()[:500]), "cannot be read: "),
        (lambda path: path.write_bytes(gzip.compress(b"\0\0\x0d\x03abc")), "is no idx file of bytes"),
        (lambda path: path.write_bytes(gzip.compress(idx(np.zeros((9, 4, 5)))[:-1])), "or is cut short"),
        (lambda path: path.write_bytes(gzip.compress(idx(np.zeros((9, 4, 5))))), "is damaged: images [9, 4, 5]"),
        (lambda path: path.write_bytes(gzip.compress(b"")), "is no idx file of bytes"),
    ],
)
def test_damaged_data_is_told(damage, mend, folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    damage(tmp_path / "train-images-idx3-ubyte.gz")
    with pytest.raises(ValueError) as error:
        world(tmp_path)
    assert mend in str(error.value) and "\n" not in str(error.value)


def test_the_data_folder_is_told_by_a_variable(monkeypatch, tmp_path, folder):
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    with pytest.raises(ValueError, match=rf"no train-images-idx3-ubyte.gz in {tmp_path}/mnist; see \$REINSTATE_DATA"):
        envs.make(MNISTConfig(), 1)
    (tmp_path / "fashion_mnist").symlink_to(folder)
    assert envs.make(MNISTConfig(dataset="fashion_mnist"), 1).single_observation_space.shape == (1, 4, 5)


def test_a_failed_download_says_what_to_do(monkeypatch):
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    import pooch

    def fail(*arguments, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(pooch, "retrieve", fail)
    with pytest.raises(ValueError, match=r"cannot be downloaded \(no route to host\); set \$REINSTATE_DATA"):
        envs.make(MNISTConfig(), 1)


@pytest.mark.skipif(DATA_VARIABLE not in os.environ, reason="no data folder is given")
def test_the_true_digits():
    images, labels = load_images("mnist", "train")
    assert images.shape == (55_000, 28, 28) and labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert len(load_images("mnist", "validation")[1]) == 5_000
    assert len(load_images("mnist", "test")[1]) == 10_000
