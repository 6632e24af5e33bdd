"""The TensorBoard plugin "Recalls": shows what agents remembered when they acted.

It finds what runs below the log directory recorded, and serves it to a page of its own: headings and steps as JSON,
pictures as the sheets they lie in. It writes nothing, needs no event files and no network, and reads nothing but
`recalls/` of a run.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tensorboard.backend import http_util
from tensorboard.plugins import base_plugin
from werkzeug import wrappers

from recall.record import DamagedError, Recording, episodes_folder, observations_folder
from recall.sheets import sheet_path

_STATIC = Path(__file__).with_name("static")
_TYPES = {".js": "text/javascript", ".css": "text/css"}
_DEPTH = 5
"""Folders deep below the log directory that runs are looked for."""
Route = Callable[..., Iterable[bytes]]
"""As WSGI calls it."""


class RequestError(Exception):
    """A request that cannot be answered; the message says why."""


class RecallsPlugin(base_plugin.TBPlugin):
    """Serves what was recorded of the runs below a log directory."""

    plugin_name = "recalls"

    def __init__(self, context: base_plugin.TBContext) -> None:
        self._logdir = Path(context.logdir) if context.logdir else None
        self._known: dict[str, Path] = {}
        # TensorBoard answers in several threads.
        self._lock = threading.Lock()
        self._recalled: dict[Path, tuple[int, dict[int, list[int]]]] = {}

    def is_active(self) -> bool:
        """Whether anything was recorded."""
        return next(self._runs(), None) is not None

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        return base_plugin.FrontendMetadata(es_module_path="/index.js", tab_name="Recalls")

    def get_plugin_apps(self) -> dict[str, Route]:
        files = {f"/{path.name}": _file_route(path) for path in _STATIC.iterdir() if path.suffix in _TYPES}
        answers = {
            "/runs": self.runs,
            "/episodes": self.episodes,
            "/steps": self.steps,
            "/recalled": self.recalled,
        }
        routes = {path: _json_route(answer) for path, answer in answers.items()}
        return {**files, **routes, "/sheet": wrappers.Request.application(self._sheet)}

    def runs(self, request: wrappers.Request) -> list[str]:
        """The names of all runs that have a record, as paths below the log directory; the newest last."""
        found = [(_changed(episodes_folder(path / "recalls")), self._name(path)) for path in self._runs()]
        return [name for _, name in sorted(found)]

    def episodes(self, request: wrappers.Request) -> list[dict[str, Any]]:
        """The headings of a run's episodes with their `name`; of those that cannot be read, what is `damaged`."""
        recording, found = self._recording(request), []
        for name in recording.names():
            try:
                found.append({"name": name, **recording.heading(name).model_dump()})
            except DamagedError as error:
                found.append({"name": name, "damaged": str(error)})
        return found

    def steps(self, request: wrappers.Request) -> dict[str, Any]:
        """The `lines` of an episode, and the numbers of those that are `damaged`."""
        steps = self._recording(request).steps(_argument(request, "episode"))
        return {"lines": steps.lines, "damaged": steps.damaged}

    def recalled(self, request: wrappers.Request) -> list[dict[str, Any]]:
        """In which episodes, and at which of their steps, a memory was listed, by its origin."""
        recording, origin = self._recording(request), _number(request, "origin")
        found = []
        for name in recording.names():
            times = self._times_by_origin(recording, name).get(origin)
            if times:
                found.append({"episode": name, "times": times})
        return found

    def _times_by_origin(self, recording: Recording, name: str) -> dict[int, list[int]]:
        """Where the memories of an episode were listed; kept until its file has grown."""
        path = episodes_folder(recording.recalls) / name / "steps.jsonl"
        try:
            size = path.stat().st_size
            with self._lock:
                if path not in self._recalled or self._recalled[path][0] != size:
                    self._recalled[path] = size, recording.times_by_origin(name)
                return self._recalled[path][1]
        except (OSError, DamagedError):
            return {}

    def _sheet(self, request: wrappers.Request) -> wrappers.Response:
        """A sheet of pictures, PNG: of an `episode`, or without that of the training's observations."""
        try:
            recording, sheet = self._recording(request), _number(request, "sheet")
            episode = request.args.get("episode")
            if episode is None:
                folder = observations_folder(recording.recalls)
            else:
                if episode not in recording.names():
                    raise RequestError(f"there is no episode {episode!r}")
                folder = episodes_folder(recording.recalls) / episode / "pictures"
            path = sheet_path(folder, sheet)
            if not path.resolve().is_relative_to(recording.recalls.resolve()):
                raise RequestError("this picture lies elsewhere")
            content = path.read_bytes()
        except (OSError, RequestError) as error:
            reason = str(error) if isinstance(error, RequestError) else "this picture is not kept"
            return http_util.Respond(request, reason, "text/plain", code=404)
        return http_util.Respond(request, content, "image/png", headers=[("X-Content-Type-Options", "nosniff")])

    def _recording(self, request: wrappers.Request) -> Recording:
        """What a request asks about: one of the runs that were found, whatever its name looks like."""
        name = _argument(request, "run")
        if name not in self._known:
            # A look at every folder of a large log directory would be too much for each picture.
            self._known = {self._name(path): path for path in self._runs()}
        if name not in self._known:
            raise RequestError(f"no run {name!r} has a record of what was remembered")
        return Recording(self._known[name] / "recalls")

    def _name(self, run: Path) -> str:
        assert self._logdir is not None, "runs lie below a log directory"
        return str(run.relative_to(self._logdir))

    def _runs(self) -> Iterator[Path]:
        if self._logdir is not None:
            yield from _runs_below(self._logdir, _DEPTH)


def _runs_below(folder: Path, depth: int) -> Iterator[Path]:
    """The folders that hold a record, links left out: they may lead out of the log directory."""
    try:
        with os.scandir(folder) as entries:
            # A name that is no text has no address either.
            below = sorted(
                entry.name for entry in entries if entry.is_dir(follow_symlinks=False) and _is_text(entry.name)
            )
        episodes = episodes_folder(folder / "recalls")
        is_run = "recalls" in below and episodes.is_dir() and not episodes.is_symlink()
    except OSError:
        return
    if is_run:
        # It holds no other run.
        yield folder
        return
    if depth:
        for name in below:
            yield from _runs_below(folder / name, depth - 1)


def _is_text(name: str) -> bool:
    return name.isprintable()


def _changed(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0


def _argument(request: wrappers.Request, name: str) -> str:
    value = request.args.get(name)
    if value is None:
        raise RequestError(f"the request lacks {name!r}")
    return value


def _number(request: wrappers.Request, name: str) -> int:
    value = _argument(request, name)
    if not (value.isascii() and value.isdigit() and len(value) <= 12):
        raise RequestError(f"{name!r} should be a number, not {value!r}")
    return int(value)


def _json_route(answer: Callable[[wrappers.Request], Any]) -> Route:
    @wrappers.Request.application
    def route(request: wrappers.Request) -> wrappers.Response:
        try:
            content, code = answer(request), 200
        except (RequestError, DamagedError) as error:
            content, code = {"error": str(error)}, 404
        return http_util.Respond(request, json.dumps(content, allow_nan=False), "application/json", code=code)

    return route


def _file_route(path: Path) -> Route:
    @wrappers.Request.application
    def route(request: wrappers.Request) -> wrappers.Response:
        return http_util.Respond(request, path.read_text(encoding="utf-8"), _TYPES[path.suffix])

    return route
