"""Records what an agent remembers in the games of an evaluation."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from agents.agent import Moment, Recollecting
from recall.episode_writer import EpisodeWriter, Provenance
from recall.record import episodes_folder
from recall.recorder import Subject


class GameRecorder:
    """Records the first games of an evaluation.

    Args:
        agent: who plays, or whose player does; it learns nothing meanwhile.
        recalls: folder for what is recorded; an earlier record of the same games makes place.
        subject: what to call it.
        step: the agent step of the training that it has reached.
        games: how many to record.
        memories: most to be listed for an action; in all, where they speak for none.
        provenance: of memories.
        warn: is told what cannot be written, in one line; the games go on.
    """

    def __init__(
        self,
        agent: Recollecting,
        recalls: Path,
        subject: Subject,
        step: int,
        *,
        games: int,
        memories: int,
        provenance: Provenance,
        warn: Callable[[str], None],
    ) -> None:
        self._agent = agent
        self._recalls = recalls
        self._subject = subject
        self._step = step
        self._games = games
        self._memories = memories
        self._provenance = provenance
        self._warn = warn
        self._writers: dict[int, EpisodeWriter] = {}

    def watch(self, moment: Moment) -> None:
        """Take in a step of a game."""
        if moment.game >= self._games:
            return
        try:
            if moment.game not in self._writers:
                self._begin(moment.game)
            writer = self._writers[moment.game]
            who = moment.player if isinstance(moment.player, Recollecting) else self._agent
            found = who.recollect(moment.observation, moment.state_hash, self._memories, moment.env)
            picture = self._subject.show(moment.observation)
            writer.add(None, picture, moment.action, moment.reward, found, self._provenance, self._subject.show)
            if moment.ended:
                self._writers.pop(moment.game).finish()
        except OSError as error:
            self._games = 0
            self._warn(f"what is remembered is not being recorded, the games go on: {error}")

    def close(self) -> None:
        """Bring everything to the disk."""
        with suppress(OSError):
            for writer in self._writers.values():
                writer.close()

    def _begin(self, game: int) -> None:
        heading = self._subject.heading("evaluation", game, self._step, self._memories)
        shutil.rmtree(episodes_folder(self._recalls) / heading.name, ignore_errors=True)
        self._writers[game] = EpisodeWriter(self._recalls, heading, self._warn)
