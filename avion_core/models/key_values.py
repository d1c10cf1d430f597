"""Keys and values that attention layers keep while a text grows, so that no token is computed twice.

Shapes: B rows of a batch, N tokens, H heads, d width of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor


class KeyValues:
    """Keys and values that an attention layer keeps from step to step, B,N,H,d each."""

    def __init__(self, places: int) -> None:
        """`places` is the largest N."""
        self.places, self.length = places, 0
        self._kept_2BNHd: Tensor | None = None

    def add(self, k_BNHd: Tensor, v_BNHd: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values; returns all."""
        added_2BNHd = torch.stack([k_BNHd, v_BNHd])
        if self._kept_2BNHd is None:
            batch, _, *head = k_BNHd.shape
            self._kept_2BNHd = added_2BNHd.new_empty(2, batch, self.places, *head)
        end = self.length + k_BNHd.shape[1]
        self._kept_2BNHd[:, :, self.length : end] = added_2BNHd
        self.length = end
        return self.all()

    def all(self) -> tuple[Tensor, Tensor]:
        """The keys and the values so far."""
        assert self._kept_2BNHd is not None
        k_BNHd, v_BNHd = self._kept_2BNHd[:, :, : self.length]
        return k_BNHd, v_BNHd

    def keep(self, rows_b: Tensor) -> None:
        """Keep only these rows of the batch."""
        if self._kept_2BNHd is not None:
            self._kept_2BNHd = self._kept_2BNHd[:, rows_b]
