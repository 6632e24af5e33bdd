"""A run's folder says how it was started, and wrong paths are answered with the right ones."""

from __future__ import annotations

import json
import math
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from training import run_directory
from training.run_directory import RunDirectory

CONFIG = {"seed": 3, "agent": {"name": "nec", "delta": 1e-05, "layers": [32, 64], "note": None, "text": "é: |"}}


def test_a_new_run_says_how_it_was_started(tmp_path):
    run = RunDirectory.create(tmp_path / "runs", "atari_nec", CONFIG, ["train.py", "--seed", "3"])
    assert re.fullmatch(r"atari_nec__\d{8}-\d{6}", run.path.name)
    assert run.path.parent == tmp_path / "runs"
    assert run.config() == CONFIG
    assert yaml.safe_load((run.path / "config.yaml").read_text(encoding="utf-8")) == CONFIG
    assert run.tensorboard.is_dir() and run.checkpoints.is_dir()
    versions = json.loads((run.path / "versions.json").read_text())
    assert versions["command"] == ["train.py", "--seed", "3"]
    assert versions["torch"] == torch.__version__ and versions["numpy"] == np.__version__
    assert set(versions) >= {"python", "platform", "gymnasium", "ale-py", "minigrid", "git_commit", "git_dirty"}


def test_runs_of_the_same_second_have_their_own_folders(tmp_path, monkeypatch):
    class Noon(run_directory.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 2, 12, 0, 0)

    monkeypatch.setattr(run_directory, "datetime", Noon)
    paths = [RunDirectory.create(tmp_path, "run", {"number": n}, []).path for n in range(3)]
    assert [path.name for path in paths] == [f"run__20260102-120000{end}" for end in ("", "-2", "-3")]
    assert [RunDirectory.open(path).config()["number"] for path in paths] == [0, 1, 2]


@pytest.mark.parametrize("name", ["", "a/b", "../up", ".."])
def test_a_name_must_be_a_folder_name(tmp_path, name):
    with pytest.raises(ValueError, match="plain folder name"):
        RunDirectory.create(tmp_path / "runs", name, {}, [])
    assert not (tmp_path / "runs").exists()


def test_what_yaml_cannot_hold_leaves_no_folder(tmp_path):
    with pytest.raises(yaml.YAMLError):
        RunDirectory.create(tmp_path / "runs", "run", {"world": object()}, [])
    assert not (tmp_path / "runs").exists()


def test_a_missing_run_names_the_nearest(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run at") as error:
        RunDirectory.open(tmp_path / "absent" / "run")
    assert "nearest" not in str(error.value)
    nec = RunDirectory.create(tmp_path, "atari_nec", {}, []).path
    mfec = RunDirectory.create(tmp_path, "atari_mfec", {}, []).path
    with pytest.raises(FileNotFoundError, match="nearest") as error:
        RunDirectory.open(tmp_path / "atari_nce")
    message = str(error.value)
    assert message.index(nec.name) < message.index(mfec.name) and "\n" not in message


def test_a_folder_that_is_no_run_names_those_in_it_or_beside_it(tmp_path):
    run = RunDirectory.create(tmp_path, "run", {}, [])
    with pytest.raises(ValueError, match=f"is a file of a run: name its folder, {run.path}"):
        RunDirectory.open(run.path / "config.yaml")
    for path in (tmp_path, run.checkpoints):
        with pytest.raises(ValueError, match="is not a run") as error:
            RunDirectory.open(path)
        assert "\n" not in str(error.value)
        assert ("nearest in" in str(error.value)) == (path == tmp_path)
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match=f"nearest in {tmp_path}: {run.path.name}"):
        RunDirectory.open(tmp_path / "other")


def test_a_result_is_whole_and_valid_json(tmp_path, monkeypatch):
    run = RunDirectory.create(tmp_path, "run", {}, [])
    run.write_result(
        {"mean": np.float32(1.5), "median": math.nan, "tensor": torch.tensor(2), "returns": [1.0, math.inf]}
    )
    expected = {"mean": 1.5, "median": None, "tensor": 2, "returns": [1.0, None]}
    assert json.loads(run.result.read_text()) == expected

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        run.write_result({"mean": 2.0})
    assert json.loads(run.result.read_text()) == expected


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def test_the_commit_and_whether_sources_differ_from_it(tmp_path, monkeypatch):
    def noted() -> tuple[str | None, bool | None]:
        run = RunDirectory.create(tmp_path / "runs", "run", {}, [])
        versions = json.loads((run.path / "versions.json").read_text())
        return versions["git_commit"], versions["git_dirty"]

    repository = tmp_path / "repository"
    repository.mkdir()
    monkeypatch.setattr(run_directory, "_REPOSITORY", repository)
    assert noted() == (None, None)
    git(repository, "init", "-q")
    assert noted() == (None, None)
    (repository / "train.py").write_text("1")
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "first")
    commit = git(repository, "rev-parse", "HEAD").strip()
    (repository / "notes").write_text("untracked files do not count")
    assert noted() == (commit, False)
    (repository / "train.py").write_text("2")
    assert noted() == (commit, True)
    (repository / "installed").mkdir()
    monkeypatch.setattr(run_directory, "_REPOSITORY", repository / "installed")
    assert noted() == (None, None)
