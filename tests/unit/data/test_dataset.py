from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from avion_core.config import TranscodeSettings
from avion_core.data.chunks import ChunkIndex
from avion_core.data.clips import ClipTable
from avion_core.data.dataset import ClipDataset, View, training_crop
from avion_core.data.loader import BatchLoader
from avion_core.files import sha256
from avion_core.media import MediaError
from avion_core.media.chunk_table import write_chunk_table
from avion_core.media.crop import center_crop
from avion_core.media.sample import (
    frame_range,
    jittered_window_frames,
    segment_frames,
    spread_window_frames,
    window_frames,
)
from avion_core.train.protocols import on_device
from tests.support.chunked import transcode_all
from tests.support.counted_video import RANDOM_ACCESS, read_number, write_counted

TRAINING = View(
    frames=4,
    sampling="segments",
    stride=4,
    image_size_px=64,
    crop="random_resized",
    crop_scale=(0.5, 1.0),
    horizontal_flip=0.0,
    rand_augment=None,
    random_erasing=0.0,
    training=True,
)
EVALUATION = replace(TRAINING, crop="center", training=False)
ROWS = [
    {"video_id": "v", "start_s": 0.5, "end_s": 1.5, "texts": ["#C C takes the cup", "takes a cup"]},
    {"video_id": "v", "start_s": 1.9, "end_s": 2.6, "texts": ["#C C puts the cup"]},
    {"video_id": "lost", "start_s": 0.0, "end_s": 1.0, "texts": ["#C C waits"]},
]


@pytest.fixture(scope="module")
def chunks(tmp_path_factory: pytest.TempPathFactory) -> ChunkIndex:
    """Video `v` of 170×128 pixels: 60 frames and 30 frames at 30 per second."""
    folder: Path = tmp_path_factory.mktemp("chunks")
    rows = []
    for chunk, (start, frames) in enumerate(((0, 60), (60, 30))):
        path = write_counted(folder / f"{chunk}.mp4", frames, options=RANDOM_ACCESS)
        row = {"video_id": "v", "chunk": chunk, "start_frame": start, "frames": frames, "fps_num": 30}
        row |= {"fps_den": 1, "width": 170, "height": 128, "bytes": path.stat().st_size}
        rows.append({**row, "sha256": sha256(path), "path": str(path)})
    write_chunk_table(folder / "chunks.parquet", rows)
    return ChunkIndex.load(folder / "chunks.parquet")


@pytest.fixture(scope="module")
def clips() -> ClipTable:
    return ClipTable.from_rows(ROWS)


def rng(seed: int | list[int] = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    ("start_s", "end_s", "expected"),
    [
        (0.5, 1.5, (15, 45)),
        (0.1, 0.3, (3, 9)),  # 0.3 * 30 is 9.000000000000002 in floating point
        (0.52, 0.53, (15, 16)),
        (0.52, 0.56, (15, 17)),
        (-1.0, 0.0, (0, 1)),
        (2.99, 9.0, (89, 90)),
        (7.0, 9.0, (89, 90)),
    ],
)
def test_frame_range_covers_the_clip_within_the_video(start_s, end_s, expected):
    assert frame_range(start_s, end_s, fps=30.0, frame_count=90) == expected


