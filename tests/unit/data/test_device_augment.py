"""The device's augmentation against Pillow's and timm's: the same bits."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from avion_core.data import device_augment
from avion_core.data.augment import (
    Draws,
    draw_erasure,
    draw_operations,
    erase_clip,
    rand_augment_clip,
)
from avion_core.data.device_augment import augmented, lacking, packed
from tests.support.drawn import MIXED, NAMES, difficult_clip, operation, textured_clip


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def on_device(clips_BTHWC: np.ndarray, draws: list[Draws]) -> np.ndarray:
    """The clips as the device augments them."""
    arrays = packed(draws, height=clips_BTHWC.shape[2], width=clips_BTHWC.shape[3])
    batch = {"frames": clips_BTHWC, "rows": np.arange(len(draws)), **arrays}
    batch = {name: torch.from_numpy(value) for name, value in batch.items()}
    result = augmented(batch, batch)
    assert result.keys() == {"frames", "rows"}
    return result["frames"].numpy()


def by_pillow(clip_THWC: np.ndarray, *operations) -> np.ndarray:
    pictures = [Image.fromarray(frame) for frame in clip_THWC]
    for one in operations:
        pictures = [one(picture) for picture in pictures]
    return np.stack([np.asarray(picture) for picture in pictures])


MAGNITUDES = [*np.linspace(0, 10, 11).tolist(), 0.3, 4.7, 9.99]


@pytest.mark.parametrize(
    ("name", "interpolation"),
    [
        (name, kind)
        for name in NAMES
        for kind in ("nearest", "bilinear", "bicubic")
        if kind == "bilinear" or name.startswith(("Rotate", "Shear", "Translate"))
    ],
)
def test_every_operation_gives_pillows_pictures(name, interpolation):
    clip = difficult_clip()
    drawn = [
        operation(name, magnitude, interpolation=interpolation, seed=seed)
        for magnitude in MAGNITUDES
        for seed in (0, 1)
    ]
    expected = np.stack([by_pillow(clip, one) for one in drawn])
    found = on_device(np.stack([clip] * len(drawn)), [Draws((one,)) for one in drawn])
    np.testing.assert_array_equal(found, expected)
    assert (expected != clip).any()


def test_contrast_of_every_range_of_levels_is_pillows():
    levels = np.arange(256, dtype=np.uint8)
    frames = [levels.clip(low, high) for low in range(0, 256, 3) for high in range(low, 256, 7)]
    clip = np.stack(frames)[:, None, :, None].repeat(3, axis=-1)
    for name in ("AutoContrast", "Equalize"):
        drawn = operation(name, 5)
        [found] = on_device(clip[None], [Draws((drawn,))])
        np.testing.assert_array_equal(found, by_pillow(clip, drawn))


@pytest.mark.parametrize("degrees", [0, 90, 180, 270, 360, 45, -12.5])
@pytest.mark.parametrize("side", [40, 41])
def test_rotations_by_any_angle(degrees, side):
    clip = textured_clip(2, 48, 48)[:, :side, :side]
    drawn = replace(operation("Rotate", 5), arguments=(degrees,))
    [found] = on_device(clip[None], [Draws((drawn,))])
    np.testing.assert_array_equal(found, by_pillow(clip, drawn))


@pytest.mark.parametrize("policy", MIXED)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_batch_is_what_the_loader_would_have_made(policy, interpolation):
    """200 draws of policy and erasing, in batches of 20 clips."""
    kept = 0
    for first in range(0, 200, 20):
        clips, draws, expected = [], [], []
        for seed in range(first, first + 20):
            clip = textured_clip(seed=seed)
            rng, same = np.random.default_rng(seed), np.random.default_rng(seed)
            options = {"policy": policy, "interpolation": interpolation}
            expected.append(erase_clip(rand_augment_clip(clip, rng=rng, **options), probability=0.5, rng=rng))
            operations = draw_operations(**options, side_px=40, rng=same)
            draws.append(Draws(operations, draw_erasure(clip.shape, probability=0.5, rng=same)))
            clips.append(clip)
            assert rng.random() == same.random(), "as many draws"
        found = on_device(np.stack(clips), draws)
        np.testing.assert_array_equal(found, np.stack(expected))
        kept += sum(np.array_equal(clip, one) for clip, one in zip(clips, expected, strict=True))
    assert kept < 100


def test_clips_that_share_an_operation_go_through_it_together(monkeypatch):
    calls = []

    def invert(planes, numbers):
        calls.append(len(planes))
        return 255 - planes

    monkeypatch.setitem(device_augment.OPERATIONS, "invert", invert)
    same, other = operation("Invert", 5), operation("Solarize", 5)
    draws = [Draws((same,)), Draws((other, same)), Draws((same, other)), Draws((other, same)), Draws()]
    on_device(np.stack([textured_clip()] * 5), draws)
    assert calls == [2, 2]


def test_a_batch_in_pieces_is_the_same(monkeypatch):
    rng = np.random.default_rng(0)
    clips = np.stack([textured_clip(seed=seed) for seed in range(12)])
    draws = [
        Draws(draw_operations(MIXED[0], side_px=40, interpolation="bilinear", rng=rng)) for _ in range(12)
    ]
    whole = on_device(clips, draws)
    monkeypatch.setattr(device_augment, "VALUES_AT_ONCE", 1)
    np.testing.assert_array_equal(on_device(clips, draws), whole)
    assert (whole != clips).any()


def test_the_batch_itself_stays_and_planes_stay_planes():
    planes = torch.from_numpy(textured_clip()[None]).movedim(-1, -3).contiguous()
    arrays = packed([Draws((operation("Invert", 5),))], height=48, width=40)
    batch = {
        "frames": planes.movedim(-3, -1),
        **{key: torch.from_numpy(value) for key, value in arrays.items()},
    }
    before = planes.clone()
    frames = augmented(batch, batch)["frames"]
    assert torch.equal(frames, 255 - before.movedim(-3, -1))
    assert torch.equal(planes, before)
    assert frames.movedim(-1, -3).is_contiguous()


def test_a_batch_without_draws_is_passed_on():
    batch = {"frames": torch.zeros(1, 2, 8, 8, 3, dtype=torch.uint8)}
    assert augmented(batch, batch) is batch


def test_clips_for_which_nothing_was_drawn_stay():
    clips = np.stack([textured_clip(seed=seed) for seed in range(2)])
    np.testing.assert_array_equal(on_device(clips, [Draws(), Draws()]), clips)


def test_operations_that_only_pillow_has_are_named():
    assert lacking(MIXED[0]) == lacking("rand-m9-tweights") == []
    assert lacking("rand-m9-t3a") == ["Desaturate", "GaussianBlur"]
    with pytest.raises(ValueError, match="is not a policy that timm knows"):
        lacking("augmix")
