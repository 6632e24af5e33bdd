"""Signals, numbers that are not finite, full disks and lost processes: each ends as the docs say."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from programs import ROOT, complaint, only_run, run
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import evaluate
import train
from agents import NonFiniteError
from agents.dqn import DQN
from envs.workers import WorkersLostError, WorkerWorld
from tests import traces
from tests.traces import preset
from training import checkpoint
from training.loop import TrainingLoop
from training.run_directory import RunDirectory
from training.signals import StopRequest


def signalled(arguments: list[str], trace: Path, at: int, numbers: list[int]) -> None:
    """Train with a trace, and send this process signals after a step."""
    advance = TrainingLoop._advance

    def sending(loop: TrainingLoop):
        record = advance(loop)
        if record.step == at:
            for number in numbers:
                os.kill(os.getpid(), number)
        return record

    with mock.patch.object(TrainingLoop, "_advance", sending):
        traces.trained(arguments, trace, None)


def run_signalled(arguments: list[object], trace: Path, at: int, *numbers: int) -> int | None:
    process = traces.CONTEXT.Process(target=signalled, args=([str(one) for one in arguments], trace, at, numbers))
    process.start()
    process.join()
    return process.exitcode


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_finishes_the_step_and_saves(number, tmp_path):
    path = preset(tmp_path, "mfec", "grid_world", steps=300, steps_per_checkpoint=10_000)
    assert traces.run_traced([path, "--runs", tmp_path / "whole"], tmp_path / "whole.jsonl") == 0
    assert run_signalled([path, "--runs", tmp_path / "runs"], tmp_path / "first.jsonl", 150, number) == 75
    directory = only_run(tmp_path / "runs")
    output = (tmp_path / "first.out").read_text()
    message = f"{signal.Signals(number).name} at step 150, saved. Go on with: python train.py --resume {directory}"
    assert message in output
    assert checkpoint.load(directory / "checkpoints")[0] == 150
    assert traces.run_traced(["--resume", directory], tmp_path / "second.jsonl") == 0
    first, second = traces.read(tmp_path / "first.jsonl"), traces.read(tmp_path / "second.jsonl")
    assert first | second == traces.read(tmp_path / "whole.jsonl")
    assert max(first) == 150 and min(second) == 153


FAILING = """
import sys
from unittest import mock
import train
from training.command_line import guarded
from training.loop import TrainingLoop
advance = TrainingLoop._advance
def failing(loop):
    if loop.step >= 20:
        {failure}
    return advance(loop)
with mock.patch.object(TrainingLoop, "_advance", failing):
    guarded(train.main)
