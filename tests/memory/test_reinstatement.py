"""Observations come back: to the bit where they are kept, well enough where they are made from keys."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from memory.episodic.reinstatement import Autoencoder, Lossless, Raw, VariationalAutoencoder
from training import checkpoint

SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=6)
BATCHES = SHAPES.flatmap(
    lambda shape: st.lists(
        hnp.arrays(np.uint8, shape) | st.integers(0, 255).map(lambda value: np.full(shape, value, dtype=np.uint8)),
        min_size=1,
        max_size=12,
    )
)


def back(reinstatement, slots):
    return reinstatement.recall(slots, torch.zeros(len(slots), 1)).round().to(torch.uint8)


@settings(max_examples=150)
@given(BATCHES, st.integers(0, 2**32), st.sampled_from([1, 3, 6]))
def test_what_is_kept_comes_back_to_the_bit(observations, seed, samples):
    """Any shape, constant or noise, whatever dictionaries were trained in between, and after being saved."""
    rng = np.random.default_rng(seed)
    batch = torch.from_numpy(np.stack(observations))
    shape = tuple(batch.shape[1:])
    for make in (lambda: Raw(20, shape), lambda: Lossless(20, shape, dictionary_bytes=256, samples=samples)):
        kept, expected = make(), {}
        for piece in batch.split(4):
            slots = torch.from_numpy(rng.permutation(20)[: len(piece)])
            kept.remember(slots, piece)
            expected |= dict(zip(slots.tolist(), piece, strict=True))
        slots = torch.tensor(list(expected))
        assert torch.equal(back(kept, slots), torch.stack([*expected.values()]))
        with tempfile.TemporaryDirectory() as folder:
            checkpoint.save(Path(folder), kept.state_dict(), 1)
            again = make()
            again.load_state_dict(checkpoint.load(Path(folder))[1])
        assert torch.equal(back(again, slots), back(kept, slots)) and again.nbytes == kept.nbytes
        for one in (kept, again):
            one.remember(slots[:1], batch[:1])
            assert torch.equal(back(one, slots[:1]), batch[:1])


def test_raw_observations_take_their_bytes_and_none_for_the_slots_between_them():
    """The dictionaries of several actions are filled from places far apart."""
    raw = Raw(10_000, (4, 4))
    raw.remember(torch.tensor([3, 5_000]), torch.ones(2, 4, 4, dtype=torch.uint8))
    raw.remember(torch.tensor([5_000, 9_999]), torch.ones(2, 4, 4, dtype=torch.uint8))
    assert raw.nbytes == 3 * 16 and raw.state_dict()["observations"].shape == (3, 4, 4)


@pytest.mark.parametrize("count", [8, 9, 63, 64, 65])
def test_observations_of_a_byte_are_too_little_to_train_a_dictionary_on(count):
    """Zstandard's own trainer ends the process on eight samples of a byte each."""
    batch = torch.arange(count, dtype=torch.uint8)[:, None]
    kept = Lossless(count, (1,), dictionary_bytes=256, samples=6)
    kept.remember(torch.arange(count), batch)
    assert torch.equal(back(kept, torch.arange(count)), batch)


def stream(rng, count, offset):
    """Pictures that share a texture, which changes with the offset."""
    texture = np.random.default_rng(offset).integers(0, 256, (24, 24))
    pictures = np.repeat(texture[None], count, axis=0)
    for picture in pictures:
        row, column = rng.integers(0, 20, 2)
        picture[row : row + 4, column : column + 4] = rng.integers(0, 256)
    return torch.from_numpy(pictures.astype(np.uint8))


def test_all_is_compressed_by_what_pictures_share_and_again_when_there_are_twice_as_many():
    """The second half has another texture: until the next dictionary its pictures take their whole size."""
    rng = np.random.default_rng(0)
    kept, pictures = Lossless(400, (24, 24), samples=100), torch.cat([stream(rng, 100, 1), stream(rng, 100, 2)])
    sizes = []
    for start in range(0, 200, 20):
        kept.remember(torch.arange(start, start + 20), pictures[start : start + 20])
        sizes.append(kept.nbytes)
    assert sizes[3] > 80 * 24 * 24, "nothing in common is known yet"
    assert sizes[4] < sizes[3] / 4, "all are compressed by what they share"
    assert sizes[8] - sizes[4] > 80 * 24 * 24, "the dictionary does not fit what came later"
    assert sizes[9] < sizes[8] / 2, "the next one does, and what came before"
    assert kept.nbytes == sum(map(len, kept._frames)) + len(kept._dictionary)
    assert torch.equal(back(kept, torch.arange(200)), pictures)


def test_a_dictionary_takes_no_more_than_its_share():
    rng = np.random.default_rng(0)
    kept = Lossless(400, (24, 24), dictionary_bytes=8_000, samples=50)
    kept.remember(torch.arange(50), stream(rng, 50, 1))
    assert 256 <= len(kept._dictionary) <= 50 * 64
    kept.remember(torch.arange(50, 400), stream(rng, 350, 1))
    assert 50 * 64 < len(kept._dictionary) <= 8_000


