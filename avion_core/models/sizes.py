"""Size of a model: weights, multiply-adds and activation memory per clip, computed without running it.

`python -m avion_core.models.sizes` prints the table of `docs/models.md`. Tensors have shapes but no contents,
so that the largest model takes seconds on any machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from avion_core.config import StageSettings
from avion_core.models.architecture import Architecture, model_kind
from avion_core.models.base import VideoModel
from avion_core.models.layers import TransformerBlock, set_checkpointing
from avion_core.models.store import build_model

ROWS: tuple[tuple[str, str, int, int, dict[str, Any]], ...] = (
    ("dual_encoder", "clip_vit_b_16", 4, 224, {}),
    ("dual_encoder", "clip_vit_b_16", 16, 224, {}),
    ("dual_encoder", "clip_vit_l_14", 4, 224, {}),
    ("dual_encoder", "clip_vit_l_14", 16, 224, {}),
    ("dual_encoder", "clip_vit_l_14_336", 4, 336, {}),
    ("dual_encoder", "lavila_tsf_b", 4, 224, {}),
    ("dual_encoder", "lavila_tsf_b", 16, 224, {}),
    ("dual_encoder", "lavila_tsf_l", 4, 224, {}),
    ("dual_encoder", "lavila_tsf_l_336", 4, 336, {}),
    ("dual_encoder", "egovlp_tsf_b", 4, 224, {}),
    ("dual_encoder", "pe_core_b_16", 4, 224, {}),
    ("narrator", "narrator_gpt2", 4, 224, {}),
    ("narrator", "narrator_gpt2_xl", 4, 336, {}),
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
    """The same with gradient checkpointing."""
    block_bytes: int
    """Kept by the largest block; needed too while checkpointing recomputes it."""
    frozen_parameters: int = 0
    """Those without gradients."""


def measure(
    kind: str,
    architecture: str | Architecture,
    *,
    bf16: bool = False,
    dry_run: Mapping[str, Any] | None = None,
    freeze: Sequence[str] = (),
    **arguments: Any,
) -> Size:
    """The size of a model of `store.build_model`, in float32 or in bfloat16 mixed precision.

    `dry_run` are the arguments of the model's `dry_run`, `freeze` those of its `freeze`.
    """
    step = dry_run or {}
    with _without_contents(kind, architecture, bf16=bf16, freeze=freeze, **arguments) as model:
        multiply_adds = _multiply_adds(model, step)
        plain = _kept_per_clip(model, step)
        set_checkpointing(model, True)
        checkpointed = _kept_per_clip(model, step)
    return Size(
        sum(parameter.numel() for parameter in model.parameters()),
        multiply_adds,
        plain.total(),
        checkpointed.total(),
        max((bytes_ for block, bytes_ in plain.items() if block is not None), default=0),
        sum(weight.numel() for weight in model.parameters() if not weight.requires_grad),
    )


def stage_size(stage: StageSettings, **further: Any) -> Size:
    """The size of the model that a stage trains; `further` arguments build it, such as `classes`."""
    arguments = {**stage.model_arguments(), **further}
    bf16, step = stage.precision != "fp32", stage.dry_run_arguments()
    kind, freeze = model_kind(stage), stage.frozen
    return measure(kind, stage.model, bf16=bf16, dry_run=step, freeze=freeze, **arguments)


def training_flops(stage: StageSettings, **further: Any) -> int:
    """Operations of a clip in a stage, as `train.meter` counts them."""
    arguments = {**stage.model_arguments(), **further}
    with _without_contents(model_kind(stage), stage.model, freeze=stage.frozen, **arguments) as model:
        return training_operations(lambda: _forward(model, stage.dry_run_arguments(), clips=1))


@contextmanager
def _without_contents(
    kind: str,
    architecture: str | Architecture,
    *,
    bf16: bool = False,
    freeze: Sequence[str] = (),
    **arguments: Any,
) -> Iterator[VideoModel]:
    """The model, in training; in the body, tensors have no contents."""
    with torch.device("meta"):
        model = build_model(kind, architecture, **arguments).train()
    model.freeze(freeze)
    shapes_only = FakeTensorMode(allow_non_fake_inputs=True)
    with shapes_only, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        yield model.to_empty(device="cpu")


def _multiply_adds(model: VideoModel, step: Mapping[str, Any]) -> int:
    with flop_counter() as counter, _keeping_nothing():
        _forward(model, step, clips=1)
    return int(counter.get_total_flops()) // 2


def _keeping_nothing() -> AbstractContextManager[None]:
    """Context of a forward pass that has gradients but no backward pass. torch counts no operations of
    timm's attention pooling without gradients."""
    return torch.autograd.graph.saved_tensors_hooks(lambda tensor: None, lambda nothing: nothing)