def test_training_sample_repeats_with_its_generator(clips, chunks):
    dataset = ClipDataset(clips, chunks, TRAINING)
    first, again, other = (dataset.sample(0, rng(seed))["frames"] for seed in (1, 1, 2))
    assert first.shape == (4, 64, 64, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert set(dataset.sample(0, rng())) == {"row", "frames"} and len(dataset) == 3


@pytest.mark.parametrize("training", [True, False])
def test_a_clip_shorter_than_a_padded_window_goes_on_in_black(clips, chunks, training):
    """Clip 1 has 21 frames, from 57 on: in 3 frames 10 apart all of it, the fourth after its end."""
    view = TRAINING if training else EVALUATION
    dataset = ClipDataset(clips, chunks, replace(view, sampling="padded_window", stride=10, crop="center"))
    frames_THWC = dataset.sample(1, rng())["frames"].reshape(4, 64, 64, 3)
    whole = ClipDataset(clips, chunks, replace(EVALUATION, sampling="window", stride=10))
    seen_THWC = whole.sample(1, rng())["frames"][0]
    np.testing.assert_array_equal(frames_THWC[:3], seen_THWC[:3])
    assert not frames_THWC[3].any() and frames_THWC[2].any()


def test_a_clip_across_chunks_is_one_clip_with_one_crop(clips, chunks):
    """Row 1 is frames 57 to 77; the second chunk begins at 60."""
    view = replace(TRAINING, image_size_px=128, crop="center", frames=8)
    frames = ClipDataset(clips, chunks, view).sample(1, rng(3))["frames"]
    numbers = segment_frames(57, 78, 8, rng=rng(3))
    expected = chunks.read("v", numbers, crop=center_crop(170, 128), size_px=128)
    np.testing.assert_array_equal(frames, expected)
    assert numbers.min() < 60 <= numbers.max()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("augment", [None, "rand-m7-n4-mstd0.5-inc1"])
def test_a_batch_holds_its_samples_in_planes(chunks, workers, augment):
    """Read straight into the batch, or augmented and copied: the same frames as one by one."""
    dataset = ClipDataset(ClipTable.from_rows(ROWS[:2]), chunks, replace(TRAINING, rand_augment=augment))
    options = {"batch_size": 2, "seed": 3, "workers": workers, "shuffle": False, "drop_last": True}
    [batch] = BatchLoader(dataset, **options, clip_timeout_s=60.0).epoch(1)
    alone = [dataset.sample(row, rng([3, 1, row]))["frames"] for row in range(2)]
    np.testing.assert_array_equal(batch["frames"].numpy(), np.stack(alone))
    assert batch["frames"].movedim(-1, -3).is_contiguous()


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("policy", [None, "rand-m7-n4-mstd0.5-inc1"])
def test_what_workers_draw_and_the_device_applies_is_what_they_would_apply(chunks, workers, policy):
    rows = [{**ROWS[0], "start_s": 0.1 * place, "end_s": 0.1 * place + 1} for place in range(12)]
    clips, view = ClipTable.from_rows(rows), replace(TRAINING, rand_augment=policy, random_erasing=0.7)
    options = {"batch_size": 4, "seed": 3, "shuffle": True, "drop_last": True, "clip_timeout_s": 60.0}
    applied = BatchLoader(ClipDataset(clips, chunks, view), **options).epoch(1)
    drawn = BatchLoader(
        ClipDataset(clips, chunks, replace(view, augment_on_device=True)), workers=workers, **options
    ).epoch(1)
    changed = 0
    for expected, batch in zip(applied, drawn, strict=True):
        found = on_device(batch, torch.device("cpu"))
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], value) for name, value in expected.items())
        changed += int((found["frames"] != batch["frames"]).any(dim=(1, 2, 3, 4)).sum())
    assert changed > 6


def test_evaluation_views_are_clips_times_crops_with_crops_fastest(clips, chunks):
    view = replace(EVALUATION, sampling="window", stride=2, frames=3, clips=5, crops=3, image_size_px=128)
    frames = ClipDataset(clips, chunks, view).sample(0, rng())["frames"]
    assert frames.shape == (15, 3, 128, 128, 3)
    for place in range(5):
        numbers = window_frames(15, 45, 3, stride=2, view=place, views=5)
        for side, left in enumerate((0, 21, 42)):
            crop = replace(center_crop(170, 128), left=float(left))
            expected = chunks.read("v", numbers, crop=crop, size_px=128)
            np.testing.assert_array_equal(frames[place * 3 + side], expected)
    left_views = frames[::3]
    assert [read_number(view[0]) for view in left_views] == [15, 21, 27, 33, 40]