"""
LOST = "from envs.workers import WorkersLostError; raise WorkersLostError('6 environment processes were lost')"


@pytest.mark.parametrize(("failure", "told"), [("1 / 0", "ZeroDivisionError"), (LOST, "6 environment processes were")])
def test_a_training_that_fails_ends_with_the_processes_of_its_environments(failure, told, tmp_path):
    path = preset(tmp_path, "mfec", "grid_world", steps=300)
    arguments = [str(path), "--env_workers", "2", "--runs", str(tmp_path / "runs")]
    program = FAILING.replace("{failure}", failure)
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1 and told in done.stderr
    if failure == LOST:
        assert "Traceback" not in done.stderr and f"--resume {only_run(tmp_path / 'runs')}" in done.stderr


def test_a_second_interrupt_leaves_at_once(tmp_path):
    path = preset(tmp_path, "mfec", "grid_world", steps=300, steps_per_checkpoint=90)
    arguments = [path, "--runs", tmp_path / "runs"]
    assert run_signalled(arguments, tmp_path / "trace.jsonl", 150, signal.SIGINT, signal.SIGINT) == 130
    assert checkpoint.load(only_run(tmp_path / "runs") / "checkpoints")[0] in (0, 90)
    # Of another kind a second signal changes nothing.
    arguments = [path, "--runs", tmp_path / "others"]
    assert run_signalled(arguments, tmp_path / "trace.jsonl", 150, signal.SIGTERM, signal.SIGTERM) == 75


def test_a_signal_after_the_last_step_is_no_stop(tmp_path):
    path = preset(tmp_path, "random", "grid_world", steps=300)
    arguments = [path, "--runs", tmp_path / "runs"]
    assert run_signalled(arguments, tmp_path / "trace.jsonl", 300, signal.SIGTERM) == 0
    assert (only_run(tmp_path / "runs") / "result.json").exists()


@pytest.mark.parametrize("agent", ["nec", "dqn"])
def test_a_loss_that_is_not_finite_ends_the_run_before_the_step(agent, tmp_path, capsys):
    path = preset(tmp_path, agent, "grid_world", steps=400, steps_per_checkpoint=90)
    column = "returns" if agent == "nec" else "rewards"
    advance = TrainingLoop._advance

    def poisoned(loop: TrainingLoop):
        if loop.step == 210:
            replay = loop.agent.replay
            replay.columns[column][:] = np.nan
        before = {name: weight.clone() for name, weight in weights(loop.agent).items()}
        memory = loop.agent.memory.state_dict() if agent == "nec" else None
        before_memory = traces.digest(memory)
        try:
            return advance(loop)
        except NonFiniteError:
            for name, weight in weights(loop.agent).items():
                assert torch.equal(weight, before[name]) and weight.isfinite().all()
            if agent == "nec" and not loop.agent._finished:
                values = [store.values for store in loop.agent.memory.stores]
                assert all(value.isfinite().all() for value in values)
            del before_memory
            raise

    with mock.patch.object(TrainingLoop, "_advance", poisoned), pytest.raises(SystemExit) as stop:
        run(train.main, path, "--runs", tmp_path / "runs")
    assert stop.value.code == 3
    error = capsys.readouterr().err
    assert "the loss is nan" in error and error.count("\n") == 1
    directory = only_run(tmp_path / "runs")
    (dump,) = (directory / "faults").iterdir()
    assert str(dump) in error
    batch = load_file(dump)
    assert batch["returns"].isnan().any() and batch["observations"].dtype == torch.uint8
    step, state = checkpoint.load(directory / "checkpoints")
    assert step == 180
    leaves = state["agent"]["network" if agent == "dqn" else "encoder"].values()
    assert all(leaf.isfinite().all() for leaf in leaves)


def weights(agent) -> dict[str, torch.Tensor]:
    return dict((agent.network if isinstance(agent, DQN) else agent.encoder).named_parameters())


@contextlib.contextmanager
def small_disk(place: Path, kilobytes: int, options: str = "") -> Iterator[Path]:
    """A file system of its own that fills up soon; skips the test where there may be none."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k{options}", "tmpfs", str(place)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user may not mount a file system")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's thread.
def test_a_disk_that_fills_does_not_end_the_run(tmp_path, capsys):
    """Checkpoints, metrics and TensorBoard find no room, each with one warning; once there is room, all go on."""
    path = preset(tmp_path, "mfec", "grid_world", steps=600, steps_per_checkpoint=90, steps_per_log=30)
    with small_disk(tmp_path / "disk", 4_096) as disk:
        filler = disk / "filler"
        advance = TrainingLoop._advance

        def filling(loop: TrainingLoop):
            if loop.step == 150:
                with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                    while file.write(bytes(4096)):
                        pass
            if loop.step == 420:
                filler.unlink()
            return advance(loop)

        with mock.patch.object(TrainingLoop, "_advance", filling):
            run(train.main, path, "--runs", disk / "runs")
        output = capsys.readouterr()
        assert "MFEC on MiniGrid" in output.out
        warnings = output.err.splitlines()
        assert sum("metrics are being lost, training goes on" in line for line in warnings) == 1
        assert sum("no room for a checkpoint" in line or "cannot save" in line for line in warnings) >= 1
        directory = only_run(disk / "runs")
        steps = [json.loads(line)["step"] for line in (directory / "metrics.jsonl").read_text().splitlines()]
        assert steps == sorted(set(steps)) and 120 in steps and 300 not in steps and 600 in steps
        board = EventAccumulator(str(directory / "tensorboard")).Reload()
        assert board.Scalars("charts/episodes")[-1].step == 600
        assert checkpoint.load(directory / "checkpoints")[0] == 600
        assert (directory / "result.json").exists()


