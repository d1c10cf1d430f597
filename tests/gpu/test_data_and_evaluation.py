"""Evaluation on the device gives the CPU's figures, and the loader's workers its batches."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from avion_core.data.augment import Draws, draw_erasure, draw_operations
from avion_core.data.clips import ClipTable
from avion_core.data.dataset import ClipDataset
from avion_core.data.device_augment import packed
from avion_core.data.loader import BatchLoader
from avion_core.evaluate.inference import over_clips, over_texts
from avion_core.train.distributed import alone
from avion_core.train.protocols import on_device
from benchmarks import footage_av
from tests.support.drawn import MIXED, textured_clip
from tests.unit.train.tiny_tasks import FRAMES, SIZE_PX, WORDS, make_task, make_training

CLIPS, VIEWS = 12, 3


class Pictures:
    """An evaluation view of random clips."""

    def sample(self, row, rng):
        drawn = np.random.default_rng(row)
        return {"frames": drawn.integers(256, size=(VIEWS, FRAMES, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)}


def outputs(task: str, device: str) -> np.ndarray:
    """What an evaluation computes for every clip: embeddings, or the probabilities of classes."""
    model = make_task(task, world=alone(device)).model.eval()

    def forward(frames, rows):
        normalised = model.normalise(frames)
        if task == "classification":
            return model(normalised).float().softmax(-1)
        return model.encode_video(normalised)

    clips = ClipTable.from_rows(
        {"video_id": "v", "start_s": row, "end_s": row + 1, "texts": []} for row in range(CLIPS)
    )
    return over_clips(
        forward,
        Pictures(),
        clips,
        views=VIEWS,
        batch_size=12,
        threads=2,
        clip_timeout_s=60.0,
        max_bad_share=0.0,
        limit="max_bad_share",
        device=torch.device(device),
        title="clips",
    ).outputs


@pytest.mark.parametrize("task", ["contrastive", "classification"])
def test_clips_are_evaluated_as_on_the_cpu(task, device):
    here, there = outputs(task, device), outputs(task, "cpu")
    assert len(here) == CLIPS
    np.testing.assert_allclose(here, there, atol=1e-4)
    assert np.abs(there[0] - there[1]).max() > 10 * 1e-4, "clips that look alike would show nothing"


def test_texts_are_embedded_as_on_the_cpu(device):
    tokens = torch.randint(1, WORDS, (300, 8), generator=torch.Generator().manual_seed(0))
    here, there = (
        over_texts(
            make_task("contrastive", world=alone(where)).model.eval().encode_text,
            tokens,
            device=torch.device(where),
        )
        for where in (device, "cpu")
    )
    np.testing.assert_allclose(here, there, atol=1e-4)


@pytest.fixture
def loader(device, tmp_path):
    """Makes a loader of 16 clips with this number of workers; the device is in use."""
    torch.ones(8, device=device).sum().item()
    index = footage_av.chunks(tmp_path / "chunks", videos=2, seconds=2, width=64, height=48)
    clips = footage_av.clips(index, 16)
    view = replace(footage_av.RECIPE_VIEW, frames=FRAMES, image_size_px=SIZE_PX)

    def make(workers: int) -> BatchLoader:
        return BatchLoader(
            ClipDataset(clips, index, view),
            batch_size=4,
            seed=0,
            workers=workers,
            shuffle=True,
            drop_last=True,
            clip_timeout_s=60.0,
            pin_memory=device == "cuda",
        )

    return make


def test_workers_give_the_same_batches_once_the_device_is_in_use(device, loader):
    def batches(workers: int) -> list[dict[str, torch.Tensor]]:
        return [{name: value.clone() for name, value in batch.items()} for batch in loader(workers).epoch(0)]

    one, other = batches(0), batches(2)
    assert len(one) == len(other) == 4
    for batch, same in zip(one, other, strict=True):
        for name, value in batch.items():
            assert torch.equal(value.to(device), same[name].to(device))
    assert math.isclose(one[0]["frames"].float().std(), 45, abs_tol=40), "a textured wall, not one colour"
    assert next(loader(2).epoch(0))["frames"].is_pinned() == (device == "cuda")


def test_a_training_fed_by_workers_is_that_of_the_batches_one_by_one(device, loader, tmp_path):
    fed, plain = (make_training(tmp_path / place, "reconstruction", world=alone(device)) for place in "ab")
    fed.batches = loader(2)
    fed.run("fed")
    updates = [plain.update(batch) for epoch in range(2) for batch in loader(0).epoch(epoch)]
    found = [json.loads(line)["loss"] for line in fed.store.log_path.read_text().splitlines()]
    assert found == pytest.approx([update.values["loss"] for update in updates], rel=1e-4)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_clips_are_augmented_as_on_the_cpu(interpolation, device):
    """But for what a GPU may round otherwise in the sums of resampling and blending."""
    rng, clips = np.random.default_rng(0), np.stack([textured_clip(seed=seed) for seed in range(40)])
    draws = [
        Draws(
            draw_operations(MIXED[0], side_px=40, interpolation=interpolation, rng=rng),
            draw_erasure(clips.shape[1:], probability=0.5, rng=rng),
        )
        for _ in clips
    ]
    arrays = {"frames": clips, **packed(draws, height=48, width=40)}
    batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
    here, there = (on_device(batch, torch.device(where))["frames"].cpu() for where in (device, "cpu"))
    assert (here != there).float().mean() < 1e-3
    assert (here != batch["frames"]).float().mean() > 0.3
