"""What is logged can be read back, by scripts and by TensorBoard, and both read the same."""

from __future__ import annotations

import contextlib
import io
import json
import math
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.logger import Logger
from training.run_directory import RunDirectory
from training.tally import Averages

CONFIG = {"seed": 3, "agent": {"name": "nec", "encoder": {"size": 64}}, "note": "a|b"}


@contextlib.contextmanager
def logging(run: RunDirectory, step: int | None = None):
    """A logger of a new run, or of one that stands at a step; that must have nothing to complain of."""
    warnings: list[str] = []
    with contextlib.closing(Logger(run, step or 0, step is not None, warnings.append)) as logger:
        yield logger
    assert warnings == []


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path, "run", CONFIG, [])


def read(run: RunDirectory) -> tuple[list[dict], EventAccumulator]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    board = EventAccumulator(str(run.tensorboard))
    board.Reload()
    return [json.loads(line, parse_constant=refuse) for line in run.metrics.read_text().splitlines()], board


def test_lines_and_tensorboard_hold_the_same(run):
    beats = [(step, {"charts/return": step / 7, "losses/q": 1e-9 * step}) for step in (1, 250, 10**9)]
    with logging(run) as logger:
        for step, metrics in beats:
            logger.log(step, 1.5, metrics)
    lines, board = read(run)
    assert [line.pop("seconds") for line in lines] == [1.5] * 3
    assert lines == [{"step": step, **metrics} for step, metrics in beats]
    for tag in ("charts/return", "losses/q"):
        events = board.Scalars(tag)
        assert [event.step for event in events] == [step for step, _ in beats]
        np.testing.assert_array_equal([event.value for event in events], [np.float32(m[tag]) for _, m in beats])


def test_what_is_not_finite_is_null(run):
    with logging(run) as logger:
        logger.log(1, 0.0, {"nan": math.nan, "inf": -math.inf, "numpy": np.float32(0.5), "torch": torch.tensor(2.0)})
    (line,), board = read(run)
    del line["seconds"]
    assert line == {"step": 1, "nan": None, "inf": None, "numpy": 0.5, "torch": 2.0}
    assert math.isnan(board.Scalars("nan")[0].value)


def test_pictures_come_back_from_tensorboard_as_they_were(run):
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    with logging(run) as logger:
        logger.log_pictures(3, {"recall/a": picture})
        logger.log_pictures(4, {})
    _, board = read(run)
    (event,) = board.Images("recall/a")
    assert event.step == 3
    with Image.open(io.BytesIO(event.encoded_image_string)) as image:
        np.testing.assert_array_equal(np.asarray(image), picture)


def test_a_line_can_be_read_while_the_run_goes_on(run):
    with logging(run) as logger:
        logger.log(5, 0.0, {"charts/return": 1.0})
        assert json.loads(run.metrics.read_text())["step"] == 5


def test_a_run_continued_from_its_beginning_takes_back_everything(run):
    for step, resumed in ((None, 1.0), (0, 2.0)):
        with logging(run, step) as logger:
            logger.log(5, 0.0, {"charts/return": resumed})
    lines, board = read(run)
    assert [line["charts/return"] for line in lines] == [2.0]
    assert [event.value for event in board.Scalars("charts/return")] == [2.0]


def test_a_continued_run_takes_back_what_came_after_its_checkpoint(run):
    with logging(run) as logger:
        for step in (1, 2, 3):
            logger.log(step, 0.0, {"charts/return": 10.0 + step})
    with logging(run, step=2) as logger:
        for step in (3, 4):
            logger.log(step, 0.0, {"charts/return": 20.0 + step})
    lines, board = read(run)
    assert [(line["step"], line["charts/return"]) for line in lines] == [(1, 11), (2, 12), (3, 23), (4, 24)]
    assert [(event.step, event.value) for event in board.Scalars("charts/return")] == [
        (1, 11),
        (2, 12),
        (3, 23),
        (4, 24),
    ]


def test_the_options_are_written_once(run):
    with logging(run) as logger:
        logger.log(7, 0.0, {"charts/return": 1.0})
    with logging(run, step=7):
        pass
    _, board = read(run)
    (event,) = board.Tensors("config/text_summary")
    rows = event.tensor_proto.string_val[0].decode().split("\n")
    assert rows[2:] == ["| seed | 3 |", "| agent.name | nec |", "| agent.encoder.size | 64 |", "| note | a&#124;b |"]


