"""Train an agent: a preset and overrides in, a run directory out.

    python train.py configs/quickstart.yaml                            MFEC on Ms Pac-Man, two to four minutes
    python train.py configs/atari_nec.yaml --env.game qbert --seed 3   a preset with overrides
    python train.py --resume runs/NAME                                 go on with a run that was stopped, or killed
    python train.py --resume runs/NAME --steps 500_000                 or with one that is done, for longer
    python train.py configs/grid_world_nec.yaml --help                 every option of a preset
    python train.py --help                                             every option of every agent and world
    tensorboard --logdir runs                                          look at the runs
    python evaluate.py runs/NAME                                       play whole games with a trained agent

A run directory holds the resolved configuration (config.yaml), the versions it ran with, its metrics as JSON lines and
TensorBoard events, checkpoints, and its result (result.json).

SIGTERM, SIGUSR1 and Ctrl-C finish the step, save and exit with code 75; a second Ctrl-C leaves at once (130). A loss
or gradient that is not finite ends the run before it does harm (code 3).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Read when torch is loaded. By default a waiting thread of its pool spins for milliseconds and takes the processor from
# the emulators; on a busy machine two threads are then several times slower than one.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

from assembly import RunConfig, lack_of_memory, make_loop, random_score, recorder_of
from envs import TaskConfig
from envs.workers import WorkersLostError
from training import checkpoint
from training.command_line import NOT_FINITE, UsageError, guarded, load_preset, load_yaml, parse_overrides, say
from training.loop import ReplayError, TrainingLoop
from training.options import options_of
from training.run_directory import RunDirectory
from training.sequence_loop import SequenceLoop
from training.session import Fault, Session
from training.signals import RESUMABLE, StopRequest
from training.tally import Tally

PRESETS = Path("configs")
MAY_CHANGE = (
    "steps",
    "env_workers",
    "device",
    "threads",
    "steps_per_log",
    "steps_per_picture",
    "steps_per_recording",
    "recorded_memories",
    "recording_percent",
    "recording_megabytes",
    "steps_per_checkpoint",
    "keep_checkpoints",
)
"""Options that may change on a resume. With another device or number of threads, numbers round otherwise."""


def identity(config: RunConfig) -> dict[str, Any]:
    """What the checkpoints of a run say they are of: all that must be the same for the run to go on."""
    options = config.model_dump(mode="json", exclude={*MAY_CHANGE, "runs"})
    return {"agent_name": config.agent.name, "world": config.env.title, "config": options}


def tensorboard_command(runs: Path) -> str:
    """How to look at the runs from this shell: by its bare name only where that would be found."""
    beside_python = os.path.relpath(Path(sys.executable).with_name("tensorboard"))
    return f"{'tensorboard' if shutil.which('tensorboard') else beside_python} --logdir {runs}"


def open_run(path: Path) -> tuple[RunDirectory, RunConfig]:
    """Find a run and read what it was asked for.

    Raises:
        UsageError: if it is not there, is no run, or its configuration is not one.
    """
    try:
        run = RunDirectory.open(path)
    except (OSError, ValueError) as error:
        raise UsageError(str(error)) from error
    return run, load_yaml(RunConfig, run.path / "config.yaml")


def load_checkpoint(run: RunDirectory, config: RunConfig) -> tuple[int, dict[str, Any]]:
    """The newest good checkpoint of a run, its step and its state; warns of newer ones that are damaged.

    Raises:
        UsageError: if there is none, or it is of another agent or another world.
    """
    with warnings.catch_warnings(record=True) as damages:
        warnings.simplefilter("always")
        try:
            step, state = checkpoint.load(run.checkpoints)
        except checkpoint.CheckpointError as error:
            anew = f"python train.py {run.path / 'config.yaml'}"
            raise UsageError(f"{error}; to train it anew: {anew}") from error
    for damage in damages:
        warn(str(damage.message))
    mine = identity(config)
    if any(state.get(name) != mine[name] for name in ("agent_name", "world")):
        raise UsageError(
            f"the checkpoint in {run.path} is not of a {config.agent.name} agent on {config.env.title} but of a "
            f"{state.get('agent_name')} agent on {state.get('world')}; "
            f"put back the config.yaml that {run.path} was trained with"
        )
    return step, state


@contextlib.contextmanager
def restoring(run: RunDirectory) -> Iterator[None]:
    """Turn what goes wrong while a state is loaded into a UsageError."""
    try:
        yield
    except ReplayError as error:
        raise UsageError(
            f"{run.path}: {error}. Either a process of --env_workers was lost meanwhile: try again; or the emulator is "
            f"of another version than {run.path / 'versions.json'} names: install that one"
        ) from error
    except WorkersLostError as error:
        raise UsageError(f"{run.path}: {error}, while its running episodes were played again: try again") from error
    except (LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = textwrap.shorten(f"{type(error).__name__}: {error}", 200)
        raise UsageError(
            f"the checkpoint in {run.path} is not of a run with the options in config.yaml ({reason}); "
            f"put back the config.yaml that {run.path} was trained with"
        ) from error


def warn(message: str) -> None:
    """Print a warning of one line, where anything can be printed."""
    with contextlib.suppress(OSError):
        print(f"warning: {message}", file=sys.stderr, flush=True)


def make_session(config: RunConfig, run: RunDirectory, loop: TrainingLoop | SequenceLoop, tally: Tally) -> Session:
    """All that trains, logs and saves, with a recorder where the agent has something to tell."""
    recorder = recorder_of(config, loop, run.recalls, warn) if isinstance(loop, TrainingLoop) else None
    if recorder is not None:
        loop.agent = recorder
    return Session(run, loop, tally, identity(config), warn, recorder)


def train(
    config: RunConfig, run: RunDirectory, session: Session, loop: TrainingLoop | SequenceLoop, stop: StopRequest
) -> bool:
    """Do what is left of a run; the caller holds its lock.

    Returns:
        Whether the end could be saved.

    Raises:
        SystemExit: with the code that tells why, if the run ends before its last step.
    """
    try:
        is_saved = session.train(
            config.steps, config.steps_per_checkpoint, config.keep_checkpoints, config.steps_per_picture, stop
        )
    except Fault as fault:
        print(f"error: {fault}", file=sys.stderr)
        sys.exit(NOT_FINITE)
    except WorkersLostError as error:
        hint = f"go on from the last checkpoint with: python train.py --resume {run.path}"
        print(f"error: after step {loop.step}, {error}; {hint}", file=sys.stderr)
        sys.exit(1)
    except (MemoryError, RuntimeError) as error:
        if (why := lack_of_memory(error)) is None:
            raise
        why = textwrap.shorten(why, 200)
        print(f"error: after step {loop.step}, this does not fit into memory, ask for less: {why}", file=sys.stderr)
        sys.exit(1)
    loop.close()
    if stop.signal and loop.step < config.steps:
        saved = "saved" if is_saved else "not saved: the checkpoint before it stands"
        say(f"{stop.signal} at step {loop.step}, {saved}. Go on with: python train.py --resume {run.path}")
        sys.exit(RESUMABLE if is_saved else 1)
    return is_saved


def finish(config: RunConfig, run: RunDirectory, tally: Tally, stop: StopRequest, is_saved: bool) -> None:
    """Write and print what the run came to.

    Raises:
        SystemExit: with code 1, if its end or its result could not be saved.
    """
    result = tally.result()
    if not isinstance(config.env, TaskConfig):
        # Random play may take long: by then the result is on the disk.
        with contextlib.suppress(OSError):
            run.write_result({**result, "random_score": None})
        result["random_score"] = random_score(config, lambda: stop.signal is not None)
    is_written = True
    try:
        run.write_result(result)
    except OSError as error:
        is_written = False
        warn(f"{run.result} could not be written: {error}; for another attempt, resume the run")
    if isinstance(config.env, TaskConfig):
        if "error_percent" in result:
            mistakes = f"{result['error_percent']:.4g} % of answers wrong"
        else:
            mistakes = f"{result['wrong_bits_per_sequence']:,.4g} wrong bits"
        summary = (
            f"{mistakes} and {result['nats_per_sequence']:,.4g} nats a sequence in the last "
            f"{result['updates_averaged']} of {result['steps']:,} updates"
        )
    else:
        recent = result["return_last_episodes"]
        score = (
            f"mean return of the last {len(tally.recent)} episodes {recent:,.6g}"
            if tally.recent
            else "no episode ended"
        )
        floor = result["random_score"]
        compared = "" if floor is None else f" (random play {floor:,.6g})"
        summary = f"{score}{compared} after {result['frames']:,} frames"
    say(
        f"{config.agent.name.upper()} on {config.env.title}: {summary} in {result['seconds']:.0f} s. "
        f"Run: {run.path}. Look: {tensorboard_command(run.path.parent)}"
    )
    if not is_saved:
        hint = f"the checkpoint before it stands; go on from there with: python train.py --resume {run.path}"
        print(f"error: the end of the run could not be saved; {hint}", file=sys.stderr)
    if not (is_saved and is_written):
        sys.exit(1)


def start(config: RunConfig, name: str) -> None:
    """Do a new run."""
    with StopRequest() as stop, contextlib.ExitStack() as closed:
        loop, tally = make_loop(config)
        # Also where training fails.
        closed.enter_context(contextlib.closing(loop))
        try:
            options = config.model_dump(mode="json")
            run = RunDirectory.create(config.runs, f"{name}__seed{config.seed}", options, sys.argv)
        except (OSError, ValueError) as error:
            raise UsageError(f"--runs: no run can be made in {config.runs}: {error}") from error
        with holding(run):
            is_saved = train(config, run, make_session(config, run, loop, tally), loop, stop)
            finish(config, run, tally, stop, is_saved)


def changes(before: dict[str, Any], after: dict[str, Any], prefix: str = "") -> list[str]:
    """The options that differ and may not, with their values."""
    found = []
    for name in before:
        old, new = before[name], after.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            # What has another name, a core say, has other options: they are not to be compared.
            same = old if old.get("name") == new.get("name") else {"name": old["name"]}
            found += changes(same, new, f"{prefix}{name}.")
        elif old != new and f"{prefix}{name}" not in MAY_CHANGE:
            found.append(f"--{prefix}{name} ({old} to {new})")
    return found


def check_options(run: RunDirectory, trained: dict[str, Any], config: RunConfig) -> None:
    """Raise UsageError where a run's configuration differs from options that its checkpoint was trained with."""
    if other := changes(trained, identity(config)["config"]):
        raise UsageError(
            f"the checkpoint in {run.path} is not of its config.yaml: {', '.join(other)}; "
            f"put back the one that it was trained with"
        )


