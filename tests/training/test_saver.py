"""Saving in the background: the state of the moment, by a child that harms nobody."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from training import checkpoint
from training.checkpoint import CheckpointError, Snapshot
from training.saver import Saver

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def warnings():
    return []


@pytest.mark.parametrize("background", [False, True])
def test_what_is_saved_is_the_state_of_the_moment(tmp_path, warnings, background):
    keys = torch.zeros(3_000_000)
    frames = np.zeros((4, 500, 7056), dtype=np.uint8)
    with Saver(tmp_path, 2, warnings.append, background) as saver:
        saver.save({"keys": keys, "frames": frames[:, :300], "text": "then"}, 1)
        if background:
            keys += 1
            frames += 1
        saver.save({"keys": keys, "frames": frames[:, :300], "text": "now"}, 2)
    assert warnings == []
    for step, text in ((2, "now"), (1, "then")):
        _, state = checkpoint.load(tmp_path)
        expected = step - 1 if background else 0
        assert state["text"] == text and state["frames"].shape == (4, 300, 7056)
        assert (state["keys"] == expected).all() and (state["frames"] == expected).all()
        (tmp_path / f"step_{step:09d}").rename(tmp_path / "gone")
        subprocess.run(["rm", "-r", str(tmp_path / "gone")], check=True)


@pytest.mark.parametrize("background", [False, True])
def test_a_save_that_fails_is_told_and_the_next_one_works(tmp_path, warnings, monkeypatch, background):
    write = Snapshot.write

    def failing(snapshot, *arguments):
        if snapshot.step == 2:
            raise CheckpointError("no room for a checkpoint")
        return write(snapshot, *arguments)

    monkeypatch.setattr(Snapshot, "write", failing)
    with Saver(tmp_path, 2, warnings.append, background) as saver:
        for step in (1, 2, 3):
            saver.save({"step": step}, step)
        assert saver.save_now({"step": 4}, 4)
    assert warnings == ["no room for a checkpoint"]
    assert checkpoint.load(tmp_path) == (4, {"step": 4})


@pytest.mark.parametrize("call", ["fork", "pipe"])
def test_where_there_can_be_no_child_training_waits_for_the_disk(tmp_path, warnings, monkeypatch, call):
    def none(*arguments):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    files = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    monkeypatch.setattr(os, call, none)
    with Saver(tmp_path, 2, warnings.append) as saver:
        saver.save({"step": 1}, 1)
        assert checkpoint.load(tmp_path) == (1, {"step": 1})
    assert not warnings
    assert not files or len(os.listdir("/proc/self/fd")) == files


def test_a_child_that_is_killed_is_told(tmp_path, warnings, monkeypatch):
    monkeypatch.setattr(Snapshot, "write", lambda *arguments: os.kill(os.getpid(), signal.SIGKILL))
    with Saver(tmp_path, 2, warnings.append) as saver:
        saver.save({"step": 1}, 1)
    assert len(warnings) == 1 and "died (-9)" in warnings[0]


def test_an_error_of_another_kind_is_told_with_its_kind(tmp_path, warnings, monkeypatch):
    def broken(*arguments):
        raise ZeroDivisionError("a mistake")

    monkeypatch.setattr(Snapshot, "write", broken)
    with Saver(tmp_path, 2, warnings.append) as saver:
        saver.save({"step": 1}, 1)
    assert warnings == ["ZeroDivisionError: a mistake"]


def test_what_cannot_be_saved_is_told_at_once(tmp_path, warnings):
    with Saver(tmp_path, 2, warnings.append) as saver, pytest.raises(TypeError, match="cannot save agent/x"):
        saver.save({"agent": {"x": object()}}, 1)


ORPHANING = """
import os, signal, sys, time
from pathlib import Path
import torch
from training.saver import Saver
import training.tensor_file as tensor_file
tensor_file._PIECE = 2**10
saver = Saver(Path(sys.argv[1]), 2, print)
saver.save_now({"step": 1}, 1)
saver.save({"keys": torch.zeros(40_000_000)}, 2)
print(saver._child[0], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_child_of_a_killed_run_writes_no_further(tmp_path):
    command = [sys.executable, "-c", ORPHANING, str(tmp_path)]
    parent = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert parent.returncode == -9, parent.stderr
    child = int(parent.stdout)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            break
        time.sleep(0.02)
    else:
        raise AssertionError("the child lives on")
    assert checkpoint.load(tmp_path) == (1, {"step": 1})
