"""Records what an agent remembers while it trains, within bounds of time and size.

Of a training, one episode every so many agent steps; of each of its steps, which memories every action's value rests
on. What is observed is kept for all steps, because every one may become a memory. An agent does not notice: what it
would remember is asked before it acts, and leaves no trace in it.
"""

from __future__ import annotations

import shutil
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from agents.agent import Agent, Metrics, Remembering, Transition
from memory.recollection import Recollection, SimilarMoments
from recall.episode_writer import EpisodeWriter, take_back
from recall.episodes import TrainingEpisodes
from recall.panel import panel
from recall.record import Heading, Recording, episodes_folder, observations_folder
from recall.sheets import SheetWriter

_MOST_STEPS = 5_000
"""Of an episode that are recorded: some 10 MB."""
_GATHERED = 2_000
"""Steps whose memories a histogram is of, at most: the last."""
_POINTS = 2_000
"""Memories in the projector, which is quick with some thousand."""
_THUMBNAIL = 40
"""Pixels along a side of their pictures: all of them in one of 1,800, which browsers take."""
_PICTURES = 0.75
"""Share of the bytes that observations may take; recorded episodes get the others."""


@dataclass(frozen=True)
class Subject:
    """Who is recorded, and where."""

    agent: str
    world: str
    actions: tuple[str, ...]
    num_envs: int
    show: Callable[[np.ndarray], np.ndarray]
    """Makes a picture of an observation: uint8 `[height, width]`, or `[height, width, 3]`."""

    def heading(self, kind: str, number: int, step: int, memories: int) -> Heading:
        """Of an episode of this agent."""
        return Heading(
            kind=kind,
            agent=self.agent,
            world=self.world,
            actions=list(self.actions),
            num_envs=self.num_envs,
            number=number,
            step=step,
            memories=memories,
        )


@dataclass(frozen=True)
class PicturedKeys:
    """Memories as points, with what is known of each, for TensorBoard's projector."""

    places: np.ndarray
    """Their keys, `[n, key_size]`."""
    header: list[str]
    """What the columns of `known` are called."""
    known: list[list[str]]
    pictures: np.ndarray
    """What was observed, uint8 `[n, side, side, 3]`; black where it is not kept."""


