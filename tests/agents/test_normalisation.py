"""Running means and deviations against those of all observations at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agents.encoders import Encoder
from agents.normalisation import RunningNormalisation


@pytest.mark.parametrize("sizes", [(50,), (1, 1, 48), (7, 20, 23)])
def test_statistics_of_pieces_are_those_of_the_whole(sizes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    observations = (100 + rng.normal(size=(50, 2, 3)) * [0.1, 1, 10]).astype(np.float32)
    normalisation = RunningNormalisation((2, 3))
    for piece in np.split(observations, np.cumsum(sizes)[:-1]):
        normalisation.update(torch.from_numpy(piece))
    new = (100 + rng.normal(size=(5, 2, 3))).astype(np.float32)
    wide = observations.astype(np.float64)
    expected = np.clip((new - wide.mean(axis=0)) / np.sqrt(wide.var(axis=0) + 1e-4), -10, 10)
    np.testing.assert_allclose(normalisation(torch.from_numpy(new)), expected, atol=2e-3)


def test_before_any_update_nothing_is_changed() -> None:
    observations = torch.rand(4, 3)
    torch.testing.assert_close(RunningNormalisation((3,))(observations), observations, atol=1e-4, rtol=1e-3)


def test_what_never_varied_is_0_and_once_it_does_is_bounded() -> None:
    normalisation = RunningNormalisation((1,))
    normalisation.update(torch.full((1_000, 1), 0.5))
    np.testing.assert_allclose(normalisation(torch.tensor([[0.5], [1.0], [-1.0]])).flatten(), [0.0, 10.0, -10.0])


def test_an_encoder_is_shown_what_is_normalised_and_only_then() -> None:
    torch.manual_seed(0)
    encoder = Encoder((2, 3, 3), 5.0, 4, normalise=True)
    plain = Encoder((2, 3, 3), 5.0, 4)
    plain.load_state_dict({name: tensor for name, tensor in encoder.state_dict().items() if "normal" not in name})
    observations = torch.from_numpy(np.random.default_rng(0).integers(0, 6, (200, 2, 3, 3), dtype=np.uint8))
    torch.testing.assert_close(encoder(observations), plain(observations), atol=1e-3, rtol=1e-3)
    encoder.meet(observations)
    plain.meet(observations)
    scaled = observations / 5.0
    normalised = (scaled - scaled.mean(dim=0)) / (scaled.var(dim=0, correction=0) + 1e-4).sqrt()
    torch.testing.assert_close(encoder(observations), encoder.layers(normalised), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(plain(observations), plain.layers(scaled))
