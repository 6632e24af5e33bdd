"""Checkpoints come back as they were; damage and failing saves cost at most the newest one."""

from __future__ import annotations

import json
import math
import os
import pickle
import resource
import shutil
import signal
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from training import checkpoint
from training.checkpoint import CheckpointError, load, save, set_aside_after

SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
NUMPY_TYPES = st.sampled_from(
    ["bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64"]
)
ARRAYS = NUMPY_TYPES.flatmap(lambda dtype: hnp.arrays(dtype, SHAPES))
TENSORS = ARRAYS.map(torch.from_numpy) | hnp.arrays("float32", SHAPES).map(lambda a: torch.from_numpy(a).bfloat16())
SCALARS = NUMPY_TYPES.flatmap(lambda dtype: hnp.arrays(dtype, ())).map(lambda array: array[()])
BIG_INTEGERS = st.integers(-(2**130), 2**130)
VALUES = st.none() | st.booleans() | BIG_INTEGERS | st.floats() | st.text(st.characters(), max_size=5)
KEYS = st.text(st.characters(), max_size=5) | st.integers()
TREES = st.recursive(
    VALUES | ARRAYS | TENSORS | SCALARS,
    lambda trees: st.lists(trees, max_size=3) | st.tuples(trees, trees) | st.dictionaries(KEYS, trees, max_size=3),
    max_leaves=12,
)


