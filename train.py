"""Train an agent: a preset and overrides in, a run directory out.

    python train.py configs/quickstart.yaml                            MFEC on Ms Pac-Man, three minutes on two cores
    python train.py configs/atari_nec.yaml --env.game qbert --seed 3   a preset with overrides
    python train.py configs/grid_world_nec.yaml --help                 every option of a preset
    python train.py --help                                             every option of every agent and world
    tensorboard --logdir runs                                          look at the runs
    python evaluate.py runs/NAME                                       play whole games with a trained agent

A run directory holds the resolved configuration (config.yaml), the versions it ran with, its metrics as JSON lines and
TensorBoard events, checkpoints, and its result (result.json).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections import deque
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from pydantic import BaseModel, ConfigDict, Field

import agents
import envs
from agents import AgentConfig, RandomAgent, WorldSpec
from envs import WorldConfig
from training import checkpoint, scores
from training.command_line import UsageError, guarded, load_preset, parse_overrides
from training.evaluation import play_games
from training.logger import Averages, Logger
from training.loop import training_loop
from training.options import options_of
from training.progress import Progress
from training.run_directory import RunDirectory
from training.seeding import EpisodeSeeds, generators

PRESETS = Path("configs")
RECENT_EPISODES = 20
"""Training episodes that a run's return is the mean of."""


class RunConfig(BaseModel):
    """One run: an agent, a world, and how long they meet."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    env: WorldConfig
    """The world."""
    agent: AgentConfig
    """The agent."""
    seed: int = Field(0, ge=0)
    """Seed of everything that is random in the run."""
    steps: int = Field(250_000, ge=1)
    """Agent steps, all environments together; on Atari a step is four frames."""
    num_envs: int = Field(1, ge=1)
    """Parallel environments; 1 is the papers' setting, more are faster."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where networks and memories live."""
    threads: int = Field(0, ge=0)
    """Processor threads for tensors; 0 leaves the choice to torch."""
    runs: Path = Path("runs")
    """Folder in which the run directory is made."""
    steps_per_log: int = Field(2_500, ge=1)
    """Agent steps between two rows of metrics."""
    steps_per_checkpoint: int = Field(100_000, ge=1)
    """Agent steps between two checkpoints; one is always written at the end."""
    keep_checkpoints: int = Field(2, ge=1)
    """How many of the newest checkpoints are kept."""


def title(env: WorldConfig) -> str:
    """What a world is called: its game, or its environment."""
    return env.game if env.name == "atari" else env.id


def make_world(config: RunConfig, num_envs: int | None = None) -> VectorEnv:
    """Build the world of a run.

    Raises:
        UsageError: on what only the simulator can tell, as a world that does not fit the options.
    """
    try:
        return envs.make(config.env, num_envs or config.num_envs)
    except ValueError as error:
        raise UsageError(str(error)) from error


def make_agent(config: RunConfig, world: VectorEnv) -> agents.Agent:
    """Build the agent of a run for its world, all randomness drawn from the run's seed."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device: no CUDA device is available; use --device cpu")
    space = world.single_observation_space
    spec = WorldSpec(
        num_envs=config.num_envs,
        num_actions=int(world.single_action_space.n),  # type: ignore[attr-defined]
        observation_shape=space.shape,  # type: ignore[arg-type]
        observation_high=float(space.high.max()),  # type: ignore[attr-defined]
        frame_stack=world.frame_stack,  # type: ignore[attr-defined]
    )
    torch.manual_seed(config.seed)
    try:
        return agents.make(config.agent, spec, generators(config.seed, "agent")["agent"], config.device)
    except ValueError as error:
        raise UsageError(f"agent: {error}") from error


def random_score(config: RunConfig) -> float:
    """What random play scores in the run's world: the published figure, or else the mean of twenty episodes."""
    if config.env.name == "atari":
        with contextlib.suppress(ValueError):  # A game without a published score is played.
            return scores.random_and_human(config.env.game).random
    world = make_world(config, num_envs=1)
    player = RandomAgent(int(world.single_action_space.n), np.random.default_rng(config.seed))  # type: ignore[attr-defined]
    episodes = play_games(player, world, range(RECENT_EPISODES), epsilon=1.0)
    world.close()
    return float(np.mean([episode.episode_return for episode in episodes]))