def resume(path: Path, arguments: list[str]) -> None:
    """Go on with a run from its newest good checkpoint.

    Raises:
        UsageError: if it cannot be, or was asked to become another run.
    """
    run, before = open_run(path)
    config = parse_overrides(before, arguments, f"train.py --resume {path}", "The options of the run.")
    if fixed := changes(before.model_dump(), config.model_dump()):
        raise UsageError(
            f"--resume goes on with the run as it is: {', '.join(fixed)} cannot change (only {', '.join(MAY_CHANGE)} "
            f"can); for another run, start one: python train.py {run.path / 'config.yaml'} ..."
        )
    if config.steps < before.steps:
        raise UsageError(f"--steps can only be raised: {run.path} is of {before.steps}, not {config.steps}")
    with StopRequest() as stop, holding(run), contextlib.ExitStack() as closed:
        step, state = load_checkpoint(run, config)
        check_options(run, state.get("config", {}), config)
        is_done = is_saved = step >= config.steps
        if is_done and run.result.exists():
            raise UsageError(f"{run.path} is done with its {step} steps; to go on, raise them: --steps {2 * step}")
        loop, tally = make_loop(config)
        closed.enter_context(contextlib.closing(loop))
        session = make_session(config, run, loop, tally)
        with restoring(run):
            session.load_state_dict(state)
        if not is_done:
            checkpoint.set_aside_after(run.checkpoints, step)
            try:
                run.note_resume(config.model_dump(mode="json"), step, sys.argv)
            except OSError as error:
                warn(f"the resume could not be noted in {run.path}: {error}")
            say(f"going on with {run.path} from step {step}")
            is_saved = train(config, run, session, loop, stop)
        finish(config, run, tally, stop, is_saved)


