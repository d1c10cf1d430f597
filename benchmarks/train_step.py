"""Is a training step as fast as one of open_clip's blocks? ViT-B/16, 4 frames at 224 px, one thread.

Both sides are one dual encoder with the same weights (`plain_step.py`). Rounds alternate, medians are
compared, in fp32 and in bf16 autocast. Then the peak memory of our step, in processes of their own, with and
without gradient checkpointing.
"""

from __future__ import annotations

import multiprocessing
import resource

import torch

from avion_core.models.layers import set_checkpointing
from benchmarks import median_seconds, write_result
from benchmarks.plain_step import OpenClipVideo, Step, our_model

ARCHITECTURE, FRAMES, SIDE, CLIPS, ROUNDS = "clip_vit_b_16", 4, 224, 4, 5


def peak_mb(checkpointing: bool) -> float:
    """Largest resident memory of this process after two steps, in MB."""
    torch.set_num_threads(1)
    model = our_model(ARCHITECTURE, frames=FRAMES, image_size_px=SIDE)
    set_checkpointing(model, checkpointing)
    step = Step(model, model, clips=CLIPS, bf16=False)
    for _ in range(2):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def main() -> None:
    torch.set_num_threads(1)
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        peaks = pool.map(peak_mb, [False, True], chunksize=1)
    ours = our_model(ARCHITECTURE, frames=FRAMES, image_size_px=SIDE)
    models = {"ours": ours, "open_clip": OpenClipVideo(ours)}
    steps = {
        f"{name}_{precision}": Step(model, ours, clips=CLIPS, bf16=precision == "bf16")
        for precision in ("fp32", "bf16")
        for name, model in models.items()
    }
    for precision, tolerance in {"fp32": 1e-4, "bf16": 5e-2}.items():
        pairs = (steps[f"{name}_{precision}"].forward()[:2] for name in models)
        for one, other in zip(*pairs, strict=True):
            torch.testing.assert_close(one, other, atol=tolerance, rtol=0)
    seconds = median_seconds(steps, rounds=ROUNDS)
    write_result(
        "train_step",
        figures={
            "clips": CLIPS,
            "seconds_a_step": seconds,
            "peak_mb": dict(zip(["plain", "checkpointed"], peaks, strict=True)),
        },
        ratios={
            "over_open_clip_fp32": seconds["open_clip_fp32"] / seconds["ours_fp32"],
            "over_open_clip_bf16": seconds["open_clip_bf16"] / seconds["ours_bf16"],
            "bf16_over_fp32": seconds["ours_fp32"] / seconds["ours_bf16"],
            "peak_checkpointed_over_plain": peaks[1] / peaks[0],
        },
    )


if __name__ == "__main__":
    main()
