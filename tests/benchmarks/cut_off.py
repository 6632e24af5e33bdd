"""Benchmarks whose runs are cut off."""

from collections.abc import Callable, Sequence

from benchmarks.workers import Job


def cut_off_at(reports: int) -> Callable[..., None]:
    """Does the jobs of a benchmark in this process, each until so many reports have come of it."""

    def do(jobs: Sequence[Job], *_: object) -> None:
        for job in jobs:
            heard: list[int] = []

            def report(steps: int, words: str, heard: list[int] = heard) -> None:
                heard.append(steps)
                if len(heard) > reports:
                    raise KeyboardInterrupt

            job.function(report, *job.arguments)

    return do
