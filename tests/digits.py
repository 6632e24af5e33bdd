"""Images of ten classes, easy to tell apart, in the files of MNIST: for tests that must not need the true ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np

SIDE = 6


def idx(array: np.ndarray) -> bytes:
    """The format of the MNIST files."""
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def make_digits(folder: Path, noise: int = 60) -> Path:
    """Write 5,500 training and 100 test images of 6 x 6 pixels; returns their folder."""
    place = folder / "digits"
    if place.exists():
        return place
    place.mkdir()
    rng = np.random.default_rng(0)
    prototypes = rng.integers(0, 2, (10, SIDE, SIDE)) * (255 - noise)
    for prefix, count in (("train", 5_500), ("t10k", 100)):
        labels = rng.integers(0, 10, count)
        images = prototypes[labels] + rng.integers(0, noise + 1, (count, SIDE, SIDE))
        (place / f"{prefix}-images-idx3-ubyte").write_bytes(idx(images))
        (place / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(labels))
    return place
