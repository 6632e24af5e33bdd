"""A record of a training is of what happened, and the training does not notice."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.agent import Moment
from recall.games import GameRecorder
from recall.record import Recording, episodes_folder
from recall.recorder import RecordedAgent, Subject
from recall.sheets import PER_SHEET
from tests.agents.fake_world import FakeWorld, play
from tests.agents.test_recollect import AGENTS, make
from tests.recall.records import no_warning

OPTIONS: dict[str, Any] = {"steps_per_episode": 40, "memories": 2, "most_time": 1e9, "most_bytes": 2**30}


def record(agent, world: FakeWorld, folder: Path, **options: Any) -> RecordedAgent:
    subject = Subject("nec", "ring", ("a", "b", "c"), world.spec.num_envs, show=lambda observation: observation[-1])
    return RecordedAgent(agent, folder, subject, **{"warn": no_warning, **OPTIONS, **options})


MNM = {"name": "mnm", "hidden": 8, "width": 4, "memory_hidden": 6}
PPO = {"name": "recurrent_ppo", "core": MNM, "features": 8, "rollout": 12}


@pytest.mark.parametrize("options", [*AGENTS.values(), PPO], ids=[*AGENTS, "mnm"])
def test_an_agent_that_is_recorded_lives_as_one_that_is_not(tmp_path, options):
    world = FakeWorld()
    agent = make(options, world.spec)
    twin_world, twin = copy.deepcopy((world, agent))
    recorded = record(agent, world, tmp_path)
    assert play(world, recorded, 200) == play(twin_world, twin, 200)
    recorded.close()
    assert len(Recording(tmp_path).names()) > 3


def test_what_is_recorded_is_what_happened(tmp_path):
    world = FakeWorld(num_envs=3)
    recorded = record(make(AGENTS["nec"], world.spec), world, tmp_path)
    seen = {}
    for step in range(0, 900, 3):
        observations = world.observations.copy()
        [(actions, _)] = play(world, recorded, 1)
        for env in range(3):
            seen[step + env + 1] = observations[env], actions[env]
    recorded.close()
    recording, looked = Recording(tmp_path), 0
    for name in recording.names():
        for line in recording.steps(name).lines:
            observation, action = seen[line["step"]]
            assert line["action"] == action
            np.testing.assert_array_equal(recording.picture(name, line["picture"])[..., 0], observation[-1])
            for origin in line["memories"]["origin"]:
                np.testing.assert_array_equal(recording.observation(origin)[..., 0], seen[origin][0][-1])
                looked += 1
            assert all(origin <= line["step"] for origin in line["memories"]["origin"])
    assert looked > 500


def test_the_moments_that_are_recorded_are_those_of_the_episode(tmp_path):
    """Of three environments in turn, through a checkpoint in the middle."""
    world = FakeWorld(num_envs=3)
    recorded = record(make(PPO, world.spec), world, tmp_path)
    seen, said = {}, {}
    for step in range(0, 600, 3):
        if step == 300:
            state = copy.deepcopy((recorded.recorder_state(), recorded.state_dict()))
            recorded.close()
            recorded = record(make(PPO, world.spec), world, tmp_path)
            recorded.load_state_dict(state[1])
            recorded.load_recorder_state(state[0])
        for env in range(3):
            found = recorded.recollect(world.observations[env], world.state_hashes[env], 2, env)
            seen[step + env + 1], said[step + env + 1] = world.observations[env].copy(), found
        play(world, recorded, 1)
    recorded.recorder_state()
    recording, looked, environments = Recording(tmp_path), 0, set()
    for name in recording.names():
        lines = recording.steps(name).lines
        environments.add(lines[0]["step"] % 3)
        for line in lines:
            found, memories = said[line["step"]], line["memories"]
            assert line["rest"] is None and len(memories["time"]) == min(2, line["time"])
            np.testing.assert_allclose(line["values"], found.action_values, rtol=1e-5)
            np.testing.assert_allclose(memories["similarity"], found.similarities, rtol=1e-5, atol=1e-6)
            for time, picture in zip(memories["time"], memories["picture"], strict=True):
                then = lines[time]["step"]
                assert line["step"] - then == 3 * (line["time"] - time)
                np.testing.assert_array_equal(recording.picture(name, picture)[..., 0], seen[then][-1])
                looked += 1
    assert looked > 60 and len(environments) > 1
    histograms = recorded.histograms()
    assert histograms.keys() == {"recall/age", "recall/similarity"}
    assert (histograms["recall/age"] % 3 == 0).all() and histograms["recall/age"].min() == 3
    points = recorded.points()
    assert points.header == ["age", "key age", "episode", "time"]
    assert len(points.known) == len(points.places) == recorded.diary.moments.lengths.sum()
    assert [int(row[3]) for row in points.known] == [
        time for length in recorded.diary.moments.lengths for time in range(length)
    ]
    recorded.close()


def test_an_episode_is_recorded_from_its_first_step_to_its_last(tmp_path):
    world = FakeWorld(num_envs=2)
    recorded = record(make(AGENTS["mfec"], world.spec), world, tmp_path)
    firsts, returns, totals, running = [], {}, [0.0, 0.0], [1, 2]
    for step in range(0, 600, 2):
        actions = recorded.act(world.observations, world.state_hashes)
        transition = world.step(actions)
        recorded.observe(transition)
        while recorded.learn() is not None:
            pass
        for env in range(2):
            totals[env] += transition.rewards[env]
            if transition.ended[env]:
                returns[running[env]] = totals[env], (step + 1 + env - running[env]) // 2 + 1
                totals[env], running[env] = 0.0, step + 3 + env
    recorded.close()
    recording = Recording(tmp_path)
    for name in recording.names():
        heading = recording.heading(name)
        firsts.append(heading.step)
        if heading.total is not None:
            total, length = returns[heading.step]
            assert heading.length == length == len(recording.steps(name).lines)
            assert heading.total == pytest.approx(total)
    # One in each forty steps, as soon as an episode begins.
    assert len(firsts) > 8 and all(later - first > 20 for first, later in pairwise(firsts))


def test_memories_are_told_of_by_the_episode_and_step_that_wrote_them(tmp_path):
    world = FakeWorld(num_envs=2)
    recorded = record(make(AGENTS["mfec"], world.spec), world, tmp_path)
    whence, number, time, count = {}, [0, 1], [0, 0], 2
    for step in range(0, 500, 2):
        actions = recorded.act(world.observations, world.state_hashes)
        transition = world.step(actions)
        recorded.observe(transition)
        while recorded.learn() is not None:
            pass
        for env in range(2):
            whence[step + 1 + env] = number[env], time[env]
            time[env] += 1
            if transition.ended[env]:
                number[env], time[env], count = count, 0, count + 1
    recorded.close()
    recording, found = Recording(tmp_path), 0
    for name in recording.names():
        assert whence[recording.heading(name).step] == (recording.heading(name).number, 0)
        for line in recording.steps(name).lines:
            memories = line["memories"]
            for origin, episode, of in zip(memories["origin"], memories["episode"], memories["time"], strict=True):
                assert whence[origin] == (episode, of)
                found += 1
    assert found > 100


def test_no_more_time_is_spent_than_was_granted(tmp_path):
    """Where a look takes a second, and the rest of a step another."""
    now, looks = [0.0], [0]
    world = FakeWorld(num_envs=1)
    agent = make(AGENTS["mfec"], world.spec)
    recollect = agent.recollect

    def looking(*arguments):
        now[0] += 1.0
        looks[0] += 1
        return recollect(*arguments)

    agent.recollect = looking
    recorded = record(agent, world, tmp_path, steps_per_episode=1, most_time=0.25, clock=lambda: now[0])
    for _ in range(600):
        play(world, recorded, 1)
        now[0] += 1.0
        assert looks[0] <= 0.25 * now[0] + 1.0
    recorded.close()
    recording = Recording(tmp_path)
    lines = [line for name in recording.names() for line in recording.steps(name).lines]
    looked = sum(line["memories"] is not None for line in lines)
    # Not much less either, and some steps had to do without.
    assert looked == looks[0] > 0.15 * now[0] and looked < len(lines)


def test_the_record_is_bounded_and_keeps_the_beginning_and_the_end(tmp_path):
    world = FakeWorld(num_envs=1, shape=(4, 20, 20), end_chance=0.05)
    recorded = record(make(AGENTS["mfec"], world.spec), world, tmp_path, most_bytes=400_000)
    play(world, recorded, 3_000)
    recorded.close()
    names = Recording(tmp_path).names()
    size = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert size < 500_000 and len(names) < 40
    steps = [int(name.split("-")[1]) for name in names]
    assert steps[0] < 150 and steps[-1] > 2_850
    assert max(later - first for first, later in pairwise(steps)) < 1_000


def test_a_record_goes_on_where_a_checkpoint_was(tmp_path):
    """Killed after the checkpoint, and gone on with from it, the record is as if nothing had happened."""
    folders = tmp_path / "whole", tmp_path / "killed"
    worlds = FakeWorld(num_envs=2), FakeWorld(num_envs=2)
    agents = [
        record(make(AGENTS["nec"], worlds[0].spec), world, folder)
        for world, folder in zip(worlds, folders, strict=True)
    ]
    play(worlds[0], agents[0], 300)
    play(worlds[1], agents[1], 170)
    state = copy.deepcopy((agents[1].recorder_state(), agents[1].state_dict(), worlds[1]))
    play(worlds[1], agents[1], 70)
    agents[1].close()
    recorder_state, agent_state, world = state
    again = record(make(AGENTS["nec"], world.spec), world, folders[1])
    again.load_state_dict(agent_state)
    again.load_recorder_state(recorder_state)
    play(world, again, 130)
    for agent in (agents[0], again):
        agent.close()
    whole, killed = map(Recording, folders)
    assert killed.names() == whole.names()
    for name in whole.names():
        lines, expected = killed.steps(name).lines, whole.steps(name).lines
        # Of the episode under way at the checkpoint, what came before it is kept.
        assert lines == expected[: len(lines)]
        assert len(lines) == len(expected) or lines[-1]["step"] in (339, 340)
    for step in range(PER_SHEET, 600):
        np.testing.assert_array_equal(killed.observation(step), whole.observation(step))


def test_a_full_disk_costs_the_record_and_not_the_training(tmp_path):
    world = FakeWorld()
    agent = make(AGENTS["mfec"], world.spec)
    twin_world, twin = copy.deepcopy((world, agent))
    episodes_folder(tmp_path).parent.mkdir(exist_ok=True)
    episodes_folder(tmp_path).write_text("no folder can be made here")
    warnings: list[str] = []
    recorded = record(agent, world, tmp_path, warn=warnings.append)
    assert play(world, recorded, 200) == play(twin_world, twin, 200)
    recorded.close()
    assert warnings and all("training goes on" in warning for warning in warnings)


def test_an_agent_without_a_memory_is_only_watched(tmp_path):
    world = FakeWorld()
    agent = make(AGENTS["mfec"], world.spec)

    class Forgetful:
        act, observe, learn = agent.act, agent.observe, agent.learn

    recorded = record(Forgetful(), world, tmp_path)
    play(world, recorded, 100)
    recorded.close()
    assert Recording(tmp_path).names() == []


def test_games_of_an_evaluation_are_recorded(tmp_path):
    world = FakeWorld(num_envs=1)
    agent = make(AGENTS["rec autoencoder"], world.spec)
    play(world, agent, 150)
    subject = Subject("rec", "ring", ("a", "b", "c"), 1, show=lambda observation: observation[-1])
    for _ in range(2):
        # A second evaluation takes the place of the first.
        recorder = GameRecorder(
            agent, tmp_path, subject, 150, games=2, memories=2, provenance=lambda step: (None, None), warn=no_warning
        )
        for game, time in [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (0, 2)]:
            observation, number = world.observations[0], world.state_hashes[0]
            recorder.watch(
                Moment(game, observation, number, action=1, reward=0.5, ended=(game, time) in [(0, 2), (1, 1)])
            )
        recorder.close()
    recording = Recording(tmp_path)
    assert recording.names() == ["evaluation-000000150-000", "evaluation-000000150-001"]
    heading = recording.heading(recording.names()[0])
    assert (heading.length, heading.total, heading.kind) == (3, 1.5, "evaluation")
    line = recording.steps(heading.name).lines[1]
    assert line["step"] is None and line["memories"]["episode"][0] is None
    found = agent.recollect(world.observations[0], world.state_hashes[0], 2)
    for place, number in enumerate(line["memories"]["reconstruction"]):
        np.testing.assert_array_equal(recording.picture(heading.name, number)[..., 0], found.reconstructions[place][-1])
