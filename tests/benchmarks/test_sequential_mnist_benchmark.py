"""The benchmark of sequential MNIST: every forcing runs and is scored on test images; a leak fails the run."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks import results, sequence_runs, sequential_mnist
from tests.benchmarks.in_process import do_here
from tests.programs import run

PIXELS = 6


@pytest.fixture(autouse=True)
def few_small_images(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(split: str) -> np.ndarray:
        return np.random.default_rng(len(split)).integers(2, size=(40, PIXELS), dtype=np.uint8)

    monkeypatch.setattr("envs.sequential_mnist._load_static", load)
    monkeypatch.setattr(sequence_runs, "do_missing", do_here)
    monkeypatch.setattr(sequential_mnist, "_PART", 16)


def train(out: Path, *more: object) -> None:
    sizes = ("--seeds", 0, "--steps", 2, "--num_envs", 4, "--compiled", 0)
    run(sequential_mnist.main, "--out", out, "--unfinished", out.parent / "unfinished", *sizes, *more)


def test_all_variants_are_scored_in_nats_and_in_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("envs.sequential_mnist.LEAST_NATS", 0.0)
    train(tmp_path / "table.csv")
    rows = [row for row in results.read(tmp_path / "table.csv") if row.metric.startswith("test_")]
    scores = {(row.agent, row.variant, row.metric): row.value for row in rows}
    variants = {(agent, variant) for agent, variant, _ in scores}
    assert variants == {("gru", ""), ("dnc", ""), ("dnc", "professor-forcing"), ("dnc", "memory-forcing")}
    for variant in variants:
        # Of random bits, a model that knows nothing yet: about a bit a pixel.
        assert scores[(*variant, "test_bits_per_dimension")] == pytest.approx(1.0, abs=0.1)
        nats = scores[(*variant, "test_nll_nats")]
        assert scores[(*variant, "test_bits_per_dimension")] == pytest.approx(nats / math.log(2) / PIXELS, rel=1e-5)


def test_what_is_paid_to_discriminators_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("envs.sequential_mnist.LEAST_NATS", 0.0)
    monkeypatch.setattr(sequential_mnist, "PRESETS", sequential_mnist.PRESETS[2:])
    train(tmp_path / "table.csv", "--override", "agent.model_from=0", "--variant", "ungated")
    rows = [row for row in results.read(tmp_path / "table.csv") if row.variant.endswith("forcing+ungated")]
    told = {(row.variant.removesuffix("+ungated"), row.metric): row.value for row in rows}
    assert all(0 <= told[variant, "hidden_accuracy"] <= 1 for variant in ("professor-forcing", "memory-forcing"))
    assert 0 <= told["memory-forcing", "memory_accuracy"] <= 1
    assert ("professor-forcing", "memory_accuracy") not in told
    # One discriminator that knows nothing costs about log 2, two of them twice that.
    assert told["professor-forcing", "forcing"] == pytest.approx(math.log(2), abs=0.2)
    assert told["memory-forcing", "forcing"] == pytest.approx(2 * math.log(2), abs=0.4)


def test_a_score_that_cannot_be_fails_the_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nats a test image is less than 75"):
        train(tmp_path / "table.csv")
    assert not results.read(tmp_path / "table.csv")
