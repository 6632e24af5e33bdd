"""How the observation behind a memory comes back, so that it can be embedded again (Hansen 2017, section 2.3).

Observations are uint8 going in and float32 coming back, on the same scale. They are kept by slot, one for each memory
of a store, or not at all: an autoencoder makes them from the stored key.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
import zstandard
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR

_LEAST_CONTENT = 64
"""Bytes to train a dictionary on. Zstandard trains on three quarters of them, and crashes where these are below 8."""


class Reinstatement(Protocol):
    """A way from memories back to observations."""

    def remember(self, slots: Tensor, observations: Tensor) -> None:
        """Take in the observations uint8 `[n, *shape]` of memories just written to distinct `slots`, int64 `[n]`."""
        ...

    def recall(self, slots: Tensor, keys: Tensor) -> Tensor:
        """The observations of memories, float32 `[n, *shape]`, given their slots and their stored keys."""
        ...

    def learn(self, keys: Tensor, observations: Tensor) -> float | None:
        """Improve on keys `[n, key_size]` and what they are of, uint8.

        Returns:
            The reconstruction error, or None where nothing learns; nothing is improved by one that is not finite.
        """
        ...

    @property
    def nbytes(self) -> int:
        """Bytes kept for observations, networks left out; 0 where keys are enough."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        ...


