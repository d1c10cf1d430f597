"""A running average of the weights, which is often the better model: `ema_decay` in the settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """average <- decay * average + (1 - decay) * weights after each update (Polyak and Juditsky, 1992).

    It begins with the weights that training starts from, and is kept in their precision.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def take_in(self, model: nn.Module) -> None:
        """Move the average towards the model's present weights; what is no float is copied."""
        present = model.state_dict()
        floats = [name for name, value in self.weights.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [self.weights[name] for name in floats], [present[name] for name in floats], 1 - self.decay
        )
        for name in self.weights.keys() - set(floats):
            self.weights[name].copy_(present[name])

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from an average that was saved."""
        for name, value in self.weights.items():
            value.copy_(weights[name])


@contextmanager
def evaluated(model: nn.Module, average: WeightAverage | None) -> Iterator[None]:
    """For a while the model is in evaluation mode and has the average's weights, where there is one."""
    present = {name: value.clone() for name, value in model.state_dict().items()} if average else {}
    if average:
        model.load_state_dict(average.weights)
    model.eval()
    try:
        yield
    finally:
        model.train()
        if present:
            model.load_state_dict(present)
