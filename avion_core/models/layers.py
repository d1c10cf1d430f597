"""Building blocks of all transformers: attention, MLP, block, patches, pixel normalisation.

Shapes: B clips, C channels, T frames, H×W pixels, N tokens, D width, P values of a patch.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

AttentionFunction = Callable[[Tensor, Tensor, Tensor, bool], Tensor]


def _sdpa(q_BNHd: Tensor, k_BNHd: Tensor, v_BNHd: Tensor, causal: bool) -> Tensor:
    q, k, v = (part.transpose(1, 2) for part in (q_BNHd, k_BNHd, v_BNHd))
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2)


def in_half(kernel: Callable[..., Tensor]) -> AttentionFunction:
    """The kernel for half-precision tensors on a GPU, and torch's own attention for all others."""

    def attend(q_BNHd: Tensor, k_BNHd: Tensor, v_BNHd: Tensor, causal: bool) -> Tensor:
        if q_BNHd.device.type != "cuda" or q_BNHd.dtype not in (torch.float16, torch.bfloat16):
            return _sdpa(q_BNHd, k_BNHd, v_BNHd, causal)
        return kernel(q_BNHd, k_BNHd, v_BNHd, causal=causal)

    return attend


def _flash_2() -> AttentionFunction:
    from flash_attn import flash_attn_func

    return in_half(flash_attn_func)


def _flash_cute() -> AttentionFunction:
    from flash_attn.cute import flash_attn_func

    @torch.compiler.disable  # torch cannot trace its code generation
    def kernel(q_BNHd: Tensor, k_BNHd: Tensor, v_BNHd: Tensor, *, causal: bool) -> Tensor:
        found = flash_attn_func(q_BNHd, k_BNHd, v_BNHd, causal=causal)
        out_BNHd: Tensor = found[0] if isinstance(found, tuple) else found  # with the log of the sums
        return out_BNHd

    return in_half(kernel)


@dataclass(frozen=True)
class AttentionBackend:
    """A way to compute attention, and what it needs."""

    load: Callable[[], AttentionFunction]
    """The function. Raises ImportError without its package."""
    package: str = "torch"
    capability: tuple[int, int] | None = None
    """Least compute capability of the GPU; None for any device."""


ATTENTION_BACKENDS: dict[str, AttentionBackend] = {
    "sdpa": AttentionBackend(lambda: _sdpa),
    "flash_cute": AttentionBackend(_flash_cute, "flash-attn-4", (9, 0)),
    "flash_2": AttentionBackend(_flash_2, "flash-attn", (8, 0)),
}
"""By name; `flash_2` is flash-attn 2, `flash_cute` its successor for Hopper and later."""
ATTENTION_CHOICES: dict[str, tuple[str, ...]] = {
    **{name: (name,) for name in ATTENTION_BACKENDS},
    "flash": ("flash_cute", "flash_2"),
}
"""Backends by the name in the settings; the first that this machine can run is used."""


def quick_gelu(x: Tensor) -> Tensor:
    """The approximation x·sigmoid(1.702x), used by OpenAI's CLIP."""
    return x * torch.sigmoid(1.702 * x)


def squared_relu(x: Tensor) -> Tensor:
    """The square of the ReLU (Primer, arXiv 2109.08668)."""
    return F.relu(x).square()


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "quick_gelu": quick_gelu,
    "squared_relu": squared_relu,
}


class AttentionLayer(nn.Module):
    """A layer whose attention `set_attention` chooses."""

    def __init__(self) -> None:
        super().__init__()
        self.attend: AttentionFunction = _sdpa