def test_a_disk_that_fills_costs_the_video_and_not_the_scores(tmp_path, capsys):
    run(train.main, preset(tmp_path, "random", "grid_world", steps=60), "--runs", tmp_path / "runs")
    directory = only_run(tmp_path / "runs")
    with small_disk(tmp_path / "disk", 4) as disk:
        run(evaluate.main, directory, "--games", 3, "--video", disk / "game.mp4")
        assert not list(disk.iterdir())
    output = capsys.readouterr()
    assert "warning: there is no video: " in output.err and "mean" in output.out and "video" not in output.out
    assert len(list((directory / "evaluations").iterdir())) == 1


def test_a_run_that_cannot_be_written_is_refused_in_one_line(tmp_path, capsys):
    path = preset(tmp_path, "mfec", "grid_world", steps=60)
    with small_disk(tmp_path / "disk", 4_096) as disk:
        run(train.main, path, "--runs", disk)
        directory = only_run(disk)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        error = complaint(train.main, capsys, "--resume", directory, "--steps", 90)
        assert f"{directory} cannot be written" in error and "Read-only file system" in error
        error = complaint(train.main, capsys, path, "--runs", disk)
        assert f"--runs: no run can be made in {disk}" in error


def test_two_processes_cannot_train_one_run(tmp_path, capsys):
    path = preset(tmp_path, "mfec", "grid_world", steps=60)
    run(train.main, path, "--runs", tmp_path / "runs")
    directory = only_run(tmp_path / "runs")
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys\nfrom pathlib import Path\nfrom training.run_directory import RunDirectory\n"
            "with RunDirectory.open(Path(sys.argv[1])).locked(): print('held', flush=True); sys.stdin.read()",
            str(directory),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    error = complaint(train.main, capsys, "--resume", directory, "--steps", 90)
    assert f"{directory} is being trained by another process" in error
    # However it ends, the lock goes with it.
    holder.kill()
    holder.wait()
    run(train.main, "--resume", directory, "--steps", 90)
    assert checkpoint.load(directory / "checkpoints")[0] == 90


def test_a_lost_environment_process_costs_its_episodes_and_is_counted(tmp_path, capfd):
    path = preset(tmp_path, "mfec", "grid_world", steps=300, steps_per_log=30)
    step_of = WorkerWorld._advance
    calls = iter(range(1000))

    def killing(world: WorkerWorld, actions: np.ndarray):
        if next(calls) == 40:
            os.kill(world.processes[0].pid or 0, signal.SIGKILL)
        return step_of(world, actions)

    with mock.patch.object(WorkerWorld, "_advance", killing):
        run(train.main, path, "--runs", tmp_path / "runs", "--env_workers", 2)
    assert "its episodes are truncated" in capfd.readouterr().err
    directory = only_run(tmp_path / "runs")
    board = EventAccumulator(str(directory / "tensorboard")).Reload()
    restarts = board.Scalars("charts/env_restarts")
    assert restarts[-1].step == 300 and restarts[-1].value == 1.0
    assert checkpoint.load(directory / "checkpoints")[0] == 300


