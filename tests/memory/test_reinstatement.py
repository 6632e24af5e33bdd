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


def test_a_dictionary_is_trained_and_trained_again_when_the_stream_changes():
    rng = np.random.default_rng(0)
    kept = Lossless(600, (24, 24), samples=100)
    pieces = [stream(rng, 300, offset=1), stream(rng, 300, offset=2)]
    sizes = []
    for number, pictures in enumerate(pieces):
        for start in range(0, 300, 20):
            slots = torch.arange(start, start + 20) + 300 * number
            before = kept.nbytes
            kept.remember(slots, pictures[start : start + 20])
            sizes.append(kept.nbytes - before)
    assert sizes[0] > 10_000 and sizes[13] < 1_500, "compressed by what the pictures share"
    assert sizes[15] > 10_000 and sizes[-1] < 1_500, "the old dictionary does not fit, the new one does"
    assert len(kept._dictionaries) == 2
    assert torch.equal(back(kept, torch.arange(600)), torch.cat(pieces))
    # A dictionary whose frames are gone goes too, when the next is trained.
    kept.remember(torch.arange(300), stream(rng, 300, offset=3))
    assert len(kept._dictionaries) == 2


def test_what_a_dictionary_was_trained_on_is_compressed_by_it():
    rng = np.random.default_rng(0)
    kept, pictures = Lossless(200, (24, 24), samples=100), stream(rng, 120, offset=1)
    kept.remember(torch.arange(90), pictures[:90])
    before = kept.nbytes
    assert before < 90 * (24 * 24 + 20), "samples are kept as the frames that are there"
    # Ten of the samples are written over before there are enough.
    kept.remember(torch.arange(80, 100), pictures[100:])
    assert not kept._recent and set(kept._made_with[:100]) == {1}
    frames = sum(map(len, kept._frames))
    assert frames < before / 4 and kept.nbytes == frames + len(kept._dictionaries[1])
    assert torch.equal(back(kept, torch.arange(100)), torch.cat([pictures[:80], pictures[100:]]))


def test_bytes_are_those_of_frames_dictionaries_and_samples_whatever_is_overwritten():
    kept, rng = Lossless(30, (6, 6), samples=40), np.random.default_rng(0)
    overwritten = []
    for _ in range(60):
        slots = torch.from_numpy(rng.choice(30, 3, replace=False))
        kept.remember(slots, torch.from_numpy(rng.integers(0, 3, (3, 6, 6), dtype=np.uint8)))
        dictionaries = sum(map(len, kept._dictionaries.values()))
        samples = [frame for slot, frame in kept._recent if kept._frames[slot] != frame]
        overwritten.append(len(samples))
        assert kept.nbytes == kept._frame_bytes + dictionaries + sum(map(len, samples))
        assert kept._frame_bytes == sum(map(len, kept._frames))
    assert max(overwritten) > 10
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
