"""Images to be classified, as a world: the sanity environment of a memory that learns.

An image is an observation, the class an action, 1 or 0 the reward; the label is revealed after acting. Parallel
environments make a minibatch.
"""

from __future__ import annotations

import gzip
import math
import os
from pathlib import Path
from typing import Literal

import gymnasium
import numpy as np
import pydantic

from envs.world import Infos, Screens, World, hash_each

DATA_VARIABLE = "REINSTATE_DATA"
"""Environment variable with the folder of data sets, for machines without internet."""

_VALIDATION_IMAGES = 5_000
_FILES = {"train": "train-{}-ubyte.gz", "validation": "train-{}-ubyte.gz", "test": "t10k-{}-ubyte.gz"}
_ADDRESSES = {
    "mnist": "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "fashion_mnist": "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
}
_CHECKSUMS = {
    "mnist": {
        "train-images-idx3-ubyte.gz": "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "md5:d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "md5:9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "md5:ec29112dd5afa0611ce80d1b7f02629c",
    },
    "fashion_mnist": {
        "train-images-idx3-ubyte.gz": "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "md5:25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "md5:bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "md5:bb300cfdad3c16e7a12a480ee83cd310",
    },
}


class MNISTConfig(pydantic.BaseModel):
    """MNIST, Fashion-MNIST or any folder of the same four idx files. A game is a stream of images."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    name: Literal["mnist"] = "mnist"
    """The world."""
    dataset: str = "mnist"
    """mnist or fashion_mnist, downloaded once and checked; or a folder with the four files, gzipped or not."""
    split: Literal["train", "validation", "test"] = "train"
    """Which images: the first 55,000 of the training set, its last 5,000, or the test set."""
    images_per_episode: int = pydantic.Field(default=100, ge=1, lt=2**31)
    """Images of one environment's episode; its return is the number of those classified right."""
    order: Literal["shuffled", "blocks"] = "shuffled"
    """Each image drawn from all, or the classes one after the other, each for a tenth of the episode."""

    @property
    def title(self) -> str:
        """What the world is called."""
        return Path(self.dataset).name


def make_mnist(config: MNISTConfig, num_envs: int) -> MNIST:
    """Build `num_envs` streams.

    Raises:
        ValueError: if the data cannot be had, saying from where and what to do.
    """
    images, labels = load_images(config.dataset, config.split)
    return MNIST(images, labels, config, num_envs)


def mnist_screens(config: MNISTConfig) -> Screens:
    """The images of one stream in grey, uint8 `[height, width, 3]`."""
    return Screens(make_mnist(config, 1), lambda image: image[0][:, :, None].repeat(3, axis=2))


class MNIST(World):
    """Streams of images, each drawn by its episode's seed.

    Observations are uint8 `[num_envs, 1, height, width]`, rewards 1 for the right class and else 0. A shuffled
    episode goes through the images in an order of its own, without repeating one before all were seen. Episodes are
    truncated: nothing ends, they are only counted by.

    Infos, all `[num_envs]`: `state_hash` uint64, of the image; `label` int64, of the image that was acted on, -1
    after a reset.

    Args:
        images: uint8 `[n, height, width]`.
        labels: uint8 `[n]`.
        config: length and order of episodes.
        num_envs: streams in parallel.
    """

    reveals_labels = True

    def __init__(self, images: np.ndarray, labels: np.ndarray, config: MNISTConfig, num_envs: int) -> None:
        self._images = images[:, None]
        self._labels = labels.astype(np.int64)
        self._length = config.images_per_episode
        self._blocks = config.order == "blocks"
        self._classes = int(labels.max()) + 1
        space = gymnasium.spaces.Box(0, 255, self._images.shape[1:], dtype=np.uint8)
        super().__init__(num_envs, space, [str(label) for label in range(self._classes)])
        self._order = np.zeros((num_envs, self._length), dtype=np.int64)
        self._place = np.zeros(num_envs, dtype=np.int64)
        self._every_env = np.arange(num_envs)

    def _begin(self, mask: np.ndarray, seeds: list[int]) -> tuple[np.ndarray, Infos]:
        for env, seed in zip(np.flatnonzero(mask), seeds, strict=True):
            self._order[env] = self._draw(np.random.default_rng(seed))
            self._place[env] = 0
        return self._look(np.full(self.num_envs, -1, dtype=np.int64))

    def _advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Infos]:
        labels = self._labels[self._order[self._every_env, self._place]]
        truncations = self._place == self._length - 1
        # The last image stays in sight: an episode has no image after it.
        self._place = np.where(truncations, self._place, self._place + 1)
        observations, infos = self._look(labels)
        rewards = (actions == labels).astype(np.float64)
        return observations, rewards, np.zeros(self.num_envs, dtype=bool), truncations, infos

    def _look(self, labels: np.ndarray) -> tuple[np.ndarray, Infos]:
        observations = self._images[self._order[self._every_env, self._place]]
        return observations, {"state_hash": hash_each(observations), "label": labels}

    def _draw(self, rng: np.random.Generator) -> np.ndarray:
        """Indices of an episode's images, int64 `[images_per_episode]`."""
        if not self._blocks:
            passes = math.ceil(self._length / len(self._labels))
            return np.concatenate([rng.permutation(len(self._labels)) for _ in range(passes)])[: self._length]
        classes = np.arange(self._length) * self._classes // self._length
        return np.array([rng.choice(np.flatnonzero(self._labels == one)) for one in classes])


