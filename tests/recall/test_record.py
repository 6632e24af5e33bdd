"""What was recorded comes back, and what is damaged is told of."""

from __future__ import annotations

import json

import numpy as np
import pytest

from recall.episode_writer import line_of, take_back
from recall.record import FORMAT, DamagedError, Recording, episodes_folder
from tests.recall.records import number_of, provenance, remembered, similar, write_episode, write_moments, write_run


def test_a_line_accounts_for_every_action_value():
    for step in range(1, 50):
        found = remembered(step, memories=4)
        line = json.loads(json.dumps(line_of(found, provenance, None), allow_nan=False))
        values = list(line["rest"])
        memories = line["memories"]
        for action, weight, value in zip(memories["action"], memories["weight"], memories["value"], strict=True):
            values[action] += weight * value
        np.testing.assert_allclose(values, found.action_values, rtol=1e-4, atol=1e-4)
        assert [tuple(pair) for pair in zip(memories["episode"], memories["time"], strict=True)] == [
            (origin // 100, origin % 100) for origin in memories["origin"]
        ]


def test_an_action_to_be_tried_first_is_null():
    found = remembered(5)
    found.action_values[1] = found.rest[1] = np.inf
    line = json.loads(json.dumps(line_of(found, provenance, None), allow_nan=False))
    assert line["values"][1] is None and line["rest"][1] is None and line["values"][0] is not None


def test_episodes_come_back_as_they_were_written(tmp_path):
    write_run(tmp_path, 110, 200)
    recording = Recording(tmp_path / "recalls")
    assert recording.names() == ["training-000000110", "training-000000200"]
    heading = recording.heading("training-000000110")
    assert (heading.length, heading.number, heading.step, heading.format) == (30, 1, 110, FORMAT)
    steps = recording.steps(heading.name)
    assert not steps.damaged and [line["step"] for line in steps.lines] == list(range(110, 140))
    assert heading.total == sum(line["reward"] for line in steps.lines) == 4
    for line in steps.lines:
        assert number_of(recording.picture(heading.name, line["picture"])) == line["step"]
        assert (line["memories"] is None) == (line["step"] % 10 == 9)
        for origin in line["memories"]["origin"] if line["memories"] else ():
            assert number_of(recording.observation(origin)) == origin


@pytest.mark.parametrize("kind", ["training", "evaluation"])
def test_moments_of_an_episode_come_back_with_their_pictures(tmp_path, kind):
    name = write_moments(tmp_path, 110, 30, kind, num_envs=4)
    recording = Recording(tmp_path)
    steps = recording.steps(name)
    assert not steps.damaged and len(steps.lines) == 30
    for line in steps.lines:
        if line["time"] % 10 == 9:
            assert line["memories"] is None and line["values"] is None
            continue
        found, memories = similar(line["time"]), line["memories"]
        assert line["rest"] is None
        np.testing.assert_allclose(line["values"], found.action_values, rtol=1e-5)
        assert memories["time"] == [line["time"] - age for age in found.ages]
        np.testing.assert_allclose(memories["similarity"], found.similarities, rtol=1e-5)
        np.testing.assert_allclose(memories["value_similarity"], found.value_similarities, rtol=1e-5)
        for time, picture in zip(memories["time"], memories["picture"], strict=True):
            assert number_of(recording.picture(name, picture)) == 110 + time
    assert recording.times_by_origin(name) == {}


def test_what_version_1_recorded_is_read(tmp_path):
    name = write_episode(tmp_path, 1, 6)
    path = episodes_folder(tmp_path) / name / "episode.json"
    path.write_text(path.read_text().replace(f'"format": {FORMAT}', '"format": 1'))
    assert Recording(tmp_path).heading(name).format == 1 and len(Recording(tmp_path).steps(name).lines) == 6


MOMENTS = {"time": [1, 0], "picture": [1, 0], "similarity": [0.5, 0.25], "value_similarity": [0.5, 0.25]}


@pytest.mark.parametrize(
    ("changes", "is_good"),
    [
        ({}, True),
        ({"memories": {**MOMENTS, "seen": 3}}, True),
        ({"memories": {**MOMENTS, "time": [2, 0]}}, False),
        ({"memories": {**MOMENTS, "time": [-1, 0]}}, False),
        ({"memories": {**MOMENTS, "picture": [1]}}, False),
        ({"memories": {**MOMENTS, "similarity": [None, 0.5]}}, False),
        ({"memories": {name: MOMENTS[name] for name in ("time", "picture", "similarity")}}, False),
        ({"rest": [0.0, 0.0, 0.0]}, False),
        ({"values": [0.5, 0.5]}, False),
        ({"values": None}, False),
        ({"values": [0.5, None, 0.5]}, False),
    ],
    ids=str,
)
def test_a_line_of_moments_must_go_together(tmp_path, changes, is_good):
    name = write_moments(tmp_path, 110, 4)
    path = episodes_folder(tmp_path) / name / "steps.jsonl"
    line = {"time": 2, "step": 112, "picture": 2, "action": 0, "reward": 0.0, "values": [0.2, 0.3, 0.5], "rest": None}
    lines = path.read_bytes().split(b"\n")
    lines[2] = json.dumps({**line, "memories": MOMENTS, **changes}).encode()
    path.write_bytes(b"\n".join(lines))
    assert Recording(tmp_path).steps(name).damaged == ([] if is_good else [3])


def test_an_episode_that_runs_can_be_read_up_to_its_last_whole_line(tmp_path):
    name = write_episode(tmp_path, 1, 12, ends=None)
    path = episodes_folder(tmp_path) / name / "steps.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    recording = Recording(tmp_path)
    assert recording.heading(name).length is None
    assert [line["time"] for line in recording.steps(name).lines] == list(range(11))
    assert recording.steps(name).damaged == []


GOOD = json.dumps(
    {**{"time": 2, "step": 3, "picture": 2, "action": 0, "reward": 0.0}, "values": None, "rest": None, "memories": None}
)
SAYS = json.dumps(line_of(remembered(5), provenance, None))


@pytest.mark.parametrize(
    "damage",
    [
        *("\0\1", "{}", "[1]", "[" * 100_000, '{"time": 3}', '{"memories": 1}'),
        *(GOOD.replace('"action": 0', f'"action": {action}') for action in ("3", "-1", '"x"', "null", "1.5")),
        *(GOOD.replace('"reward": 0.0', f'"reward": {reward}') for reward in ("NaN", "Infinity", "null", '"much"')),
        GOOD.replace('"memories": null', '"memories": {}'),
        GOOD.replace('"values": null', '"values": [1, 2, 3]'),
        GOOD[:-1].split(', "values"')[0] + ", " + SAYS[1:].replace('"weight": [', '"weight": [null, ', 1),
        GOOD[:-1].split(', "values"')[0] + ", " + SAYS[1:].replace('"weight": [', '"weight": [0.5, ', 1),
        GOOD[:-1].split(', "values"')[0] + ", " + SAYS[1:].replace('"values": [', '"values": [0.5, ', 1),
        GOOD[:-1].split(', "values"')[0] + ", " + SAYS[1:].replace('"action": [0', '"action": [7', 1),
    ],
    ids=str,
)
def test_a_damaged_line_is_told_of_and_the_others_are_shown(tmp_path, damage):
    name = write_episode(tmp_path, 1, 6)
    path = episodes_folder(tmp_path) / name / "steps.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines[2] = damage.encode()
    path.write_bytes(b"\n".join(lines))
    steps = Recording(tmp_path).steps(name)
    assert steps.damaged == [3] and [line["time"] for line in steps.lines] == [0, 1, 3, 4, 5]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"kind": 3}', "\udcff"])
