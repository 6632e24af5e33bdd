"""The parts of a run, built from its configuration: agent and world, or model and task, and what records them.

This is where the rooms meet; `train.py`, `evaluate.py` and the benchmarks all build their runs here.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from pydantic import BaseModel, ConfigDict, Field, model_validator

import agents
import envs
from agents import AgentConfig, RandomAgent, SequenceModelConfig, TaskSpec, WorldSpec, make_sequence_model
from agents.agent import Moment, Remembering
from agents.sequence_pictures import sequence_pictures
from envs import TaskConfig, WorldConfig
from envs.sequence_task import SequenceTask
from envs.workers import WorkersLostError
from recall.recorder import RecordedAgent, Subject
from training import scores
from training.command_line import UsageError
from training.evaluation import play_games
from training.loop import TrainingLoop
from training.pictures import as_picture
from training.seeding import EpisodeSeeds, generators, seed_torch
from training.sequence_loop import SequenceLoop, SequenceTally
from training.tally import RECENT_EPISODES, Tally


class RunConfig(BaseModel):
    """One run: an agent, a world, and how long they meet."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    env: WorldConfig
    """The world, or the sequence task."""
    agent: AgentConfig
    """The agent, or the sequence model."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of everything that is random in the run."""
    steps: int = Field(250_000, ge=1)
    """Agent steps, all environments together; on Atari a step is four frames. Of a sequence model: updates."""
    num_envs: int = Field(1, ge=1, le=10_000)
    """Parallel environments; 1 is the papers' setting, more are faster. In a sequence task: sequences of a batch."""
    env_workers: int = Field(0, ge=0)
    """Processes the environments are spread over, one that crashes being started again; 0 keeps them in this one."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where networks and memories live."""
    threads: int = Field(0, ge=0, le=1_024)
    """Processor threads for tensors; 0 leaves the choice to torch."""
    deterministic: bool = False
    """On a GPU, take the operations that give the same numbers every time, slower ones; on a CPU all do."""
    runs: Path = Path("runs")
    """Folder in which the run directory is made."""
    steps_per_log: int = Field(2_500, ge=1)
    """Agent steps between two rows of metrics."""
    steps_per_picture: int = Field(25_000, ge=0)
    """Agent steps between two pictures in TensorBoard, of agents that have some to show; 0: none."""
    steps_per_recording: int = Field(25_000, ge=0)
    """Agent steps between two episodes of which it is recorded what the agent remembered; 0: none. TensorBoard shows
    them under "Recalls"."""
    recorded_memories: int = Field(5, ge=1, le=50)
    """Memories recorded for each action, the heaviest; where they speak for no action, the most similar of all."""
    recording_percent: float = Field(2.0, ge=0.0, le=100.0)
    """Most of a run's time that goes into that; beyond it steps are recorded without what was remembered."""
    recording_megabytes: int = Field(1_000, ge=1)
    """Most that is recorded of a run; the oldest observations, and the densest episodes, make place."""
    steps_per_checkpoint: int = Field(100_000, ge=1)
    """Agent steps between two checkpoints; one is always written at the beginning, at the end and when stopped."""
    keep_checkpoints: int = Field(2, ge=1)
    """How many of the newest checkpoints are kept."""

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if isinstance(self.env, TaskConfig) != isinstance(self.agent, SequenceModelConfig):
            raise ValueError(
                f"{self.agent.name} cannot be trained on {self.env.name}: sequence models are for sequence tasks, and "
                "agents for worlds"
            )
        if getattr(self.env, "split", "train") == "test":
            raise ValueError("env.split is test: a run would learn what it is to be tested on; it must be train")
        return self


def make_loop(config: RunConfig) -> tuple[TrainingLoop | SequenceLoop, Tally]:
    """Build the loop of a run, with agent and world or model and task, and its tally.

    Raises:
        UsageError: if world or agent cannot be built, or do not fit into memory.
    """
    try:
        return _make_loop(config)
    except (MemoryError, RuntimeError) as error:
        if why := lack_of_memory(error):
            raise UsageError(f"these sizes do not fit into memory, ask for less: {why}") from error
        raise


def lack_of_memory(error: Exception) -> str | None:
    """What an error says of memory that there is not; None if it is of something else."""
    text = str(error)
    is_lack = isinstance(error, MemoryError) or "allocate memory" in text or "out of memory" in text
    return (text or type(error).__name__) if is_lack else None


def _make_loop(config: RunConfig) -> tuple[TrainingLoop | SequenceLoop, Tally]:
    if config.threads:
        torch.set_num_threads(config.threads)
    if config.deterministic:
        # Before the first product on a GPU: the library reads it once.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    if isinstance(config.env, TaskConfig):
        return make_sequence_loop(config), SequenceTally(config.steps_per_log)
    world = make_world(config)
    tally = Tally(world.frames_per_step, config.steps_per_log)  # type: ignore[attr-defined]
    return TrainingLoop(world, make_agent(config, world), EpisodeSeeds(config.seed)), tally


