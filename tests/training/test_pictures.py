"""Pictures show each observation in its place."""

from __future__ import annotations

import numpy as np
import pytest

from training.pictures import as_picture, mosaic


@pytest.mark.parametrize(
    ("channels", "frame_stack", "shown"), [(1, 1, [0]), (4, 4, [3]), (3, 1, [0, 1, 2]), (3, 3, [2]), (2, 2, [1])]
)
def test_every_observation_is_in_its_row_and_column(channels, frame_stack, shown):
    observations = np.random.default_rng(0).integers(0, 256, (2, 3, channels, 90, 100), dtype=np.uint8)
    picture = mosaic(observations, 255.0, frame_stack)
    assert picture.shape == (2 * 90 + 2, 3 * 100 + 4, 3)
    for row in range(2):
        for column in range(3):
            place = picture[92 * row : 92 * row + 90, 102 * column : 102 * column + 100]
            for colour in range(3):
                expected = observations[row, column, shown[colour % len(shown)]]
                np.testing.assert_array_equal(place[..., colour], expected)
            alone = as_picture(observations[row, column], 255.0, frame_stack)
            np.testing.assert_array_equal(alone if alone.ndim == 3 else np.repeat(alone[..., None], 3, axis=2), place)
    assert (picture[90:92] == 255).all() and (picture[:, 100:102] == 255).all()


def test_small_ones_are_enlarged_and_scaled():
    observations = np.array([[[[[0, 10], [5, 2]]]]], dtype=np.uint8)
    picture = mosaic(observations, 10.0)
    assert picture.shape == (84, 84, 3)
    assert [int(picture[y, x, 0]) for y in (0, 83) for x in (0, 83)] == [0, 255, 128, 51]
