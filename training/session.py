"""A run under way: what of it lives in memory, and how that comes to the disk and back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from agents.agent import Illustrated, NonFiniteError
from training.logger import Logger, Points
from training.loop import TrainingLoop
from training.pictures import MOST_CHANNELS, mosaic
from training.progress import Progress
from training.run_directory import RunDirectory
from training.saver import Saver
from training.sequence_loop import SequenceLoop
from training.signals import StopRequest
from training.tally import Tally


class Recorder(Protocol):
    """Watches a run, and writes down what it sees."""

    def recorder_state(self) -> dict[str, Any]:
        """What it needs to go on with."""
        ...

    def load_recorder_state(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        ...

    def begin_after(self, step: int, episodes: int) -> None:
        """Begin with a run that nobody watched until this agent step, in which so many episodes had begun."""
        ...

    def panels(self) -> Mapping[str, np.ndarray]:
        """Pictures of what it saw last, uint8 `[height, width, 3]` by tag."""
        ...

    def histograms(self) -> Mapping[str, np.ndarray]:
        """Numbers gathered since the last call, by tag."""
        ...

    def points(self) -> Points:
        """What the agent remembers, as points."""
        ...

    def close(self) -> None:
        """Bring everything to the disk."""
        ...


class Fault(Exception):
    """A run met numbers that are not finite, and ended; the message says where and what lies there."""


class Session:
    """Trains, logs, and saves everything that a run needs to go on.

    Args:
        run: its directory, locked by the caller.
        loop: agent and world, or model and task.
        tally: what the run tells of itself.
        identity: what a checkpoint says it is of.
        warn: is told, in one line each, of failures that do not end the run.
        recorder: if somebody watches.
    """

    def __init__(
        self,
        run: RunDirectory,
        loop: TrainingLoop | SequenceLoop,
        tally: Tally,
        identity: dict[str, Any],
        warn: Callable[[str], None],
        recorder: Recorder | None = None,
    ) -> None:
        self._run = run
        self._loop = loop
        self._tally = tally
        self._identity = identity
        self._warn = warn
        self._recorder = recorder
        self._resumed = False

    def state_dict(self) -> dict[str, Any]:
        """All that changes while the run goes, with what it is a state of."""
        return {
            **self._identity,
            "agent": self._loop.agent.state_dict(),
            "loop": self._loop.state_dict(),
            "tally": self._tally.state_dict(),
            "torch_rng": torch.get_rng_state(),
            "recorder": self._recorder.recorder_state() if self._recorder else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what was saved; raises what agent and loop raise for a state that is not theirs."""
        self._loop.load_state_dict(state["loop"])
        self._loop.agent.load_state_dict(state["agent"])
        self._tally.load_state_dict(state["tally"])
        torch.set_rng_state(state["torch_rng"])
        if self._recorder and state["recorder"]:
            self._recorder.load_recorder_state(state["recorder"])
        elif self._recorder and isinstance(self._loop, TrainingLoop):
            self._recorder.begin_after(self._loop.step, self._tally.episodes + self._loop.world.num_envs)
        self._resumed = True

    def train(
        self, steps: int, steps_per_checkpoint: int, keep_checkpoints: int, steps_per_picture: int, stop: StopRequest
    ) -> bool:
        """Go on until `steps` agent steps are done, or `stop` is asked for; either way the end is saved.

        Returns:
            Whether the end could be saved.

        Raises:
            Fault: if a loss or gradient is not finite; the checkpoints stand as they were before it.
        """
        loop, tally = self._loop, self._tally
        with (
            Saver(self._run.checkpoints, keep_checkpoints, self._warn) as saver,
            contextlib.closing(Logger(self._run, loop.step, self._resumed, self._warn)) as logger,
            Progress(steps, loop.frames_per_step) as progress,
            contextlib.closing(self._recorder) if self._recorder else contextlib.nullcontext(),
        ):
            if not self._resumed:
                # From its first second on, a run can be resumed.
                saver.save_now(self.state_dict(), 0)
            saved_step = shown_step = loop.step
            try:
                for record in loop.run(steps):
                    tally.add(record)
                    for episode in record.episodes:
                        progress.update(loop.step, episode.episode_return)
                    progress.update(
                        loop.step,
                        memory_size=tally.averages.last("memory/size"),
                        nats=tally.averages.last("charts/nats_per_sequence"),
                    )
                    if tally.due() or loop.step >= steps:
                        logger.log(loop.step, tally.seconds, tally.row())
                    if steps_per_picture and loop.step // steps_per_picture > shown_step // steps_per_picture:
                        self._illustrate(logger)
                        shown_step = loop.step
                    if stop.signal:
                        break
                    if loop.step // steps_per_checkpoint > saved_step // steps_per_checkpoint:
                        saver.save(self.state_dict(), loop.step)
                        saved_step = loop.step
            except NonFiniteError as error:
                raise Fault(
                    f"after step {loop.step}, {error}. The batch: {self._dump(error)}. "
                    f"The checkpoints in {self._run.checkpoints} are from before it."
                ) from error
            if loop.step >= steps:
                self._conclude(logger)
            return saver.save_now(self.state_dict(), loop.step)

    def _illustrate(self, logger: Logger) -> None:
        """Show what agent and recorder have to show."""
        step = self._loop.step
        logger.log_pictures(step, self._pictures())
        if self._recorder:
            logger.log_pictures(step, self._recorder.panels())
            logger.log_histograms(step, self._recorder.histograms())

    def _conclude(self, logger: Logger) -> None:
        """Show what the run came to, and what its agent remembers in the end."""
        result = self._tally.result().items()
        logger.log_outcome(self._loop.step, {f"outcome/{name}": value for name, value in result if value is not None})
        if self._recorder:
            logger.log_points(self._loop.step, "memories", self._recorder.points())

    def _pictures(self) -> Mapping[str, np.ndarray]:
        if isinstance(self._loop, SequenceLoop):
            return self._loop.pictures()
        if not isinstance(self._loop.agent, Illustrated):
            return {}
        world = self._loop.world
        high = float(world.single_observation_space.high.max())  # type: ignore[attr-defined]
        shown = self._loop.agent.pictures().items()
        return {
            tag: mosaic(grid, high, world.frame_stack)  # type: ignore[attr-defined]
            for tag, grid in shown
            if grid.shape[2] <= MOST_CHANNELS
        }

    def _dump(self, error: NonFiniteError) -> str:
        """Write the batch of a fault down; returns where it lies, or why it does not."""
        path = self._run.faults / f"step_{self._loop.step:09d}.safetensors"
        try:
            path.parent.mkdir(exist_ok=True)
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in error.batch.items()}, path)
        except (OSError, SafetensorError) as failure:
            return f"lost, {failure}"
        return str(path)
