import hashlib
import random

import numpy as np
import pytest
import torch
from PIL import Image

from avion_core.data.augment import erase_clip, posterize, rand_augment_clip
from tests.support.drawn import operation, textured_clip

POLICY = "rand-m7-n4-mstd0.5-inc1"


def still_clip(frames: int = 4) -> np.ndarray:
    """The same textured picture, `frames` times."""
    picture = np.random.default_rng(0).integers(0, 256, (32, 40, 3)).astype(np.uint8)
    return np.repeat(picture[None], frames, axis=0)


@pytest.mark.parametrize("seed", range(8))
def test_every_frame_goes_through_the_same_augmentation(seed):
    clip = rand_augment_clip(still_clip(), policy=POLICY, rng=np.random.default_rng(seed))
    assert clip.shape == (4, 32, 40, 3) and clip.dtype == np.uint8
    for frame in clip[1:]:
        np.testing.assert_array_equal(frame, clip[0])


def test_the_generator_alone_decides():
    def augmented(seed: int) -> bytes:
        rng = np.random.default_rng(seed)
        clip = rand_augment_clip(still_clip(), policy=POLICY, rng=rng)
        return erase_clip(clip, probability=1.0, rng=rng).tobytes()

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    first = augmented(0)
    random.seed(2), np.random.seed(2), torch.manual_seed(2)
    assert augmented(0) == first and len({augmented(seed) for seed in range(8)}) == 8


def test_the_global_generators_go_on_as_if_nothing_had_happened():
    def draws(*, disturb: bool) -> tuple:
        random.seed(3), np.random.seed(3), torch.manual_seed(3)
        if disturb:
            rng = np.random.default_rng(0)
            erase_clip(rand_augment_clip(still_clip(), policy=POLICY, rng=rng), probability=1.0, rng=rng)
        return random.random(), np.random.rand(), torch.rand(1).item()

    assert draws(disturb=True) == draws(disturb=False)


def test_erasing_fills_one_box_the_same_in_all_frames():
    black = np.zeros((3, 60, 80, 3), np.uint8)
    for seed in range(10):
        erased = erase_clip(black, probability=1.0, rng=np.random.default_rng(seed)) > 0
        box = erased.any(axis=(0, 3))
        rows, columns = np.flatnonzero(box.any(axis=1)), np.flatnonzero(box.any(axis=0))
        inside = erased[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert inside.mean() > 0.9 and inside.sum() == erased.sum()
        assert 0.015 < inside[0, ..., 0].size / (60 * 80) < 0.35
    assert black.max() == 0


def test_erasing_happens_with_its_probability():
    black = np.zeros((1, 16, 16, 3), np.uint8)
    rng = np.random.default_rng(0)
    happened = sum(erase_clip(black, probability=0.25, rng=rng).any() for _ in range(400))
    assert 70 < happened < 130
    assert not erase_clip(black, probability=0.0, rng=rng).any()


def test_what_moves_into_view_is_the_originals_grey():
    white, seen = np.full((1, 32, 40, 3), 255, np.uint8), set()
    for seed in range(60):
        clip = rand_augment_clip(white, policy="rand-m9-n1", rng=np.random.default_rng(seed))
        if clip.max() == 255 and clip.min() < 255:  # moved, not recoloured
            seen |= set(np.unique(clip).tolist())
    assert seen == {128, 255}


def test_the_recipe_says_how_moved_pixels_are_sampled():
    def augmented(seed: int, interpolation: str) -> bytes:
        rng = np.random.default_rng(seed)
        clip = still_clip()
        return rand_augment_clip(clip, policy="rand-m9-n1", rng=rng, interpolation=interpolation).tobytes()

    kinds = ("nearest", "bilinear", "bicubic")
    different = [len({augmented(seed, kind) for kind in kinds}) for seed in range(30)]
    assert set(different) == {1, 3}  # of draws that only recolour, and of those that move pixels


def test_an_unknown_policy_is_refused():
    with pytest.raises(ValueError, match="rand-x9' is not a policy"):
        rand_augment_clip(still_clip(1), policy="rand-x9", rng=np.random.default_rng(0))


def test_a_picture_of_no_bits_is_black():
    """timm's weakest and strongest magnitudes keep none, and Pillow refuses to."""
    for drawn in (operation("Posterize", 0), operation("PosterizeIncreasing", 10)):
        picture = drawn(Image.fromarray(still_clip(1)[0]))
        assert drawn.arguments == (0,) and not np.asarray(picture).any()


def test_magnitudes_over_10_leave_no_bits_either():
    """timm then draws less than none."""
    picture = posterize(Image.fromarray(still_clip(1)[0]), -2)
    assert not np.asarray(picture).any()


@pytest.mark.parametrize(
    ("policy", "interpolation", "digest"),
    [
        ("rand-m7-n4-mstd0.5-inc1", "nearest", "83fff7c002d86858"),
        ("rand-m7-n4-mstd0.5-inc1", "bilinear", "7683fd4a4fb5c7de"),
        ("rand-m7-n4-mstd0.5-inc1", "bicubic", "bdf7a15d1afb019a"),
        ("rand-m9-mstd0.5", "bilinear", "44ec0dde030e781a"),
        ("rand-m9-mstd0.5", "bicubic", "e7f3e771df9b058b"),
    ],
)
def test_clips_are_those_of_timms_own_calls(policy, interpolation, digest):
    """Recorded when timm's transform was called on each frame with the same seed."""
    clips = hashlib.sha256()
    for seed in range(100):
        rng = np.random.default_rng(seed)
        clip = rand_augment_clip(textured_clip(), policy=policy, rng=rng, interpolation=interpolation)
        clips.update(erase_clip(clip, probability=0.5, rng=rng).tobytes())
        clips.update(rng.bytes(4))
    assert clips.hexdigest().startswith(digest)