def same(left: Any, right: Any) -> bool:
    """Equal in kind, type, shape and every bit; a NaN equals a NaN."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and left.shape == right.shape and bits(left) == bits(right)
    if isinstance(left, np.ndarray | np.generic):
        return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
    return left == right or (isinstance(left, float) and math.isnan(left) and math.isnan(right))


def bits(tensor: torch.Tensor) -> bytes:
    return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy().tobytes()


def state_at(step: int) -> dict[str, Any]:
    agent = {"weights": torch.full((4, 3), float(step)), "hashes": np.arange(5, dtype=np.uint64)}
    return {"step": step, "agent": agent}


def entries(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@settings(max_examples=40)
@given(st.dictionaries(KEYS, TREES, max_size=4), st.integers(0, 10**12))
def test_any_tree_comes_back_as_it_was(state, step):
    with tempfile.TemporaryDirectory() as folder:
        path = save(Path(folder), state, step)
        assert path.name == f"step_{step:09d}"
        loaded_step, loaded = load(Path(folder))
    assert loaded_step == step
    assert same(loaded, state)


def test_a_training_state_continues_bit_for_bit(tmp_path):
    def parts() -> tuple[torch.nn.Module, torch.optim.Optimizer, np.random.Generator, torch.Generator]:
        torch.manual_seed(0)
        network = torch.nn.Linear(3, 2)
        return network, torch.optim.Adam(network.parameters()), np.random.default_rng(1), torch.Generator()

    def train(network, optimiser, rng, generator) -> float:
        optimiser.zero_grad()
        inputs = torch.randn(4, 3, generator=generator) + torch.from_numpy(rng.normal(size=(4, 3))).float()
        loss = network(inputs).square().mean()
        loss.backward()
        optimiser.step()
        return loss.item()

    first = parts()
    train(*first)
    network, optimiser, rng, generator = first
    state = {
        "network": network.state_dict(),
        "optimiser": optimiser.state_dict(),
        "rng": rng.bit_generator.state,
        "generator": generator.get_state(),
    }
    save(tmp_path, state, 1)
    expected = [train(*first) for _ in range(3)]

    second = parts()
    network, optimiser, rng, generator = second
    _, state = load(tmp_path)
    network.load_state_dict(state["network"])
    optimiser.load_state_dict(state["optimiser"])
    rng.bit_generator.state = state["rng"]
    generator.set_state(state["generator"])
    assert [train(*second) for _ in range(3)] == expected


def test_views_shared_and_read_only_leaves_are_saved(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    array = np.arange(6).reshape(2, 3)
    frozen = np.arange(3.0)
    frozen.flags.writeable = False
    state = {
        "base": base,
        "same": base,
        "row": base[1:],
        "transposed": base.T,
        "every second": base[:, ::2],
        "parameter": torch.nn.Parameter(base),
        "array": array,
        "same array": array,
        "backwards": array[:, ::-1],
        "fortran": np.asfortranarray(array),
        "frozen": frozen,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(tmp_path, state, 1)
        _, loaded = load(tmp_path)
    assert type(loaded["parameter"]) is torch.Tensor
    for name in state:
        expected = state[name].detach() if isinstance(state[name], torch.Tensor) else state[name]
        assert same(loaded[name], expected), name
    loaded["base"].zero_()
    loaded["array"][:] = 0
    assert loaded["same"].sum() == base.sum() and loaded["same array"].sum() == array.sum()


def test_a_loaded_state_outlives_its_file(tmp_path):
    save(tmp_path, state_at(1), 1)
    _, loaded = load(tmp_path)
    tensors = tmp_path / "step_000000001" / "tensors.safetensors"
    tensors.write_bytes(bytes(tensors.stat().st_size))
    assert same(loaded, state_at(1))


@pytest.mark.parametrize(
    "leaf",
    [
        object(),
        {1, 2},
        np.array(["a"]),
        np.array([None]),
        np.ma.masked_array([1.0], [True]),
        np.zeros(2, dtype=">f4"),
        np.zeros(2, dtype=np.complex128),
        torch.zeros(2, dtype=torch.complex64),
        torch.zeros(2, 2).to_sparse(),
        torch.zeros(2, device="meta"),
        {(1, 2): 3},
        {True: 3},
    ],
    ids=lambda leaf: type(leaf).__name__,
)
def test_what_cannot_be_saved_is_named_by_its_place(tmp_path, leaf):
    save(tmp_path, state_at(1), 1)
    with pytest.raises(TypeError, match="cannot save agent/memory/2/keys: ") as error:
        save(tmp_path, {"agent": {"memory": [1, 2, {"keys": leaf}]}}, 2)
    assert "\n" not in str(error.value)
    assert entries(tmp_path) == {"latest", "step_000000001"}


def test_keeps_the_newest(tmp_path):
    for step in range(1, 6):
        save(tmp_path, state_at(step), step, keep=3)
    assert entries(tmp_path) == {"latest", "step_000000003", "step_000000004", "step_000000005"}
    assert (tmp_path / "latest").read_text().strip() == "step_000000005"
    save(tmp_path, state_at(6), 6, keep=1)
    assert entries(tmp_path) == {"latest", "step_000000006"}


@pytest.mark.parametrize(("step", "keep"), [(-1, 2), (1, 0)])
def test_refuses_impossible_numbers(tmp_path, step, keep):
    with pytest.raises(ValueError, match="at least"):
        save(tmp_path, {}, step, keep)


def test_the_same_step_is_replaced(tmp_path):
    save(tmp_path, state_at(1), 1)
    save(tmp_path, {"saved": 1}, 2)
    save(tmp_path, {"saved": 2}, 2)
    assert load(tmp_path) == (2, {"saved": 2})
    assert entries(tmp_path) == {"latest", "step_000000001", "step_000000002"}


def test_none_to_load(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(CheckpointError, match="no good checkpoint in") as error:
            load(folder)
        assert str(folder) in str(error.value)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path, bit: int | None = None) -> None:
    content = bytearray(path.read_bytes())
    bit = len(content) * 4 if bit is None else bit
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("name", ["tensors.safetensors", "tree.json", "manifest.json"])
def test_falls_back_from_a_damaged_checkpoint(tmp_path, name, damage):
    good, bad = save(tmp_path, state_at(1), 1), save(tmp_path, state_at(2), 2)
    damage(bad / name)
    with pytest.warns(UserWarning, match="is damaged") as caught:
        step, state = load(tmp_path)
    assert step == 1 and same(state, state_at(1))
    (warning,) = caught
    assert str(good) in str(warning.message) and str(bad) in str(warning.message)
    assert "\n" not in str(warning.message)
    damage(good / name)
    with pytest.raises(CheckpointError, match="no good checkpoint") as error:
        load(tmp_path)
    assert str(good) in str(error.value) and str(bad) in str(error.value) and "\n" not in str(error.value)


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    save(folder, state_at(1), 1)
    save(folder, state_at(2), 2)
    return folder


class Malicious:
    """Whoever unpickles this runs its code."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self):
        return Path.touch, (self.proof,)


FILES = ["tensors.safetensors", "tree.json", "manifest.json"]


def other_of(path: Path) -> Path:
    return path.with_name(FILES[FILES.index(path.name) - 1])


def swap(path: Path) -> None:
    content, other = path.read_bytes(), other_of(path)
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)


def into_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def into_link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent / "nowhere")


