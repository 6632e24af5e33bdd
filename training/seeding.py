"""Randomness from one seed: a generator for each part of a run, and a seed for each episode.

Every stream is derived from the run's seed and its own name, so a part that draws more, or a part that is new, leaves
the others' numbers as they were. The derivation is numpy's `SeedSequence`, which mixes run seed and spawn key such
that neighbouring seeds give unrelated streams.
"""

from __future__ import annotations

from typing import Any, cast, overload

import numpy as np
import torch
import xxhash


class EpisodeSeeds:
    """An endless stream of episode seeds from 1 to 2^31 - 1, each given by the run seed and the episode's number alone.

    They are drawn as if at random: two runs of 10,000 episodes have a seed in common with a chance of 5 %.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.episode = 0

    def next(self, n: int) -> np.ndarray:
        """The seeds of the next `n` episodes, int64 `[n]`."""
        seeds = self.coming(n)
        self.episode += n
        return seeds

    def coming(self, n: int) -> np.ndarray:
        """What `next` will answer, for those who prepare."""
        episodes = range(self.episode, self.episode + n)
        words = [_sequence(self.seed, "episodes", episode).generate_state(1)[0] for episode in episodes]
        # Zero is left out: some emulators take it as a wish for the clock.
        return np.array(words, dtype=np.int64) % (2**31 - 1) + 1

    def state_dict(self) -> dict[str, int]:
        """The run seed, and the number of episodes seeded so far."""
        return {"seed": self.seed, "episode": self.episode}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after the last episode that was seeded.

        Raises:
            ValueError: if the state is of a run with another seed.
        """
        if state["seed"] != self.seed:
            raise ValueError(f"the saved episode seeds are of run seed {state['seed']}, this run has {self.seed}")
        self.episode = state["episode"]


def generators(seed: int, *names: str) -> dict[str, np.random.Generator]:
    """A numpy generator for each name, at the start of its stream.

    Raises:
        ValueError: if the seed is negative.
    """
    return {name: np.random.default_rng(_sequence(seed, f"numpy/{name}")) for name in names}


def seed_torch(seed: int) -> None:
    """Have torch draw from one seed, and compute the same in every process, from its first operation on.

    Intel's library chooses the kernel of an elementwise function when it is first called. If two threads of one call
    are the first, one of them may get the coarse kernel, and its half is off by 3e-4 (PyTorch issue 188792; 10 of 20
    processes here). After a call too small to be shared out, all is well.
    """
    torch.manual_seed(seed)
    for function in (torch.sqrt, torch.exp, torch.expm1, torch.log, torch.log1p, torch.tanh, torch.sin, torch.cos):
        function(torch.ones(1))


def torch_generators(seed: int, *names: str, device: str = "cpu") -> dict[str, torch.Generator]:
    """A torch generator for each name, at the start of its stream; CPU and CUDA draw different numbers from it.

    Raises:
        ValueError: if the seed is negative.
    """
    words = {name: _sequence(seed, f"torch/{name}").generate_state(1, np.uint64)[0] for name in names}
    return {name: torch.Generator(device).manual_seed(int(word)) for name, word in words.items()}


@overload
def generator_state(generator: np.random.Generator) -> dict[str, Any]: ...


@overload
def generator_state(generator: torch.Generator) -> torch.Tensor: ...


def generator_state(generator: np.random.Generator | torch.Generator) -> dict[str, Any] | torch.Tensor:
    """Where a generator stands: of numpy's a dict of strings and ints up to 128 bits, of torch's a uint8 tensor."""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    return dict(generator.bit_generator.state)


def set_generator_state(generator: np.random.Generator | torch.Generator, state: dict[str, Any] | torch.Tensor) -> None:
    """Put a generator where another of its kind stood."""
    if isinstance(generator, torch.Generator):
        generator.set_state(cast(torch.Tensor, state))
    else:
        generator.bit_generator.state = cast(dict[str, Any], state)


def _sequence(seed: int, name: str, *numbers: int) -> np.random.SeedSequence:
    return np.random.SeedSequence(seed, spawn_key=(xxhash.xxh3_64_intdigest(name.encode()), *numbers))
