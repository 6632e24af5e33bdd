"""The plugin answers with what was recorded, and with nothing that lies elsewhere."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from werkzeug.test import Client, TestResponse

from recall.plugin import RecallsPlugin
from recall.record import Recording, episodes_folder
from recall.sheets import PER_SHEET
from tests.recall.records import SIDE, similar, write_episode, write_moments, write_run


class Server:
    """The plugin's routes, asked as a browser asks them."""

    def __init__(self, logdir: Path) -> None:
        self.plugin = RecallsPlugin(SimpleNamespace(logdir=str(logdir)))
        self.apps = self.plugin.get_plugin_apps()

    def get(self, route: str, **query: object) -> TestResponse:
        return Client(self.apps[route]).get("/", query_string={name: str(value) for name, value in query.items()})

    def json(self, route: str, **query: object):
        return json.loads(self.get(route, **query).data)


@pytest.fixture
def logdir(tmp_path: Path) -> Path:
    write_run(tmp_path / "logs" / "qbert__seed0", 110, 200)
    write_run(tmp_path / "logs" / "grid" / "nec__seed1", 150)
    (tmp_path / "logs" / "dqn__seed0" / "tensorboard").mkdir(parents=True)
    (tmp_path / "secret.png").write_text("not for everybody")
    return tmp_path / "logs"


def test_runs_are_those_with_a_record_however_deep(logdir):
    assert sorted(Server(logdir).json("/runs")) == ["grid/nec__seed1", "qbert__seed0"]
    write_episode(logdir / "qbert__seed0" / "recalls", 290, 2)
    assert Server(logdir).json("/runs")[-1] == "qbert__seed0"
    assert Server(logdir / "qbert__seed0").json("/runs") == ["."]
    assert Server(logdir).plugin.is_active() and not Server(logdir / "dqn__seed0").plugin.is_active()
    assert Server(logdir / "nowhere").json("/runs") == []


def test_an_episode_is_answered_as_it_was_recorded(logdir):
    server, recording = Server(logdir), Recording(logdir / "qbert__seed0" / "recalls")
    [first, second] = server.json("/episodes", run="qbert__seed0")
    assert (first["name"], first["length"], second["step"]) == ("training-000000110", 30, 200)
    assert first["actions"] == ["noop", "up", "down"]
    answer = server.json("/steps", run="qbert__seed0", episode=first["name"])
    assert answer == {"lines": recording.steps(first["name"]).lines, "damaged": []}