class Attention(AttentionLayer):
    """Multi-head self-attention with one fused projection for queries, keys and values.

    Without `train_key_bias` the keys' bias keeps its value, zero in a fresh model. It does not affect the
    output, so its gradient is rounding noise, which AdamW would scale to full steps.
    """

    def __init__(self, width: int, *, heads: int, train_key_bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.train_key_bias = train_key_bias
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x_BND: Tensor, *, causal: bool = False, first_only: bool = False) -> Tensor:
        """Attend over N tokens; with `first_only` return only the first token's output, B,1,D."""
        q_BNHd, k_BNHd, v_BNHd = self.queries_keys_values(x_BND, first_only=first_only)
        out: Tensor = self.proj(self.attend(q_BNHd, k_BNHd, v_BNHd, causal).flatten(2))
        return out

    def queries_keys_values(self, x_BND: Tensor, *, first_only: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Per head, B,N,H,d each; with `first_only` the queries are those of the first token."""
        weight: Tensor = self.qkv.weight
        bias: Tensor = self.qkv.bias
        if not self.train_key_bias:
            query, key, value = bias.chunk(3)
            bias = torch.cat([query, key.detach(), value])
        if first_only:
            width = x_BND.shape[-1]
            q = self._split(F.linear(x_BND[:, :1], weight[:width], bias[:width]), 1)[0]
            k, v = self._split(F.linear(x_BND, weight[width:], bias[width:]), 2)
        else:
            q, k, v = self._split(F.linear(x_BND, weight, bias), 3)
        return q, k, v

    def _split(self, x_BNE: Tensor, parts: int) -> tuple[Tensor, ...]:
        return x_BNE.unflatten(-1, (parts, self.heads, -1)).unbind(2)


def set_attention(model: nn.Module, name: str) -> str:
    """Choose the attention of every layer in `model` by a name in ATTENTION_CHOICES.

    Returns the name of the backend. Raises ValueError for an unknown name, a missing package, and a GPU that
    the backend does not support.
    """
    if name not in ATTENTION_CHOICES:
        raise ValueError(f"unknown attention '{name}'; known: {', '.join(ATTENTION_CHOICES)}")
    backends = ATTENTION_CHOICES[name]
    lacking = {backend: _lacking(ATTENTION_BACKENDS[backend]) for backend in backends}
    chosen = next((backend for backend, need in lacking.items() if need is None), None)
    if chosen is None:
        needs = ", or ".join(need for need in lacking.values() if need)
        others = ", ".join(other for other in ATTENTION_CHOICES if other not in (name, *backends))
        raise ValueError(f"attention '{name}' needs {needs}; or use one of: {others}")
    attend = ATTENTION_BACKENDS[chosen].load()
    for layer in model.modules():
        if isinstance(layer, AttentionLayer):
            layer.attend = attend
    return chosen


def _lacking(backend: AttentionBackend) -> str | None:
    """What this machine lacks for a backend."""
    try:
        backend.load()
    except ImportError as error:
        return f"the package {backend.package} ({error})"
    if backend.capability is None or _gpu_has(backend.capability):
        return None
    version = ".".join(map(str, backend.capability))
    return f"a GPU of compute capability {version} or later for {backend.package}"


def _gpu_has(capability: tuple[int, int]) -> bool:
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= capability


@contextmanager
def plain_attention(model: nn.Module) -> Iterator[None]:
    """Use torch's attention in every layer of `model` for the body, as torch can count its operations."""
    chosen = {layer: layer.attend for layer in model.modules() if isinstance(layer, AttentionLayer)}
    set_attention(model, "sdpa")
    try:
        yield
    finally:
        for layer, attend in chosen.items():
            layer.attend = attend


def make_drop_path(rate: float) -> nn.Module:
    """Stochastic depth: drops a residual branch for each clip with this probability."""
    if rate == 0:
        return nn.Identity()
    from timm.layers import DropPath  # seconds to import

    layer: nn.Module = DropPath(rate)
    return layer


class MLP(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, width: int, *, hidden: int, activation: str) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.activation = ACTIVATIONS[activation]
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x_BND: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.activation(self.fc1(x_BND)))
        return out


class ClassLayer(nn.Linear):
    """The last layer of a classifier: in evaluation not under autocast, as half precision makes ties of close
    classes."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.to(self.weight.dtype))


class TransformerBlock(nn.Module):
    """A block of any form: the unit that is recomputed, compiled and measured."""

    checkpointing = False
    """Whether only the block's input is kept for the backward pass."""


class Block(TransformerBlock):
    """A pre-norm transformer block with stochastic depth."""

    def __init__(
        self,
        width: int,
        *,
        heads: int,
        mlp_ratio: float = 4.0,
        activation: str = "gelu",
        norm_eps: float,
        drop_path: float = 0.0,
        train_key_bias: bool = True,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=norm_eps)
        self.attn = Attention(width, heads=heads, train_key_bias=train_key_bias)
        self.norm2 = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = MLP(width, hidden=int(width * mlp_ratio), activation=activation)
        self.drop_path = make_drop_path(drop_path)

    def forward(self, x_BND: Tensor, *, causal: bool = False, first_only: bool = False) -> Tensor:
        """All tokens, or with `first_only` the first token's output: B,1,D.

        This saves nine tenths of the last block in a tower that reads only its class token; values and
        gradients stay the same.
        """
        kept = x_BND[:, :1] if first_only else x_BND
        x = kept + self.drop_path(self.attn(self.norm1(x_BND), causal=causal, first_only=first_only))
        out: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return out


def run_blocks(
    blocks: Iterable[nn.Module], x_BND: Tensor, *, first_only: bool = False, **options: Any
) -> Tensor:
    """Run tokens through all blocks; with `first_only` the last block returns only the first token.

    `options` are further arguments of every block, such as `causal`.
    """
    *others, last = blocks
    for block in others:
        x_BND = run_block(block, block, x_BND, **options)
    return run_block(last, last, x_BND, **options, **({"first_only": True} if first_only else {}))


