"""Processes change no number, and losing one costs its episodes only."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from pydantic import TypeAdapter

import envs
from envs import WorldConfig, workers
from envs.workers import WorkerWorld
from tests.programs import ROOT

GRID = {"name": "grid_world", "id": "MiniGrid-Dynamic-Obstacles-5x5-v0", "max_steps": 9}
CALM = {"name": "grid_world", "id": "MiniGrid-FourRooms-v0", "max_steps": 50}
ATARI = {"name": "atari", "game": "breakout", "life_loss_ends_episode": True, "max_frames_per_episode": 60}


def config(options):
    return TypeAdapter(WorldConfig).validate_python(options)


def lived(world, steps, seed=0):
    """Everything that a world answers over some steps, episodes begun again as the training loop does."""
    rng = np.random.default_rng(seed)
    answers = [world.reset(seed=[5 + env for env in range(world.num_envs)])]
    for _ in range(steps):
        actions = rng.integers(0, world.single_action_space.n, world.num_envs)
        answers.append(world.step(actions))
        ended = answers[-1][2] | answers[-1][3]
        if ended.any():
            answers.append(world.reset(seed=rng.integers(1, 99, ended.sum()), options={"reset_mask": ended}))
    world.close()
    return answers


@pytest.mark.parametrize("options", [GRID, ATARI], ids=["grid_world", "atari"])
def test_processes_change_no_number(options):
    alone, spread = (envs.make(config(options), 3, workers=count) for count in (0, 2))
    assert (alone.frame_stack, alone.frames_per_step) == (spread.frame_stack, spread.frames_per_step)
    assert alone.action_names == spread.action_names and len(set(alone.action_names)) == alone.single_action_space.n
    assert alone.single_observation_space == spread.single_observation_space
    for mine, its in zip(lived(alone, 30), lived(spread, 30), strict=True):
        for left, right in zip(mine[:-1], its[:-1], strict=True):
            np.testing.assert_array_equal(left, right)
        assert mine[-1].keys() == its[-1].keys()
        for name in mine[-1]:
            np.testing.assert_array_equal(mine[-1][name], its[-1][name], err_msg=name)


def test_no_more_processes_than_environments():
    world = envs.make(config(GRID), 2, workers=5)
    assert len(world.processes) == 2
    processes = world.processes
    world.close()
    assert not any(process.is_alive() for process in processes)


def test_what_the_simulator_refuses_is_told_by_its_own_error():
    with pytest.raises(ValueError, match="told by the world"):
        WorkerWorld(refuse, 2, 1)


def refuse(num_envs):
    raise ValueError("told by the world")


def test_a_program_that_closes_nothing_still_ends():
    program = """
from functools import partial
import numpy as np
from envs.grid_world import GridWorldConfig, make_grid_world
from envs.workers import WorkerWorld
world = WorkerWorld(partial(make_grid_world, GridWorldConfig()), 2, 2)
world.reset(seed=[1, 2])
if refused:
    world.step(np.array([99, 99]))