def test_moments_of_an_episode_are_answered_with_pictures_that_are_served(logdir):
    name = write_moments(logdir / "maze" / "recalls", 110, 30)
    server = Server(logdir)
    assert "maze" in server.json("/runs")
    answer = server.json("/steps", run="maze", episode=name)
    assert answer["damaged"] == [] and len(answer["lines"]) == 30
    memories = answer["lines"][12]["memories"]
    assert memories["time"] == [12 - age for age in similar(12).ages]
    for picture in memories["picture"]:
        assert server.get("/sheet", run="maze", episode=name, sheet=picture // PER_SHEET).status_code == 200
    # They are no observations of the training, whose number would be asked for.
    assert server.json("/recalled", run="maze", origin=3) == []


def test_sheets_are_served_as_they_lie(logdir):
    server = Server(logdir)
    response = server.get("/sheet", run="qbert__seed0", sheet=1)
    assert response.status_code == 200 and response.mimetype == "image/png"
    sheet = cv2.imdecode(np.frombuffer(response.data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert sheet.shape == (8 * SIDE, 8 * SIDE)
    corners = (
        sheet.reshape(8, SIDE, 8, SIDE)[:, 0, :, 0].astype(int) * 256 + sheet.reshape(8, SIDE, 8, SIDE)[:, 0, :, 1]
    )
    assert corners.flatten().tolist() == list(range(PER_SHEET, 2 * PER_SHEET))
    own = server.get("/sheet", run="qbert__seed0", episode="training-000000200", sheet=0)
    assert own.status_code == 200 and own.data != response.data
    assert server.get("/sheet", run="qbert__seed0", sheet=999).status_code == 404


def test_where_else_a_memory_was_recalled(logdir):
    server, recording = Server(logdir), Recording(logdir / "qbert__seed0" / "recalls")
    expected: dict[int, dict[str, list[int]]] = {}
    for name in recording.names():
        for line in recording.steps(name).lines:
            for origin in set(line["memories"]["origin"]) if line["memories"] else ():
                expected.setdefault(origin, {}).setdefault(name, []).append(line["time"])
    assert len(expected) > 50 and any(len(episodes) == 2 for episodes in expected.values())
    for origin in [*range(1, 240), 10**9]:
        found = server.json("/recalled", run="qbert__seed0", origin=origin)
        assert {one["episode"]: one["times"] for one in found} == expected.get(origin, {})


def test_an_episode_that_grows_is_seen_growing(logdir):
    server, recalls = Server(logdir), logdir / "qbert__seed0" / "recalls"
    name = write_episode(recalls, 300, 5, ends=None)
    assert len(server.json("/steps", run="qbert__seed0", episode=name)["lines"]) == 5
    path = episodes_folder(recalls) / name / "steps.jsonl"
    origin = server.json("/steps", run="qbert__seed0", episode=name)["lines"][0]["memories"]["origin"][0]
    before = server.json("/recalled", run="qbert__seed0", origin=origin)
    line = json.loads(path.read_text().splitlines()[0])
    with path.open("a") as file:
        file.write(json.dumps({**line, "time": 77}) + "\n")
    after = server.json("/recalled", run="qbert__seed0", origin=origin)
    assert after != before and 77 in after[-1]["times"]


def test_what_is_damaged_is_told_of_and_the_rest_is_served(logdir):
    folder = episodes_folder(logdir / "qbert__seed0" / "recalls")
    (folder / "training-000000110" / "episode.json").write_text("{")
    path = folder / "training-000000200" / "steps.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"time":4,', b'"tim', 1))
    server = Server(logdir)
    [damaged, whole] = server.json("/episodes", run="qbert__seed0")
    assert "damaged" in damaged and "episode.json" in damaged["damaged"] and whole["length"] == 30
    answer = server.json("/steps", run="qbert__seed0", episode="training-000000200")
    assert answer["damaged"] == [5] and len(answer["lines"]) == 29


RUNS = [{"run": name} for name in ("../logs/qbert__seed0", "qbert__seed0/../qbert__seed0", "/etc", "")] + [{}]
EPISODES = [
    {"run": "qbert__seed0", "episode": name}
    for name in ("../episodes/training-000000110", "training-000000110/../training-000000110", "%2e%2e", "nothing")
]


@pytest.mark.parametrize(
    ("route", "query"),
    [(route, query) for route in ("/steps", "/sheet", "/episodes", "/recalled") for query in RUNS]
    + [(route, query) for route in ("/steps", "/sheet") for query in EPISODES],
)
def test_a_request_does_not_lead_elsewhere(logdir, route, query):
    response = Server(logdir).get(route, **query, sheet=0, origin=1)
    assert response.status_code == 404 and b"noop" not in response.data


@pytest.mark.parametrize("sheet", ["-1", "1.5", "1e3", "../0", "٣", "9" * 40, ""])
def test_a_sheet_is_named_by_a_number(logdir, sheet):
    assert Server(logdir).get("/sheet", run="qbert__seed0", sheet=sheet).status_code == 404


def test_links_that_lead_out_are_not_followed(logdir):
    server, recalls = Server(logdir), logdir / "qbert__seed0" / "recalls"
    path = recalls / "observations" / "000000" / "000000001.png"
    path.unlink()
    path.symlink_to(logdir.parent / "secret.png")
    assert server.get("/sheet", run="qbert__seed0", sheet=1).status_code == 404
    os.symlink(logdir / "qbert__seed0", logdir / "linked")
    assert "linked" not in server.json("/runs")
    episodes = episodes_folder(recalls)
    os.symlink(episodes / "training-000000110", episodes / "training-000000111")
    assert "training-000000111" not in [one["name"] for one in server.json("/episodes", run="qbert__seed0")]
    for name in ("steps.jsonl", "episode.json"):
        path = episodes / "training-000000110" / name
        path.rename(logdir.parent / name)
        path.symlink_to(logdir.parent / name)
        assert server.get("/steps", run="qbert__seed0", episode="training-000000110").status_code == 404


def test_what_cannot_be_looked_into_is_passed_over(logdir, monkeypatch):
    """As a folder of somebody else's is; a test that runs as root may look into everything."""
    is_dir = Path.is_dir

    def forbidden(path):
        if "nec__seed1" in str(path):
            raise PermissionError(path)
        return is_dir(path)

    monkeypatch.setattr(Path, "is_dir", forbidden)
    assert Server(logdir).json("/runs") == ["qbert__seed0"]


def test_everything_works_where_nothing_can_be_written(logdir):
    server = Server(logdir)
    before = {path: path.stat().st_mtime_ns for path in logdir.rglob("*")}
    server.json("/episodes", run="qbert__seed0")
    server.json("/recalled", run="qbert__seed0", origin=3)
    server.get("/sheet", run="qbert__seed0", sheet=0)
    assert {path: path.stat().st_mtime_ns for path in logdir.rglob("*")} == before


def test_the_page_asks_for_nothing_from_elsewhere():
    for path in (Path(__file__).parents[2] / "recall" / "static").iterdir():
        text = path.read_text(encoding="utf-8")
        assert "http://" not in text and "https://" not in text and "innerHTML" not in text, path.name


def test_the_page_is_served():
    server = Server(Path("nowhere"))
    for name, mimetype in [
        ("/index.js", "text/javascript"),
        ("/pane.js", "text/javascript"),
        ("/cards.js", "text/javascript"),
        ("/style.css", "text/css"),
    ]:
        response = server.get(name)
        assert response.status_code == 200 and response.mimetype == mimetype