@contextlib.contextmanager
def holding(run: RunDirectory) -> Iterator[None]:
    """Hold the lock of a run.

    Raises:
        UsageError: if another process has it, or the folder cannot be written.
    """
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(run.locked())
        except BlockingIOError as error:
            raise UsageError(f"{error}; wait for it, or stop it") from error
        except OSError as error:
            raise UsageError(f"{run.path} cannot be written: {error}") from error
        yield


def main() -> None:
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        print("Presets: " + ", ".join(str(preset) for preset in sorted(PRESETS.glob("*.yaml"))) + "\n")
        print(options_of(RunConfig))
        return
    if any(argument.split("=")[0] == "--resume" for argument in arguments):
        if arguments[0] != "--resume" or len(arguments) == 1 or arguments[1].startswith("-"):
            raise UsageError("--resume comes first and takes the directory of a run: train.py --resume runs/NAME ...")
        resume(Path(arguments[1]), arguments[2:])
        return
    if arguments[0].startswith("-"):
        raise UsageError(f"the preset comes first: python train.py configs/quickstart.yaml {' '.join(arguments)}")
    preset = Path(arguments[0])
    default = load_preset(RunConfig, preset, PRESETS)
    config = parse_overrides(
        default, arguments[1:], f"train.py {preset}", f"Preset {preset}; see also train.py --help."
    )
    start(config, preset.stem)


if __name__ == "__main__":
    guarded(main)
