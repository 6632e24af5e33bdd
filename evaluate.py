"""Evaluate an agent: a run in, its scores out.

    python evaluate.py runs/NAME                         30 whole games with the newest checkpoint
    python evaluate.py runs/NAME --sticky_actions 0.25   in another protocol than it was trained in
    python evaluate.py runs/NAME --video game.mp4        and a video of the first game
    python evaluate.py runs/NAME --record 3              and a record of what it remembered in the first three
    python evaluate.py runs/NAME --help                  every option, with the values of this run
    python evaluate.py --help                            every option

A game lasts from the first life to the last, whatever ended an episode in training, and every game that is begun is
finished and counted. Rewards are the game's own points. The agent does not learn. The scores of all games and the
protocol they were played under are written to runs/NAME/evaluations/.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from imageio.v2 import get_reader, get_writer
from pydantic import BaseModel, ConfigDict, Field

import envs
from agents import Agent
from agents.agent import Moment, Remembering
from assembly import RunConfig, make_agent, make_world, random_score, subject
from envs import WorldConfig
from recall.episode_writer import Provenance
from recall.episodes import TrainingEpisodes
from recall.games import GameRecorder
from train import check_options, load_checkpoint, open_run, restoring, warn
from training import scores
from training.command_line import UsageError, check, guarded, parse_overrides, say
from training.evaluation import play_games
from training.options import options_of
from training.run_directory import RunDirectory, write_json
from training.seeding import generators

PICTURES_PER_SECOND = 10


class EvaluationConfig(BaseModel):
    """How the games are played. What is None here is as in the run's world."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    games: int = Field(default=30, ge=1, le=1_000_000)
    """Whole games that are played."""
    epsilon: float = Field(default=0.001, ge=0.0, le=1.0)
    """Chance of a random action; 0.001 breaks a greedy agent's endless loops, and costs it next to nothing."""
    no_op_max: int | None = Field(default=None, ge=0, lt=2**31)
    """Atari: a game begins with 0 to this many frames in which nothing is done."""
    sticky_actions: float | None = Field(default=None, ge=0.0, lt=1.0)
    """Atari: probability, at every frame, that the emulator repeats the action before."""
    max_frames: int | None = Field(default=None, ge=1, lt=2**31)
    """Frames after which a game is truncated; outside Atari a step is a frame."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Draws the games, from a stream apart from training; more games begin with the seeds of fewer."""
    num_envs: int = Field(default=10, ge=1, le=10_000)
    """Games played side by side."""
    record: int = Field(default=0, ge=0)
    """Games of which it is recorded what the agent remembered; TensorBoard shows them under "Recalls"."""
    recorded_memories: int = Field(default=5, ge=1, le=50)
    """Memories recorded for each action, the heaviest; where they speak for no action, the most similar of all."""
    video: Path | None = None
    """File (.mp4) for a video of the first game, in true colour and at its true speed."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where networks and memories live; by default where they were trained."""
    threads: int = Field(default=0, ge=0, le=1_024)
    """Processor threads for tensors; 0 leaves the choice to torch."""


PROTOCOL = {
    "atari": {"no_op_max": "no_op_max", "sticky_actions": "sticky_actions", "max_frames": "max_frames_per_episode"},
    "grid_world": {"max_frames": "max_steps"},
    "hidden_goal_maze": {"max_frames": "steps_per_episode"},
    "t_maze": {},
    "memory_chain": {},
    "mnist": {"max_frames": "images_per_episode"},
}
"""Options of the protocol that a world has, and what it calls them."""
ALWAYS: dict[str, dict[str, Any]] = {
    "atari": {"life_loss_ends_episode": False},
    "grid_world": {},
    "hidden_goal_maze": {},
    "t_maze": {},
    "memory_chain": {},
    "mnist": {"split": "validation"},
}
"""What holds in every evaluation, whatever held in training."""


def defaults(config: RunConfig) -> EvaluationConfig:
    """The protocol as far as the run decides it.

    Raises:
        UsageError: if the run is of a sequence task, in which there are no games.
    """
    if config.env.name not in PROTOCOL:
        raise UsageError(
            f"{config.env.title} is a sequence task: there are no games to play; its scores are in result.json"
        )
    of_world = {option: getattr(config.env, name) for option, name in PROTOCOL[config.env.name].items()}
    return EvaluationConfig(device=config.device, **of_world)


