"""Update rules, parameter groups and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.optim import ZeroRedundancyOptimizer

EPSILON = 1e-8
"""AdamW's epsilon in every recipe."""


class LayeredModel(Protocol):
    """Interface of a model for parameter groups."""

    def named_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        """Parameters with their names."""

    def no_decay(self) -> set[str]:
        """Names of parameters without weight decay."""

    def layer_of(self, parameter_name: str) -> int:
        """0 for the embeddings, rising towards the head."""


def parameter_groups(
    model: LayeredModel,
    *,
    weight_decay: float,
    layer_decay: float,
    no_decay: Sequence[str] = (),
    force_decay: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """The trained parameters, grouped by (layer, decay); each group carries its `names` and `rate_scale`.

    The model names parameters without decay; the fnmatch patterns `no_decay` add to them, `force_decay` take
    away. Raises ValueError for a pattern without a match, and for a parameter that matches both. The rate of
    a layer is `layer_decay` to the power of its distance from the last one (BEiT, arXiv 2106.08254).
    """
    trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    top = max(model.layer_of(name) for name, _ in model.named_parameters())
    without, forced = (
        _matching(patterns, [name for name, _ in trained], setting)
        for patterns, setting in ((no_decay, "no_weight_decay"), (force_decay, "force_weight_decay"))
    )
    if both := sorted(without & forced):
        raise ValueError(f"no_weight_decay and force_weight_decay both match {both[0]}; leave out one")
    exempt = (model.no_decay() | without) - forced
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, weight in trained:
        decays = name not in exempt
        distance = top - model.layer_of(name) if layer_decay != 1.0 else 0
        group = groups.setdefault(
            (distance, decays),
            {
                "params": [],
                "names": [],
                "rate_scale": layer_decay**distance,
                "weight_decay": weight_decay if decays else 0.0,
            },
        )
        group["params"].append(weight)
        group["names"].append(name)
    return list(groups.values())


def _matching(patterns: Sequence[str], names: Sequence[str], setting: str) -> set[str]:
    """Names that match any of the patterns of a setting. Raises ValueError for one that matches none."""
    found = {pattern: {name for name in names if fnmatchcase(name, pattern)} for pattern in patterns}
    for pattern, matching in found.items():
        if not matching:
            raise ValueError(f"{setting}: no weight of this model matches '{pattern}'")
    return set().union(*found.values())


def make_optimizer(
    rule: str,
    groups: list[dict[str, Any]],
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    momentum: float = 0.9,
    shard: bool = False,
) -> torch.optim.Optimizer:
    """`adamw` and `lion` decay decoupled from the gradient; `sgd` adds the decay to it, as torch's does.

    With `shard` each process keeps the state of its part of the weights, updates those and broadcasts them
    (ZeRO stage 1, arXiv 1910.02054); the process group must exist. A `Schedule` sets the rate before each
    step. Raises ValueError for another name.
    """
    on_gpu = any(weight.device.type != "cpu" for group in groups for weight in group["params"])
    optimizer_class, options = _update_rule(rule, betas, momentum, on_gpu=on_gpu)
    if shard:
        from torch.distributed.optim import ZeroRedundancyOptimizer  # a second to import

        return ZeroRedundancyOptimizer(groups, optimizer_class, lr=0.0, **options)  # type: ignore[arg-type]
    return optimizer_class(groups, lr=0.0, **options)


def _update_rule(
    rule: str, betas: tuple[float, float], momentum: float, *, on_gpu: bool
) -> tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]:
    if rule == "adamw":
        return torch.optim.AdamW, {"betas": betas, "eps": EPSILON, "fused": True}
    if rule == "sgd":
        return torch.optim.SGD, {"momentum": momentum, "fused": on_gpu}
    if rule == "lion":
        from timm.optim import Lion  # timm takes seconds to import

        return Lion, {"betas": betas}
    raise ValueError(f"unknown optimizer '{rule}'; known: adamw, sgd, lion")