@pytest.mark.parametrize(
    ("arguments", "mend"),
    [
        ([], "--resume comes first and takes the directory of a run"),
        (["--steps", "90", "RUN"], "--resume comes first and takes the directory of a run"),
        (["RUN/config.yaml"], "config.yaml is a file of a run: name its folder, "),
        (["absent"], "no run at absent"),
        (["RUN"], "is done with its 60 steps; to go on, raise them: --steps 120"),
        (["RUN", "--steps", "30"], "--steps can only be raised"),
        (["RUN", "--seed", "5"], "--seed (4 to 5) cannot change"),
        (["RUN", "--agent.epsilon", "0.5"], "--agent.epsilon (0.1 to 0.5) cannot change"),
        (["RUN", "--env.max_steps", "7", "--num_envs", "9"], "--env.max_steps (25 to 7), --num_envs (3 to 9) cannot"),
        (["RUN", "--step", "90"], "did you mean --steps?"),
    ],
)
def test_a_resume_that_cannot_be_is_refused_in_one_line(arguments, mend, tmp_path, capsys):
    run(train.main, preset(tmp_path, "mfec", "grid_world", steps=60), "--runs", tmp_path / "runs")
    directory = only_run(tmp_path / "runs")
    arguments = [one.replace("RUN", str(directory)) for one in arguments]
    assert mend in complaint(train.main, capsys, "--resume", *arguments)
    assert checkpoint.load(directory / "checkpoints")[0] == 60


def test_a_resume_with_another_core_is_refused_in_one_line(tmp_path, capsys):
    run(train.main, preset(tmp_path, "recurrent_ppo", "grid_world", steps=60), "--runs", tmp_path / "runs")
    directory = only_run(tmp_path / "runs")
    error = complaint(train.main, capsys, "--resume", directory, "--steps", 90, "--agent.core.name", "dnc")
    assert "--agent.core.name (gru to dnc) cannot change" in error
    config = (directory / "config.yaml").read_text()
    (directory / "config.yaml").write_text(config.replace("name: gru", "name: lstm"))
    error = complaint(train.main, capsys, "--resume", directory, "--steps", 90)
    assert "not of its config.yaml: --agent.core.name (gru to lstm); put back" in error


def test_a_changed_config_is_refused(tmp_path, capsys):
    run(train.main, preset(tmp_path, "mfec", "grid_world", steps=60), "--runs", tmp_path / "runs")
    directory = only_run(tmp_path / "runs")
    config = (directory / "config.yaml").read_text()
    (directory / "config.yaml").write_text(config.replace("epsilon: 0.1", "epsilon: 0.9"))
    error = complaint(train.main, capsys, "--resume", directory, "--steps", 90)
    assert "not of its config.yaml: --agent.epsilon (0.1 to 0.9); put back" in error


def test_a_refused_resume_leaves_the_run_as_it_was(tmp_path, capsys, monkeypatch):
    run(train.main, preset(tmp_path, "mfec", "grid_world", steps=60), "--runs", tmp_path / "runs")
    directory = only_run(tmp_path / "runs")
    files = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "use --device cpu" in complaint(train.main, capsys, "--resume", directory, "--steps", 90, "--device", "cuda")
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == files


def test_a_refused_run_leaves_no_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    path = preset(tmp_path, "mfec", "grid_world", steps=60)
    complaint(train.main, capsys, path, "--runs", tmp_path / "runs", "--device", "cuda")
    assert not (tmp_path / "runs").exists()


def test_a_run_that_ended_without_its_result_gets_it_by_a_resume(tmp_path, capsys):
    run(train.main, preset(tmp_path, "mfec", "grid_world", steps=60), "--runs", tmp_path / "runs")
    directory = only_run(tmp_path / "runs")
    result = json.loads((directory / "result.json").read_text())
    (directory / "result.json").unlink()
    (directory / "versions.json").write_text("[]")
    run(train.main, "--resume", directory)
    again = json.loads((directory / "result.json").read_text())
    timed = {"seconds", "steps_per_second"}
    assert {k: v for k, v in again.items() if k not in timed} == {k: v for k, v in result.items() if k not in timed}
    # Damaged provenance keeps no run from going on, and the result of the shorter run goes.
    run(train.main, "--resume", directory, "--steps", 90)
    assert json.loads((directory / "result.json").read_text())["steps"] == 90
    assert json.loads((directory / "versions.json").read_text())["resumes"][0]["step"] == 60