DAMAGES: dict[str, Callable[[Path, float, Path], object]] = {
    "cut": lambda path, place, proof: path.write_bytes(path.read_bytes()[: int(place * path.stat().st_size)]),
    "flip": lambda path, place, proof: flip(path, int(place * path.stat().st_size * 8)),
    "swap files": lambda path, place, proof: swap(path),
    "of another": lambda path, place, proof: shutil.copy(path.parents[1] / "step_000000001" / path.name, path),
    "empty": lambda path, place, proof: path.write_bytes(b""),
    "delete": lambda path, place, proof: path.unlink(),
    "pickle": lambda path, place, proof: path.write_bytes(pickle.dumps(Malicious(proof), protocol=int(place * 6))),
    "torch": lambda path, place, proof: torch.save({"agent": Malicious(proof)}, path),
    "noise": lambda path, place, proof: path.write_bytes(np.random.default_rng(int(place * 1e9)).bytes(500)),
    "folder": lambda path, place, proof: into_folder(path),
    "link": lambda path, place, proof: into_link(path),
}


@settings(max_examples=500)
@given(st.sampled_from(sorted(DAMAGES)), st.sampled_from(FILES), st.floats(0, 1, exclude_max=True))
def test_no_damage_goes_unnoticed_or_runs_code(two_checkpoints, kind, name, place):
    with tempfile.TemporaryDirectory() as temporary:
        folder, proof = Path(temporary) / "checkpoints", Path(temporary) / "proof"
        shutil.copytree(two_checkpoints, folder)
        DAMAGES[kind](folder / "step_000000002" / name, place, proof)
        with pytest.warns(UserWarning, match="is damaged|has format") as caught:
            step, state = load(folder)
        assert step == 1 and same(state, state_at(1))
        assert len(caught) == 1 and "\n" not in str(caught[0].message)
        shutil.rmtree(folder / "step_000000001")
        with pytest.raises(CheckpointError, match="no good checkpoint") as error:
            load(folder)
        assert "\n" not in str(error.value)
        assert not proof.exists()