def tensor_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as flat tensors, `<quantity>/<parameter name>`, for a safetensors file.

    With a sharded optimiser every rank must call this; rank 0 gets the whole state, the others none.
    """
    inner = optimizer.optim if _is_sharded(optimizer) else optimizer
    own = {
        f"{quantity}/{name}": value if isinstance(value, Tensor) else torch.tensor(value)
        for name, weight in _named(optimizer)
        for quantity, value in inner.state.get(weight, {}).items()
        if value is not None
    }
    if not _is_sharded(optimizer):
        return own
    device = optimizer.param_groups[0]["params"][0].device
    return _to_rank_0({key: value.to(device) for key, value in own.items()}, device)


def _to_rank_0(own: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The tensors of all ranks, on rank 0 and in the CPU's memory; they are sent one by one."""
    forms: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(forms, {key: (tuple(tensor.shape), tensor.dtype) for key, tensor in own.items()})
    if dist.get_rank() != 0:
        for tensor in own.values():
            dist.send(tensor.contiguous(), dst=0)
        return {}
    whole = {key: tensor.cpu() for key, tensor in own.items()}
    for sender, form in enumerate(forms[1:], 1):
        for key, (shape, dtype) in form.items():
            tensor = torch.empty(shape, dtype=dtype, device=device)
            dist.recv(tensor, src=sender)
            whole[key] = tensor.cpu()
    return whole


def load_tensor_state(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore the result of `tensor_state`; groups and rates stay unchanged."""
    state: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        quantity, _, name = key.partition("/")
        state.setdefault(name, {})[quantity] = value
    if _is_sharded(optimizer):
        # its load_state_dict puts AdamW's `step` on the CPU, which the fused rule refuses on a GPU
        own = {weight for group in optimizer.optim.param_groups for weight in group["params"]}
        for name, weight in _named(optimizer):
            if weight in own and name in state:
                optimizer.optim.state[weight] = {
                    quantity: value.to(weight.device, copy=True) for quantity, value in state[name].items()
                }
        return
    order = {name: index for index, (name, _) in enumerate(_named(optimizer))}
    indices = iter(range(len(order)))
    groups = [
        {**group, "params": [next(indices) for _ in group["params"]]} for group in optimizer.param_groups
    ]
    optimizer.load_state_dict(
        {"state": {order[name]: values for name, values in state.items()}, "param_groups": groups}
    )


def broadcast_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of the weights that a step of a sharded optimiser broadcasts, over all ranks; 0 for others."""
    if not _is_sharded(optimizer):
        return 0
    return sum(weight.nbytes for group in optimizer.param_groups for weight in group["params"])


def _is_sharded(optimizer: torch.optim.Optimizer) -> TypeGuard[ZeroRedundancyOptimizer]:
    return hasattr(optimizer, "consolidate_state_dict")


def _named(optimizer: torch.optim.Optimizer) -> list[tuple[str, nn.Parameter]]:
    """Parameters with their names, in torch's order."""
    return [
        pair for group in optimizer.param_groups for pair in zip(group["names"], group["params"], strict=True)
    ]


@dataclass(frozen=True)
class Schedule:
    """The learning rate of every step: a linear warm-up, then constant or half a cosine."""

    shape: str
    """`constant` or `cosine`."""
    peak: float
    """Rate at the end of the warm-up."""
    steps: int
    """Steps of the whole training."""
    warmup_steps: int = 0
    """Steps of the warm-up; the last of them has the peak rate."""
    start: float = 0.0
    """Rate of the first step of the warm-up."""
    final: float = 0.0
    """Rate of the cosine one step after the last."""

    def rate(self, step: int) -> float:
        """Rate of the update with index `step` (from 0)."""
        if step < self.warmup_steps:
            rise = (self.peak - self.start) / max(self.warmup_steps - 1, 1)
            return self.start + rise * step
        if self.shape == "constant":
            return self.peak
        gone = (step - self.warmup_steps) / max(self.steps - self.warmup_steps, 1)
        return self.final + 0.5 * (self.peak - self.final) * (1 + math.cos(math.pi * gone))

    def apply(self, optimizer: torch.optim.Optimizer, step: int) -> float:
        """Set the rate of every group for this step, times its scale; returns the unscaled rate."""
        rate = self.rate(step)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["rate_scale"]
        return rate