def test_output_that_cannot_be_written_costs_no_run(tmp_path):
    path = preset(tmp_path, "mfec", "grid_world", steps=600)
    command = [sys.executable, "train.py", str(path), "--runs", str(tmp_path / "runs")]
    with open("/dev/full", "w") as full:
        assert subprocess.run(command, cwd=ROOT, stdout=full, stderr=full).returncode == 0
    directory = only_run(tmp_path / "runs")
    assert checkpoint.load(directory / "checkpoints")[0] == 600
    assert json.loads((directory / "result.json").read_text())["steps"] == 600


@pytest.mark.parametrize("output", [">/dev/full", ">&-", "| head -1"])
def test_results_that_nobody_reads_are_no_failure(output, tmp_path):
    run(train.main, preset(tmp_path, "mfec", "grid_world", steps=60), "--runs", tmp_path / "runs")
    command = f"set -o pipefail; {sys.executable} evaluate.py {only_run(tmp_path / 'runs')} --games 2 {output}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("runs/*/evaluations/*.json"))) == 1


@pytest.mark.parametrize(("output", "told"), [(">/dev/full", "No space left on device"), ("| true", None)])
def test_output_that_was_asked_for_and_is_lost_is_a_failure(output, told):
    command = f"set -o pipefail; {sys.executable} train.py --help {output}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, f"error: the output could not be written: {told}\n" if told else "")


def test_what_fails_beside_the_output_keeps_its_traceback():
    def main() -> None:
        with open("/dev/full", "w") as full:
            full.write("x")

    with pytest.raises(OSError, match="No space left"):
        run(main)


def test_a_result_that_cannot_be_written_is_a_failure(tmp_path, capsys):
    path = preset(tmp_path, "mfec", "grid_world", steps=60)
    full = mock.Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
    with mock.patch.object(RunDirectory, "write_result", full), pytest.raises(SystemExit) as stop:
        run(train.main, path, "--runs", tmp_path / "runs")
    assert stop.value.code == 1 and "result.json could not be written" in capsys.readouterr().err


def test_a_run_whose_end_cannot_be_saved_says_so(tmp_path, capsys):
    path = preset(tmp_path, "mfec", "grid_world", steps=60)
    write = checkpoint.Snapshot.write

    def full(snapshot: checkpoint.Snapshot, *arguments: object) -> None:
        if snapshot.step:
            raise checkpoint.CheckpointError("no space left")
        write(snapshot, *arguments)

    with mock.patch.object(checkpoint.Snapshot, "write", full), pytest.raises(SystemExit) as stop:
        run(train.main, path, "--runs", tmp_path / "runs")
    directory = only_run(tmp_path / "runs")
    output = capsys.readouterr()
    assert stop.value.code == 1 and "after 60 frames" in output.out
    assert "the end of the run could not be saved; the checkpoint before it stands; go on from there" in output.err
    run(train.main, "--resume", directory)
    assert checkpoint.load(directory / "checkpoints")[0] == 60


def test_what_does_not_fit_into_memory_is_told_in_one_line(tmp_path, capsys):
    def greedy(loop: TrainingLoop) -> None:
        raise MemoryError("Unable to allocate 330. GiB")

    path = preset(tmp_path, "mfec", "grid_world", steps=60)
    with mock.patch.object(TrainingLoop, "_advance", greedy), pytest.raises(SystemExit) as stop:
        run(train.main, path, "--runs", tmp_path / "runs")
    error = capsys.readouterr().err
    assert stop.value.code == 1 and error.count("\n") == 1 and "Unable to allocate 330. GiB" in error


def test_a_signal_that_is_ignored_from_outside_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.signal is None
            os.kill(os.getpid(), signal.SIGUSR1)
            assert stop.signal == "SIGUSR1"
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_processes_lost_while_episodes_are_played_again_are_no_damaged_checkpoint(tmp_path, capsys):
    run(train.main, preset(tmp_path, "mfec", "grid_world", steps=60), "--runs", tmp_path / "runs")
    lost = mock.Mock(side_effect=WorkersLostError("6 environment processes were lost"))
    with mock.patch.object(TrainingLoop, "_replay", lost):
        error = complaint(train.main, capsys, "--resume", only_run(tmp_path / "runs"), "--steps", 90)
    assert "6 environment processes were lost" in error and "try again" in error and "config.yaml" not in error


def test_a_damaged_checkpoint_pushes_out_no_good_one(tmp_path):
    run(train.main, preset(tmp_path, "mfec", "grid_world", steps=60), "--runs", tmp_path / "runs")
    checkpoints = only_run(tmp_path / "runs") / "checkpoints"
    (checkpoints / "step_000000060" / "tree.json").write_text("")
    run(train.main, "--resume", checkpoints.parent, "--steps", 90)
    assert {path.name for path in checkpoints.glob("step_*")} == {"step_000000000", "step_000000090"}
    assert len(list(checkpoints.glob("set_aside_step_000000060_*"))) == 1


def test_a_resume_never_starts_afresh(tmp_path, capsys):
    run(train.main, preset(tmp_path, "mfec", "grid_world", steps=60), "--runs", tmp_path / "runs")
    directory = only_run(tmp_path / "runs")
    newest = directory / "checkpoints" / "step_000000060"
    (newest / "tensors.safetensors").write_bytes(b"")
    run(train.main, "--resume", directory)
    output = capsys.readouterr()
    older = directory / "checkpoints" / "step_000000000"
    assert f"{newest} is damaged" in output.err and f"falling back to {older}" in output.err
    assert "going on with" in output.out and "from step 0" in output.out
    for file in (directory / "checkpoints").glob("*/manifest.json"):
        file.write_text("{}")
    assert "no good checkpoint in" in complaint(train.main, capsys, "--resume", directory, "--steps", 90)


