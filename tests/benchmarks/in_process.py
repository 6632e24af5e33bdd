"""Jobs of a benchmark done in the tests' process, which need not load the code anew."""

from collections.abc import Callable, Sequence

import pytest

from benchmarks import course
from benchmarks.workers import Job


def do_here(jobs: Sequence[Job], *_: object) -> list[str]:
    """Does all jobs; none fails without the test."""
    for job in jobs:
        job.function(lambda steps, words: None, *job.arguments)
    return []


def saved_and_cut_off_at(report: int, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Does jobs, each saved once, when it has reported so often, and cut off at its next report."""

    def do(jobs: Sequence[Job], *_: object) -> None:
        for job in jobs:
            heard: list[int] = []
            monkeypatch.setattr(course, "SECONDS_PER_SAVE", float("inf"))

            def hear(steps: int, words: str, heard: list[int] = heard) -> None:
                if len(heard) == report:
                    raise KeyboardInterrupt
                heard.append(steps)
                if len(heard) == report:
                    monkeypatch.setattr(course, "SECONDS_PER_SAVE", 0.0)

            job.function(hear, *job.arguments)

    return do
