"""Is a training step as fast as a plain one? ViT-B/16 and TimeSformer-B, 4 frames at 224 px, one thread.

ViT-B/16 is compared with open_clip's blocks, TimeSformer-B with attention under masks, each with the same
weights (`plain_step.py`); and TimeSformer-B with ViT-B/16, beside the ratio of their multiply-adds. Rounds
alternate, medians are compared, in fp32 and, where the CPU computes in it, in bf16 autocast. Then the peak
memory of a step, in processes of their own.
"""

from __future__ import annotations

import multiprocessing
import resource

import torch
from torch import nn

from avion_core.models.layers import set_checkpointing
from avion_core.models.sizes import measure
from benchmarks import median_seconds, write_result
from benchmarks.plain_step import OpenClipVideo, Step, masked, our_model

VIT, TIMESFORMER = "clip_vit_b_16", "lavila_tsf_b"
FRAMES, SIDE, CLIPS, ROUNDS = 4, 224, 2, 3
HAS_BF16 = any(has for name, has in torch.cpu.get_capabilities().items() if name.endswith("bf16"))
"""Without such instructions a product in bf16 takes four times as long as in fp32 (measured on AMD EPYC)."""
TOLERANCES = {"fp32": 1e-4, **({"bf16": 5e-2} if HAS_BF16 else {})}
"""Largest difference between the embeddings of a pair, by precision."""


def peak_mb(what: str) -> float:
    """Largest resident memory of this process after two steps, in MB."""
    torch.set_num_threads(1)
    of = our_model(VIT if what.startswith("vit") else TIMESFORMER, frames=FRAMES, image_size_px=SIDE)
    model = masked(of) if what.endswith("masked") else of
    set_checkpointing(model, what.endswith("checkpointed"))
    step = Step(model, of, clips=CLIPS, bf16=False)
    for _ in range(2):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def multiply_adds(architecture: str) -> int:
    """Multiply-adds of the forward pass of one clip and its text."""
    return measure("dual_encoder", architecture, frames=FRAMES, image_size_px=SIDE).multiply_adds


def main() -> None:
    torch.set_num_threads(1)
    peaks = ("vit", "vit_checkpointed", "timesformer", "timesformer_checkpointed", "timesformer_masked")
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        peak = dict(zip(peaks, pool.map(peak_mb, peaks, chunksize=1), strict=True))
    vit, timesformer = (our_model(name, frames=FRAMES, image_size_px=SIDE) for name in (VIT, TIMESFORMER))
    pairs: dict[str, dict[str, nn.Module]] = {
        "vit": {"ours": vit, "open_clip": OpenClipVideo(vit)},
        "timesformer": {"ours": timesformer, "masked": masked(timesformer)},
    }
    steps = {
        f"{of}_{name}_{precision}": Step(model, vit, clips=CLIPS, bf16=precision == "bf16")
        for precision in TOLERANCES
        for of, pair in pairs.items()
        for name, model in pair.items()
    }
    for of, pair in pairs.items():
        for precision, tolerance in TOLERANCES.items():
            found = (steps[f"{of}_{name}_{precision}"].forward()[:2] for name in pair)
            for one, other in zip(*found, strict=True):
                torch.testing.assert_close(one, other, atol=tolerance, rtol=0)
    seconds = median_seconds(steps, rounds=ROUNDS)
    ratios = {"timesformer_multiply_adds_over_vit": multiply_adds(TIMESFORMER) / multiply_adds(VIT)}
    for precision in TOLERANCES:
        ours = seconds[f"vit_ours_{precision}"], seconds[f"timesformer_ours_{precision}"]
        ratios |= {
            f"over_open_clip_{precision}": seconds[f"vit_open_clip_{precision}"] / ours[0],
            f"over_masked_{precision}": seconds[f"timesformer_masked_{precision}"] / ours[1],
            f"timesformer_seconds_over_vit_{precision}": ours[1] / ours[0],
        }
    if HAS_BF16:
        ratios["bf16_over_fp32"] = seconds["vit_ours_fp32"] / seconds["vit_ours_bf16"]
    ratios |= {
        "peak_checkpointed_over_plain": peak["vit_checkpointed"] / peak["vit"],
        "timesformer_peak_over_masked": peak["timesformer"] / peak["timesformer_masked"],
    }
    figures = {"clips": CLIPS, "seconds_a_step": seconds, "peak_mb": peak}
    write_result("train_step", figures=figures, ratios=ratios)


if __name__ == "__main__":
    main()