def test_a_dictionary_is_trained_on_what_is_still_there():
    """The first texture has been written over by the time that the second dictionary is trained."""
    rng = np.random.default_rng(0)
    kept = Lossless(100, (24, 24), samples=100)
    kept.remember(torch.arange(100), stream(rng, 100, 1))
    kept.remember(torch.arange(100), stream(rng, 100, 2))
    assert kept.nbytes < 100 * 24 * 24 / 4
    texture = stream(rng, 1, 1).numpy().tobytes()
    assert texture[:64] not in kept._dictionary


def test_bytes_are_those_of_frames_and_the_dictionary_whatever_is_overwritten():
    kept, rng = Lossless(30, (6, 6), samples=40), np.random.default_rng(0)
    for _ in range(60):
        slots = torch.from_numpy(rng.choice(30, 3, replace=False))
        kept.remember(slots, torch.from_numpy(rng.integers(0, 3, (3, 6, 6), dtype=np.uint8)))
        assert kept.nbytes == sum(map(len, kept._frames)) + len(kept._dictionary)
    assert kept._dictionary
    again = Lossless(30, (6, 6), samples=40)
    again.load_state_dict(kept.state_dict())
    assert again.nbytes == kept.nbytes


def networks(key_size=8, pixels=16):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(pixels, key_size))
    decoder = nn.Sequential(nn.Linear(key_size, 32), nn.ReLU(), nn.Linear(32, pixels))
    return encoder, decoder, nn.Linear(key_size, key_size)


def adam(parameters):
    return torch.optim.Adam(parameters, lr=1e-2)


@pytest.mark.parametrize("variational", [False, True])
def test_a_decoder_learns_what_keys_are_of_and_the_encoder_does_not(variational):
    encoder, decoder, log_variance = networks()
    generator = torch.Generator().manual_seed(0)
    made = (
        VariationalAutoencoder(decoder, log_variance, (4, 4), adam, generator, divergence_weight=0.01)
        if variational
        else Autoencoder(decoder, (4, 4), adam)
    )
    observations = (torch.rand(10, 4, 4, generator=generator) > 0.5).to(torch.uint8) * 255
    before = [parameter.clone() for parameter in encoder.parameters()]
    with torch.no_grad():
        keys = encoder(observations.float() / 255)
    errors = [made.learn(keys, observations) for _ in range(400)]
    assert errors[-1] < 0.1 * errors[0] if not variational else errors[-1] < 0.5 * errors[0]
    assert ((made.recall(torch.arange(10), keys) / 255).round() * 255 == observations).float().mean() > 0.95
    assert all(torch.equal(old, new) for old, new in zip(before, encoder.parameters(), strict=True))
    assert made.nbytes == 0
    # Keys on a graph carry the error on.
    keys = encoder(observations.float() / 255)
    made.learn(keys, observations)
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in encoder.parameters())


def test_the_loss_of_the_variational_autoencoder_is_the_bound():
    """Against the formula by plain loops, with codes that do not stray."""
    _, decoder, log_variance = networks(key_size=3, pixels=4)
    with torch.no_grad():
        for parameter in log_variance.parameters():
            parameter.zero_()
        log_variance.bias.fill_(-40.0)
    made = VariationalAutoencoder(decoder, log_variance, (2, 2), adam, torch.Generator())
    keys, pixels = torch.randn(5, 3), torch.rand(5, 4)
    loss = made._loss(keys, pixels).item()
    expected = 0.0
    for key, picture in zip(keys, pixels, strict=True):
        for chance, pixel in zip(decoder(key[None]).sigmoid()[0], picture, strict=True):
            expected -= float((pixel * chance.log() + (1 - pixel) * (1 - chance).log()).detach())
        expected += 0.5 * len(key) * (np.exp(-40.0) - 1 + 40)
    assert loss == pytest.approx(expected / 5, rel=1e-4)
    assert made.uncertainty(keys).tolist() == pytest.approx([np.exp(-20.0)] * 5)


def test_a_variational_autoencoder_goes_on_from_where_it_was_saved(tmp_path):
    def make():
        _, decoder, log_variance = networks()
        return VariationalAutoencoder(decoder, log_variance, (4, 4), adam, torch.Generator().manual_seed(3))

    first, second = make(), make()
    keys, observations = torch.randn(6, 8), torch.randint(0, 256, (6, 4, 4), dtype=torch.uint8)
    first.learn(keys, observations)
    checkpoint.save(tmp_path, first.state_dict(), 1)
    second.load_state_dict(checkpoint.load(tmp_path)[1])
    assert [first.learn(keys, observations) for _ in range(3)] == [second.learn(keys, observations) for _ in range(3)]


def test_how_far_a_code_may_stray_goes_with_the_size_of_its_key():
    _, decoder, log_variance = networks(key_size=3, pixels=4)
    keys = torch.randn(5, 3)
    made = VariationalAutoencoder(decoder, log_variance, (2, 2), adam, torch.Generator())
    torch.testing.assert_close(made.uncertainty(keys), made.uncertainty(100 * keys))
    strayed = []
    decoder.register_forward_pre_hook(lambda _, given: strayed.append(given[0].detach()))
    for size in (1.0, 100.0):
        made._generator.manual_seed(0)
        made._loss(size * keys, torch.rand(5, 4))
    torch.testing.assert_close(strayed[1], 100 * strayed[0])