def check_device(config: RunConfig) -> None:
    """Raise UsageError where the device of a run is not to be had."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device: no CUDA device is available; use --device cpu")


def make_world(config: RunConfig, num_envs: int | None = None) -> VectorEnv:
    """Build the world of a run.

    Raises:
        UsageError: on what only the simulator can tell, as a world that does not fit the options.
    """
    try:
        if num_envs is not None:
            return envs.make(config.env, num_envs)
        return envs.make(config.env, config.num_envs, config.env_workers)
    except (ValueError, WorkersLostError) as error:
        raise UsageError(str(error)) from error


def make_agent(config: RunConfig, world: VectorEnv) -> agents.Agent:
    """Build the agent of a run for its world, all randomness drawn from the run's seed."""
    check_device(config)
    space = world.single_observation_space
    spec = WorldSpec(
        num_envs=config.num_envs,
        num_actions=int(world.single_action_space.n),  # type: ignore[attr-defined]
        observation_shape=space.shape,  # type: ignore[arg-type]
        observation_high=float(space.high.max()),  # type: ignore[attr-defined]
        frame_stack=world.frame_stack,  # type: ignore[attr-defined]
        reveals_labels=world.reveals_labels,  # type: ignore[attr-defined]
    )
    seed_torch(config.seed)
    try:
        return agents.make(config.agent, spec, generators(config.seed, "agent")["agent"], config.device)
    except ValueError as error:
        raise UsageError(f"agent: {error}") from error


def make_sequence_loop(config: RunConfig) -> SequenceLoop:
    """Build task and model of a run, and their loop, all randomness drawn from the run's seed."""
    assert isinstance(config.env, TaskConfig) and isinstance(config.agent, SequenceModelConfig)
    check_device(config)
    try:
        task = envs.make_task(config.env, generators(config.seed, "task")["task"])
    except ValueError as error:
        raise UsageError(str(error)) from error
    seed_torch(config.seed)
    try:
        model = make_sequence_model(config.agent, task_spec(task), config.device)
    except ValueError as error:
        raise UsageError(f"agent: {error}") from error
    return SequenceLoop(task, model, config.num_envs, partial(sequence_pictures, model, words=task.words))


def task_spec(task: SequenceTask) -> TaskSpec:
    """What a model must know of a task."""
    return TaskSpec(**{field.name: getattr(task, field.name) for field in fields(TaskSpec)})


def recorder_of(
    config: RunConfig,
    loop: TrainingLoop,
    recalls: Path,
    warn: Callable[[str], None],
    clock: Callable[[], float] = time.perf_counter,
) -> RecordedAgent | None:
    """Who is to live in the place of a loop's agent, recorded in a folder; None where there is nothing to record."""
    if not config.steps_per_recording or not isinstance(loop.agent, Remembering):
        return None
    return RecordedAgent(
        loop.agent,
        recalls,
        subject(config, loop.world),
        steps_per_episode=config.steps_per_recording,
        memories=config.recorded_memories,
        most_time=config.recording_percent / 100,
        most_bytes=config.recording_megabytes * 2**20,
        warn=warn,
        clock=clock,
    )


def subject(config: RunConfig, world: VectorEnv) -> Subject:
    """Who is recorded, and where."""
    high = float(world.single_observation_space.high.max())  # type: ignore[attr-defined]
    return Subject(
        agent=config.agent.name,
        world=config.env.title,
        actions=world.action_names,  # type: ignore[attr-defined]
        num_envs=config.num_envs,
        show=partial(as_picture, high=high, frame_stack=world.frame_stack),  # type: ignore[attr-defined]
    )


class _NoTimeError(Exception):
    """Random play was asked to end."""


def random_score(config: RunConfig, stopped: Callable[[], bool] = lambda: False) -> float | None:
    """What random play scores in the run's world: the published figure, or else the mean of twenty episodes.

    None if `stopped` says, between two steps, that there is no time for that.
    """
    if config.env.name == "atari":
        with contextlib.suppress(ValueError):  # A game without a published score is played.
            return scores.random_and_human(config.env.game).random
    world = make_world(config, num_envs=1)
    player = RandomAgent(int(world.single_action_space.n), np.random.default_rng(config.seed))  # type: ignore[attr-defined]

    def watch(_: Moment) -> None:
        if stopped():
            raise _NoTimeError

    with contextlib.closing(world), contextlib.suppress(_NoTimeError):
        episodes = play_games(player, world, range(RECENT_EPISODES), 1.0, [watch])
        return float(np.mean([episode.episode_return for episode in episodes]))
    return None
