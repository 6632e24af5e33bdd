"""Progress: plain lines without control codes away from a terminal, a bar in one."""

from __future__ import annotations

import errno
import io
import re
import sys
import time

import pytest

from training import progress
from training.progress import Progress


class Clock:
    def __init__(self, monkeypatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(progress.time, "perf_counter", lambda: self.now)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Gone(Terminal):
    """A terminal whose window was closed."""

    def write(self, text: str) -> int:
        raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("output", [Gone(), None], ids=["closed terminal", "no output"])
def test_where_nothing_can_be_shown_training_goes_on(output, monkeypatch):
    monkeypatch.setattr(sys, "stdout", output)
    with Progress(total_steps=10, frames_per_step=0) as shown:
        for step in range(10):
            shown.update(step)


def test_a_plain_line_every_ten_seconds(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    with Progress(total_steps=1_000_000, frames_per_step=4) as shown:
        for step in range(0, 35_000, 125):
            shown.update(step, memory_size=step // 2)
            clock.now += 0.125
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("/")[0] for line in lines] == [
        "0.0%, 0",
        "1.0%, 10k",
        "2.0%, 20k",
        "3.0%, 30k",
        "3.5%, 34.9k",
    ]
    assert lines[3] == "3.0%, 30k/1M steps, 120k frames, 15k memories, 1000 steps/s, 0:16:10 left"
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", "".join(lines))


def test_the_return_is_the_mean_of_the_last_twenty_episodes(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    with Progress(100, 1) as shown:
        for episode in range(30):
            shown.update(episode, episode_return=float(episode))
            shown.update(episode)
            clock.now += 1
    assert f"return {sum(range(10, 30)) / 20:,.1f}" in capsys.readouterr().out.splitlines()[-1]


def test_speed_is_that_of_the_last_minute_and_of_this_process(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    with Progress(10_000, 1) as shown:
        step = 5000
        for speed in [10] * 8 + [1] * 8:
            shown.update(step)
            clock.now += 10
            step += speed * 10
    lines = capsys.readouterr().out.splitlines()
    assert "10 steps/s" in lines[1], "steps done before this process started do not count"
    assert lines[14].endswith(", 1 steps/s, 1:09:00 left")


def test_nothing_is_shown_of_a_run_that_did_not_begin(capsys):
    with Progress(10, 1):
        pass
    assert capsys.readouterr().out == ""


def test_a_bar_in_a_terminal(monkeypatch):
    clock = Clock(monkeypatch)
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    with Progress(10_000_000, 4) as shown:
        for step in range(0, 5_000_001, 1_000_000):
            clock.now += 1000
            shown.update(step, episode_return=12345.0, memory_size=500_000)
    text = terminal.getvalue()
    assert "\x1b[" in text
    # The last frame of the bar, whole in 120 columns.
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.replace("\r", "\n")).strip().split("\n")[-1]
    assert last.endswith("50.0%, 5M/10M steps, 20M frames, return 12,345.0, 500k memories, 1000 steps/s, 1:23:20 left")


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1k"),
        (12_345, "12.3k"),
        (999_499, "999k"),
        (999_500, "1M"),
        (2 * 10**8, "200M"),
        (10**9, "1G"),
        (5 * 10**12, "5e+03G"),
    ],
)
def test_short_counts(number, text):
    assert progress._short(number) == text


def test_an_update_is_cheap(capsys):
    with Progress(10**9, 4) as shown:
        started = time.perf_counter()
        for step in range(20_000):
            shown.update(step, memory_size=step)
        assert time.perf_counter() - started < 0.4, "20 microseconds an update would cost 2 % of 1000 steps/s"


def test_a_run_rounded_up_to_whole_steps_ends_at_a_hundred_percent(capsys):
    with Progress(300, 4) as shown:
        shown.update(304)
    assert capsys.readouterr().out.startswith("100.0%, 304/300 steps")
