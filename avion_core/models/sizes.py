"""Size of a model: weights, multiply-adds and activation memory per clip, computed without running it.

`python -m avion_core.models.sizes` prints the table of `docs/models.md`. Tensors have shapes but no contents,
so that the largest model takes seconds on any machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from avion_core.models.architecture import Architecture
from avion_core.models.base import VideoModel
from avion_core.models.layers import set_checkpointing
from avion_core.models.store import build_model

ROWS: tuple[tuple[str, str, int, int, dict[str, int]], ...] = (
    ("dual_encoder", "clip_vit_b_16", 4, 224, {}),
    ("dual_encoder", "clip_vit_b_16", 16, 224, {}),
    ("dual_encoder", "clip_vit_l_14", 4, 224, {}),
    ("dual_encoder", "clip_vit_l_14", 16, 224, {}),
    ("dual_encoder", "clip_vit_l_14_336", 4, 336, {}),
    ("videomae", "videomae_vit_b", 16, 224, {}),
    ("videomae", "videomae_vit_l", 16, 224, {}),
    ("videomae_classifier", "videomae_vit_b", 16, 224, {"classes": 400}),
    ("videomae_classifier", "videomae_vit_l", 16, 224, {"classes": 400}),
)
"""The table's rows: kind, architecture, frames, side in pixels, further arguments."""


@dataclass(frozen=True)
class Size:
    """Training cost of one clip (and its text)."""

    parameters: int
    """Number of parameters."""
    multiply_adds: int
    """In matrix products of the forward pass; the backward pass has twice as many."""
    activation_bytes: int
    """Kept from the forward pass for the backward pass."""
    checkpointed_bytes: int
    """The same with gradient checkpointing, plus one block's share while it is recomputed."""


def measure(kind: str, architecture: str | Architecture, *, bf16: bool = False, **arguments: Any) -> Size:
    """The size of a model of `store.build_model`, in float32 or in bfloat16 mixed precision."""
    with torch.device("meta"):
        model = build_model(kind, architecture, **arguments).train()
    shapes_only = FakeTensorMode(allow_non_fake_inputs=True)
    with shapes_only, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        model.to_empty(device="cpu")
        with flop_counter() as counter, torch.no_grad():
            _forward(model, clips=1)
        plain = _kept_bytes(model, clips=2) - _kept_bytes(model, clips=1)
        set_checkpointing(model, True)
        checkpointed = _kept_bytes(model, clips=2) - _kept_bytes(model, clips=1)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Size(parameters, counter.get_total_flops() // 2, plain, checkpointed)


def flop_counter() -> FlopCounterMode:
    """Context manager that counts operations, also of torch's attention on the CPU."""
    kernel = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
    return FlopCounterMode(display=False, custom_mapping=kernel)


def _attention_flops(q_shape: Any, k_shape: Any, v_shape: Any, *_: Any, **__: Any) -> int:
    """Operations of CPU attention: torch has formulas for GPU kernels only."""
    return int(sdpa_flop_count(q_shape, k_shape, v_shape))


def _forward(model: VideoModel, *, clips: int) -> Tensor:
    side = model.image_size_px
    return model.dry_run(torch.empty(clips, 3, model.frames, side, side))


def _kept_bytes(model: VideoModel, *, clips: int) -> int:
    """Bytes kept by the forward pass, each storage once, including casts of weights."""
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = _forward(model, clips=clips)
    del result  # alive until here, so that no storage is reused
    return sum(storage.nbytes() for storage in kept.values())


def table() -> str:
    """Markdown table of ROWS."""
    lines = [
        "| model | frames | px | parameters, M | multiply-adds a clip, G | activations a clip, MB: fp32 "
        "| bf16 | fp32, checkpointed | bf16, checkpointed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind, architecture, frames, side, arguments in ROWS:
        sizes = [
            measure(kind, architecture, bf16=bf16, frames=frames, image_size_px=side, **arguments)
            for bf16 in (False, True)
        ]
        figures = [size.activation_bytes / 1e6 for size in sizes] + [
            s.checkpointed_bytes / 1e6 for s in sizes
        ]
        columns = [f"{architecture}, {kind}", frames, side, f"{sizes[0].parameters / 1e6:.1f}"]
        columns += [f"{sizes[0].multiply_adds / 1e9:.0f}", *(f"{figure:.0f}" for figure in figures)]
        lines.append("| " + " | ".join(map(str, columns)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