def training_operations(forward: Callable[[], object]) -> int:
    """Operations of a training step whose forward pass is the call.

    Three times those of the forward pass, but what has no gradient counts once. Keeps no activations.
    """
    with (
        _keeping_nothing(),
        flop_counter() as counter,
        _WithoutGradient(counter) as frozen,
    ):
        forward()
    return 3 * int(counter.get_total_flops()) - 2 * frozen.operations


class _WithoutGradient(TorchFunctionMode):
    """Counts the operations whose results have no gradient."""

    def __init__(self, counter: FlopCounterMode) -> None:
        super().__init__()
        self.operations, self._counter = 0, counter

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = self._counter.get_total_flops()
        result = func(*args, **(kwargs or {}))
        counted = self._counter.get_total_flops() - before
        if counted and not any(x.requires_grad for x in tree_leaves(result) if isinstance(x, Tensor)):
            self.operations += counted
        return result


def flop_counter() -> FlopCounterMode:
    """Context manager that counts operations, also of torch's attention on the CPU."""
    kernel = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
    return FlopCounterMode(display=False, custom_mapping=kernel)


def _attention_flops(q_shape: Any, k_shape: Any, v_shape: Any, *_: Any, **__: Any) -> int:
    """Operations of CPU attention: torch has formulas for GPU kernels only."""
    return int(sdpa_flop_count(q_shape, k_shape, v_shape))


def _frames(model: VideoModel, *, clips: int) -> Tensor:
    side = model.image_size_px
    return torch.empty(clips, 3, model.frames, side, side)


def _forward(model: VideoModel, step: Mapping[str, Any], *, clips: int) -> Tensor:
    try:
        return model.dry_run(_frames(model, clips=clips), **step)
    except RuntimeError as error:  # in a plug-in's tower
        raise ValueError(
            f"the size of this {model.kind} is not known: its `dry_run` needs values ({error}). Write one "
            "that needs only shapes, or set gradient_checkpointing to true or false"
        ) from None


def _kept_per_clip(model: VideoModel, step: Mapping[str, Any]) -> Counter[nn.Module | None]:
    """Bytes that one more clip keeps, by the block that does; None for the other layers."""
    kept = _kept_bytes(model, step, clips=2)
    kept.subtract(_kept_bytes(model, step, clips=1))
    return kept


def _kept_bytes(model: VideoModel, step: Mapping[str, Any], *, clips: int) -> Counter[nn.Module | None]:
    """Bytes kept by the forward pass, each storage once, including casts of weights."""
    kept: dict[int, tuple[torch.UntypedStorage, nn.Module | None]] = {}
    inside: list[nn.Module | None] = [None]

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept.setdefault(storage._cdata, (storage, inside[-1]))
        return tensor

    def enter(block: nn.Module, _: Any) -> None:
        inside.append(block)

    def leave(*_: Any) -> None:
        inside.pop()

    with ExitStack() as hooks:
        hooks.enter_context(torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor))
        for block in model.modules():
            if isinstance(block, TransformerBlock):
                hooks.callback(block.register_forward_pre_hook(enter).remove)
                hooks.callback(block.register_forward_hook(leave).remove)
        result = _forward(model, step, clips=clips)
    del result  # alive until here, so that no storage is reused
    found: Counter[nn.Module | None] = Counter()
    for storage, keeper in kept.values():
        found[keeper] += storage.nbytes()
    return found


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
