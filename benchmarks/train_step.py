"""Is a training step as fast as one of open_clip's blocks? ViT-B/16, 4 frames at 224 px, one thread.

Both sides are one dual encoder with the same weights: ours, and open_clip's towers with the same fusion of
frames (linear patches, spatial and temporal embedding, joint attention) and texts cut to the same length.
Forward, InfoNCE, backward, AdamW; rounds alternate, medians are compared, in fp32 and in bf16 autocast. Then
the peak memory of our step, in processes of their own, with and without gradient checkpointing.
"""

from __future__ import annotations

import multiprocessing
import resource
from typing import cast

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avion_core.models.architecture import DualEncoderConfig, load_architecture
from avion_core.models.clip import ClipVision
from avion_core.models.dual_encoder import DualEncoder
from avion_core.models.export import open_clip_config, open_clip_state_dict
from avion_core.models.layers import patchify, set_checkpointing
from avion_core.train.losses import info_nce
from benchmarks import median_seconds, write_result

ARCHITECTURE, FRAMES, SIDE, CLIPS, TOKENS, ROUNDS = "clip_vit_b_16", 4, 224, 4, 12, 5


class OpenClipVideo(nn.Module):
    """open_clip's CLIP, its vision tower over the patches of all frames."""

    def __init__(self, ours: DualEncoder) -> None:
        super().__init__()
        config: DualEncoderConfig = ours.config
        self.clip = open_clip.CLIP(**open_clip_config(config, image_size_px=SIDE)["model_cfg"])
        image = DualEncoder(config, frames=1, image_size_px=SIDE)
        tensors = {name: t for name, t in ours.state_dict().items() if name in image.state_dict()}
        image.load_state_dict({**tensors, "vision.temporal_embedding": torch.zeros(1, config.vision.width)})
        self.clip.load_state_dict(open_clip_state_dict(image, config))
        self.clip.logit_scale.requires_grad_(False)
        self.temporal_embedding = nn.Parameter(
            cast(ClipVision, ours.vision).temporal_embedding.detach().clone()
        )
        self.patch_px = config.vision.patch_px

    def forward(self, frames_BCTHW: Tensor, tokens_BL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        video_BD = F.normalize(self.encode_video(frames_BCTHW).float(), dim=-1)
        text_BD = F.normalize(self.encode_text(tokens_BL).float(), dim=-1)
        return video_BD, text_BD, self.clip.logit_scale.exp()

    def encode_video(self, frames_BCTHW: Tensor) -> Tensor:
        tower = self.clip.visual
        patches_BNP = patchify(frames_BCTHW, patch_px=self.patch_px)
        x_BND = F.linear(patches_BNP, tower.conv1.weight.flatten(1))
        places_ND = (tower.positional_embedding[1:] + self.temporal_embedding[:, None]).flatten(0, 1)
        first_D = (tower.class_embedding + tower.positional_embedding[0]).to(x_BND.dtype)
        first_B1D = first_D.expand(len(x_BND), 1, -1)
        x_BND = tower.transformer(tower.ln_pre(torch.cat([first_B1D, x_BND + places_ND], dim=1)))
        return tower.ln_post(x_BND[:, 0]) @ tower.proj

    def encode_text(self, tokens_BL: Tensor) -> Tensor:
        clip, ends_B = self.clip, tokens_BL.argmax(dim=-1)
        length = int(ends_B.max()) + 1
        x_BLD = clip.token_embedding(tokens_BL[:, :length]) + clip.positional_embedding[:length]
        x_BLD = clip.ln_final(clip.transformer(x_BLD, attn_mask=clip.attn_mask[:length, :length]))
        return x_BLD[torch.arange(len(ends_B)), ends_B] @ clip.text_projection


class Step:
    """One training step of a model on a fixed batch, in float32 or bf16 autocast."""

    def __init__(self, model: nn.Module, *, bf16: bool) -> None:
        self._model, self._bf16 = model.train(), bf16
        self._optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-8)
        random = torch.Generator().manual_seed(0)
        self._frames_BCTHW = torch.randn(CLIPS, 3, FRAMES, SIDE, SIDE, generator=random)
        self._tokens_BL = torch.randint(1, 49000, (CLIPS, 77), generator=random)
        self._tokens_BL[:, TOKENS - 1] = 49407
        self._tokens_BL[:, TOKENS:] = 0

    def forward(self) -> tuple[Tensor, Tensor, Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=self._bf16):
            video_BD, text_BD, scale = self._model(self._frames_BCTHW, self._tokens_BL)
            return video_BD, text_BD, scale

    def __call__(self) -> None:
        self._optimizer.zero_grad()
        video_BD, text_BD, scale = self.forward()
        info_nce(video_BD, text_BD, scale=scale).backward()
        self._optimizer.step()


def our_model() -> DualEncoder:
    """The architecture with fresh weights of seed 0."""
    torch.manual_seed(0)
    config = cast(DualEncoderConfig, load_architecture(ARCHITECTURE))
    return DualEncoder(config, frames=FRAMES, image_size_px=SIDE)


def peak_mb(checkpointing: bool) -> float:
    """Largest resident memory of this process after two steps, in MB."""
    torch.set_num_threads(1)
    model = our_model()
    set_checkpointing(model, checkpointing)
    step = Step(model, bf16=False)
    for _ in range(2):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def main() -> None:
    torch.set_num_threads(1)
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        peaks = pool.map(peak_mb, [False, True], chunksize=1)
    ours = our_model()
    models = {"ours": ours, "open_clip": OpenClipVideo(ours)}
    steps = {
        f"{name}_{precision}": Step(model, bf16=precision == "bf16")
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