def test_what_cannot_be_written_is_told_once_and_costs_itself(run, monkeypatch):
    warnings: list[str] = []
    logger = Logger(run, 0, False, warnings.append)
    logger.log(1, 0.0, {"charts/return": 1.0})

    def full(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "add_metrics", full)
        for step in (2, 3):
            logger.log(step, 0.0, {"charts/return": 2.0})
    logger.log(4, 0.0, {"charts/return": 4.0})
    logger.close()
    assert warnings == ["metrics are being lost, training goes on: [Errno 28] No space left on device"]
    lines, board = read(run)
    assert [line["step"] for line in lines] == [1, 4]
    assert [event.step for event in board.Scalars("charts/return")] == [1, 2, 3, 4]


def test_importing_the_logger_does_not_import_tensorboard():
    code = "import sys, training.logger; print('tensorboard' in sys.modules, 'torch' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert output.split() == ["False", "False"]


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.floats(-1e6, 1e6)), max_size=6))
def test_means_over_updates(updates):
    averages = Averages()
    for update in updates:
        averages.add(update)
    means = averages.flush()
    given_to = {tag: [update[tag] for update in updates if tag in update] for tag in "abc"}
    assert means == pytest.approx({tag: float(np.mean(values)) for tag, values in given_to.items() if values}, abs=1e-6)
    assert averages.flush() == {}


def test_the_last_value_outlives_a_flush():
    averages = Averages()
    assert averages.last("memory/size") is None
    averages.add({"memory/size": 3})
    averages.add({"memory/size": 7})
    averages.add({"losses/q": 1.0})
    assert averages.flush() == {"memory/size": 5.0, "losses/q": 1.0}
    assert averages.last("memory/size") == 7.0


def test_numbers_are_shown_as_they_are_distributed(run):
    ages = np.repeat([1.0, 5.0, 100.0], [10, 30, 60])
    with logging(run) as logger:
        logger.log_histograms(7, {"recall/age": ages, "recall/none": np.zeros(0)})
    _, board = read(run)
    assert board.Tags()["histograms"] == ["recall/age"]
    [event] = board.Histograms("recall/age")
    found = event.histogram_value
    assert (event.step, found.num, found.min, found.max, found.sum) == (7, 100, 1.0, 100.0, ages.sum())


def test_points_come_to_the_projector_with_what_is_known_and_their_pictures(run):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    known = [[f"action {number}", str(number)] for number in range(5)]
    points = SimpleNamespace(places=rng.normal(size=(5, 3)), header=["action", "age"], known=known, pictures=pictures)
    with logging(run) as logger:
        logger.log_points(12, "memories", points)
        logger.log_points(12, "nothing", SimpleNamespace(**{**vars(points), "places": np.zeros((0, 3))}))
    folder = run.tensorboard / "00012" / "memories"
    places = [line.split("\t") for line in (folder / "tensors.tsv").read_text().splitlines()]
    np.testing.assert_allclose(np.array(places, dtype=float), points.places, rtol=1e-5)
    lines = (folder / "metadata.tsv").read_text().splitlines()
    assert [line.split("\t") for line in lines] == [points.header, *known]
    sprite = np.asarray(Image.open(folder / "sprite.png"))[..., :3]
    for number, picture in enumerate(pictures):
        row, column = divmod(number, 3)
        np.testing.assert_array_equal(sprite[8 * row : 8 * row + 8, 8 * column : 8 * column + 8], picture)
    assert "nothing" not in (run.tensorboard / "projector_config.pbtxt").read_text()


def test_the_outcome_stands_beside_the_options(run):
    with logging(run) as logger:
        logger.log_outcome(99, {"outcome/return": 12.5})
    _, board = read(run)
    plugins = [board.SummaryMetadata(tag).plugin_data.plugin_name for tag in board.Tags()["tensors"]]
    assert "scalars" in plugins
    [event] = board.Tensors("outcome/return")
    assert event.step == 99 and event.tensor_proto.float_val[0] == 12.5
    from tensorboard.plugins.hparams import plugin_data_pb2

    content = board.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    options = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert options["seed"].number_value == 3 and options["agent.name"].string_value == "nec"
    assert options["agent.encoder.size"].number_value == 64
