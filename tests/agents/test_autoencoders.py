"""Any shape goes through an encoder and comes back from a decoder; nonsense is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from agents.autoencoders import make_decoder, make_encoder

SIDES = st.integers(4, 31)


@given(st.sampled_from(["dense", "convolutional"]), st.integers(1, 4), SIDES, SIDES)
def test_any_shape_goes_in_and_comes_back(architecture, channels, height, width):
    shape = (channels, height, width)
    encoder, decoder = make_encoder(architecture, shape, 255.0, 8, 5), make_decoder(architecture, shape, 8, 5)
    keys = encoder(torch.rand(2, *shape))
    assert keys.shape == (2, 5)
    assert decoder(keys).shape == (2, channels * height * width)


@given(st.integers(1, 4), st.integers(36, 64), st.integers(36, 64))
def test_any_screen_goes_through_the_convolutions_of_nature_and_back(channels, height, width):
    shape = (channels, height, width)
    decoder = make_decoder("nature", shape, 8, 5)
    assert make_encoder("nature", shape, 255.0, 8, 5)(torch.zeros(2, *shape)).shape == (2, 5)
    assert decoder(torch.zeros(2, 5)).shape == (2, channels * height * width)


@pytest.mark.parametrize("architecture", ["dense", "convolutional"])
def test_a_pair_learns_what_goes_through(architecture):
    torch.manual_seed(0)
    images = (torch.rand(8, 1, 7, 9) > 0.5).float()
    encoder = make_encoder(architecture, (1, 7, 9), 1.0, 32, 16)
    decoder = make_decoder(architecture, (1, 7, 9), 32, 16)
    optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-2)
    for _ in range(300):
        loss = functional.binary_cross_entropy_with_logits(decoder(encoder(images)), images.flatten(1))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert ((decoder(encoder(images)) > 0) == (images.flatten(1) > 0.5)).float().mean() > 0.98


@pytest.mark.parametrize("shape", [(1, 3, 9), (9, 9)])
def test_what_is_too_small_for_convolutions_is_refused(shape):
    with pytest.raises(ValueError, match="take the dense architecture"):
        make_encoder("convolutional", shape, 255.0, 8, 5)
    with pytest.raises(ValueError, match="take the dense architecture"):
        make_decoder("convolutional", shape, 8, 5)
    with pytest.raises(ValueError, match="at least 36 x 36"):
        make_encoder("nature", (4, 35, 84), 255.0, 8, 5)


@pytest.mark.parametrize("architecture", ["dense", "convolutional", "nature"])
def test_weights_are_drawn_as_is_asked_for(architecture):
    torch.manual_seed(0)
    lengths = []
    for initialisation in ("torch", "lecun"):
        encoder = make_encoder(architecture, (3, 40, 40), 255.0, 64, 32, initialisation)
        weights = [weight for weight in encoder.parameters() if weight.dim() > 1]
        lengths.append([weight.var().item() * weight[0].numel() for weight in weights])
    # A third, of a uniform distribution; and of a normal one what is left of it when it is cut at two deviations.
    assert lengths[0] == pytest.approx([1 / 3] * len(weights), rel=0.15)
    assert lengths[1] == pytest.approx([0.774] * len(weights), rel=0.15)


def test_observations_count_by_their_own_scale():
    torch.manual_seed(0)
    bytes_, bits = (make_encoder("dense", (1, 5, 5), high, 8, 5) for high in (255.0, 1.0))
    bits.load_state_dict(bytes_.state_dict())
    observations = torch.rand(3, 1, 5, 5)
    torch.testing.assert_close(bytes_(255 * observations), bits(observations))