def tensorboard_command(runs: Path) -> str:
    """How to look at the runs from this shell: by its bare name only where that would be found."""
    beside_python = os.path.relpath(Path(sys.executable).with_name("tensorboard"))
    return f"{'tensorboard' if shutil.which('tensorboard') else beside_python} --logdir {runs}"


def train(config: RunConfig, name: str) -> Path:
    """Do one run; returns its directory."""
    if config.threads:
        torch.set_num_threads(config.threads)
    world = make_world(config)
    agent = make_agent(config, world)
    frames_per_step: int = world.frames_per_step  # type: ignore[attr-defined]
    try:
        run = RunDirectory.create(config.runs, f"{name}__seed{config.seed}", config.model_dump(mode="json"), sys.argv)
    except OSError as error:
        raise UsageError(f"--runs: no run can be made in {config.runs}: {error}") from error
    recent: deque[float] = deque(maxlen=RECENT_EPISODES)
    returns: list[float] = []
    averages = Averages()
    started = logged = time.perf_counter()
    next_log, next_checkpoint, logged_step = config.steps_per_log, config.steps_per_checkpoint, 0
    step = 0
    with Logger(run) as logger, Progress(config.steps, frames_per_step) as progress:
        for record in training_loop(world, agent, EpisodeSeeds(config.seed), config.steps):
            step = record.step
            for episode in record.episodes:
                recent.append(episode.episode_return)
                returns.append(episode.episode_return)
                averages.add(
                    {
                        "charts/episodic_return": episode.episode_return,
                        "charts/episodic_length": episode.length,
                    }
                )
                progress.update(step, episode.episode_return)
            for metrics in record.metrics:
                averages.add(metrics)
            progress.update(step, memory_size=averages.last("memory/size"))
            if step >= next_log or step >= config.steps:
                now = time.perf_counter()
                averages.add(
                    {
                        "charts/steps_per_second": (step - logged_step) / (now - logged),
                        "charts/frames": step * frames_per_step,
                        "charts/episodes": len(returns),
                    }
                )
                logger.log(step, averages.flush())
                logged, logged_step, next_log = now, step, step + config.steps_per_log
            if step >= next_checkpoint or step >= config.steps:
                state = {"agent_name": config.agent.name, "world": title(config.env), "agent": agent.state_dict()}
                try:
                    checkpoint.save(run.checkpoints, state, step, config.keep_checkpoints)
                except checkpoint.CheckpointError as error:
                    # The run is worth more than one of its checkpoints, and the older ones are as they were.
                    print(f"warning: {error}", file=sys.stderr)
                next_checkpoint = step + config.steps_per_checkpoint
    seconds = time.perf_counter() - started
    world.close()

    result = {
        "steps": step,
        "frames": step * frames_per_step,
        "episodes": len(returns),
        "return_last_episodes": float(np.mean(recent)) if recent else None,
        "return_std_last_episodes": float(np.std(recent)) if recent else None,
        "episodes_averaged": len(recent),
        "random_score": random_score(config),
        "seconds": seconds,
        "steps_per_second": step / seconds,
    }
    run.write_result(result)
    score = f"{result['return_last_episodes']:,.6g}" if recent else "no finished episode"
    print(
        f"{config.agent.name.upper()} on {title(config.env)}: mean return of the last {len(recent)} episodes {score} "
        f"(random play {result['random_score']:,.6g}) after {result['frames']:,} frames in {seconds:.0f} s. "
        f"Run: {run.path}. Look: {tensorboard_command(config.runs)}"
    )
    return run.path


def main() -> None:
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        print("Presets: " + ", ".join(str(preset) for preset in sorted(PRESETS.glob("*.yaml"))) + "\n")
        print(options_of(RunConfig))
        return
    if arguments[0].startswith("-"):
        raise UsageError(f"the preset comes first: python train.py configs/quickstart.yaml {' '.join(arguments)}")
    preset = Path(arguments[0])
    default = load_preset(RunConfig, preset, PRESETS)
    config = parse_overrides(
        default, arguments[1:], f"train.py {preset}", f"Preset {preset}; see also train.py --help."
    )
    train(config, preset.stem)


if __name__ == "__main__":
    guarded(main)
