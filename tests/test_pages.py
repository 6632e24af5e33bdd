"""The programs that the pages show do run, and come to what the pages say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from programs import CONFIGS, only_run, run

import train

PAGES = Path(__file__).parents[1] / "docs"


def programs_of(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", (PAGES / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def played(program: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(program, "page", "exec"), names)
    return names


def test_all_programs_of_the_pages_are_tested_here():
    shown = {page.name: len(programs_of(page.name)) for page in PAGES.glob("*.md")}
    assert {page: count for page, count in shown.items() if count} == {"memory.md": 1, "worlds.md": 1, "training.md": 1}


def test_a_memory_with_a_kernel_of_ones_own(capsys):
    names = played(programs_of("memory.md")[0])
    assert "Written(inserted=100, updated=0, evicted=0)" in capsys.readouterr().out
    assert names["action_values"].shape == (4, 2)


def test_a_world_of_ones_own_is_learned(capsys):
    played(programs_of("worlds.md")[0])
    lengths = [int(length) for line in capsys.readouterr().out.splitlines() for length in re.findall(r"\d+", line)[1:]]
    # Nine steps are the shortest way; one in twenty actions is random.
    assert np.mean(lengths[-50:]) < 11 < np.mean(lengths[:4])


@pytest.mark.parametrize("agent", ["mfec", "nec"])
def test_a_trained_agent_plays_in_a_program_of_ones_own(agent, tmp_path, monkeypatch):
    options = ["--steps", 200, "--env.max_steps", 30, "--threads", 1, "--runs", tmp_path / "runs"]
    run(train.main, CONFIGS / f"grid_world_{agent}.yaml", *options)
    only_run(tmp_path / "runs").rename(tmp_path / "runs/NAME")
    monkeypatch.chdir(tmp_path)
    names = played(programs_of("training.md")[0])
    assert names["step"] == 200
    np.testing.assert_allclose(names["recollection"].explained_values(), names["recollection"].action_values, rtol=1e-5)
