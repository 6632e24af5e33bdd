"""A run that is killed at random moments, again and again, never loses what a checkpoint held."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
from programs import only_run

from tests import traces
from tests.traces import preset
from training import checkpoint


def memories(state: dict) -> int:
    return sum(len(store["values"]) for store in state["agent"]["memory"]["stores"])


def resumes_of(root: Path) -> list[int]:
    """The steps that the run below a root was resumed at."""
    versions = [json.loads(path.read_text()) for path in root.glob("*/versions.json")]
    return [resume["step"] for version in versions for resume in version.get("resumes", [])]


@pytest.mark.parametrize("kills", [8, pytest.param(200, marks=pytest.mark.slow)])
def test_no_kill_costs_what_was_saved(kills: int, tmp_path: Path) -> None:
    """A checkpoint follows upon the other, so that most kills hit one that is being written."""
    options = {"steps": 10**9, "steps_per_checkpoint": 3, "steps_per_log": 30}
    path = preset(tmp_path, "nec", "grid_world", **options)
    chance = random.Random(0)
    arguments: list[object] = [path, "--runs", tmp_path / "runs", "--agent.capacity", 100_000]
    step = size = episodes = torn = resumed = 0
    for number in range(kills):
        trace = tmp_path / f"trace{number}.jsonl"
        process = traces.CONTEXT.Process(target=traces.trained, args=([str(one) for one in arguments], trace, None))
        process.start()
        while not list(tmp_path.glob("runs/*/checkpoints/latest")):
            time.sleep(0.05)
        # From the start of the process on: before, while and after it loads. On a busy machine that could take longer
        # than any of the kills waits for, so every other one waits until it has.
        while number % 2 and len(resumes_of(tmp_path / "runs")) == resumed and process.is_alive():
            time.sleep(0.05)
        time.sleep(chance.uniform(0.0, 2.0))
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        run = only_run(tmp_path / "runs")
        arguments = ["--resume", run]
        torn += any(run.glob("checkpoints/.saving_*"))

        before = step
        step, state = checkpoint.load(run / "checkpoints")
        assert step >= before
        assert memories(state) >= size and state["tally"]["episodes"] >= episodes
        size, episodes = memories(state), state["tally"]["episodes"]
        resumes = resumes_of(tmp_path / "runs")
        assert all(resume <= step for resume in resumes)
        resumed = len(resumes)
    assert resumes == sorted(resumes) and resumes[-1] > 0
    print(f"{kills} kills, {len(resumes)} of them after a resume had loaded, {torn} during a save; step {step}")