def test_a_checkpoint_of_another_run_is_refused(tmp_path, capsys):
    runs = {}
    for name, options in (("mfec", {}), ("nec", {}), ("fewer", {"num_envs": 2})):
        agent = name if name in ("mfec", "nec") else "mfec"
        run(train.main, preset(tmp_path, agent, "grid_world", steps=60, **options), "--runs", tmp_path / name)
        runs[name] = only_run(tmp_path / name)
    for name, mend in (
        ("nec", "not of a mfec agent on MiniGrid"),
        ("fewer", "not of its config.yaml: --num_envs (2 to 3); put back"),
    ):
        checkpoint.save(runs["mfec"] / "checkpoints", checkpoint.load(runs[name] / "checkpoints")[1], 61)
        assert mend in complaint(train.main, capsys, "--resume", runs["mfec"], "--steps", 90)


def test_a_full_disk_loses_no_part_of_a_line(tmp_path, monkeypatch):
    directory = RunDirectory.create(tmp_path, "run", {}, [])
    directory.add_metrics('{"step": 1}')
    opened = Path.open

    class Filling:
        """A file on a disk with room for five more bytes."""

        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def write(self, content):
            return self.file.write(content[:5])

        def __getattr__(self, name):
            return getattr(self.file, name)

    monkeypatch.setattr(Path, "open", lambda path, *args, **options: Filling(opened(path, *args, **options)))
    with pytest.raises(OSError) as error:
        directory.add_metrics('{"step": 2}')
    assert error.value.errno == errno.ENOSPC
    monkeypatch.undo()
    directory.add_metrics('{"step": 3}')
    assert directory.metrics.read_text() == '{"step": 1}\n{"step": 3}\n'


def test_lines_after_the_checkpoint_are_taken_back(tmp_path):
    directory = RunDirectory.create(tmp_path, "run", {}, [])
    for step in (10, 20, 30):
        directory.add_metrics(json.dumps({"step": step}))
    with directory.metrics.open("a") as file:
        file.write('{"step": 4')
    directory.forget_metrics_after(20)
    assert [json.loads(line)["step"] for line in directory.metrics.read_text().splitlines()] == [10, 20]
