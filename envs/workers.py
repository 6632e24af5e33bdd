"""Environments spread over processes of their own, so that one that crashes does not take the training with it.

An emulator can fail in ways that no exception reports, and the system can kill a process for its memory. Here that
costs the episodes of one process. Otherwise the numbers are those of the same world in a single process, since an
episode is a function of its seed and its actions. Worth it too where a step is slow and processors are many; where a
step takes microseconds, the way between processes (0.1 to 0.3 ms) costs more than it saves.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import Any, NamedTuple, TypeVar

import numpy as np

from envs.world import Infos, World

MOST_RESTARTS = 5
"""Processes that may be lost before something is taken to be wrong for good."""

_REPLY_SECONDS = 120.0
"""A process that is silent for longer counts as lost."""


class _Looked(NamedTuple):
    """What a process answers that begins episodes, or is only looked at."""

    observations: np.ndarray
    infos: Infos


class _Stepped(NamedTuple):
    """What a process answers that acts; the metrics, which are of no environment, apart from the infos."""

    observations: np.ndarray
    infos: Infos
    rewards: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray
    metrics: dict[str, float]


_Reply = TypeVar("_Reply", _Looked, _Stepped)


class WorkersLostError(RuntimeError):
    """Environments cannot go on: a process ended before it had begun, or too many were lost."""


class _Lost(Exception):
    """A process ended, or hangs."""


class WorkerWorld(World):
    """A world whose environments live in several processes.

    The episodes of a process that was lost are truncated in the step that lost it, or in the next one if it was lost
    while others of its episodes began, with their last observations and no reward; the process is started again.
    The `metrics` in infos then tell of it too: `charts/env_restarts`, how often that was.

    Args:
        make: builds the world of one process from its number of environments; sent to the processes by pickle.
        num_envs: environments in all.
        workers: processes; no more than environments.

    Raises:
        WorkersLostError: if a process cannot begin; from reset or step, when more than `MOST_RESTARTS` were lost.
        ValueError: what `make` raises.
    """

    def __init__(self, make: Callable[[int], World], num_envs: int, workers: int) -> None:
        shares = np.array_split(np.arange(num_envs), min(workers, num_envs))
        self._workers = [_Worker(make, len(share)) for share in shares]
        self._slices = [slice(int(share[0]), int(share[-1]) + 1) for share in shares]
        self._restarts = 0
        # Environments whose process is another one than their episode began in.
        self._cut_off = np.zeros(num_envs, dtype=bool)
        about = self._workers[0].about()
        self.frame_stack, self.frames_per_step = about["frame_stack"], about["frames_per_step"]
        self.reveals_labels = about["reveals_labels"]
        super().__init__(num_envs, about["observation_space"], about["action_names"])
        self._observations = np.zeros((num_envs, *self.single_observation_space.shape), np.uint8)
        self._last_infos: Infos = {}

    @property
    def processes(self) -> list[BaseProcess]:
        """The processes, in the order of their environments."""
        return [worker.process for worker in self._workers]

    def _begin(self, mask: np.ndarray, seeds: list[int]) -> tuple[np.ndarray, Infos]:
        asked = []
        for share in self._slices:
            count = int(mask[share].sum())
            asked.append(("reset", mask[share], seeds[:count]) if count else ("look",))
            seeds = seeds[count:]
        self._cut_off &= ~mask
        replies = self._ask_all(asked)
        for index, share in enumerate(self._slices):
            if replies[index] is None:
                self._cut_off[share] = ~mask[share]
            while replies[index] is None:
                # The new episodes are begun again; a process that was not asked for any goes on with the next step.
                replies[index] = self._ask_all([asked[index]], [index])[0]
            if self._cut_off[share].any():
                replies[index] = self._as_they_were(self._cut_off[share], share, replies[index])
        observations, infos = self._joined(replies)
        self._tell(infos, {})
        if "life_lost" in infos:
            infos["life_lost"] = np.zeros(self.num_envs, dtype=bool)
        return observations, infos

    def _advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Infos]:
        replies = self._ask_all([("step", actions[share]) for share in self._slices])
        for index, share in enumerate(self._slices):
            if replies[index] is None:
                self._cut_off[share] = True
                none = np.zeros(share.stop - share.start)
                replies[index] = _Stepped(self._observations[share], self._infos_of(share), none, none, none, {})
            elif self._cut_off[share].any():
                replies[index] = self._as_they_were(self._cut_off[share], share, replies[index])
        observations, infos = self._joined(replies)
        rewards = np.where(self._cut_off, 0.0, np.concatenate([reply.rewards for reply in replies]))
        terminations = np.concatenate([reply.terminations for reply in replies]).astype(bool) & ~self._cut_off
        truncations = np.concatenate([reply.truncations for reply in replies]).astype(bool) & ~self._cut_off
        episodes = [int((terminations | truncations)[share].sum()) for share in self._slices]
        self._tell(infos, _means([reply.metrics for reply in replies], episodes))
        truncations |= self._cut_off
        if "life_lost" in infos:
            infos["life_lost"] = infos["life_lost"] & ~self._cut_off
        self._cut_off[:] = False
        return observations, rewards, terminations, truncations, infos

    def close_extras(self, **kwargs: Any) -> None:
        for worker in self._workers:
            worker.close()

    def _as_they_were(self, which: np.ndarray, share: slice, reply: _Reply) -> _Reply:
        """The reply of a process, but for some of its environments what was last seen of them."""
        observations = reply.observations.copy()
        observations[which] = self._observations[share][which]
        before = self._infos_of(share)
        infos = {name: np.where(which, before[name], values) for name, values in reply.infos.items()}
        return reply._replace(observations=observations, infos=infos)

    def _infos_of(self, share: slice) -> Infos:
        return {name: values[share] for name, values in self._last_infos.items()}

    def _joined(self, replies: Sequence[_Looked | _Stepped]) -> tuple[np.ndarray, Infos]:
        """Observations and infos of all replies."""
        self._observations = np.concatenate([reply.observations for reply in replies])
        names = replies[0].infos
        self._last_infos = {name: np.concatenate([reply.infos[name] for reply in replies]) for name in names}
        return self._observations, dict(self._last_infos)

    def _tell(self, infos: Infos, metrics: dict[str, float]) -> None:
        """Add metrics to infos, where there are any."""
        if self._restarts:
            metrics = {**metrics, "charts/env_restarts": float(self._restarts)}
        if metrics:
            infos["metrics"] = metrics

    def _ask_all(self, questions: list[tuple[Any, ...]], indices: list[int] | None = None) -> list[Any]:
        """Ask processes at the same time; None for each that was lost, and was started again."""
        workers = [self._workers[index] for index in indices] if indices else self._workers
        for worker, question in zip(workers, questions, strict=True):
            worker.ask(question)
        replies = []
        for worker in workers:
            try:
                replies.append(worker.answer())
            except _Lost as loss:
                self._restarts += 1
                if self._restarts > MOST_RESTARTS:
                    raise WorkersLostError(
                        f"{self._restarts} environment processes were lost, the last: {loss}"
                    ) from None
                with contextlib.suppress(OSError):
                    print(f"warning: {loss}; started again, its episodes are truncated", file=sys.stderr, flush=True)
                worker.start()
                replies.append(None)
        return replies


def _means(metrics: list[dict[str, float]], episodes: list[int]) -> dict[str, float]:
    """Means over all episodes that ended, from those of each process over so many of its own."""
    told = [(means, count) for means, count in zip(metrics, episodes, strict=True) if means and count]
    total = sum(count for _, count in told)
    return {tag: sum(means[tag] * count for means, count in told) / total for means, _ in told[:1] for tag in means}


class _Worker:
    """One process, and the way to it."""

    def __init__(self, make: Callable[[int], World], num_envs: int) -> None:
        methods = multiprocessing.get_all_start_methods()
        self._context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        self._make = make
        self._num_envs = num_envs
        self.start()

    def start(self) -> None:
        """Start the process, in place of one before it."""
        if hasattr(self, "process"):
            self.close()
        self._connection, theirs = self._context.Pipe()
        self.process: BaseProcess = self._context.Process(
            target=_serve, args=(theirs, self._make, self._num_envs), daemon=True
        )
        self.process.start()
        theirs.close()
        # Python's exit would ask the process to end, which it ignores, and wait for it; this comes before.
        self._ending = Finalize(self, _end, (self._connection, self.process), exitpriority=0)

    def about(self) -> dict[str, Any]:
        """What the world of this process is."""
        self.ask(("about",))
        try:
            return self.answer()
        except _Lost as loss:
            raise WorkersLostError(f"{loss} before it had begun") from None

    def ask(self, question: tuple[Any, ...]) -> None:
        """Send a question; one that cannot be sent is noticed when the answer does not come."""
        with contextlib.suppress(OSError):
            self._connection.send(question)

    def answer(self) -> Any:
        """Wait for the answer.

        Raises:
            _Lost: if there will be none.
            Exception: what the world raised instead.
        """
        try:
            if not self._connection.poll(_REPLY_SECONDS):
                raise _Lost(f"environment process {self.process.pid} was silent for {_REPLY_SECONDS:.0f} s")
            reply = self._connection.recv()
        except (EOFError, OSError):
            self.process.join(1.0)
            code = self.process.exitcode
            raise _Lost(f"environment process {self.process.pid} died (exit code {code})") from None
        if isinstance(reply, Exception):
            raise reply
        return reply

    def close(self) -> None:
        """End the process."""
        self._ending()


def _end(connection: Connection, process: BaseProcess) -> None:
    """End a process that is asked through a connection."""
    connection.close()
    process.join(1.0)
    if process.is_alive():
        process.kill()
        process.join()


def _serve(connection: Connection, make: Callable[[int], World], num_envs: int) -> None:
    """What a process does: answer until nobody asks any more."""
    # A stop that is meant for the training reaches the whole group; the training ends this process.
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    server = _Server(make, num_envs)
    while True:
        try:
            question, *arguments = connection.recv()
        except (EOFError, OSError):
            return
        try:
            reply = getattr(server, question)(*arguments)
        except Exception as error:
            reply = error
        with contextlib.suppress(OSError):  # Nobody waits for it any more.
            connection.send(reply)


class _Server:
    """The world of one process; its methods are the questions."""

    def __init__(self, make: Callable[[int], World], num_envs: int) -> None:
        self._make = make
        self._num_envs = num_envs
        self._last: _Looked | None = None

    @functools.cached_property
    def _world(self) -> World:
        # Made when it is first asked for, so that what making it raises is an answer.
        return self._make(self._num_envs)

    def about(self) -> dict[str, Any]:
        return {
            "frame_stack": self._world.frame_stack,
            "reveals_labels": self._world.reveals_labels,
            "frames_per_step": self._world.frames_per_step,
            "observation_space": self._world.single_observation_space,
            "action_names": self._world.action_names,
        }

    def look(self) -> _Looked:
        if self._last is None:
            # After a restart the caller may begin the episodes one by one; a world wants all at first.
            self._last = _Looked(*self._world.reset(seed=[0] * self._num_envs))
        return self._last

    def reset(self, mask: np.ndarray, seeds: list[int]) -> _Looked:
        if not mask.all():
            self.look()
        self._last = _Looked(*self._world.reset(seed=seeds, options={"reset_mask": mask}))
        return self._last

    def step(self, actions: np.ndarray) -> _Stepped:
        observations, rewards, terminations, truncations, infos = self._world.step(actions)
        metrics = infos.pop("metrics", {})
        self._last = _Looked(observations, infos)
        return _Stepped(observations, infos, rewards, terminations, truncations, metrics)