def evaluated_world(env: WorldConfig, options: EvaluationConfig) -> WorldConfig:
    """The run's world under the protocol that was asked for.

    Raises:
        UsageError: if the world does not have what was asked for.
    """
    names = PROTOCOL[env.name]
    for option in PROTOCOL["atari"].keys() - names:
        if getattr(options, option) is not None:
            why = "its episodes have a length of their own" if option == "max_frames" else "only Atari games have it"
            raise UsageError(f"--{option}: there is no such option for {env.title}, {why}; leave it out")
    changes = {name: getattr(options, option) for option, name in names.items()} | ALWAYS[env.name]
    return check(type(env), {**env.model_dump(), **changes}, env.title)


def load_agent(run: RunDirectory, config: RunConfig, world: VectorEnv) -> tuple[int, Agent, Provenance]:
    """The agent as it was at the newest good checkpoint, that checkpoint's step, and whence its memories are.

    Args:
        run: where it was trained.
        config: the run's; another device may be named.
        world: where it is to play, which may be the run's world under another protocol.

    Raises:
        UsageError: if there is no good checkpoint, or it is not one of the agent and the world of the run.
    """
    step, state = load_checkpoint(run, config)
    check_options(run, state.get("config", {}), config)
    agent = make_agent(config, world)
    with restoring(run):
        agent.load_state_dict(state["agent"])
        if state.get("recorder") is None:
            return step, agent, lambda step: (None, None)
        episodes = TrainingEpisodes(config.num_envs)
        episodes.load_state_dict(state["recorder"]["episodes"])
    return step, agent, episodes.of


class Film:
    """A video of the first game, made by playing it along in a second environment that shows true colours.

    The file is H.264 and comes into its place when it is whole. A disk that fills costs the video, not the scores.

    Raises:
        UsageError: if the file cannot be written, before any game is played.
    """

    def __init__(self, path: Path, env: WorldConfig, seed: int) -> None:
        if path.suffix != ".mp4" or path.is_dir():
            raise UsageError(f"--video: should be a file whose name ends in .mp4 (got {str(path)!r})")
        self._path = path
        self._unfinished = path.with_name(f".{path.stem}.unfinished.mp4")
        try:
            self._unfinished.touch()
        except OSError as error:
            raise UsageError(f"--video: {path} cannot be written: {error.strerror}") from error
        self._screens = envs.screens(env)
        speed = 60 / env.frame_skip if env.name == "atari" else PICTURES_PER_SECOND
        # Sizes must be even for this pixel format, which is the one that every player knows.
        self._writer = get_writer(
            self._unfinished, fps=speed, codec="libx264", quality=8, pixelformat="yuv420p", macro_block_size=2
        )
        self._failure: Exception | None = None
        self._attempt(lambda: self._writer.append_data(self._screens.reset(seed)))

    def watch(self, moment: Moment) -> None:
        """Take in a step of a game; for `play_games`."""
        if moment.game == 0:
            picture = self._screens.step(moment.action)
            self._attempt(lambda: self._writer.append_data(picture))

    def finish(self) -> bool:
        """Put the video in its place; whether there is one."""
        self._attempt(self._writer.close)
        # The encoder is a process of its own, and does not tell how it ended.
        self._attempt(lambda: get_reader(self._unfinished).close())
        self._attempt(lambda: os.replace(self._unfinished, self._path))
        if self._failure is not None:
            warn(f"there is no video: {' '.join(str(self._failure).split())[:200]}")
        return self._failure is None

    def close(self) -> None:
        """Let everything go; what was not finished is removed."""
        with contextlib.suppress(OSError):
            self._writer.close()
        self._screens.close()
        self._unfinished.unlink(missing_ok=True)

    def _attempt(self, write: Callable[[], object]) -> None:
        if self._failure is None:
            try:
                write()
            except (OSError, RuntimeError) as error:
                self._failure = error


def make_recorder(
    run: RunDirectory,
    config: RunConfig,
    options: EvaluationConfig,
    world: VectorEnv,
    agent: Agent,
    step: int,
    provenance: Provenance,
) -> GameRecorder | None:
    """Who records the games, if that was asked for.

    Raises:
        UsageError: if the agent remembers nothing that could be shown.
    """
    if not options.record:
        return None
    if not isinstance(agent, Remembering):
        raise UsageError(f"--record: a {config.agent.name} agent has no memories to show; leave it out")
    return GameRecorder(
        agent,
        run.recalls,
        subject(config, world),
        step,
        games=options.record,
        memories=options.recorded_memories,
        provenance=provenance,
        warn=warn,
    )


