"""Running average of the weights (`ema_decay`), often the better model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """average <- decay * average + (1 - decay) * weights after each update (Polyak and Juditsky, 1992).

    It starts from the initial weights, and is kept in their precision.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def take_in(self, model: nn.Module) -> None:
        """Move the average towards the model's present weights; copy frozen ones and what are not floats."""
        present = model.state_dict()
        frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
        floats = [name for name, x in self.weights.items() if x.is_floating_point() and name not in frozen]
        torch._foreach_lerp_(
            [self.weights[name] for name in floats], [present[name] for name in floats], 1 - self.decay
        )
        for name in self.weights.keys() - set(floats):
            self.weights[name].copy_(present[name])

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Continue from a saved average."""
        for name, value in self.weights.items():
            value.copy_(weights[name])


@contextmanager
def evaluated(model: nn.Module, average: WeightAverage | None) -> Iterator[None]:
    """Put the model in evaluation mode, with the average's weights if there is one, for the body."""
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
