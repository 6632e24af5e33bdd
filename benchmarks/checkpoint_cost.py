"""What saving a large memory costs a run, to docs/results/checkpoint_cost.csv.

    python -m benchmarks.checkpoint_cost                       a million memories with keys of 128, five saves each way
    python -m benchmarks.checkpoint_cost --memories 100_000    fewer

A store is filled, and read and written to without a pause as in training, while it is saved. Two ways are compared:
`background`, as train.py saves, and `foreground`, which waits for the disk. In rows of their own for each save:

    stall_seconds           for how long the loop stood still
    save_seconds            from the request until the checkpoint was complete
    extra_peak_megabytes    the most memory beyond what the process held before, that of the writing child included
    megabytes_on_disk       size of the checkpoint
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from benchmarks import results
from benchmarks.runner import check_folder, check_table
from memory.episodic import InverseDistance, Store, maximum
from training.command_line import guarded, parse_overrides
from training.saver import Saver


class CheckpointCostOptions(BaseModel):
    """What to save, and how often."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    memories: int = Field(default=1_000_000, ge=1)
    """Memories in the store."""
    key_size: int = Field(default=128, ge=1)
    """Length of a key."""
    repeats: int = Field(default=5, ge=1)
    """Saves of each way."""
    disk: Path = Path(tempfile.gettempdir())
    """Folder to save in."""
    out: Path = Path("docs/results/checkpoint_cost.csv")
    """Table to write anew."""
    machine: str = results.machine_word()
    """One word for the machine."""


class MemoryWatch:
    """The most memory that this process and its children hold beyond what it held at first, as a context manager.

    Pages that a child shares with its parent count once: they are what `Pss` of /proc splits among their holders.
    """

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._before = self._peak = _held_megabytes()

    @property
    def extra_megabytes(self) -> float:
        return self._peak - self._before

    def _look(self) -> None:
        while not self._stop.wait(0.02):
            self._peak = max(self._peak, _held_megabytes())

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()


def _held_megabytes() -> float:
    pid = os.getpid()
    total = 0
    for process in (pid, *_children(pid)):
        try:
            text = Path(f"/proc/{process}/smaps_rollup").read_text()
        except OSError:  # It ended in between.
            continue
        total += int(text.split("\nPss:")[1].split()[0])
    return total / 2**10


def _children(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in children.read_text().split()] if children.exists() else []


def filled_store(memories: int, key_size: int) -> Store:
    """A store of random memories."""
    rng = np.random.default_rng(0)
    store = Store(memories, key_size)
    for start in range(0, memories, 50_000):
        count = min(50_000, memories - start)
        keys = torch.from_numpy(rng.standard_normal((count, key_size), dtype=np.float32))
        hashes = rng.integers(0, 2**63, count).astype(np.uint64)
        store.write(keys, torch.from_numpy(rng.random(count, dtype=np.float32)), hashes, maximum, written_at=start)
    return store


def use(store: Store, rng: np.random.Generator) -> None:
    """What training does to a memory: a read that counts as use, keys that move, a state written again."""
    queries = torch.from_numpy(rng.standard_normal((8, store.key_size), dtype=np.float32))
    recall = store.read(queries, 50, InverseDistance())
    slots = recall.indices.unique()
    store.set_keys(slots, store.keys[slots] * 1.0001)
    store.write(queries, queries[:, 0].contiguous(), store.hashes[slots[:8].numpy()], maximum, written_at=1)


def saves(options: CheckpointCostOptions, background: bool) -> Iterator[dict[str, float]]:
    """Do the saves of one way, and measure each."""
    store = filled_store(options.memories, options.key_size)
    rng = np.random.default_rng(1)
    failures: list[str] = []
    for repeat in range(options.repeats):
        with tempfile.TemporaryDirectory(dir=options.disk) as folder:
            place = Path(folder)
            use(store, rng)
            saver = Saver(place, 1, failures.append, background)
            with MemoryWatch() as watch:
                began = time.perf_counter()
                saver.save({"memory": store.state_dict()}, repeat)
                stall = time.perf_counter() - began
                while not (place / "latest").exists():
                    use(store, rng)
                save = time.perf_counter() - began
                saver.finish()
            if failures:
                raise RuntimeError(failures[0])
            size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
        yield {
            "stall_seconds": stall,
            "save_seconds": save,
            "extra_peak_megabytes": watch.extra_megabytes,
            "megabytes_on_disk": size / 2**20,
        }


def main() -> None:
    options = parse_overrides(CheckpointCostOptions(), sys.argv[1:], "benchmarks.checkpoint_cost", __doc__)
    check_table(options.out)
    if options.disk is not None:
        check_folder(options.disk, "--disk")
    world = f"{options.memories:,} memories of {options.key_size}"
    blank = results.blank(options.out, world, "", options.machine)
    found = []
    for variant in ("background", "foreground"):
        for repeat, measured in enumerate(saves(options, variant == "background")):
            print(variant, {name: round(value, 3) for name, value in measured.items()}, flush=True)
            found += [
                replace(blank, variant=variant, seed=repeat, metric=name, value=value, seconds=measured["save_seconds"])
                for name, value in measured.items()
            ]
    # The table of before stands until all is measured.
    options.out.unlink(missing_ok=True)
    results.add(options.out, found)


if __name__ == "__main__":
    guarded(main)