def test_a_damaged_heading_is_named(tmp_path, content):
    name = write_episode(tmp_path, 1, 2)
    path = episodes_folder(tmp_path) / name / "episode.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(DamagedError, match=r"episode\.json"):
        Recording(tmp_path).heading(name)


def test_a_newer_format_is_refused_by_its_number(tmp_path):
    name = write_episode(tmp_path, 1, 2)
    path = episodes_folder(tmp_path) / name / "episode.json"
    path.write_text(path.read_text().replace(f'"format": {FORMAT}', '"format": 99'))
    with pytest.raises(DamagedError, match="format 99"):
        Recording(tmp_path).heading(name)


@pytest.mark.parametrize(
    "name", ["../../../etc", "training-1/../../x", "", "..", "/etc/passwd", "training-0000000001x"]
)
def test_a_name_does_not_lead_elsewhere(tmp_path, name):
    write_episode(tmp_path, 1, 2)
    recording = Recording(tmp_path)
    for read in (recording.heading, recording.steps):
        with pytest.raises(DamagedError):
            read(name)


def test_a_run_without_a_record_has_no_episodes(tmp_path):
    assert Recording(tmp_path / "recalls").names() == []


def test_what_came_after_a_step_is_taken_back(tmp_path):
    write_run(tmp_path, 110, 150, 200)
    recalls = tmp_path / "recalls"
    path = episodes_folder(recalls) / "training-000000150" / "steps.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"time":4,', b'"tim', 1))
    take_back(recalls, 162)
    recording = Recording(recalls)
    assert recording.names() == ["training-000000110", "training-000000150"]
    assert recording.heading("training-000000110").length == len(recording.steps("training-000000110").lines) == 30
    # Cut short, it is no longer known what came of it; what could not be read before still cannot be.
    heading, steps = recording.heading("training-000000150"), recording.steps("training-000000150")
    assert (heading.length, heading.total, steps.damaged) == (13, None, [5])
    assert [line["step"] for line in steps.lines] == [step for step in range(150, 163) if step != 154]


def test_a_damaged_episode_that_ended_before_stays_as_it_is(tmp_path):
    write_run(tmp_path, 110)
    recalls = tmp_path / "recalls"
    path = episodes_folder(recalls) / "training-000000110" / "steps.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"step":115,', b'"step":null,', 1).replace(b'"time":4,', b'"tim', 1))
    before = path.read_bytes()
    take_back(recalls, 200)
    assert path.read_bytes() == before and Recording(recalls).heading("training-000000110").length == 30


def test_where_a_memory_was_recalled_is_found_without_reading_every_line(tmp_path):
    name = write_episode(tmp_path, 110, 40)
    recording, expected = Recording(tmp_path), {}
    for line in recording.steps(name).lines:
        for origin in dict.fromkeys(line["memories"]["origin"] if line["memories"] else ()):
            expected.setdefault(origin, []).append(line["time"])
    assert len(expected) > 20 and recording.times_by_origin(name) == expected