class Raw:
    """Keeps observations as they are."""

    def __init__(self, capacity: int, shape: tuple[int, ...]) -> None:
        self._observations = torch.zeros(capacity, *shape, dtype=torch.uint8)
        self._filled = torch.zeros(capacity, dtype=torch.bool)

    def remember(self, slots: Tensor, observations: Tensor) -> None:
        self._observations[slots] = observations
        self._filled[slots] = True

    def recall(self, slots: Tensor, keys: Tensor) -> Tensor:
        return self._observations[slots].float()

    def learn(self, keys: Tensor, observations: Tensor) -> float | None:
        return None

    @property
    def nbytes(self) -> int:
        return int(self._filled.sum()) * self._observations[0].nbytes

    def state_dict(self) -> dict[str, Any]:
        slots = self._filled.nonzero()[:, 0]
        return {"slots": slots, "observations": self._observations[slots]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._filled.zero_()
        self.remember(state["slots"], state["observations"])


class Lossless:
    """Keeps each observation as a Zstandard frame, compressed with a dictionary trained on the stream.

    The dictionary is trained once there is enough to train it on, and again when frames come out a third larger than
    they did just after: the stream has changed. What it was trained on is compressed anew, all other frames keep the
    dictionary they were made with, which is let go of when the next is trained and none of them lives.

    Args:
        capacity: memories.
        shape: of an observation.
        level: of compression; 6 takes some 50 microseconds for a stack of Atari frames.
        dictionary_bytes: size of a dictionary; it pays where observations share structure.
        samples: observations that one is trained on.
    """

    def __init__(
        self,
        capacity: int,
        shape: tuple[int, ...],
        level: int = 6,
        dictionary_bytes: int = 2**16,
        samples: int = 1_000,
    ) -> None:
        self._shape = shape
        self._level = level
        self._dictionary_bytes = dictionary_bytes
        self._samples = samples
        self._frames: list[bytes] = [b""] * capacity
        self._frame_bytes = 0
        self._made_with = np.zeros(capacity, dtype=np.int64)
        self._dictionaries: dict[int, bytes] = {}
        self._current = 0
        self._recent: list[tuple[int, bytes]] = []
        self._fits = False
        self._mean_bytes_then = 0.0
        self._mean_bytes_now = 0.0
        self._use(0)

    def remember(self, slots: Tensor, observations: Tensor) -> None:
        for slot, observation in zip(slots.tolist(), observations.numpy(), strict=True):
            frame = self._compressor.compress(observation.tobytes())
            self._put(slot, frame)
            self._note(len(frame))
            if not self._fits:
                self._recent.append((slot, frame))
        if self._fits and self._mean_bytes_now > 1.33 * self._mean_bytes_then:
            # What came before the change is nothing to train on.
            self._fits = False
        if len(self._recent) >= self._samples:
            self._train()
            self._recent = []

    def recall(self, slots: Tensor, keys: Tensor) -> Tensor:
        size = int(np.prod(self._shape))
        content = np.empty((len(slots), size), dtype=np.uint8)
        for row, slot in enumerate(slots.tolist()):
            decompressor = self._decompressors[int(self._made_with[slot])]
            content[row] = np.frombuffer(decompressor.decompress(self._frames[slot], max_output_size=size), np.uint8)
        return torch.from_numpy(content).view(len(slots), *self._shape).float()

    def learn(self, keys: Tensor, observations: Tensor) -> float | None:
        return None

    @property
    def nbytes(self) -> int:
        # Python's own, some fifty for each frame, are left out. Samples are the frames of memories while these live.
        samples = sum(len(frame) for slot, frame in self._recent if frame != self._frames[slot])
        return self._frame_bytes + samples + sum(map(len, self._dictionaries.values()))

    def state_dict(self) -> dict[str, Any]:
        return {
            "lengths": np.array([len(frame) for frame in self._frames], dtype=np.int64),
            "frames": _bytes(b"".join(self._frames)),
            "made_with": self._made_with.copy(),
            "dictionaries": {number: _bytes(content) for number, content in self._dictionaries.items()},
            "current": self._current,
            "recent": [(slot, _bytes(frame)) for slot, frame in self._recent],
            "fits": self._fits,
            "mean_bytes": (self._mean_bytes_then, self._mean_bytes_now),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        ends = np.cumsum(state["lengths"]).tolist()
        content = state["frames"].tobytes()
        self._frames = [content[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        self._frame_bytes = len(content)
        self._made_with = state["made_with"].copy()
        self._dictionaries = {number: saved.tobytes() for number, saved in state["dictionaries"].items()}
        self._recent = [(slot, saved.tobytes()) for slot, saved in state["recent"]]
        self._fits = state["fits"]
        self._mean_bytes_then, self._mean_bytes_now = state["mean_bytes"]
        self._use(state["current"])

    def __deepcopy__(self, memo: dict[int, Any]) -> Lossless:
        # Zstandard's own objects cannot be copied, but made again.
        twin = Lossless(len(self._frames), self._shape, self._level, self._dictionary_bytes, self._samples)
        twin.load_state_dict(self.state_dict())
        memo[id(self)] = twin
        return twin

    def _put(self, slot: int, frame: bytes) -> None:
        self._frame_bytes += len(frame) - len(self._frames[slot])
        self._frames[slot], self._made_with[slot] = frame, self._current

    def _note(self, frame_bytes: int) -> None:
        self._mean_bytes_now = self._mean_bytes_now or float(frame_bytes)
        self._mean_bytes_now += (frame_bytes - self._mean_bytes_now) / self._samples

    def _train(self) -> None:
        decompressor, size = self._decompressors[self._current], int(np.prod(self._shape))
        contents = [decompressor.decompress(frame, max_output_size=size) for _, frame in self._recent]
        # Too little in common, or too little content: frames stay as they are, until the stream has changed.
        dictionary = b""
        if sum(map(len, contents)) >= _LEAST_CONTENT:
            with contextlib.suppress(zstandard.ZstdError):
                dictionary = zstandard.train_dictionary(self._dictionary_bytes, [*contents]).as_bytes()
        self._dictionaries[self._current + 1] = dictionary
        self._use(self._current + 1)
        frames = [self._compressor.compress(content) for content in contents]
        for (slot, before), frame in zip(self._recent, frames, strict=True):
            if self._frames[slot] == before:
                self._put(slot, frame)
        for number in self._dictionaries.keys() - {self._current, *self._made_with.tolist()}:
            del self._dictionaries[number], self._decompressors[number]
        self._fits = True
        self._mean_bytes_then = self._mean_bytes_now = float(np.mean([len(frame) for frame in frames]))

    def _use(self, current: int) -> None:
        self._current = current
        data = {number: zstandard.ZstdCompressionDict(content) for number, content in self._dictionaries.items()}
        self._compressor = zstandard.ZstdCompressor(level=self._level, dict_data=data.get(current), write_checksum=True)
        self._decompressors = {0: zstandard.ZstdDecompressor()}
        self._decompressors |= {number: zstandard.ZstdDecompressor(dict_data=one) for number, one in data.items()}


class Autoencoder:
    """Makes the observation from the stored key: nothing else is kept.

    Only the decoder learns from the reconstruction error, as in the paper, unless the keys it is given carry a graph.

    Args:
        decoder: from keys `[n, key_size]` to logits of pixels `[n, prod(shape)]`.
        shape: of an observation.
        make_optimiser: builds the decoder's optimiser from its parameters.
        high: the largest value in an observation.
        pretraining: batches at the start that it learns from ten times as fast. After them it should be slow: a decoder
            that keeps pace with the encoder makes of an old key what the encoder of now would have made that key of,
            and so hides that the key is old.
    """

    def __init__(
        self,
        decoder: nn.Module,
        shape: tuple[int, ...],
        make_optimiser: Callable[[Any], torch.optim.Optimizer],
        high: float = 255.0,
        pretraining: int = 0,
    ) -> None:
        self.decoder = decoder
        self._shape = shape
        self._high = high
        self.optimiser = make_optimiser(self._trained())
        self._schedule = LambdaLR(self.optimiser, lambda batch: 10.0 if batch < pretraining else 1.0)

    def remember(self, slots: Tensor, observations: Tensor) -> None:
        pass

    def recall(self, slots: Tensor, keys: Tensor) -> Tensor:
        with torch.no_grad():
            return self.decoder(keys).sigmoid().mul_(self._high).view(len(keys), *self._shape)

    def learn(self, keys: Tensor, observations: Tensor) -> float | None:
        pixels = observations.flatten(1) / self._high
        loss = self._loss(keys, pixels)
        error = loss.item() / pixels.shape[1]
        if math.isfinite(error):
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self.optimiser.step()
            self._schedule.step()
        return error

    @property
    def nbytes(self) -> int:
        return 0

    def state_dict(self) -> dict[str, Any]:
        return {
            "decoder": self.decoder.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "batches": self._schedule.last_epoch,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.decoder.load_state_dict(state["decoder"])
        self.optimiser.load_state_dict(copy.deepcopy(state["optimiser"]))
        self._schedule.last_epoch = state["batches"]

    def _trained(self) -> list[nn.Parameter]:
        return list(self.decoder.parameters())

    def _loss(self, keys: Tensor, pixels: Tensor) -> Tensor:
        """Cross-entropy of the pixels, summed over an observation and averaged over the batch."""
        logits = self.decoder(keys)
        return functional.binary_cross_entropy_with_logits(logits, pixels, reduction="sum") / len(pixels)


class VariationalAutoencoder(Autoencoder):
    """An autoencoder that knows how sure it is (Kingma and Welling 2013; proposed in Hansen 2017, section 4).

    The stored key is the mean of the code; `log_variance`, a network of its own, says from the key how far the code
    may stray. Trained with codes that stray so far, the decoder takes keys that have gone a little stale. An encoder
    that learns for another end has keys of any size, so straying is counted in root mean squares of the key.

    Args:
        log_variance: from keys of root mean square 1 `[n, key_size]` to `[n, key_size]`.
        divergence_weight: of the divergence from the unit normal, against the reconstruction.
        generator: what codes are drawn with.
    """

    def __init__(
        self,
        decoder: nn.Module,
        log_variance: nn.Module,
        shape: tuple[int, ...],
        make_optimiser: Callable[[Any], torch.optim.Optimizer],
        generator: torch.Generator,
        divergence_weight: float = 1.0,
        high: float = 255.0,
        pretraining: int = 0,
    ) -> None:
        self.log_variance = log_variance
        self._generator = generator
        self._divergence_weight = divergence_weight
        super().__init__(decoder, shape, make_optimiser, high, pretraining)

    @torch.no_grad()
    def uncertainty(self, keys: Tensor) -> Tensor:
        """Mean standard deviation of each key's code, `[n]`: large where the observation could be many."""
        return (0.5 * self._log_variance_of(keys)).exp().mean(dim=1)

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "log_variance": self.log_variance.state_dict(),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.log_variance.load_state_dict(state["log_variance"])
        self._generator.set_state(state["generator"])

    def _trained(self) -> list[nn.Parameter]:
        return [*self.decoder.parameters(), *self.log_variance.parameters()]

    def _log_variance_of(self, keys: Tensor) -> Tensor:
        found: Tensor = self.log_variance(functional.rms_norm(keys, keys.shape[1:]))
        return found

    def _loss(self, keys: Tensor, pixels: Tensor) -> Tensor:
        log_variance = self._log_variance_of(keys)
        size = keys.detach().square().mean(dim=1, keepdim=True).sqrt()
        noise = torch.empty_like(keys).normal_(generator=self._generator)
        reconstruction = super()._loss(keys + size * (0.5 * log_variance).exp() * noise, pixels)
        # The means are of size 1 by their unit, so that only the variances can diverge from a unit normal.
        divergence = 0.5 * (log_variance.exp() - 1.0 - log_variance).sum(dim=1).mean()
        return reconstruction + self._divergence_weight * divergence


def _bytes(content: bytes) -> np.ndarray:
    return np.frombuffer(content, dtype=np.uint8).copy()
