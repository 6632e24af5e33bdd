import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
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


def test_workers_end_with_the_process_they_work_for(tmp_path):
    """Killed, it cannot tell them; they would go on unheard, beside those of the next attempt."""
    running, done = tmp_path / "running", tmp_path / "done"
    program = (
        "from benchmarks.workers import Job, work; from tests.benchmarks.test_workers import Path, work_unheard\n"
        f"job = Job('silent', 1, work_unheard, (Path({str(running)!r}), Path({str(done)!r})))\n"
        f"if __name__ == '__main__': work([job], 1, {PRELOAD!r})"
    )
    with subprocess.Popen([sys.executable, "-c", program]) as parent:
        until(running.exists)
        parent.kill()
    worker = int(running.read_text())
    until(lambda: gone(worker))
    assert not done.exists()


def work_unheard(report: Report, running: Path, done: Path) -> None:
    unwritten = running.with_suffix(".part")
    unwritten.write_text(str(os.getpid()))
    unwritten.rename(running)
    time.sleep(60)
    done.touch()


def gone(process: int) -> bool:
    """Whether it has ended, were it that nobody has asked for its exit code yet."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    stat = Path(f"/proc/{process}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z"


def until(condition: Callable[[], bool], seconds: float = 50.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
