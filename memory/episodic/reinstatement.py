"""How the observation behind a memory comes back, so that it can be embedded again (Hansen 2017, section 2.3).

Observations are uint8 going in and float32 coming back, on the same scale. They are kept by slot, one for each memory
of a store, or not at all: an autoencoder makes them from the stored key.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
import zstandard
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR

_LEAST_CONTENT = 64
"""Bytes to train a dictionary on. Zstandard trains on three quarters of them, and crashes where these are below 8."""
_LEAST_DICTIONARY, _SHARE = 256, 64
"""Bytes of the smallest dictionary that Zstandard trains, and those that one may take for each memory."""


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
    """Keeps each observation as a Zstandard frame, compressed with a dictionary trained on what is kept.

    What an agent sees changes as it learns, and a dictionary trained on its first games fits its later ones badly. So
    whenever twice as many observations have been taken in, a dictionary is trained on some drawn from all that are
    kept, and all are compressed anew. Together that is at most two more compressions for each that was taken in, some
    80 microseconds for a stack of Atari frames; but all at once.

    Args:
        capacity: memories.
        shape: of an observation.
        level: of compression.
        dictionary_bytes: largest size of a dictionary; much larger ones compress worse.
        samples: observations taken in before the first dictionary, and most that one is trained on.
    """

    def __init__(
        self,
        capacity: int,
        shape: tuple[int, ...],
        level: int = 6,
        dictionary_bytes: int = 112 * 1024,
        samples: int = 1_000,
    ) -> None:
        self._shape = shape
        self._level = level
        self._dictionary_bytes = dictionary_bytes
        self._samples = samples
        self._frames: list[bytes] = [b""] * capacity
        self._frame_bytes = 0
        self._remembered = 0
        self._due = samples
        self._use(b"")

    def remember(self, slots: Tensor, observations: Tensor) -> None:
        for slot, observation in zip(slots.tolist(), observations.numpy(), strict=True):
            self._put(slot, observation.tobytes())
        self._remembered += len(slots)
        if self._remembered >= self._due:
            self._due = 2 * self._remembered
            self._train()

    def recall(self, slots: Tensor, keys: Tensor) -> Tensor:
        content = b"".join(self._decompress(self._frames[slot]) for slot in slots.tolist())
        pixels = np.frombuffer(content, np.uint8).reshape(len(slots), *self._shape)
        return torch.from_numpy(pixels.astype(np.float32))

    def learn(self, keys: Tensor, observations: Tensor) -> float | None:
        return None

    @property
    def nbytes(self) -> int:
        # Python's own, some fifty for each frame, are left out.
        return self._frame_bytes + len(self._dictionary)

    def state_dict(self) -> dict[str, Any]:
        return {
            "lengths": np.array([len(frame) for frame in self._frames], dtype=np.int64),
            "frames": _bytes(b"".join(self._frames)),
            "dictionary": _bytes(self._dictionary),
            "remembered": self._remembered,
            "due": self._due,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        ends = np.cumsum(state["lengths"]).tolist()
        content = state["frames"].tobytes()
        self._frames = [content[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        self._frame_bytes = len(content)
        self._remembered, self._due = state["remembered"], state["due"]
        self._use(state["dictionary"].tobytes())

    def __deepcopy__(self, memo: dict[int, Any]) -> Lossless:
        # Zstandard's own objects cannot be copied, but made again.
        twin = Lossless(len(self._frames), self._shape, self._level, self._dictionary_bytes, self._samples)
        twin.load_state_dict(self.state_dict())
        memo[id(self)] = twin
        return twin

    def _put(self, slot: int, content: bytes) -> None:
        frame = self._compressor.compress(content)
        self._frame_bytes += len(frame) - len(self._frames[slot])
        self._frames[slot] = frame

    def _train(self) -> None:
        filled = [slot for slot, frame in enumerate(self._frames) if frame]
        drawn = np.random.default_rng(self._remembered).permutation(filled)[: self._samples]
        contents = [self._decompress(self._frames[slot]) for slot in drawn.tolist()]
        if sum(map(len, contents)) < _LEAST_CONTENT:
            return
        size = min(self._dictionary_bytes, max(_LEAST_DICTIONARY, _SHARE * len(filled)))
        try:
            dictionary = zstandard.train_dictionary(size, [*contents]).as_bytes()
        except zstandard.ZstdError:
            # Too little in common.
            return
        decompress = self._decompress
        self._use(dictionary)
        for slot in filled:
            self._put(slot, decompress(self._frames[slot]))

    def _use(self, dictionary: bytes) -> None:
        self._dictionary = dictionary
        data = zstandard.ZstdCompressionDict(dictionary) if dictionary else None
        self._compressor = zstandard.ZstdCompressor(level=self._level, dict_data=data, write_checksum=True)
        decompressor = zstandard.ZstdDecompressor(dict_data=data)
        self._decompress = partial(decompressor.decompress, max_output_size=math.prod(self._shape))


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
