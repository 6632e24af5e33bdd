"""Every picture comes back from its number, whatever was written when."""

from __future__ import annotations

import numpy as np
import pytest

from recall.sheets import PER_SHEET, SheetWriter, read_picture, sheet_path
from tests.recall.records import no_warning

GIGABYTE = 2**30


def random_pictures(count: int, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def in_colour(picture: np.ndarray) -> np.ndarray:
    return picture if picture.ndim == 3 else np.stack([picture] * 3, axis=2)


@pytest.mark.parametrize("shape", [(7, 5), (6, 9, 3)])
def test_pictures_come_back_by_their_numbers(tmp_path, shape):
    pictures = random_pictures(150, shape)
    writer = SheetWriter(tmp_path, GIGABYTE, no_warning)
    for number, picture in enumerate(pictures, start=1):
        writer.add(number, picture)
    writer.close()
    for number, picture in enumerate(pictures, start=1):
        np.testing.assert_array_equal(read_picture(tmp_path, number), in_colour(picture))
    assert read_picture(tmp_path, 1 + 3 * PER_SHEET) is None
    assert writer.nbytes == sum(path.stat().st_size for path in tmp_path.rglob("*.png"))


def test_a_sheet_is_there_as_far_as_it_was_settled(tmp_path):
    pictures = random_pictures(20, (4, 4))
    writer = SheetWriter(tmp_path, GIGABYTE, no_warning)
    for number in range(10):
        writer.add(number, pictures[number])
    assert read_picture(tmp_path, 3) is None
    writer.settle()
    for number in range(10, 20):
        writer.add(number, pictures[number])
    writer.close()
    for number in range(20):
        np.testing.assert_array_equal(read_picture(tmp_path, number), in_colour(pictures[number]))


@pytest.mark.parametrize("at", [0, 5, PER_SHEET - 1, PER_SHEET, 3 * PER_SHEET + 2])
@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 3)])
def test_a_writer_goes_on_where_another_was_and_takes_back_what_came_later(tmp_path, at, shape):
    before, after = random_pictures(260, shape), random_pictures(260, shape, seed=1)
    first = SheetWriter(tmp_path, GIGABYTE, no_warning)
    for number in range(260):
        first.add(number, before[number])
    first.close()
    second = SheetWriter(tmp_path, GIGABYTE, no_warning)
    second.go_on_from(at)
    assert read_picture(tmp_path, 259) is None or at // PER_SHEET == 259 // PER_SHEET
    for number in range(at + 1, 250):
        second.add(number, after[number])
    second.close()
    for number in range(250):
        expected = before[number] if number <= at else after[number]
        np.testing.assert_array_equal(read_picture(tmp_path, number), in_colour(expected))


def test_the_oldest_make_place(tmp_path):
    pictures = random_pictures(10 * PER_SHEET, (8, 8))
    writer = SheetWriter(tmp_path, 4 * PER_SHEET * 64, no_warning)
    for number, picture in enumerate(pictures):
        writer.add(number, picture)
    writer.close()
    kept = [read_picture(tmp_path, PER_SHEET * sheet) is not None for sheet in range(10)]
    assert kept == sorted(kept) and 2 <= sum(kept) < 5
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.png")) <= 4 * PER_SHEET * 64


def test_what_cannot_be_written_is_told_of_once_and_costs_nothing_else(tmp_path):
    (tmp_path / "taken").write_text("a file where a folder should be")
    warnings: list[str] = []
    writer = SheetWriter(tmp_path / "taken", GIGABYTE, warnings.append)
    for number in range(3 * PER_SHEET):
        writer.add(number, np.zeros((4, 4), np.uint8))
    writer.close()
    assert len(warnings) == 1 and "taken" in warnings[0]


def test_a_damaged_sheet_holds_no_picture(tmp_path):
    writer = SheetWriter(tmp_path, GIGABYTE, no_warning)
    writer.add(3, np.zeros((4, 4), np.uint8))
    writer.close()
    path = sheet_path(tmp_path, 0)
    for content in (b"", b"no picture", path.read_bytes()[:20]):
        path.write_bytes(content)
        assert read_picture(tmp_path, 3) is None
