import os
import signal
import time
from pathlib import Path

from benchmarks.workers import Job, Report, work

PRELOAD = "benchmarks.runner"


def succeed(report: Report, path: Path, seconds: float) -> None:
    report(50, "half way")
    report(51, "just over")
    started = time.time()
    time.sleep(seconds)
    path.write_text(f"{os.getpid()} {started} {time.time()}")


def fail(report: Report) -> None:
    report(1, "")
    raise RuntimeError("the lamp went out")


def die(report: Report) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_jobs_that_fail_or_die_take_no_others_with_them(tmp_path, capsys):
    jobs = [
        Job("first", 100, succeed, (tmp_path / "first", 0.5)),
        Job("failing", 100, fail, ()),
        Job("dying", 100, die, ()),
        Job("last", 100, succeed, (tmp_path / "last", 0.0)),
    ]
    assert sorted(work(jobs, 2, PRELOAD)) == ["dying", "failing"]
    processes = {(tmp_path / name).read_text().split()[0] for name in ("first", "last")}
    assert len(processes | {str(os.getpid())}) == 3
    told = capsys.readouterr().out
    assert "RuntimeError: the lamp went out" in told and "exit code -9" in told
    assert "done in" in told and "first, just over" in told and "last, just over" in told


def test_no_more_processes_at_a_time_than_asked_for(tmp_path):
    paths = [tmp_path / str(number) for number in range(4)]
    assert work([Job(path.name, 1, succeed, (path, 0.3)) for path in paths], 2, PRELOAD) == []
    spans = [tuple(map(float, path.read_text().split()[1:])) for path in paths]
    overlapping = [sum(start <= begun < end for start, end in spans) for begun, _ in spans]
    assert max(overlapping) == 2