def test_one_evaluation_view_is_the_middle_and_ignores_the_generator(clips, chunks):
    dataset = ClipDataset(clips, chunks, EVALUATION)
    one, two = (dataset.sample(0, rng(seed))["frames"] for seed in (1, 2))
    assert one.shape == (1, 4, 64, 64, 3)
    np.testing.assert_array_equal(one, two)


def test_flip_augmentation_and_erasing_are_applied(clips, chunks):
    plain = replace(TRAINING, crop="center")
    frames = ClipDataset(clips, chunks, plain).sample(0, rng())["frames"]
    flipped = ClipDataset(clips, chunks, replace(plain, horizontal_flip=1.0)).sample(0, rng())["frames"]
    np.testing.assert_array_equal(flipped, frames[:, :, ::-1])
    for change in ({"rand_augment": "rand-m9-n4-inc1"}, {"random_erasing": 1.0}):
        changed = ClipDataset(clips, chunks, replace(plain, **change)).sample(0, rng(5))["frames"]
        assert changed.shape == frames.shape and (changed != frames).any()


@pytest.mark.parametrize(
    ("sampling", "rule"),
    [("spread_window", spread_window_frames), ("jittered_window", jittered_window_frames)],
)
def test_windows_of_training_are_plain_windows_in_evaluation(clips, chunks, sampling, rule, monkeypatch):
    monkeypatch.setattr(ClipDataset, "_read", lambda self, video_id, numbers, *rest: numbers)
    view = replace(TRAINING, sampling=sampling, stride=3)
    numbers = ClipDataset(clips, chunks, view).sample(0, rng(1))["frames"]
    assert numbers.tolist() == rule(15, 45, 4, stride=3, rng=rng(1)).tolist()
    numbers = ClipDataset(clips, chunks, replace(view, training=False)).sample(0, rng(1))["frames"]
    assert numbers.tolist() == [window_frames(15, 45, 4, stride=3).tolist()]


def test_augmentation_of_whole_frames_comes_before_the_crop(clips, chunks, monkeypatch):
    """VideoMAE's order: what RandAugment does nothing to is the clip as it is read otherwise."""
    shapes = []

    def nothing(clip_THWC, **options):
        shapes.append((clip_THWC.shape, options["policy"], options["interpolation"]))
        return clip_THWC

    monkeypatch.setattr("avion_core.data.dataset.rand_augment_clip", nothing)
    view = replace(TRAINING, horizontal_flip=0.5, rand_augment="rand-m7-n4", crop_scale=(0.3, 0.6))
    view = replace(view, rand_augment_interpolation="bicubic")
    for seed in range(4):
        after = ClipDataset(clips, chunks, view).sample(0, rng(seed))["frames"]
        whole = replace(view, rand_augment_whole_frame=True)
        before = ClipDataset(clips, chunks, whole).sample(0, rng(seed))["frames"]
        assert before.shape == after.shape
        assert np.abs(before.astype(int) - after).mean() < 3
    assert set(shapes) == {
        ((4, 64, 64, 3), "rand-m7-n4", "bicubic"),
        ((4, 128, 170, 3), "rand-m7-n4", "bicubic"),
    }


@pytest.mark.parametrize("crop", ["random_resized", "multi_scale", "center"])
def test_training_crops_lie_within_the_frame_and_flip_half_the_time(crop):
    view, generator = replace(TRAINING, crop=crop, horizontal_flip=0.5), rng()
    crops = [training_crop(170, 128, view=view, rng=generator) for _ in range(400)]
    for box in crops:
        box.check(170, 128)
    assert 150 < sum(box.flip for box in crops) < 250


def test_text_is_chosen_with_the_same_generator_and_tokenised(clips, chunks):
    def choose(row: int, generator: np.random.Generator) -> tuple[int, str]:
        texts = clips.texts(row)
        choice = int(generator.integers(len(texts)))
        return 10 * row + choice, texts[choice]

    dataset = ClipDataset(clips, chunks, TRAINING, choose_text=choose, context_length=12)
    samples = [dataset.sample(0, rng(seed)) for seed in range(8)]
    assert {sample["text_id"] for sample in samples} == {0, 1} and dataset.has_texts
    assert samples[0]["tokens"].shape == (12,)
    assert len({tuple(sample["tokens"].tolist()) for sample in samples}) == 2


