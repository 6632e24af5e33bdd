"""What benchmarks share: options, runs as presets with overrides and a seed, and which of them are to be done."""

from __future__ import annotations

import resource
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from assembly import RunConfig, check_device
from benchmarks import results
from benchmarks.results import Row
from benchmarks.workers import Job, work
from train import PRESETS
from training.command_line import UsageError, load_preset, parse_overrides


class CommonOptions(BaseModel):
    """What all benchmarks of agents have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    num_envs: int = Field(default=0, ge=0)
    """Parallel environments; 0 takes the preset's."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where networks and memories live."""
    threads: int = Field(default=1, ge=1)
    """Processor threads of a run for tensors."""
    override: tuple[str, ...] = ()
    """Changes to every preset, such as agent.learning_rate=1e-4 "env.tasks=1 2"; they need a name, --variant."""
    variant: str = ""
    """What the variant column says of the runs; empty for the presets as they are."""
    out: Path
    """Table to add to; its name is that of the experiment. Runs that it holds already are left out."""
    machine: str = results.machine_word()
    """One word for the machine."""


Counts = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
"""Numbers of which a benchmark measures each."""

_FLAGS = {
    "seed": "--seeds",
    **{name: f"--{name}" for name in ("steps", "num_envs", "device", "threads")},
}
"""What of a preset is no matter of overrides: a row would say one thing, and its run have been another."""
_WITHOUT_EFFECT = ("deterministic", "runs", "env_workers", "steps_per_", "keep_checkpoints", "record")
"""What options begin with that tell how `train.py` goes about a run, and benchmarks do not follow."""


@dataclass(frozen=True)
class Preset:
    """A preset by name and what makes it one world of a benchmark, as in the arguments of `train.py`."""

    name: str
    arguments: tuple[str, ...] = ()
    variant: str = ""
    """What the variant column says of it, unless it is a published setting."""


ATARI_VARIANTS = {"nec_frozen": "frozen-encoder", "rec_online": "online"}
"""Agents' presets on Atari that are not their first, and what the variant column says of them."""


def atari_preset(agent: str, arguments: tuple[str, ...]) -> Preset:
    """The preset configs/atari_<agent>.yaml with what makes it one world."""
    return Preset(f"atari_{agent}", arguments, ATARI_VARIANTS.get(agent, ""))


def peak_megabytes() -> float:
    """Most memory this process ever held, in MiB."""
    # Linux counts kilobytes, macOS bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def prepare(
    options: CommonOptions, presets: Sequence[Preset], seed: int, steps: int
) -> Iterator[tuple[RunConfig, Row]]:
    """For each preset its configuration, and a row that lacks nothing but the measurement.

    Raises:
        UsageError: on a mistake in the options.
    """
    if options.override and not options.variant:
        raise UsageError("--override changes the presets: name what they become with --variant")
    arguments = ["--seed", str(seed), "--threads", str(options.threads), "--device", options.device]
    if steps:
        arguments += ["--steps", str(steps)]
    if options.num_envs:
        arguments += ["--num_envs", str(options.num_envs)]
    for change in options.override:
        name, values = _change(change)
        arguments += [f"--{name}", *values]
    for preset in presets:
        path = PRESETS / f"{preset.name}.yaml"
        default = load_preset(RunConfig, path, PRESETS)
        config = parse_overrides(default, [*preset.arguments, *arguments], str(path), "")
        check_device(config)
        variant = "+".join(filter(None, [preset.variant, options.variant]))
        yield (
            config,
            results.blank(
                options.out, config.env.title, config.agent.name, options.machine, variant=variant, seed=seed
            ),
        )


def _change(override: str) -> tuple[str, list[str]]:
    """Name and values of an override; a list of numbers, such as env.tasks="1 2", has several."""
    name, equals, value = override.partition("=")
    if not equals or not name or name == "help":
        raise UsageError(f"--override takes NAME=VALUE, such as agent.learning_rate=1e-4, not {override!r}")
    if name in _FLAGS:
        raise UsageError(f"--override: {name} has an option of its own, {_FLAGS[name]}")
    if name.startswith(_WITHOUT_EFFECT):
        raise UsageError(f"--override: {name} has no effect in a benchmark")
    return name, value.split() or [value]


class Planned(Protocol):
    """A run that a benchmark may have to do, as its worker gets it."""

    @property
    def config(self) -> RunConfig: ...

    @property
    def blank(self) -> Row: ...


def missing(
    runs: Sequence[Planned], record: Callable[..., None], out: Path, columns: Sequence[str] = results.RUN
) -> list[Job]:
    """A job that calls `record(report, run)` for each run that a table does not hold to its last step.

    Raises:
        UsageError: if no run is asked for or one is twice, or if the table is none, or cannot be written.
    """
    if not runs:
        raise UsageError("no run is asked for: a list, such as --seeds, is empty")
    known = check_table(out, columns)
    names = [run.blank.run(columns) for run in runs]
    if twice := [name_of(run.blank) for run, name in zip(runs, names, strict=True) if names.count(name) > 1]:
        raise UsageError(f"asked for more than once: {twice[0]}")
    return [
        Job(name_of(run.blank), run.config.steps, record, (run,))
        for run, name in zip(runs, names, strict=True)
        if known.get(name, 0) < run.config.steps
    ]


def check_table(out: Path, columns: Sequence[str] = results.RUN) -> dict[tuple[str | int, ...], int]:
    """Make sure that rows can be added to a table, which may not be there yet.

    Returns:
        The runs that it holds, by these columns, and the steps they went.

    Raises:
        UsageError: if it cannot be written, or is no such table.
    """
    if out.is_dir():
        raise UsageError(f"--out: {out} is a folder, and must be the name of a table")
    check_folder(out.parent, "--out")
    try:
        return results.done(out, columns)
    except ValueError as error:
        raise UsageError(str(error)) from error


def check_folder(folder: Path, option: str) -> None:
    """Make a folder, so that whatever forbids writing to it is told before anything runs.

    Raises:
        UsageError: if it cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"{option}: cannot write to {folder}: {error.strerror}") from error


def do_missing(jobs: Sequence[Job], total: int, out: Path, processes: int, preload: str) -> None:
    """Do the jobs that a table still lacks; exit with code 1 if some fail."""
    print(f"{out}: {total - len(jobs)} of {total} runs are there, {len(jobs)} to do", flush=True)
    try:
        failed = work(jobs, processes, preload)
    except KeyboardInterrupt:
        sys.exit("stopped; started again, it does the runs that are missing")
    if failed:
        sys.exit(f"{len(failed)} of {len(jobs)} runs failed: {'; '.join(failed)}")


def name_of(blank: Row) -> str:
    """A run in a few words."""
    return " ".join(filter(None, [blank.world, blank.agent, blank.variant, f"seed {blank.seed}"]))
