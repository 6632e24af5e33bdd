"""The benchmark of searches: both ways are asked the same, doubts are counted, and nothing of it stays behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import results, runner, search_speed
from memory.episodic import EpisodicMemory, InverseDistance, maximum, neighbours
from tests.benchmarks.in_process import do_here
from tests.programs import complaint, run


@pytest.fixture
def memory() -> EpisodicMemory:
    """5,000 memories of two of three actions, enough for rounded keys to choose; half of action 2's lie at one point
    far from all others, where rounded keys tell none apart."""
    memory = EpisodicMemory(3, 10_000, 8, neighbours=3, kernel=InverseDistance(), rounded=True)
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(5_000, 8, generator=generator)
    keys[3_750:] = 50.0 + 1e-4 * keys[3_750:]
    actions = torch.arange(5_000) // 2_500 * 2
    memory.write(actions, keys, torch.zeros(5_000), np.arange(5_000, dtype=np.uint64), maximum, written_at=0)
    return memory


def test_every_kind_of_search_is_timed_both_ways(memory: EpisodicMemory) -> None:
    found = search_speed.search(memory, queries=4, repeats=3)
    for kind in ("own", "each"):
        assert found[f"{kind}_rounded_milliseconds"] > 0 and found[f"{kind}_float32_milliseconds"] > 0
        assert found[f"{kind}_rounded_share"] > 0
    assert memory.table.rounded is not None and neighbours.nearest.__name__ == "nearest"


def test_doubts_are_counted(memory: EpisodicMemory) -> None:
    # A quarter of the queries lies among what cannot be told apart, and is asked of its own action and of two.
    found = search_speed.search(memory, queries=400, repeats=1)
    assert 0.2 * 1_000 * 2 / 3 < found["asked_again_per_thousand"] < 0.3 * 1_000
    memory.write(
        torch.full((2_500,), 2),
        torch.randn(2_500, 8),
        torch.zeros(2_500),
        np.arange(2_500, 5_000, dtype=np.uint64),
        maximum,
        written_at=0,
        refresh_keys=True,
    )
    assert search_speed.search(memory, queries=400, repeats=1)["asked_again_per_thousand"] < 100


def test_a_run_adds_its_rows(memory: EpisodicMemory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(runner, "work", do_here)
    monkeypatch.setattr(search_speed, "filled_memory", lambda report, config: memory)
    monkeypatch.setattr(search_speed, "multiplies_bfloat16", lambda device: True)
    out = tmp_path / "search_speed.csv"
    for _ in range(2):
        run(search_speed.main, "--out", out, "--games", "pong", "--steps", 6_000, "--repeats", 2)
    rows = {row.metric: row for row in results.read(out)}
    assert {"own_rounded_share", "each_float32_milliseconds", "asked_again_per_thousand", "memories"} <= rows.keys()
    assert len(results.read(out)) == len(rows) and rows["memories"].value == 5_000
    assert rows["memories"].steps == 6_000 and rows["memories"].world == "pong"


def test_too_few_memories_are_refused() -> None:
    few = EpisodicMemory(2, 10_000, 8, neighbours=3, kernel=InverseDistance(), rounded=True)
    few.write(torch.zeros(1, dtype=torch.int64), torch.zeros(1, 8), torch.zeros(1), np.zeros(1, np.uint64), maximum, 0)
    with pytest.raises(ValueError, match=r"1 memories .* more --steps"):
        search_speed.search(few, queries=4, repeats=1)


def test_a_processor_that_rounds_nothing_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(search_speed, "multiplies_bfloat16", lambda device: False)
    out = tmp_path / "search_speed.csv"
    assert "does not multiply bfloat16" in complaint(search_speed.main, capsys, "--out", out)
