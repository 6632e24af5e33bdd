"""Streams from one seed: reproducible, independent of each other, and saveable."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.seeding import EpisodeSeeds, generator_state, generators, set_generator_state, torch_generators


@given(st.integers(0, 2**64), st.lists(st.integers(0, 5), max_size=6))
def test_episode_seeds_do_not_depend_on_how_they_are_asked_for(seed, amounts):
    seeds = EpisodeSeeds(seed)
    pieces = []
    for amount in amounts:
        coming = seeds.coming(amount).tolist()
        pieces.append(seeds.next(amount))
        assert coming == pieces[-1].tolist()
    assert [piece.shape for piece in pieces] == [(amount,) for amount in amounts]
    assert all(piece.dtype == np.int64 for piece in pieces)
    together = EpisodeSeeds(seed).next(sum(amounts))
    assert np.concatenate([*pieces, []]).tolist() == together.tolist()
    assert ((together >= 1) & (together < 2**31)).all()


def test_episode_seeds_stay_what_they_are():
    """A saved run must find the same seeds in a later version."""
    assert EpisodeSeeds(0).next(3).tolist() == [426086518, 694926004, 2059329803]


def test_episode_seeds_continue():
    seeds = EpisodeSeeds(7)
    seeds.next(3)
    state = json.loads(json.dumps(seeds.state_dict()))
    continued = EpisodeSeeds(7)
    continued.load_state_dict(state)
    assert continued.next(4).tolist() == seeds.next(4).tolist() == EpisodeSeeds(7).next(7)[3:].tolist()
    with pytest.raises(ValueError, match="run seed 7, this run has 8"):
        EpisodeSeeds(8).load_state_dict(state)


def test_episode_seeds_of_different_runs_do_not_overlap():
    runs = [set(EpisodeSeeds(seed).next(1000).tolist()) for seed in range(5)]
    # 5,000 draws from 2^31 numbers: 0.006 pairs alike are expected.
    assert len(set().union(*runs)) == 5000


def draws(generator) -> list[float]:
    if isinstance(generator, torch.Generator):
        return torch.rand(5, generator=generator, dtype=torch.float64).tolist()
    return generator.random(5).tolist()


def test_generators_of_different_names_and_seeds_differ():
    names = ["agent", "replay", "weights", "a", "ag"]
    made = [make(seed, *names) for make, seed in itertools.product([generators, torch_generators], range(3))]
    streams = [tuple(draws(generator)) for by_name in made for generator in by_name.values()]
    assert len(streams) == 30
    assert len({number for stream in streams for number in stream}) == 5 * 30


@pytest.mark.parametrize("make", [generators, torch_generators])
def test_a_stream_depends_on_its_name_alone(make):
    assert draws(make(3, "agent")["agent"]) == draws(make(3, "replay", "agent")["agent"])


def test_a_numpy_generator_continues_where_it_stood():
    generator = generators(3, "agent")["agent"]
    draws(generator)
    state = json.loads(json.dumps(generator_state(generator)))
    expected = draws(generator)
    for restored in (generators(4, "replay")["replay"], generator):
        set_generator_state(restored, state)
        assert draws(restored) == expected


def test_a_torch_generator_continues_where_it_stood():
    generator = torch_generators(3, "agent")["agent"]
    draws(generator)
    state = generator_state(generator)
    assert state.dtype == torch.uint8
    expected = draws(generator)
    for restored in (torch_generators(4, "replay")["replay"], generator):
        set_generator_state(restored, state)
        assert draws(restored) == expected


def test_the_global_generators_are_left_alone():
    def drawn(use_others: bool) -> tuple[float, float]:
        np.random.seed(1)
        torch.manual_seed(1)
        if use_others:
            for by_name in (generators(0, "agent"), torch_generators(0, "agent")):
                draws(by_name["agent"])
            EpisodeSeeds(0).next(3)
        return np.random.random(), torch.rand(1).item()

    assert drawn(use_others=True) == drawn(use_others=False)


def test_negative_seeds_are_refused():
    for derive in (generators, torch_generators, lambda seed, name: EpisodeSeeds(seed).next(1)):
        with pytest.raises(ValueError, match="non-negative"):
            derive(-1, "agent")


_FIRST_ROOT = """
import sys, torch
from agents.encoders import Encoder
from training.seeding import seed_torch

torch.set_num_threads(2)
seed_torch(0)
# A worker thread that has just been busy is there in time for the race: without seeding, 9 of 20 processes lost it.
encoder = Encoder((4, 84, 84), 255, 128, "bfloat16", initialisation="lecun")
with torch.no_grad():
    encoder(torch.randint(0, 255, (32, 4, 84, 84), dtype=torch.uint8))
numbers = torch.rand(32, 154)
roots = numbers.sqrt()
sys.exit(int(((roots.double().square() - numbers).abs() > 1e-6 * numbers).any()))
"""


def test_the_first_elementwise_function_of_a_process_is_as_precise_as_the_rest():
    assert [subprocess.call([sys.executable, "-c", _FIRST_ROOT]) for _ in range(4)] == [0] * 4
