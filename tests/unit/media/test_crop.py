import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avion_core.media.crop import (
    ASPECTS,
    MULTI_SCALES,
    Crop,
    center_crop,
    multi_scale_crop,
    random_resized_crop,
    three_crops,
)

sizes = st.tuples(st.integers(16, 700), st.integers(16, 700))


def test_squares_by_hand():
    assert center_crop(170, 128) == Crop(21, 0, 128, 128)
    assert center_crop(128, 171) == Crop(0, 21.5, 128, 128)
    assert three_crops(170, 128) == (Crop(0, 0, 128, 128), Crop(21, 0, 128, 128), Crop(42, 0, 128, 128))
    assert [crop.top for crop in three_crops(128, 170)] == [0, 21, 42]


@given(sizes, st.integers(0, 2**32))
def test_every_crop_lies_within_the_frame(size, seed):
    rng = np.random.default_rng(seed)
    crops = [center_crop(*size), *three_crops(*size), multi_scale_crop(*size, rng=rng)]
    crops += [random_resized_crop(*size, scale=scale, rng=rng) for scale in ((0.08, 1.0), (1.0, 1.0))]
    for crop in crops:
        crop.check(*size)


def test_random_resized_crop_keeps_its_ranges_of_area_and_aspect():
    rng = np.random.default_rng(1)
    crops = [random_resized_crop(640, 480, scale=(0.25, 0.5), rng=rng) for _ in range(300)]
    areas = np.array([crop.width * crop.height / (640 * 480) for crop in crops])
    aspects = np.array([crop.width / crop.height for crop in crops])
    assert 0.245 <= areas.min() < 0.26 and 0.49 < areas.max() <= 0.505
    assert ASPECTS[0] - 0.01 <= aspects.min() < 0.78 and 1.28 < aspects.max() <= ASPECTS[1] + 0.01
    assert len({(crop.left, crop.top) for crop in crops}) > 250


def test_random_resized_crop_of_a_strip_takes_the_middle_with_the_nearest_aspect():
    crop = random_resized_crop(1000, 30, scale=(1.0, 1.0), rng=np.random.default_rng(0))
    assert crop == Crop(480, 0, 40, 30)


def test_multi_scale_sides_differ_by_one_step_at_most():
    rng = np.random.default_rng(0)
    sides = [int(200 * scale) for scale in MULTI_SCALES]
    pairs, places = set(), set()
    for _ in range(2000):
        crop = multi_scale_crop(300, 200, rng=rng)
        pairs.add((sides.index(crop.width), sides.index(crop.height)))
        if (crop.width, crop.height) == (100 * 2 * 0.75, 100 * 2 * 0.75):
            places.add((crop.left, crop.top))
    assert pairs == {(i, j) for i in range(4) for j in range(4) if abs(i - j) <= 1}
    assert len(places) == 13 and {(0, 0), (150, 50), (75, 25)} <= places


@pytest.mark.parametrize("box", [(-1, 0, 5, 5), (0, 0, 11, 5), (0, 6, 5, 5), (0, 0, 0, 5)])
def test_a_box_outside_the_frame_is_refused(box):
    with pytest.raises(ValueError, match="within the frame of 10x10"):
        Crop(*box).check(10, 10)