def summary(config: RunConfig, env: WorldConfig, game_scores: np.ndarray) -> dict[str, float | None]:
    """Mean, median, population standard deviation and extremes of the games, and what the mean compares with."""
    mean = float(game_scores.mean())
    human_score = human_normalised = None
    with contextlib.suppress(ValueError):  # Only 57 worlds have been played by a human for the record.
        human_score = scores.random_and_human(env.title).human
        human_normalised = scores.human_normalised(mean, env.title)
    return {
        "mean": mean,
        "median": float(np.median(game_scores)),
        "standard_deviation": float(game_scores.std()),
        "min": float(game_scores.min()),
        "max": float(game_scores.max()),
        "random_score": None,
        "human_score": human_score,
        "human_normalised": human_normalised,
    }


def evaluate(run: RunDirectory, config: RunConfig, options: EvaluationConfig) -> None:
    """Play the games of one evaluation.

    Raises:
        SystemExit: with code 1, if their scores could not be written.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    env = evaluated_world(config.env, options)
    trained = config.model_copy(update={"device": options.device})
    config = trained.model_copy(update={"env": env})
    seeds = generators(options.seed, "evaluation")["evaluation"].integers(1, 2**31, options.games)
    started = time.perf_counter()
    with contextlib.closing(make_world(config, min(options.num_envs, options.games))) as world:
        step, agent, provenance = load_agent(run, trained, world)
        try:
            run.evaluations.mkdir(exist_ok=True)
        except OSError as error:
            raise UsageError(f"{run.evaluations} cannot be made: {error.strerror}") from error
        say(f"{config.agent.name.upper()} on {env.title} after {step:,} steps: {run.path}")
        say(f"{'protocol':<20}{describe(env, options)}")
        recorder = make_recorder(run, config, options, world, agent, step, provenance)
        film = Film(options.video, env, int(seeds[0])) if options.video else None
        watchers = [watcher for watcher in (film, recorder) if watcher is not None]
        with contextlib.ExitStack() as closed:
            for watcher in watchers:
                closed.enter_context(contextlib.closing(watcher))
            episodes = play_games(agent, world, seeds, options.epsilon, [watcher.watch for watcher in watchers])
            has_video = film is not None and film.finish()
    seconds = time.perf_counter() - started

    result = summary(config, env, np.array([episode.episode_return for episode in episodes]))
    path = run.evaluations / f"{datetime.now():%Y%m%d-%H%M%S-%f}.json"
    evaluation = {
        "agent": config.agent.name,
        "world": env.title,
        "checkpoint_step": step,
        "protocol": {**options.model_dump(mode="json"), "env": env.model_dump(mode="json")},
        **result,
        "scores": [episode.episode_return for episode in episodes],
        "lengths": [episode.length for episode in episodes],
        "game_seeds": seeds.tolist(),
        "seconds": seconds,
    }
    # Random play may take long: by then the scores are on the disk.
    with contextlib.suppress(OSError):
        write_json(path, evaluation)
    result["random_score"] = random_score(config)
    lost = None
    try:
        write_json(path, {**evaluation, **result})
    except OSError as error:
        lost = error
    files = {
        "scores": None if lost else path,
        "recalls": run.recalls if recorder else None,
        "video": options.video if has_video else None,
    }
    report(result, files)
    if lost:
        print(f"error: the scores could not be written: {lost}", file=sys.stderr)
        sys.exit(1)


def report(result: Mapping[str, float | None], files: Mapping[str, Path | None]) -> None:
    """Print the figures of an evaluation, and what was written where, as far as there are any."""
    for name, value in result.items():
        if value is not None:
            say(f"{name.replace('_', ' '):<20}{value:,.6g}")
    for name, file in files.items():
        if file is not None:
            say(f"{name:<20}{file}")


def describe(env: WorldConfig, options: EvaluationConfig) -> str:
    """The protocol in one line."""
    parts = [
        f"{options.games} whole game{'s' if options.games > 1 else ''}",
        f"seed {options.seed}",
        f"epsilon {options.epsilon:g}",
    ]
    if env.name == "atari":
        parts += [f"0 to {env.no_op_max} no-op frames", f"sticky actions {env.sticky_actions:g}"]
    if options.max_frames is not None:
        parts += [f"at most {options.max_frames:,} {'frames' if env.name == 'atari' else 'steps'}"]
    return ", ".join(parts)


def main() -> None:
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        print(options_of(EvaluationConfig))
        return
    if arguments[0].startswith("-"):
        raise UsageError(f"the run comes first: python evaluate.py runs/NAME {' '.join(arguments)}")
    run, config = open_run(Path(arguments[0]))
    described = f"{config.agent.name.upper()} on {config.env.title}; see also evaluate.py --help."
    evaluate(run, config, parse_overrides(defaults(config), arguments[1:], f"evaluate.py {run.path}", described))


if __name__ == "__main__":
    guarded(main)
