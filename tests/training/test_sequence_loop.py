"""Runs of sequence models: exact resumes, rows and results of their own, and clear refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import evaluate
import train
from envs.mnist import DATA_VARIABLE
from tests.envs.babi_data import write
from tests.programs import CONFIGS, complaint, only_run, run
from tests.traces import digest
from training import checkpoint
from training.sequence_loop import SequenceLoop, SequenceTally


class Counting:
    """A task whose batches are numbered, and a model that tells the number."""

    def __init__(self) -> None:
        self.count = 0

    def draw(self, batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        self.count += 1
        return np.full((1, batch, 1), self.count), np.zeros((1, batch, 1)), np.ones((1, batch), dtype=bool)

    def learn(self, inputs: np.ndarray, targets: np.ndarray, mask: np.ndarray) -> dict[str, float]:
        assert inputs.shape == (1, 3, 1)
        return {"losses/number": float(inputs[0, 0, 0]), "charts/wrong_bits_per_sequence": float(inputs[0, 0, 0])}

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]


def test_a_step_is_a_batch_drawn_and_learned() -> None:
    loop = SequenceLoop(Counting(), Counting(), batch=3)
    records = list(loop.run(4))
    assert [record.step for record in records] == [1, 2, 3, 4] and loop.step == 4
    assert [record.metrics[0]["losses/number"] for record in records] == [1, 2, 3, 4]
    again = SequenceLoop(Counting(), Counting(), batch=3)
    again.load_state_dict(loop.state_dict())
    assert [record.metrics[0]["losses/number"] for record in again.run(6)] == [5, 6]


def test_rows_and_results_are_of_updates_and_nothing_else() -> None:
    loop, tally = SequenceLoop(Counting(), Counting(), batch=3), SequenceTally(steps_per_row=5)
    rows = []
    for record in loop.run(150):
        tally.add(record)
        if tally.due():
            rows.append(tally.row())
    assert len(rows) == 30
    assert rows[1].pop("charts/steps_per_second") > 0
    assert rows[1] == {"losses/number": 8.0, "charts/wrong_bits_per_sequence": 8.0}
    restored = SequenceTally(steps_per_row=5)
    restored.load_state_dict(tally.state_dict())
    for one in (tally, restored):
        result = one.result()
        assert result.pop("seconds") and result.pop("steps_per_second")
        # The mean of the numbers from 51 to 150.
        assert result == {"steps": 150, "wrong_bits_per_sequence": 100.5, "updates_averaged": 100}


def preset(folder: Path, agent: dict[str, Any], **options: Any) -> Path:
    path = folder / f"copy_{agent['name']}.yaml"
    env = {"name": "copy", "bits": 3, "max_length": 3}
    common = {"num_envs": 4, "threads": 1, "steps_per_log": 7, "steps_per_checkpoint": 10, "steps": 40, "seed": 3}
    path.write_text(yaml.safe_dump({"env": env, "agent": agent, **common, **options}))
    return path


def metrics(path: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{tag: row[tag] for tag in row if tag not in ("seconds", "charts/steps_per_second")} for row in rows]


@pytest.mark.parametrize("agent", [{"name": "dnc", "slots": 5, "width": 3, "sharpness": True}, {"name": "ntm"}])
def test_a_run_that_was_stopped_and_damaged_goes_on_bit_for_bit(agent: dict[str, Any], tmp_path: Path) -> None:
    path = preset(tmp_path, {**agent, "hidden": 6})
    run(train.main, path, "--runs", tmp_path / "whole")
    run(train.main, path, "--runs", tmp_path / "parts", "--steps", 23)
    parts, whole = only_run(tmp_path / "parts"), only_run(tmp_path / "whole")
    # What was saved at the end is lost, as after a kill: it goes on from the checkpoint before, of step 20.
    (parts / "checkpoints" / "step_000000023" / "manifest.json").write_text("{}")
    run(train.main, "--resume", parts, "--steps", 40)
    assert json.loads((parts / "versions.json").read_text())["resumes"][0]["step"] == 20
    assert metrics(parts) == metrics(whole)
    assert len(metrics(whole)) == 6 and metrics(whole)[-1]["step"] == 40
    states = [checkpoint.load(one / "checkpoints")[1] for one in (parts, whole)]
    for state in states:
        del state["tally"]["seconds"]
        for name in ("sums", "last"):
            state["tally"]["averages"][name].pop("charts/steps_per_second", None)
    assert digest(states[0]) == digest(states[1])
    results = [json.loads((one / "result.json").read_text()) for one in (parts, whole)]
    assert results[0]["nats_per_sequence"] == results[1]["nats_per_sequence"]
    assert results[0]["steps"] == 40 and results[0]["updates_averaged"] == 40 and "random_score" not in results[0]
    assert list((whole / "tensorboard").iterdir())


def test_what_is_printed_is_of_sequences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(train.main, preset(tmp_path, {"name": "gru", "hidden": 4}), "--runs", tmp_path / "runs")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("2.5%, 1/40 steps, ") and lines[0].endswith(" nats")
    assert lines[-1].startswith("GRU on copy 1-3 x 3: ")
    assert " wrong bits and " in lines[-1] and "nats a sequence in the last 40 of 40 updates" in lines[-1]
    assert not any("frames" in line or "return" in line for line in lines)
    assert "is a sequence task: there are no games" in complaint(evaluate.main, capsys, only_run(tmp_path / "runs"))


def test_a_run_of_words_goes_on_bit_for_bit_and_tells_of_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    write(tmp_path)
    path = tmp_path / "babi_lstm.yaml"
    common = {"num_envs": 3, "threads": 1, "steps_per_log": 7, "steps_per_checkpoint": 10, "seed": 3}
    agent = {"name": "lstm", "hidden": 6, "embedding": 4}
    path.write_text(yaml.safe_dump({"env": {"name": "babi", "tasks": [1, 8, 19]}, "agent": agent, **common}))
    run(train.main, path, "--runs", tmp_path / "whole", "--steps", 40)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("LSTM on bAbI 10k tasks 1 8 19: ") and " % of answers wrong and " in last
    run(train.main, path, "--runs", tmp_path / "parts", "--steps", 17)
    run(train.main, "--resume", only_run(tmp_path / "parts"), "--steps", 40)
    parts, whole = (only_run(tmp_path / name) for name in ("parts", "whole"))
    assert metrics(parts)[-1] == metrics(whole)[-1] and "charts/error_percent" in metrics(whole)[-1]
    states = [checkpoint.load(one / "checkpoints")[1] for one in (parts, whole)]
    for part in ("agent", "loop"):
        assert digest(states[0][part]) == digest(states[1][part])


def test_what_does_not_fit_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mixed = tmp_path / "mixed.yaml"
    for env, agent in (("copy", "mfec"), ("grid_world", "dnc")):
        mixed.write_text(yaml.safe_dump({"env": {"name": env}, "agent": {"name": agent}}))
        assert f"{agent} cannot be trained on {env}: sequence models are for" in complaint(train.main, capsys, mixed)
    given = ("--runs", tmp_path / "runs")
    error = complaint(train.main, capsys, CONFIGS / "copy_ntm.yaml", "--agent.slots", 2, *given)
    assert error == "error: agent: shift_range must be 0 to 0 for 2 slots, got 1\n"
    assert "min_length must be at most max_length" in complaint(
        train.main, capsys, CONFIGS / "copy_dnc.yaml", "--env.min_length", 30, *given
    )
    assert not (tmp_path / "runs").exists()


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = preset(tmp_path, {"name": "gru", "hidden": 4, "learning_rate": 1e38})
    with pytest.raises(SystemExit) as stop:
        run(train.main, path, "--runs", tmp_path / "runs")
    assert stop.value.code == 3
    assert "the loss is" in capsys.readouterr().err
    assert list((only_run(tmp_path / "runs") / "faults").iterdir())
