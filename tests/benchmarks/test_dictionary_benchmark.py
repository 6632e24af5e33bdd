"""The benchmark of dictionary recall: curves, shares of what is right, and numbers of pairs that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from assembly import RunConfig
from benchmarks import dictionary, results, sequence_runs
from benchmarks.course import Run
from benchmarks.results import Row
from tests.benchmarks.in_process import do_here
from tests.programs import complaint, run

SMALL = ("env.key_bits=4", "env.value_bits=2", "env.max_pairs=2", "agent.hidden=4")


def test_rows_of_a_curve_and_of_every_number_of_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequence_runs, "do_missing", do_here)
    out = tmp_path / "dictionary.csv"
    sizes = ("--seeds", 0, "--steps", 4, "--steps_per_row", 2, "--pairs", 1, 16, "--sequences", 40, "--compiled", 0)
    files = ("--out", out, "--unfinished", tmp_path / "unfinished")
    run(dictionary.main, *files, *sizes, "--variant", "small", "--override", *SMALL)
    assert {row.world for row in results.read(out)} == {"dictionary 1-2 pairs of 4 and 2"}
    for agent, variant in (("mnm", "p+small"), ("mnm", "g+small"), ("dnc", "small"), ("gru", "small")):
        rows = [row for row in results.read(out) if (row.agent, row.variant) == (agent, variant)]
        assert [row.steps for row in rows if row.metric == "wrong_bits_per_sequence"] == [2, 4]
        last = {row.metric: row.value for row in rows}
        assert last["right_bits_pairs_16"] == pytest.approx(0.5, abs=0.1)
        assert last["whole_pairs_16"] == pytest.approx(0.25, abs=0.15)


class Lookup:
    """A model that knows all pairs, but for the first bit of a value where the first bit of its key is set."""

    core = nn.Identity()
    readout = nn.Linear(1, 1)

    def predict(self, inputs: Tensor, eager: bool) -> tuple[Tensor, None]:
        answers = torch.zeros(*inputs.shape[:2], 2)
        pairs = len(inputs) // 2
        for sequence in range(inputs.shape[1]):
            known = {tuple(step[:4].tolist()): step[4:6] for step in inputs[:pairs, sequence]}
            for time in range(pairs, 2 * pairs):
                value = known[tuple(inputs[time, sequence, :4].tolist())].clone()
                value[0] *= -inputs[time, sequence, 0]
                answers[time, sequence] = value
        return answers, None


def of_lookup(pairs: tuple[int, ...]) -> dict[str, float]:
    env = {"name": "dictionary", "key_bits": 4, "value_bits": 2}
    config = RunConfig.model_validate({"env": env, "agent": {"name": "gru"}})
    options = dictionary.DictionaryOptions(pairs=pairs, sequences=50, out=Path("none.csv"))
    model: Any = Lookup()
    return dictionary.capacity(model, Run(config, BLANK, options))


BLANK = Row("dictionary", "tiny", "gru", "", 0, 0, "", 0.0, 0.0, "here", "unknown", "2026-01-01")


def test_shares_are_of_bits_and_of_whole_pairs() -> None:
    # All sixteen keys: one of two bits is wrong in half of the pairs.
    shares = of_lookup((16,))
    assert shares == {"right_bits_pairs_16": 0.75, "whole_pairs_16": 0.5}


def test_more_pairs_than_there_are_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="max_pairs must be at most 16, the different keys of 4 bits, got 17"):
        of_lookup((17,))


def test_pairs_beyond_the_keys_that_an_override_leaves_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("--override", "env.key_bits=3", "env.max_pairs=8", "--variant", "few", "--pairs", "8", "10")
    error = complaint(dictionary.main, capsys, *few, "--out", tmp_path / "d.csv")
    assert "--pairs must be 1 to 8, the keys of 3 bits, got 10" in error


def test_too_many_pairs_are_refused_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = complaint(dictionary.main, capsys, "--pairs", 8, 300, "--out", tmp_path / "dictionary.csv")
    assert "--pairs must be 1 to 256, the keys of 8 bits, got 300" in error
