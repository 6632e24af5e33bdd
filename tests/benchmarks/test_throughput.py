import itertools

import pytest

from benchmarks import results, throughput
from benchmarks.throughput import PARTS, Stopwatch
from tests.benchmarks.in_process import do_here
from tests.programs import run


class Clock:
    """A clock that only goes when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


def test_time_in_nested_functions_counts_once_and_for_the_outermost(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(throughput, "time", clock)

    class Inner:
        def look(self, seconds: float) -> float:
            clock.now += seconds
            return seconds

    class Outer:
        def update(self, inner: Inner) -> float:
            clock.now += 1.0
            return inner.look(2.0) + inner.look(4.0)

        def fail(self, inner: Inner) -> None:
            inner.look(8.0)
            raise KeyError

    look, update, fail = Inner.look, Outer.update, Outer.fail
    stopwatch, inner, outer = Stopwatch(), Inner(), Outer()
    with stopwatch.on({"lookup": [(Inner, "look")], "update": [(Outer, "update"), (Outer, "fail")]}):
        assert outer.update(inner) == 6.0
        assert inner.look(16.0) == 16.0
        with pytest.raises(KeyError):
            outer.fail(inner)
        inner.look(32.0)
        clock.now += 64.0
    assert stopwatch.seconds == {"update": 1.0 + 2.0 + 4.0 + 8.0, "lookup": 16.0 + 32.0}
    assert (Inner.look, Outer.update, Outer.fail) == (look, update, fail)


def test_a_second_stopwatch_counts_within_a_part_of_the_first(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(throughput, "time", clock)

    class Inner:
        def look(self, seconds: float) -> None:
            clock.now += seconds

    class Outer:
        def update(self, inner: Inner) -> None:
            clock.now += 1.0
            inner.look(2.0)

        def act(self, inner: Inner) -> None:
            inner.look(4.0)

    first = Stopwatch()
    second = Stopwatch(within=(first, "update"))
    with first.on({"update": [(Outer, "update")], "act": [(Outer, "act")]}), second.on({"lookup": [(Inner, "look")]}):
        Outer().update(Inner())
        Outer().act(Inner())
        Inner().look(8.0)
    assert first.seconds == {"update": 3.0, "act": 4.0}
    assert second.seconds == {"lookup": 2.0}


@pytest.mark.parametrize(("preset", "agent", "variant"), [("nec", "nec", ""), ("rec_online", "rec", "online")])
def test_the_shares_of_an_agent_add_up(preset, agent, variant, tmp_path, monkeypatch):
    monkeypatch.chdir(results.REPOSITORY)
    functions = [getattr(owner, name) for owner, name in itertools.chain.from_iterable(PARTS.values())]
    table = tmp_path / "throughput.csv"
    # The worker's process is left out: what is tested is what it does.
    monkeypatch.setattr(throughput, "do_missing", do_here)
    arguments = ["--game", "breakout", "--agents", preset, "--first", 400, "--last", 480, "--num_envs", 2]
    run(throughput.main, *arguments, "--threads", 1, "--out", table)
    assert [getattr(owner, name) for owner, name in itertools.chain.from_iterable(PARTS.values())] == functions

    rows = results.read(table)
    found = {(row.experiment, row.world, row.agent, row.variant) for row in rows}
    assert found == {("throughput", "breakout", agent, variant)}
    final = {row.metric: row.value for row in rows}
    shares = {metric: value for metric, value in final.items() if metric.startswith("share_")}
    of_update = {name: shares.pop(name) for name in list(shares) if name.startswith("share_update_")}
    reinstating = {"reinstating"} if agent == "rec" else set()
    expected = {"encoding", "lookup", "backward", "optimiser", *reinstating}
    assert of_update.keys() == {f"share_update_{part}" for part in expected}
    assert 0.5 * shares["share_update"] < sum(of_update.values()) <= shares["share_update"]
    assert shares.keys() == {f"share_{part}" for part in (*PARTS, "other")}
    assert (shares["share_consolidation"] > 0) == (agent == "rec")
    assert sum(shares.values()) == pytest.approx(1.0, abs=1e-5)
    assert all(shares[name] > 0 for name in ("share_environment", "share_encoding", "share_lookup", "share_other"))
    # 20 updates of 32 in 40 steps of two environments: whatever the machine, most of the time.
    assert shares["share_update"] > 0.3
    assert final["memories"] > 0 and final["memory_megabytes"] > 0 and final["replay_megabytes"] > 0
    curve = [(row.steps, row.value) for row in rows if row.metric == "memories"]
    assert [steps for steps, _ in curve] == list(range(400, 481, 10))
    assert curve == sorted(curve)
