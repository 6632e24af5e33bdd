"""Encoders: from observations to keys, or to the features of action values."""

from __future__ import annotations

import functools
import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from agents.normalisation import RunningNormalisation

Precision = Literal["float32", "bfloat16", "auto"]
Initialisation = Literal["torch", "lecun"]

SMALLEST_SCREEN = 36
"""The least side the three convolutions of the Nature network can take."""


class GaussianProjection:
    """A fixed Gaussian random projection (Blundell et al. 2016, section 3.2); nothing in it learns.

    Scaled so that distances between keys are, in expectation, those between observations (Johnson-Lindenstrauss).
    """

    def __init__(self, input_size: int, key_size: int, rng: np.random.Generator, device: torch.device | str) -> None:
        matrix = rng.standard_normal((input_size, key_size), dtype=np.float32) / key_size**0.5
        self.matrix = torch.from_numpy(matrix).to(device)

    def __call__(self, observations: np.ndarray) -> Tensor:
        """Keys `[batch, key_size]` of observations uint8 `[batch, ...]`."""
        flat = torch.from_numpy(observations).to(self.matrix.device).flatten(1)
        return flat.to(torch.float32) @ self.matrix


class Encoder(nn.Module):
    """A network from uint8 observations to features.

    Screens take the convolutions of Mnih et al. 2015; smaller observations (grids of symbols), and flat ones, two
    dense layers.

    Args:
        observation_shape: of screens and grids, channels first.
        observation_high: the largest value in an observation, scaled to 1.
        features: output size.
        normalise: whether the observations are normalised by those that `normalisation` was told of.
        precision: `bfloat16` runs the layers under autocast: on processors that multiply it (avx512_bf16, AMX, GPUs)
            an update of 32 takes 0.6 of the time and acting less, on others several times as long; `auto` does so
            where the device multiplies it.
        initialisation: `torch`, uniform with a variance of a third over the inputs of a unit; or `lecun`, a normal of
            one over the inputs, cut at two deviations (LeCun et al. 1998; the default of DeepMind's Sonnet), and biases
            of 0. By the former, four layers bring features five times as near to one another.
    """

    def __init__(
        self,
        observation_shape: tuple[int, ...],
        observation_high: float,
        features: int,
        precision: Precision = "float32",
        *,
        normalise: bool = False,
        initialisation: Initialisation = "torch",
    ) -> None:
        super().__init__()
        self.observation_high = observation_high
        self.normalisation = RunningNormalisation(observation_shape) if normalise else None
        self.precision = precision
        self.convolutional = len(observation_shape) == 3 and min(observation_shape[1:]) >= SMALLEST_SCREEN
        if self.convolutional:
            convolutions = nn.Sequential(
                nn.Conv2d(observation_shape[0], 32, kernel_size=8, stride=4),
                nn.ReLU(),
                nn.Conv2d(32, 64, kernel_size=4, stride=2),
                nn.ReLU(),
                nn.Conv2d(64, 64, kernel_size=3, stride=1),
                # Flattening takes the maps out of their channels-last layout: before it, the backward pass of ReLU
                # would have to pair one layout with the other, at ten times the cost.
                nn.Flatten(),
                nn.ReLU(),
            )
            with torch.no_grad():
                flat = convolutions(torch.zeros(1, *observation_shape)).shape[1]
            self.layers = nn.Sequential(*convolutions, nn.Linear(flat, features))
            # A quarter less time for an update of 32 on two cores than the default layout.
            self.layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        else:
            self.layers = nn.Sequential(
                nn.Flatten(),
                nn.Linear(math.prod(observation_shape), 256),
                nn.ReLU(),
                nn.Linear(256, features),
            )

        initialise(self.layers, initialisation)

    def forward(self, observations: Tensor) -> Tensor:
        """Features float32 `[batch, features]` of observations uint8 `[batch, *observation_shape]`."""
        if self.convolutional:
            # Channels-last as `to(memory_format=...)` would make it, in a third of the time.
            observations = torch.stack(observations.unbind(1), dim=-1).movedim(-1, 1)
        device = observations.device.type
        rounded = self.precision == "bfloat16" or (self.precision == "auto" and multiplies_bfloat16(device))
        if self.normalisation is None:
            scaled = observations.to(torch.bfloat16 if rounded else torch.float32) / self.observation_high
        else:
            scaled = self.normalisation(observations / self.observation_high)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=rounded):
            features = self.layers(scaled)
        return features.float()

    def meet(self, observations: Tensor) -> None:
        """Take observations uint8 `[batch, *observation_shape]` into what they are normalised by, if they are."""
        if self.normalisation is not None:
            self.normalisation.update(observations / self.observation_high)


def initialise(layers: nn.Module, initialisation: Initialisation) -> None:
    """Draw the weights of all layers anew, as `Encoder` says, or leave them as torch drew them."""
    if initialisation == "lecun":
        layers.apply(_initialise_lecun)


def _initialise_lecun(layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d | nn.Linear):
        deviation = layer.weight[0].numel() ** -0.5
        nn.init.trunc_normal_(layer.weight, 0.0, deviation, -2 * deviation, 2 * deviation)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


@functools.cache
def multiplies_bfloat16(device: str) -> bool:
    """Whether a kind of device, `cpu` or `cuda`, has instructions for it; of a processor that cannot be told, False."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Not in every version of torch that is admitted.
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
