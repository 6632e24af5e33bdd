"""MNIST pixel by pixel, each to be predicted from those before it: 784 steps, black or white.

What a score means depends on how grey pixels became black and white: scores on the static split of Larochelle and
Murray 2011 compare with one another, and with no others.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydantic

from envs.mnist import DATA_VARIABLE, load_images
from envs.sequence_task import Sequences, SequenceTask

_FILE = "binarized_mnist/binarized_mnist_packed.npz"
_STATIC_IMAGES = {"train": 50_000, "valid": 10_000, "test": 10_000}
_PIXELS = 784
LEAST_NATS = 75.0
"""Negative log likelihood of a binarised image that no model is known to come near, in nats; the best have 78 to 79."""


class SequentialMNISTConfig(pydantic.BaseModel):
    """Sequential MNIST: the pixels of a binarised image, row by row, each to be predicted from those before it."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    name: Literal["sequential_mnist"] = "sequential_mnist"
    """The task."""
    binarisation: Literal["static", "dynamic"] = "static"
    """The split of Larochelle and Murray 2011, binarised once for all; or MNIST, pixels white with the chance of their
    grey, drawn anew for every batch in training and once in test. The two are not comparable."""
    split: Literal["train", "validation", "test"] = "train"
    """Which images."""

    @property
    def title(self) -> str:
        """What the task is called."""
        return f"sequential MNIST {self.binarisation}"


class SequentialMNIST(SequenceTask):
    """Sequential MNIST: the input is the pixel before, 0 at first, and the target the pixel, 1 for white.

    Args:
        config: which images, and how they are binarised.
        images: `[n, 784]`, uint8: 0 or 1 of the static split, else grey.
        rng: where all randomness of the task comes from.
    """

    generative = True
    same_length = True

    def __init__(self, config: SequentialMNISTConfig, images: np.ndarray, rng: np.random.Generator) -> None:
        super().__init__(1, 1, rng)
        self._images = images
        self._grey = config.binarisation == "dynamic"
        self._order = np.zeros(0, dtype=np.int64)

    @property
    def pixels(self) -> int:
        """Steps of a sequence."""
        return self._images.shape[1]

    def __len__(self) -> int:
        """How many images there are."""
        return len(self._images)

    def draw(self, batch: int) -> Sequences:
        """Images in an order that goes through all of them before any comes again."""
        while len(self._order) < batch:
            self._order = np.concatenate([self._order, self.rng.permutation(len(self._images))])
        chosen, self._order = self._order[:batch], self._order[batch:]
        return self._sequences(self._images[chosen], self.rng)

    def part(self, start: int, end: int) -> Sequences:
        """Images from `start` to before `end`, the same ones every time: grey is binarised by the image's number."""
        parts = [
            self._sequences(self._images[number : number + 1], np.random.default_rng(number))
            for number in range(start, min(end, len(self._images)))
        ]
        return Sequences(*(np.concatenate(columns, axis=1) for columns in zip(*parts, strict=True)))

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "order": self._order}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._order = state["order"].copy()

    def _sequences(self, images: np.ndarray, rng: np.random.Generator) -> Sequences:
        white = rng.random(images.shape) < images / 255 if self._grey else images
        targets = white.T.astype(np.float32)[:, :, None]
        inputs = np.concatenate([np.zeros_like(targets[:1]), targets[:-1]])
        return Sequences(inputs, targets, np.ones(targets.shape[:2], dtype=bool))


def make_sequential_mnist(config: SequentialMNISTConfig, rng: np.random.Generator) -> SequentialMNIST:
    """Build the task.

    Raises:
        ValueError: if the data cannot be had, saying from where and what to do.
    """
    if config.binarisation == "static":
        return SequentialMNIST(config, _load_static(config.split), rng)
    images, _ = load_images("mnist", config.split)
    return SequentialMNIST(config, images.reshape(len(images), -1), rng)


def check_nats(nats: float) -> None:
    """Raise ValueError where test images were predicted better than can be believed: by `LEAST_NATS` or less.

    The noise of a binarisation by chance alone is 45.5 nats an image, which not even one who sees the grey image can
    foresee; so a score near that is no likelihood, or of pixels that were seen.
    """
    if not nats >= LEAST_NATS:
        raise ValueError(
            f"{nats:.1f} nats a test image is less than {LEAST_NATS:.0f}, which no model is known to come near: "
            "something sees the pixels that it predicts"
        )


def _load_static(split: str) -> np.ndarray:
    """The images of a split, uint8 0 or 1 `[n, 784]`.

    Raises:
        ValueError: if the file is not there, or is not what it should be.
    """
    mend = f"or take --env.binarisation dynamic, which is not comparable; see ${DATA_VARIABLE}"
    if DATA_VARIABLE not in os.environ:
        raise ValueError(f"set ${DATA_VARIABLE} to a folder with {_FILE}, {mend}")
    path = Path(os.environ[DATA_VARIABLE]) / _FILE
    if not path.is_file():
        raise ValueError(f"no {path.name} in {path.parent}: put it there, {mend}")
    name = "valid" if split == "validation" else split
    try:
        packed = np.load(path)[name]
    except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    expected = (_STATIC_IMAGES[name], _PIXELS // 8)
    if packed.shape != expected or packed.dtype != np.uint8:
        raise ValueError(f"{path}: {name} must be uint8 {list(expected)}, got {packed.dtype} {list(packed.shape)}")
    return np.unpackbits(packed, axis=1)