def test_a_manifest_that_vouches_for_a_pickle_runs_no_code(tmp_path):
    """Checksums can be forged; what is read is never executed all the same."""
    proof = tmp_path / "proof"
    place = save(tmp_path / "checkpoints", state_at(1), 1)
    for name in ("tensors.safetensors", "tree.json"):
        save(tmp_path / "checkpoints", state_at(1), 1)
        content = pickle.dumps(Malicious(proof))
        (place / name).write_bytes(content)
        manifest = json.loads((place / "manifest.json").read_text())
        manifest["files"][name] = {"bytes": len(content), "xxh3_128": xxhash.xxh3_128_hexdigest(content)}
        (place / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(CheckpointError, match="is damaged"):
            load(tmp_path / "checkpoints")
    assert not proof.exists()
    pickle.loads(pickle.dumps(Malicious(proof)))
    assert proof.exists(), "the test's pickle is harmless"


@settings(max_examples=80)
@given(st.sampled_from(FILES), st.floats(0, 1, exclude_max=True))
def test_no_flipped_bit_goes_unnoticed(two_checkpoints, name, place):
    path = two_checkpoints / "step_000000002" / name
    bit = int(place * path.stat().st_size * 8)
    flip(path, bit)
    try:
        with pytest.warns(UserWarning, match="damaged|format"):
            step, state = load(two_checkpoints)
    finally:
        flip(path, bit)
    assert step == 1 and same(state, state_at(1))


@pytest.mark.parametrize("pointer", [b"", b"\xff\xfe", b"step_000000007\n", b"nonsense"])
def test_a_damaged_pointer_costs_nothing(tmp_path, pointer):
    save(tmp_path, state_at(1), 1)
    save(tmp_path, state_at(2), 2)
    (tmp_path / "latest").write_bytes(pointer)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert load(tmp_path)[0] == 2
    assert [("names step 7, and there is none" in str(one.message)) for one in caught] == [True] * (b"7" in pointer)
    (tmp_path / "latest").unlink()
    assert load(tmp_path)[0] == 2


def test_a_run_that_fell_back_goes_on_from_where_it_went(tmp_path):
    save(tmp_path, state_at(2), 2)
    abandoned = save(tmp_path, state_at(5), 5)
    truncate(abandoned / "tree.json")
    with pytest.warns(UserWarning, match="damaged"):
        assert load(tmp_path)[0] == 2
    save(tmp_path, state_at(3), 3)
    assert load(tmp_path)[0] == 3
    assert entries(tmp_path) == {"latest", "step_000000002", "step_000000003"}


def test_a_checkpoint_that_is_gone_is_missed(tmp_path):
    for step in (1, 2):
        save(tmp_path, state_at(step), step)
    shutil.rmtree(tmp_path / "step_000000002")
    with pytest.warns(UserWarning, match="latest names step 2, and there is none; falling back to .*step_000000001"):
        assert load(tmp_path)[0] == 1
    (tmp_path / "latest").write_text("step_000000001\n")
    save(tmp_path, state_at(3), 3)
    (tmp_path / "latest").write_text("step_000000001\n")
    with pytest.warns(UserWarning, match="latest names step 1: step_000000003 passed over"):
        assert load(tmp_path)[0] == 1
    set_aside_after(tmp_path, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(tmp_path)[0] == 1
    assert not (tmp_path / "step_000000003").exists()


def test_checkpoints_replaced_while_they_are_read_are_listed_again(tmp_path, monkeypatch):
    save(tmp_path, state_at(1), 1, keep=1)
    read = checkpoint._read

    def overtaken(path):
        monkeypatch.setattr(checkpoint, "_read", read)
        save(tmp_path, state_at(2), 2, keep=1)
        return read(path)

    monkeypatch.setattr(checkpoint, "_read", overtaken)
    assert load(tmp_path)[0] == 2


def test_a_folder_copied_without_its_manifest_is_no_checkpoint(tmp_path):
    """A checkpoint renamed to another step is noticed as well."""
    save(tmp_path, state_at(1), 1)
    (tmp_path / "step_000000001").rename(tmp_path / "step_000000002")
    with pytest.raises(CheckpointError, match="names step 1"):
        load(tmp_path)


@pytest.mark.parametrize("step", [2, 1], ids=["a new step", "the same step"])
@pytest.mark.parametrize("function", ["fsync", "rename", "replace"])
def test_a_save_that_fails_leaves_the_older_ones(tmp_path, monkeypatch, function, step):
    """Every call of the function fails in turn, as on a full or failing disk."""
    reference = getattr(os, function)
    for failing in range(20):
        folder = tmp_path / str(failing)
        save(folder, state_at(0), 0)
        save(folder, state_at(1), 1)
        calls = iter(range(20))

        def fail(*arguments, calls=calls, failing=failing):
            if next(calls) == failing:
                raise OSError(28, "No space left on device")
            return reference(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(os, function, fail)
            try:
                save(folder, {"new": True}, step)
            except CheckpointError as error:
                assert "No space left on device" in str(error) and "\n" not in str(error)
            else:
                break
        assert not [name for name in entries(folder) if "saving_" in name]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            # Whole already, but not yet named as the latest.
            warnings.filterwarnings("ignore", message=".*step_000000002 passed over")
            loaded_step, loaded = load(folder)
        assert same(loaded, state_at(1)) or (loaded_step == step and loaded == {"new": True})
        save(folder, state_at(3), 3)
        assert load(folder)[0] == 3
    assert failing > 0, "the function was never called"


def test_a_disk_that_fills_up_while_writing(tmp_path):
    save(tmp_path, state_at(1), 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match="cannot save"):
            save(tmp_path, {"keys": torch.zeros(100_000)}, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert entries(tmp_path) == {"latest", "step_000000001"}
    assert same(load(tmp_path)[1], state_at(1))


def test_too_little_room_is_told_before_writing(tmp_path, monkeypatch):
    save(tmp_path, state_at(1), 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 10**12, 12345))
    with pytest.raises(CheckpointError, match="12345 are available") as error:
        save(tmp_path, {"keys": torch.zeros(1_000_000)}, 2)
    needed = int(str(error.value).split("needs ")[1].split(" ")[0])
    assert 4_000_000 < needed < 6_000_000
    assert entries(tmp_path) == {"latest", "step_000000001"}


def test_a_killed_save_leaves_nothing_that_is_read(tmp_path):
    save(tmp_path, state_at(1), 1)
    torn = tmp_path / ".saving_step_000000002"
    torn.mkdir()
    (torn / "tree.json").write_text("{")
    assert load(tmp_path)[0] == 1
    save(tmp_path, state_at(2), 2)
    assert entries(tmp_path) == {"latest", "step_000000001", "step_000000002"}


def test_files_hold_no_pickle_and_strict_json(tmp_path):
    path = save(tmp_path, {"nan": math.nan, "big": 2**127, "weights": torch.zeros(2)}, 1)
    assert entries(path) == {"tensors.safetensors", "tree.json", "manifest.json"}

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    for name in ("tree.json", "manifest.json"):
        json.loads((path / name).read_text(), parse_constant=refuse)