class RecordedAgent:
    """An agent that is recorded while it trains; in all else it is the agent itself.

    Args:
        agent: who acts.
        recalls: folder for what is recorded.
        subject: what to call it.
        steps_per_episode: agent steps between the beginnings of two recorded episodes.
        memories: most to be listed for an action; in all, where they speak for none.
        most_time: share of a training's time that recording episodes may take; beyond it none is begun, and a step of
            one under way is recorded without its memories. Keeping observations, most of whose cost falls to another
            core, is not counted in.
        most_bytes: of all that is recorded; the oldest observations and the densest episodes make place.
        warn: is told what cannot be written, in one line; the training goes on.
        clock: seconds.
    """

    def __init__(
        self,
        agent: Agent,
        recalls: Path,
        subject: Subject,
        *,
        steps_per_episode: int,
        memories: int,
        most_time: float,
        most_bytes: int,
        warn: Callable[[str], None],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._agent = agent
        self._recalls = recalls
        self._subject = subject
        self._steps_per_episode = steps_per_episode
        self._memories = memories
        self._most_time = most_time
        self._most_bytes = most_bytes
        self._warn = warn
        self._clock = clock
        self._began = clock()
        self._spent = 0.0
        self._step = 0
        self._begun = 0
        self._episodes = TrainingEpisodes(subject.num_envs)
        self._observations = SheetWriter(observations_folder(recalls), int(_PICTURES * most_bytes), warn)
        self._sizes: dict[str, int] = {}
        self._writer: EpisodeWriter | None = None
        self._env = 0
        self._found: Recollection | SimilarMoments | None = None
        self._last: tuple[Heading, dict[str, Any]] | None = None
        self._seen = defaultdict[str, deque[np.ndarray]](lambda: deque(maxlen=_GATHERED))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._agent, name)

    def act(self, observations: np.ndarray, state_hashes: np.ndarray, epsilon: float | None = None) -> np.ndarray:
        self._found = None
        if epsilon is None and self._writer is not None and isinstance(self._agent, Remembering):
            started = self._clock()
            if self._has_time():
                env = self._env
                self._found = self._agent.recollect(observations[env], state_hashes[env], self._memories, env)
                self._spent += self._clock() - started
        return self._agent.act(observations, state_hashes, epsilon)

    def observe(self, transition: Transition) -> None:
        self._agent.observe(transition)
        self._step += len(transition.actions)
        steps = transition.steps(self._step).tolist()
        pictures = [self._subject.show(observation) for observation in transition.observations]
        for step, picture in zip(steps, pictures, strict=True):
            self._observations.add(step, picture)
        started = self._clock()
        self._write(steps[self._env], pictures[self._env], transition)
        for env in np.flatnonzero(transition.ended).tolist():
            self._begin(env, steps[env] + len(steps))
        self._spent += self._clock() - started

    def learn(self) -> Metrics | None:
        return self._agent.learn()

    def state_dict(self) -> dict[str, Any]:
        return self._agent.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._agent.load_state_dict(state)

    def recorder_state(self) -> dict[str, Any]:
        """What a record needs to be gone on with; brings to the disk what belongs to it."""
        self._observations.settle()
        if self._writer is not None:
            self._writer.settle()
        return {
            "step": self._step,
            "begun": self._begun,
            "episodes": self._episodes.state_dict(),
        }

    def load_recorder_state(self, state: dict[str, Any]) -> None:
        """Go on from there: what was recorded later is taken back."""
        self._step, self._begun = state["step"], state["begun"]
        self._episodes.load_state_dict(state["episodes"])
        self._take_back()

    def begin_after(self, step: int, episodes: int) -> None:
        """Begin with a training that nobody watched until this agent step, in which so many episodes had begun."""
        self._step = self._begun = step
        self._episodes.begin_after(episodes)
        self._take_back()

    def panels(self) -> dict[str, np.ndarray]:
        """The last step that was looked into as a picture, uint8 `[height, width, 3]` by tag; nothing without one."""
        if self._last is None:
            return {}
        heading, line = self._last
        self._observations.settle()
        if self._writer is not None:
            self._writer.settle()
        return {"recall/panel": panel(Recording(self._recalls), heading, line)}

    def histograms(self) -> dict[str, np.ndarray]:
        """Ages, in agent steps, and distances or similarities of the memories listed since the last call, by tag."""
        found = {tag: np.concatenate(numbers) for tag, numbers in self._seen.items() if numbers}
        for numbers in self._seen.values():
            numbers.clear()
        return found

    def points(self) -> PicturedKeys:
        """Some memories where their keys lie."""
        assert isinstance(self._agent, Remembering), "only an agent with memories is asked"
        space, recording = self._agent.key_space(_POINTS), Recording(self._recalls)
        self._observations.settle()
        pictures = np.zeros((len(space.origins), _THUMBNAIL, _THUMBNAIL, 3), dtype=np.uint8)
        header, known = ["age", "key age", "episode", "time"], []
        for place, origin in enumerate(space.origins.tolist()):
            if (picture := recording.observation(origin)) is not None:
                pictures[place] = cv2.resize(picture, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA)
            ages = [str(self._step - step) for step in (origin, space.keyed_at[place])]
            known.append([*ages, *("" if part is None else str(part) for part in self._episodes.of(origin))])
        if space.actions is not None and space.values is not None:
            header = ["action", "value", *header]
            said = zip(space.actions.tolist(), space.values.tolist(), strict=True)
            known = [
                [self._subject.actions[action], f"{value:.6g}", *row]
                for (action, value), row in zip(said, known, strict=True)
            ]
        return PicturedKeys(space.keys, header, known, pictures)

    def close(self) -> None:
        """Bring everything to the disk."""
        with self._losing():
            if self._writer is not None:
                self._writer.close()
                self._writer = None
        self._observations.close()

    def _begin(self, env: int, first: int) -> None:
        """An environment begins an episode with this agent step."""
        number = self._episodes.begin(first)
        due = first // self._steps_per_episode > self._begun // self._steps_per_episode
        if self._writer is not None or not due or not self._has_time() or not isinstance(self._agent, Remembering):
            return
        self._begun, self._env = first, env
        heading = self._subject.heading("training", number, first, self._memories)
        with self._losing():
            self._make_place()
            self._writer = EpisodeWriter(self._recalls, heading, self._warn)

    def _take_back(self) -> None:
        """Remove what the folder holds of later steps than this."""
        with self._losing():
            self._observations.go_on_from(self._step)
            take_back(self._recalls, self._step)

    def _has_time(self) -> bool:
        return self._spent <= self._most_time * (self._clock() - self._began)

    def _write(self, step: int, picture: np.ndarray, transition: Transition) -> None:
        if self._writer is None:
            return
        with self._losing():
            line = self._writer.add(
                step,
                picture,
                int(transition.actions[self._env]),
                float(transition.rewards[self._env]),
                self._found,
                self._episodes.of,
                self._subject.show,
            )
            if self._found is not None:
                self._last = self._writer.heading, line
                self._gather(step, self._found)
            if transition.ended[self._env]:
                self._writer.finish()
                self._writer = None
            elif self._writer.length >= _MOST_STEPS:
                self._writer.close()
                self._writer = None

    def _gather(self, step: int, found: Recollection | SimilarMoments) -> None:
        if isinstance(found, SimilarMoments):
            self._seen["recall/age"].append(found.ages * self._subject.num_envs)
            self._seen["recall/similarity"].append(found.similarities)
        else:
            self._seen["recall/age"].append(step - found.origins)
            self._seen["recall/distance"].append(found.distances)

    def _make_place(self) -> None:
        """Remove recorded episodes of the training until there is room: first those nearest to others in time."""
        for name in Recording(self._recalls).names():
            # What was finished before does not grow any more.
            if name.startswith("training") and name not in self._sizes:
                self._sizes[name] = _nbytes(episodes_folder(self._recalls) / name)
        while len(self._sizes) > 2 and sum(self._sizes.values()) > (1.0 - _PICTURES) * self._most_bytes:
            kept = sorted(self._sizes)
            steps = [int(name.split("-")[1]) for name in kept]
            gaps = {kept[place]: steps[place + 1] - steps[place - 1] for place in range(1, len(kept) - 1)}
            densest = min(gaps, key=gaps.__getitem__)
            shutil.rmtree(episodes_folder(self._recalls) / densest)
            del self._sizes[densest]

    @contextmanager
    def _losing(self) -> Iterator[None]:
        """Go on without a record of this episode where the disk does not take it."""
        try:
            yield
        except OSError as error:
            self._warn(f"what is remembered is not being recorded, training goes on: {error}")
            if self._writer is not None:
                with suppress(OSError):
                    self._writer.close()
                self._writer = None


def _nbytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