"""
    for refused in (False, True):
        command = [sys.executable, "-c", f"refused = {refused}\n{program}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == refused, done.stderr


def test_a_stop_that_reaches_the_whole_group_ends_no_process():
    """SIGHUP when a terminal is closed, as Ctrl-C: the training saves, and ends its processes itself."""
    world = envs.make(config(CALM), 2, workers=2)
    world.reset(seed=[1, 2])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        for process in world.processes:
            os.kill(process.pid, number)
    *_, infos = world.step(np.array([2, 2]))
    assert "metrics" not in infos and all(process.is_alive() for process in world.processes)
    world.close()


def test_a_process_that_cannot_begin_is_told_in_one_line(tmp_path):
    with pytest.raises(workers.WorkersLostError, match="before it had begun"):
        WorkerWorld(die, 2, 1)


def die(num_envs):
    os._exit(3)


def test_a_lost_process_costs_its_episodes(capfd):
    world = envs.make(config(CALM), 4, workers=2)
    world.reset(seed=[1, 2, 3, 4])
    before, *_ = world.step(np.array([2, 2, 2, 2]))
    os.kill(world.processes[1].pid, signal.SIGKILL)
    observations, rewards, terminations, truncations, infos = world.step(np.array([0, 0, 0, 0]))
    assert truncations[2:].all() and not terminations[2:].any() and not rewards[2:].any()
    np.testing.assert_array_equal(observations[2:], before[2:])
    assert infos["metrics"] == {"charts/env_restarts": 1.0}
    assert "died (exit code -9); started again, its episodes are truncated" in capfd.readouterr().err

    # The others never noticed.
    other = envs.make(config(CALM), 4)
    other.reset(seed=[1, 2, 3, 4])
    other.step(np.array([2, 2, 2, 2]))
    np.testing.assert_array_equal(observations[:2], other.step(np.array([0, 0, 0, 0]))[0][:2])

    # New episodes begin as anywhere, one after the other too.
    fresh = envs.make(config(CALM), 2)
    expected, _ = fresh.reset(seed=[8, 9])
    for env, seed in ((2, 8), (3, 9)):
        observations, _ = world.reset(seed=[seed], options={"reset_mask": np.arange(4) == env})
    np.testing.assert_array_equal(observations[2:], expected)
    world.step(np.array([2, 2, 2, 2]))
    world.close()


def test_a_process_lost_before_a_reset_begins_the_same_episodes():
    world, other = (envs.make(config(GRID), 2, workers=count) for count in (2, 0))
    world.reset(seed=[1, 2])
    other.reset(seed=[1, 2])
    os.kill(world.processes[0].pid, signal.SIGKILL)
    everywhere = np.ones(2, dtype=bool)
    observations, _ = world.reset(seed=[3, 4], options={"reset_mask": everywhere})
    np.testing.assert_array_equal(observations, other.reset(seed=[3, 4], options={"reset_mask": everywhere})[0])
    world.close()


def test_a_process_lost_while_another_episode_began_cuts_off_the_others(capfd):
    world = envs.make(config(CALM), 4, workers=2)
    world.reset(seed=[1, 2, 3, 4])
    before, _, _, _, infos = world.step(np.array([2, 2, 2, 2]))
    os.kill(world.processes[0].pid, signal.SIGKILL)
    mask = np.array([False, True, False, False])
    world.reset(seed=[8], options={"reset_mask": mask})
    # Another reset before the next step changes nothing of that.
    observations, after = world.reset(seed=[9], options={"reset_mask": np.array([False, False, True, False])})
    mask = np.array([False, True, True, False])
    np.testing.assert_array_equal(observations[~mask], before[~mask])
    np.testing.assert_array_equal(after["state_hash"][~mask], infos["state_hash"][~mask])
    fresh, _ = envs.make(config(CALM), 2).reset(seed=[8, 9])
    np.testing.assert_array_equal(observations[mask], fresh)
    observations, rewards, terminations, truncations, _ = world.step(np.array([2, 2, 2, 2]))
    assert truncations.tolist() == [True, False, False, False] and not terminations.any() and not rewards.any()
    np.testing.assert_array_equal(observations[0], before[0])
    world.reset(seed=[5], options={"reset_mask": truncations})
    assert not world.step(np.array([2, 2, 2, 2]))[3].any()
    world.close()


def test_losing_too_many_is_an_error():
    world = envs.make(config(GRID), 1, workers=1)
    world.reset(seed=[1])
    with pytest.raises(RuntimeError, match=r"processes were lost, the last: .* died \(exit code -9\)"):
        for _ in range(workers.MOST_RESTARTS + 1):
            os.kill(world.processes[0].pid, signal.SIGKILL)
            world.step(np.array([0]))
            world.reset(seed=[1])
    world.close()


def test_a_process_that_hangs_is_lost(monkeypatch):
    world = WorkerWorld(functools.partial(envs.make, config(GRID)), 1, 1)
    world.reset(seed=[1])
    monkeypatch.setattr(workers, "_REPLY_SECONDS", 0.3)
    os.kill(world.processes[0].pid, signal.SIGSTOP)
    *_, truncations, infos = world.step(np.array([0]))
    monkeypatch.undo()
    assert truncations.all() and infos["metrics"]["charts/env_restarts"] == 1.0
    world.close()
