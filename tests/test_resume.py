"""A run that is killed and resumed is the run that was never killed, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from programs import only_run

from tests import traces
from tests.traces import PAIRS, preset
from training import checkpoint


def timeless(row: dict[str, Any]) -> dict[str, Any]:
    return {tag: value for tag, value in row.items() if tag not in ("seconds", "charts/steps_per_second")}


def metrics(run: Path) -> list[dict[str, Any]]:
    return [timeless(json.loads(line)) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("agent", "world"), PAIRS)
def test_a_killed_run_goes_on_bit_for_bit(agent: str, world: str, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    path = preset(tmp_path, agent, world, steps=480, steps_per_checkpoint=120)
    assert traces.run_traced([path, "--runs", whole], tmp_path / "whole.jsonl") == 0
    expected = traces.read(tmp_path / "whole.jsonl")
    assert agent == "random" or any(line["metrics"] for line in expected.values())
    assert world == "copy" or sum(len(line["episodes"]) for line in expected.values()) > 0
    stride = min(expected)

    # Killed twice, between checkpoints: in the middle of the run, and soon after it was resumed.
    assert traces.run_traced([path, "--runs", parts, "--steps", 450], tmp_path / "first.jsonl", 270) == -9
    run = only_run(parts)
    assert traces.run_traced(["--resume", run], tmp_path / "second.jsonl", 375) == -9
    assert traces.run_traced(["--resume", run, "--steps", 480], tmp_path / "third.jsonl") == 0
    first, second, third = (traces.read(tmp_path / f"{name}.jsonl") for name in ("first", "second", "third"))
    # A kill while a checkpoint is being written costs that checkpoint, and nothing before it.
    assert min(second) - stride in (120, 240) and min(third) - stride in (120, 240, 360)
    for part in (first, second, third):
        assert part == {step: expected[step] for step in part}
    assert first.keys() | second.keys() | third.keys() == expected.keys()

    assert metrics(run) == metrics(only_run(whole))
    _, left = checkpoint.load(only_run(whole) / "checkpoints")
    _, right = checkpoint.load(run / "checkpoints")
    for state in (left, right):
        del state["tally"]["seconds"]
        for name in ("sums", "last"):
            state["tally"]["averages"][name].pop("charts/steps_per_second", None)
            state["tally"]["averages"][name].pop("memory/megabytes", None)
    assert traces.digest(left) == traces.digest(right)
    resumes = json.loads((run / "versions.json").read_text())["resumes"]
    assert [resume["step"] for resume in resumes] == [min(second) - stride, min(third) - stride]