def load_images(dataset: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 `[n, height, width]` and labels uint8 `[n]` of a split.

    A data set that is known by name is looked for in a folder of that name below `$REINSTATE_DATA`, and else
    downloaded into the user's cache, with its checksum.

    Raises:
        ValueError: if it is not there, cannot be downloaded, or is not what it should be.
    """
    images, labels = (_read_idx(_find(dataset, _FILES[split].format(kind))) for kind in ("images-idx3", "labels-idx1"))
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise ValueError(f"{dataset} is damaged: images {list(images.shape)}, labels {list(labels.shape)}")
    if split != "test":
        if len(images) <= _VALIDATION_IMAGES:
            raise ValueError(f"{dataset} has {len(images)} training images; {_VALIDATION_IMAGES} are for validation")
        part = slice(-_VALIDATION_IMAGES) if split == "train" else slice(-_VALIDATION_IMAGES, None)
        images, labels = images[part], labels[part]
    return images, labels


def _find(dataset: str, name: str) -> Path:
    if dataset not in _ADDRESSES:
        return _existing(
            Path(dataset), name, "dataset must be mnist, fashion_mnist or a folder with the four idx files"
        )
    if DATA_VARIABLE in os.environ:
        return _existing(Path(os.environ[DATA_VARIABLE]) / dataset, name, f"see ${DATA_VARIABLE}")
    # Costs 0.1 s, which only those who download need to wait for.
    import pooch

    try:
        return Path(
            pooch.retrieve(
                _ADDRESSES[dataset] + name,
                _CHECKSUMS[dataset][name],
                fname=name,
                path=pooch.os_cache("reinstate") / dataset,
                progressbar=True,
            )
        )
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{dataset} cannot be downloaded ({reason}); set ${DATA_VARIABLE} to a folder with {dataset}/{name}"
        ) from error


def _existing(folder: Path, name: str, mend: str) -> Path:
    for path in (folder / name, folder / name.removesuffix(".gz")):
        if path.is_file():
            return path
    raise ValueError(f"no {name} in {folder}; {mend}")


def _read_idx(path: Path) -> np.ndarray:
    """An array of bytes from the format of the MNIST files: type, dimensions, sizes, content."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, gzip.zlib.error) as error:  # type: ignore[attr-defined]
        raise ValueError(f"{path} cannot be read: {error}") from error
    dimensions = content[3] if len(content) > 3 and content[:3] == b"\0\0\x08" else 0
    start = 4 + 4 * dimensions
    shape = np.frombuffer(content[4:start], dtype=">u4") if len(content) >= start else np.zeros(0)
    if not dimensions or len(shape) != dimensions or len(content) - start != int(np.prod(shape, dtype=np.int64)):
        raise ValueError(f"{path} is no idx file of bytes, or is cut short")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape.astype(np.int64)).copy()
