"""The benchmark of lessons leaves the agent as it found it, and judges as plain loops do."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import agents
from agents.rec import REC
from agents.rec_config import RECConfig
from benchmarks import lessons as benchmark
from benchmarks.lessons import SCALES, TRIALS, Trial, learned
from memory.episodic.lessons import Lessons
from tests.agents.fake_world import FakeWorld, play
from tests.memory import oracle

APART = 5


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> REC:
    few = {name: Trial(min(trial.apart, 4 + place), trial.scale) for place, (name, trial) in enumerate(TRIALS.items())}
    monkeypatch.setattr(benchmark, "TRIALS", few)
    options = {
        **{"credit": "frozen", "query_gradient": False, "drift_penalty": 0.0, "freshening": "none"},
        **{"key_size": 4, "hidden": 8, "neighbours": 3, "reinstated": 2, "batch_size": 8, "architecture": "dense"},
        **{"capacity": 300, "n_step": 3, "consolidation_apart": APART, "consolidation_updates": 1},
    }
    torch.manual_seed(0)
    world = FakeWorld()
    made = agents.make(RECConfig.model_validate(options), world.spec, np.random.default_rng(0), "cpu")
    assert isinstance(made, REC)
    play(world, made, 60)
    # The optimiser has moments by then.
    _, batch = made.consolidation.learn(Lessons(made.memory, APART))
    made.consolidation.embed_anew(batch)
    return made


def plain_left(agent: REC, rescale: bool) -> float:
    table, memory = agent.memory.table, agent.memory
    origins = sorted(int(table.origins[row]) for row in memory.rows_of(memory.filled_slots()))
    until = origins[int(len(origins) * 0.8)] - APART
    errors, judged = [], []
    for store, action in zip(memory.stores, range(len(memory.stores)), strict=True):
        steps = table.origins[table.filled(action)].tolist()
        values = store.values.tolist()
        if rescale:
            values = [oracle.rescaled(value) for value in values]
        for slot, step in enumerate(steps):
            if step < until + APART or min(steps) >= until:
                continue
            squared = {
                other: float((store.keys[slot] - store.keys[other]).square().sum())
                for other, before in enumerate(steps)
                if before < until
            }
            nearest = sorted(squared, key=squared.__getitem__)[: memory.neighbours]
            keys = [store.keys[other].tolist() for other in nearest]
            delta = agent.config.kernel_delta
            weights = oracle.inverse_distance(store.keys[slot].tolist(), keys, [True] * len(keys), delta)
            answer = sum(weight * values[one] for weight, one in zip(weights, nearest, strict=True))
            errors.append((answer - values[slot]) ** 2)
            judged.append(values[slot])
    return float(np.mean(errors) / np.var(judged))


@pytest.mark.parametrize("scale", SCALES)
def test_what_is_left_before_is_that_of_plain_loops(agent, scale):
    found = learned(agent, (1,))
    assert found[f"{scale}_drawn"] == pytest.approx(plain_left(agent, scale == "rescaled"), rel=1e-3)


def state_of(agent: REC) -> list[object]:
    keys = agent.memory.table.keys[agent.memory.rows_of(agent.memory.filled_slots())]
    return copy.deepcopy([agent.encoder.state_dict(), agent.optimiser.state_dict(), keys])


def test_every_trial_learns_from_the_same_weights_and_leaves_them(agent, monkeypatch):
    before, states, given = state_of(agent), [], []
    learn = agent.consolidation.learn

    def told(lessons: Lessons) -> tuple[float, dict[str, torch.Tensor]]:
        states.append(state_of(agent))
        given.append((lessons.apart, lessons._scale))
        return learn(lessons)

    monkeypatch.setattr(agent.consolidation, "learn", told)
    found = learned(agent, (1, 3))
    for state in [*states[::3], state_of(agent)]:
        torch.testing.assert_close(state, before, rtol=0, atol=0)
    assert given == [(trial.apart, trial.scale) for trial in benchmark.TRIALS.values() for _ in range(3)]
    assert {*found} == {
        f"{scale}_{name}"
        for scale in SCALES
        for name in ("drawn", *(f"{trial}_{updates}" for trial in TRIALS for updates in (1, 3)))
    }
    assert all(found[f"{scale}_{trial}_3"] != found[f"{scale}_drawn"] for scale in SCALES for trial in TRIALS)


def test_trials_learn_nothing_from_what_is_judged(agent, monkeypatch):
    asked, judged = [], []
    draw, later = Lessons.draw, Lessons.later
    monkeypatch.setattr(Lessons, "draw", lambda self, *given: asked.append(draw(self, *given)) or asked[-1])
    monkeypatch.setattr(Lessons, "later", lambda self, *given: judged.append(later(self, *given)) or judged[-1])
    learned(agent, (20,))
    origins, [slots] = agent.memory.table.origins, judged
    drawn = torch.cat([lesson.slots for lesson in asked])
    assert len(asked) == 20 * len(TRIALS) and len(slots) > 5
    assert origins[agent.memory.rows_of(drawn)].max() + APART <= origins[agent.memory.rows_of(slots)].min()
