"""No mechanism grows with the number of updates: neither in Python's objects nor in memory outside of them."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from assembly import RunConfig, make_agent, make_world
from tests.digits import make_digits
from training.loop import TrainingLoop
from training.seeding import EpisodeSeeds

MECHANISMS = [
    *(("raw", credit) for credit in ("frozen", "trainable_keys", "backpropagation", "synthetic", "exact", "hybrid")),
    *((reinstatement, "approximate") for reinstatement in ("raw", "lossless", "autoencoder")),
]
NUM_ENVS = 8


@pytest.mark.slow
@pytest.mark.parametrize(("reinstatement", "credit"), [*MECHANISMS, ("variational_autoencoder", "approximate")])
def test_no_mechanism_leaks_over_20_000_updates(reinstatement, credit, tmp_path):
    uncertain = reinstatement == "variational_autoencoder"
    config = RunConfig.model_validate(
        {
            "env": {"name": "mnist", "dataset": str(make_digits(tmp_path)), "images_per_episode": 50},
            "agent": {
                "name": "memory_classifier",
                "hidden": 16,
                "key_size": 8,
                "capacity": 80,
                "sampled": 20,
                "drift_penalty": 0.0 if credit in ("frozen", "trainable_keys") else 1.0,
                "pretraining": 100 if "autoencoder" in reinstatement else 0,
                "freshening": "none" if credit in ("backpropagation", "trainable_keys") else "recall",
                "freshen_trusted": uncertain,
                "eviction": "uncertain" if uncertain else "oldest",
                "credit": credit,
                "reinstatement": reinstatement,
            },
            "num_envs": NUM_ENVS,
        }
    )
    loop = TrainingLoop(make_world(config), make_agent(config, make_world(config)), EpisodeSeeds(0))
    objects, megabytes = [], []
    for update, _ in enumerate(loop.run(20_000 * NUM_ENVS), start=1):
        if update % 4_000 == 0:
            gc.collect()
            objects.append(len(gc.get_objects()))
            megabytes.append(resident_megabytes())
    assert len(objects) == 5
    assert objects[-1] <= objects[0] + 200
    # What the allocator keeps for itself comes and goes; the images of every update would come to 4.4 MiB.
    assert megabytes[-1] <= megabytes[0] + 3


def resident_megabytes() -> float:
    """What this process holds now, in MiB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 / 2**20
