"""What does RandAugment cost the loader's workers, applied by them or only drawn for the device?

CPU milliseconds per clip of fine-tuning on Kinetics, 16 frames at 224 px: read and cropped, with the
augmentation drawn, and with it applied by PIL; and what the device's code takes on one core instead. What a
GPU takes is a row of the GPU benchmark.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from avion_core.data.augment import Draws, draw_erasure, draw_operations
from avion_core.data.dataset import ClipDataset
from avion_core.data.device_augment import augmented, packed
from benchmarks import footage_av, write_result

CLIPS, WARM = 108, 8
VIEW = replace(
    footage_av.RECIPE_VIEW,
    frames=16,
    horizontal_flip=0.5,
    rand_augment="rand-m7-n4-mstd0.5-inc1",
    random_erasing=0.25,
)
"""A clip as in fine-tuning on Kinetics."""


class Augmentation:
    """Augments the same random frames on the device with the same draws, those of VIEW."""

    def __init__(self, *, clips: int, frames: int, side_px: int, device: torch.device) -> None:
        rng, shape = np.random.default_rng(0), (frames, side_px, side_px, 3)
        policy, kind = VIEW.rand_augment, VIEW.rand_augment_interpolation
        assert policy is not None
        draws = [
            Draws(
                draw_operations(policy, side_px=side_px, interpolation=kind, rng=rng),
                draw_erasure(shape, probability=VIEW.random_erasing, rng=rng),
            )
            for _ in range(clips)
        ]
        planes = torch.randint(
            256,
            (clips, frames, 3, side_px, side_px),
            dtype=torch.uint8,
            generator=torch.Generator().manual_seed(0),
        )
        arrays = packed(draws, height=side_px, width=side_px)
        self._batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
        self._batch["frames"] = planes.movedim(2, -1)
        self._moved = {name: value.to(device) for name, value in self._batch.items()}

    def __call__(self) -> None:
        """Augment the batch once."""
        augmented(self._batch, self._moved)


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="avion-augmentation-") as folder:
        index = footage_av.chunks(Path(folder), videos=2, seconds=10)
        clips = footage_av.clips(index, CLIPS)
        views = {
            "decoded": replace(VIEW, rand_augment=None, random_erasing=0.0),
            "drawn": replace(VIEW, augment_on_device=True),
            "augmented": VIEW,
        }
        sets = {name: ClipDataset(clips, index, view) for name, view in views.items()}
        spent: dict[str, list[float]] = {name: [] for name in sets}
        for row in range(CLIPS):
            for name, dataset in sets.items():
                start = time.process_time()
                dataset.sample(row, np.random.default_rng([0, row]))
                spent[name].append(1e3 * (time.process_time() - start))
    device = Augmentation(clips=CLIPS // 4, frames=16, side_px=224, device=torch.device("cpu"))
    start = time.process_time()
    device()
    torch_ms = 1e3 * (time.process_time() - start) / (CLIPS // 4)
    means = {name: statistics.fmean(values[WARM:]) for name, values in spent.items()}
    write_result(
        "augmentation",
        figures={"worker_ms_per_clip": means, "device_code_on_cpu_ms_per_clip": torch_ms},
        ratios={
            "augmented_over_drawn": means["augmented"] / means["drawn"],
            "device_code_over_pil_on_cpu": torch_ms / (means["augmented"] - means["drawn"]),
        },
    )


if __name__ == "__main__":
    main()
