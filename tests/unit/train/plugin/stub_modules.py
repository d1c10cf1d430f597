"""The plug-in's towers, with the peculiarities of those that are to come: the names of a TimeSformer's
weights, and queries, keys and values in three matrices as in DistilBERT."""

import torch
from torch import nn

from avion_core.models.base import TextTower, VisionTower
from avion_core.models.layers import Block, patchify, run_blocks
from avion_core.models.names import Same
from avion_core.models.positions import interpolate_frames


def make_blocks(config):
    return nn.ModuleList(Block(config.width, heads=config.heads, norm_eps=1e-6) for _ in range(config.layers))


class StubVision(VisionTower):
    adapters = {"temporal_embedding": interpolate_frames}  # noqa: RUF012

    def __init__(
        self, config, *, frames, image_size_px, activation, drop_path, patch_dropout, embed_dim=None
    ):
        super().__init__()
        self.patch_px = config.patch_px
        self.patch = nn.Linear(3 * config.patch_px**2, config.width)
        self.class_embedding = nn.Parameter(torch.randn(config.width))
        self.temporal_embedding = nn.Parameter(torch.randn(frames, config.width))
        self.blocks = make_blocks(config)
        self.norm = nn.LayerNorm(config.width)
        self.projection = nn.Identity() if embed_dim is None else nn.Linear(config.width, embed_dim)

    def forward(self, frames_BCTHW):
        x_BND = self.patch(patchify(frames_BCTHW, patch_px=self.patch_px))
        frames = len(self.temporal_embedding)
        x_BND = (x_BND.unflatten(1, (frames, -1)) + self.temporal_embedding[:, None]).flatten(1, 2)
        first_B1D = self.class_embedding.expand(len(x_BND), 1, -1)
        x_BND = run_blocks(self.blocks, torch.cat([first_B1D, x_BND], dim=1))
        return self.projection(self.norm(x_BND[:, 0]))

    @classmethod
    def names(cls, config):
        kernel = (-1, 3, config.patch_px, config.patch_px)
        rows = (
            Same("patch.weight", "video_model.patch_embed.proj.weight", kernel),
            Same("patch.bias", "video_model.patch_embed.proj.bias"),
            Same("class_embedding", "video_model.cls_token", (1, 1, -1)),
            Same("temporal_embedding", "video_model.temporal_embed", (1, -1, config.width)),
            Same("projection.", "vid_proj.0."),
            Same("", "video_model."),
        )
        return {"avion": rows}


class StubText(TextTower):
    def __init__(self, config, *, activation, embed_dim):
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocabulary, config.width)
        self.blocks = make_blocks(config)
        self.projection = nn.Linear(config.width, embed_dim)

    def forward(self, tokens_BL):
        return self.projection(run_blocks(self.blocks, self.token_embedding(tokens_BL))[:, 0])

    @classmethod
    def names(cls, config):
        heads = ("q_lin", "k_lin", "v_lin")
        rows = (
            Same("projection.", "txt_proj.1."),
            Same("blocks.", "text_model.transformer.layer."),
            Same("token_embedding.", "text_model.embeddings.word_embeddings."),
            Same(".attn.qkv.", tuple(f".attention.{name}." for name in heads)),
            Same(".attn.proj.", ".attention.out_lin."),
        )
        return {"avion": rows}