def test_the_longest_clip_is_counted_in_frames_and_over_videos_that_have_some(clips, chunks):
    assert ClipDataset(clips, chunks, TRAINING).longest_clip() == 30
    lost = ClipTable.from_rows([{**ROWS[2], "end_s": 9.0}])
    assert ClipDataset(lost, chunks, TRAINING).longest_clip() == 0
    short = ClipTable.from_rows([ROWS[1], {**ROWS[2], "end_s": 9.0}])
    assert ClipDataset(short, chunks, TRAINING).longest_clip() == 21


def test_a_video_without_chunks_is_a_media_error(clips, chunks):
    for view in (TRAINING, EVALUATION):
        with pytest.raises(MediaError, match="lost: the video is not in the chunk index"):
            ClipDataset(clips, chunks, view).sample(2, rng())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crops": 2}, "crops must be 1 or 3"),
        ({"crop": "centre"}, "unknown crop 'centre'"),
        ({"sampling": "all"}, "unknown sampling 'all'"),
        (
            {"rand_augment": "rand-m9", "rand_augment_whole_frame": True, "augment_on_device": True},
            "RandAugment comes before the crop",
        ),
    ],
)
def test_impossible_views_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(EVALUATION, **change)


def test_a_bad_policy_is_refused_before_the_first_sample(clips, chunks):
    with pytest.raises(ValueError, match="not a policy that timm knows"):
        ClipDataset(clips, chunks, replace(TRAINING, rand_augment="augmix"))
    view = replace(TRAINING, rand_augment="rand-m9-t3a", augment_on_device=True)
    with pytest.raises(ValueError, match=r"cannot apply Desaturate, GaussianBlur.*augment_on: loader"):
        ClipDataset(clips, chunks, view)


@pytest.fixture(scope="module")
def own_rates(tmp_path_factory: pytest.TempPathFactory) -> tuple[ClipTable, ChunkIndex]:
    """Three videos at three rates, in chunks that keep them, and of each a clip of the frames 10 to 109."""
    folder: Path = tmp_path_factory.mktemp("rates")
    rates = {"a": Fraction(25), "b": Fraction(30000, 1001), "c": Fraction(60)}
    files = [
        write_counted(folder / f"{name}.mp4", 120, width=256, height=256, fps=fps)
        for name, fps in rates.items()
    ]
    videos = {"video_id": [path.stem for path in files], "path": [str(path) for path in files]}
    pq.write_table(pa.table({**videos, "bytes": [0, 0, 0]}), folder / "videos.parquet")
    settings = TranscodeSettings(chunk_seconds=1, short_side_px=128, preset="ultrafast", fps=None)
    chunks = ChunkIndex.load(transcode_all(folder, settings))
    rows = [
        {"video_id": name, "start_s": float(10 / fps), "end_s": float(110 / fps), "texts": [""]}
        for name, fps in rates.items()
    ]
    return ClipTable.from_rows(rows), chunks


@pytest.mark.parametrize(
    ("sampling", "rule"),
    [
        ("window", window_frames),
        ("spread_window", spread_window_frames),
        ("jittered_window", jittered_window_frames),
    ],
)
def test_windows_of_videos_that_keep_their_rate_count_the_frames_of_the_source(own_rates, sampling, rule):
    """A window of 64 frames of every source, whatever they last, as the originals count them."""
    clips, chunks = own_rates
    view = replace(TRAINING, sampling=sampling, frames=16, crop="center", image_size_px=128)
    dataset = ClipDataset(clips, chunks, view)
    for row in range(3):
        shown = [read_number(frame) for frame in dataset.sample(row, rng(row))["frames"]]
        assert shown == rule(10, 110, 16, stride=4, rng=rng(row)).tolist()
    assert dataset.longest_clip() == 100
