"""The plain training step of a dual encoder, ours or a plain implementation with the same weights.

The plain implementations are open_clip's blocks, whose towers get the same fusion of frames (linear patches,
spatial and temporal embedding, joint attention) and texts cut to the same length; and a TimeSformer whose
divided attention is attention among all tokens under a mask. Forward, InfoNCE, backward, AdamW.
"""

from __future__ import annotations

from copy import deepcopy
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avion_core.models.architecture import Architecture, DualEncoderConfig, load_architecture
from avion_core.models.clip import ClipVision
from avion_core.models.dual_encoder import DualEncoder
from avion_core.models.export import open_clip_config, open_clip_state_dict
from avion_core.models.layers import patchify
from avion_core.models.timesformer import DividedAttention, TimeSformer
from avion_core.train.losses import info_nce

TOKENS = 12
"""Length of every text, start and end included."""


class OpenClipVideo(nn.Module):
    """open_clip's CLIP, its vision tower over the patches of all frames; on the CPU, like its argument."""

    def __init__(self, ours: DualEncoder) -> None:
        """Raises ImportError without the package open_clip_torch."""
        import open_clip  # not on every machine with a GPU

        super().__init__()
        config, side = ours.config, ours.image_size_px
        self.clip = open_clip.CLIP(**open_clip_config(config, image_size_px=side)["model_cfg"])
        image = DualEncoder(config, frames=1, image_size_px=side)
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
        length = tokens_BL.shape[1]
        x_BLD = clip.token_embedding(tokens_BL) + clip.positional_embedding[:length]
        x_BLD = clip.ln_final(clip.transformer(x_BLD, attn_mask=clip.attn_mask[:length, :length]))
        return x_BLD[torch.arange(len(ends_B), device=ends_B.device), ends_B] @ clip.text_projection


class MaskedAttention(nn.Module):
    """`DividedAttention` with the same weights, computed among all tokens under a mask."""

    def __init__(self, divided: DividedAttention, *, tokens: int) -> None:
        super().__init__()
        self.divided = divided
        patches = torch.arange(tokens - 1)
        places = (tokens - 1) // divided.frames
        group = patches % places if divided.over_time else patches // places
        mask_NN = torch.ones(tokens, tokens, dtype=torch.bool)
        mask_NN[1:, 1:] = group[:, None] == group
        self.register_buffer("mask_NN", mask_NN)

    def forward(self, x_BND: Tensor, *, first_only: bool = False) -> Tensor:
        """All tokens, or with `first_only` the class token's output."""
        parts = self.divided.queries_keys_values(x_BND, first_only=first_only)
        q_BHNd, k_BHNd, v_BHNd = (part.transpose(1, 2) for part in parts)
        mask = self.get_buffer("mask_NN")[: q_BHNd.shape[2]]
        out_BHNd = F.scaled_dot_product_attention(q_BHNd, k_BHNd, v_BHNd, attn_mask=mask)
        out_BND: Tensor = self.divided.proj(out_BHNd.transpose(1, 2).flatten(2))
        return out_BND


def masked(ours: DualEncoder) -> DualEncoder:
    """A copy of a dual encoder with a TimeSformer, its divided attention computed under masks."""
    copy = deepcopy(ours)
    tokens = 1 + ours.frames * (ours.image_size_px // ours.config.vision.patch_px) ** 2
    for block in cast(TimeSformer, copy.vision).blocks:
        for name in ("attn", "timeattn"):
            setattr(block, name, MaskedAttention(getattr(block, name), tokens=tokens))
    return copy


class Step:
    """One training step of a dual encoder on a fixed batch, in float32 or bf16 autocast."""

    def __init__(
        self, model: nn.Module, of: DualEncoder, *, clips: int, bf16: bool, device: str = "cpu"
    ) -> None:
        """`of` gives the shapes of the batch."""
        self._model, self._bf16, self._device = model.to(device).train(), bf16, device
        self._optimizer = torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad], lr=1e-8, fused=device == "cuda"
        )
        random = torch.Generator().manual_seed(0)
        shape = (clips, 3, of.frames, of.image_size_px, of.image_size_px)
        self._frames_BCTHW = torch.randn(shape, generator=random).to(device)
        words = of.config.text.vocabulary
        tokens_BL = torch.randint(1, words - 408, (clips, TOKENS), generator=random)
        tokens_BL[:, -1] = words - 1
        self._tokens_BL = tokens_BL.to(device)

    def forward(self) -> tuple[Tensor, Tensor, Tensor]:
        with torch.autocast(self._device, torch.bfloat16, enabled=self._bf16):
            video_BD, text_BD, scale = self._model(self._frames_BCTHW, self._tokens_BL)
            return video_BD, text_BD, scale

    def __call__(self) -> None:
        self._optimizer.zero_grad()
        video_BD, text_BD, scale = self.forward()
        info_nce(video_BD, text_BD, scale=scale).backward()
        self._optimizer.step()


def our_model(architecture: str | Architecture, *, frames: int, image_size_px: int) -> DualEncoder:
    """The architecture with fresh weights of seed 0."""
    torch.manual_seed(0)
    config = load_architecture(architecture) if isinstance(architecture, str) else architecture
    return DualEncoder(cast(DualEncoderConfig, config), frames=frames, image_size_px=image_size_px)
