"""Rows of the GPU benchmark (`gpu.py`): models, and how they are trained."""

from __future__ import annotations

from dataclasses import dataclass, replace

from avion_core.models.architecture import Architecture, DualEncoderConfig, VideoMAEConfig
from avion_core.models.layers import ATTENTION_BACKENDS
from avion_core.models.towers import TextConfig, VisionConfig


@dataclass(frozen=True)
class Row:
    """One line of the table: a model, and how it is trained."""

    architecture: str
    frames: int
    clips: int
    """Clips per GPU and step in the recipe."""
    precision: str = "bf16"
    attention: str = "sdpa"
    """Name in ATTENTION_BACKENDS."""
    sdpa: str | None = None
    """The one kernel that SDPA may use, a name in SDPBackend; None for torch's choice."""
    compile: bool = False
    graphs: bool = False
    """Whether compiled blocks run as CUDA graphs."""
    checkpointing: bool = False
    loader: bool = False
    """Whether the loader reads the batches from chunks."""
    augment_on: str | None = None
    """`loader` or `device`: where RandAugment and erasing change the loader's clips; None for nowhere."""
    plain: str | None = None
    """`ours` or `open_clip`: a bare step on one batch on the device, `augmentation`: that of one batch alone;
    None for the engine's."""


VIT_B = Row("clip_vit_b_16", frames=4, clips=256)
VIT_B_16_FRAMES = replace(VIT_B, frames=16, clips=64)
VIT_L = Row("clip_vit_l_14", frames=4, clips=112)
VIDEOMAE = Row("videomae_vit_b", frames=16, clips=64)
ROWS: dict[str, Row] = {
    "vit_b": VIT_B,
    "vit_b_compiled": replace(VIT_B, compile=True),
    "vit_b_compiled_graphs": replace(VIT_B, compile=True, graphs=True),
    "vit_b_loader": replace(VIT_B, loader=True),
    "plain_ours": replace(VIT_B, plain="ours"),
    "plain_open_clip": replace(VIT_B, plain="open_clip"),
    "vit_b_checkpointed": replace(VIT_B, checkpointing=True),
    "vit_b_compiled_checkpointed": replace(VIT_B, compile=True, checkpointing=True),
    "vit_l": VIT_L,
    "vit_l_checkpointed": replace(VIT_L, checkpointing=True),
    "vit_l_compiled": replace(VIT_L, compile=True),
    "videomae": VIDEOMAE,
    "videomae_compiled": replace(VIDEOMAE, compile=True),
    "vit_b_16_frames": VIT_B_16_FRAMES,
    "vit_b_16_frames_checkpointed": replace(VIT_B_16_FRAMES, checkpointing=True),
    "augmentation": replace(VIT_B_16_FRAMES, plain="augmentation"),
    "augmented_by_device": replace(VIT_B_16_FRAMES, loader=True, augment_on="device"),
    "augmented_by_loader": replace(VIT_B_16_FRAMES, loader=True, augment_on="loader"),
    "vit_b_fp16": replace(VIT_B, precision="fp16"),
    **{f"vit_b_{name}": replace(VIT_B, attention=name) for name in ATTENTION_BACKENDS if name != "sdpa"},
    **{
        f"vit_b_sdpa_{name.partition('_')[0].lower()}": replace(VIT_B, sdpa=name)
        for name in ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION")
    },
}
"""A further model is one more line. The most telling rows come first."""
RATIOS = {
    "compiled_over_eager": ("vit_b_compiled", "vit_b"),
    "graphs_over_compiled": ("vit_b_compiled_graphs", "vit_b_compiled"),
    "checkpointed_over_plain": ("vit_b_checkpointed", "vit_b"),
    "fp16_over_bf16": ("vit_b_fp16", "vit_b"),
    "loader_over_memory": ("vit_b_loader", "vit_b"),
    "augmented_by_device_over_loader": (
        "augmented_by_device",
        "augmented_by_loader",
    ),
    "over_open_clip": ("plain_ours", "plain_open_clip"),
    **{f"{name}_over_sdpa": (f"vit_b_{name}", "vit_b") for name in ATTENTION_BACKENDS if name != "sdpa"},
}
"""Clips a second of one row over those of another."""
TINY: dict[str, Architecture] = {
    "dual_encoder": DualEncoderConfig(
        vision=VisionConfig(width=32, layers=2, heads=2, patch_px=16),
        text=TextConfig(width=32, layers=1, heads=2, context_length=16, vocabulary=512),
        embed_dim=16,
    ),
    "videomae": VideoMAEConfig(
        width=32, layers=2, heads=2, decoder_width=16, decoder_layers=1, decoder_heads=2
    ),
}
"""Stand-ins by kind of architecture."""