def run_block(block: nn.Module, forward: Callable[..., Tensor], x_BND: Tensor, **options: Any) -> Tensor:
    """Run the forward pass of a block, to be recomputed in the backward pass if it is checkpointing."""
    if block.checkpointing and torch.is_grad_enabled() and _is_trained(block, x_BND):
        out: Tensor = checkpoint(partial(forward, **options), x_BND, use_reentrant=False)
    else:
        out = forward(x_BND, **options)
    return out


def _is_trained(block: nn.Module, x_BND: Tensor) -> bool:
    """Whether the block has a backward pass: not if it and all before it are frozen."""
    return x_BND.requires_grad or any(weight.requires_grad for weight in block.parameters())


def set_checkpointing(model: nn.Module, on: bool) -> None:
    """Keep only each block's input for the backward pass, and recompute the rest there.

    Values and gradients stay the same, drop path included: the second pass repeats the first's randomness.
    """
    for layer in model.modules():
        if isinstance(layer, TransformerBlock):
            layer.checkpointing = on


def compile_blocks(model: nn.Module, *, mode: str | None = None) -> None:
    """Apply `torch.compile`, in one of its modes, to every block of `model`; names of weights stay.

    Blocks of one size share their code, so that a deep model compiles as fast as a shallow one. Raises
    ValueError without a C++ compiler.
    """
    compilers = (os.environ.get("CXX", ""), "g++", "clang++", "c++")
    if not any(shutil.which(name) for name in compilers):
        raise ValueError("compile needs a C++ compiler, such as g++; install one or set compile: false")
    blocks = [layer for layer in model.modules() if isinstance(layer, TransformerBlock)]
    # each drop path rate compiles separately; beyond the limit torch would fall back to eager mode
    limit = torch._dynamo.config.recompile_limit
    torch._dynamo.config.recompile_limit = max(limit, 4 * len(blocks))
    for block in blocks:
        block.compile(mode=mode)


def init_clip_blocks(blocks: nn.ModuleList, *, width: int) -> None:
    """CLIP's initialisation: narrower, by depth, for layers that feed the residual stream; biases zero."""
    residual_std = width**-0.5 * (2 * len(blocks)) ** -0.5
    stds = {"qkv": width**-0.5, "proj": residual_std, "fc1": (2 * width) ** -0.5, "fc2": residual_std}
    for name, layer in blocks.named_modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=stds[name.rsplit(".", 1)[-1]])
            nn.init.zeros_(layer.bias)


def make_projection(width: int, embed_dim: int, *, linear: bool) -> nn.Parameter | nn.Linear:
    """A fresh projection into the embedding space: a linear layer with bias, or CLIP's matrix."""
    if linear:
        return nn.Linear(width, embed_dim)
    return nn.Parameter(torch.randn(width, embed_dim) * width**-0.5)


def project(x_BD: Tensor, projection: nn.Parameter | nn.Linear | None) -> Tensor:
    """Apply what `make_projection` returned; None leaves `x_BD` as it is."""
    if isinstance(projection, nn.Linear):
        out_BE: Tensor = projection(x_BD)
        return out_BE
    return x_BD if projection is None else x_BD @ projection


def patchify(frames_BCTHW: Tensor, *, patch_px: int, tubelet_frames: int = 1) -> Tensor:
    """Cut a clip into patches_BNP: N in order (t, h, w), P in order (c, tubelet, h, w).

    A patch convolution is then one matrix product with the flattened kernel (AVION's "fast conv").
    """
    batch, channels, frames, height, width = frames_BCTHW.shape
    t, h, w = frames // tubelet_frames, height // patch_px, width // patch_px
    cut = frames_BCTHW.reshape(batch, channels, t, tubelet_frames, h, patch_px, w, patch_px)
    return cut.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(batch, t * h * w, -1)


def pick(x_BND: Tensor, rows_BK: Tensor) -> Tensor:
    """Select rows of each clip by index: B,K,D."""
    return x_BND.gather(1, rows_BK[..., None].expand(-1, -1, x_BND.shape[-1]))


class Normalise(nn.Module):
    """Normalise pixels 0…255 for a model, and back. Not part of the weights."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1, 1), persistent=False)

    def forward(self, frames_BTHWC: Tensor) -> Tensor:
        """Frames (uint8, or any type, 0…255) to normalised float frames_BCTHW."""
        return (frames_BTHWC.permute(0, 4, 1, 2, 3).to(self.mean.dtype) - self.mean) / self.std

    def undo(self, frames_BCTHW: Tensor) -> Tensor:
        """Normalised frames back to 0…255, float, B,C,T,H,W."""
        return frames_BCTHW * self.std + self.mean
