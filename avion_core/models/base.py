"""What every model offers besides its forward pass: pixel normalisation, decay groups and layer numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from avion_core.models.architecture import DualEncoderConfig, VideoMAEConfig
from avion_core.models.layers import Normalise

EMBEDDINGS = ("patch.", "class_embedding", "positional_embedding", "temporal_embedding", "token_embedding.")
"""Beginnings of a tower's weights that come before its first block."""


class VideoModel(nn.Module):
    """A model of clips with `frames` frames of image_size_px × image_size_px pixels.

    `normalise(frames_BTHWC)` turns uint8 frames into the float frames_BCTHW that forward takes.
    """

    kind: ClassVar[str]
    """Name of the class in the registry of models."""
    architecture_kind: ClassVar[str]
    """Kind of architecture it is built from."""

    def __init__(
        self,
        config: DualEncoderConfig | VideoMAEConfig,
        *,
        frames: int,
        image_size_px: int,
        towers: Mapping[str, int],
    ) -> None:
        """`towers` names the prefixes of the transformer towers and their depths."""
        super().__init__()
        config.check_input(frames=frames, image_size_px=image_size_px)
        self.config = config
        self.frames = frames
        self.image_size_px = image_size_px
        self._towers = dict(towers)
        self.normalise = Normalise(config.pixel_mean, config.pixel_std)

    @property
    def num_layers(self) -> int:
        """Layers for layer decay: embeddings, blocks, and one for the head."""
        return max(self._towers.values()) + 2

    def layer_of(self, parameter_name: str) -> int:
        """Layer number of a parameter, 0 (embeddings) … num_layers − 1 (head, final norms).

        The rate's factor is layer_decay ** (num_layers − 1 − layer), as in BEiT and VideoMAE. A tower
        shallower than the deepest one is counted from the top.
        """
        for prefix, depth in self._towers.items():
            if parameter_name.startswith(prefix):
                first = self.num_layers - 2 - depth
                rest = parameter_name.removeprefix(prefix)
                if rest.startswith("blocks."):
                    return first + 1 + int(rest.split(".")[1])
                if rest.startswith(EMBEDDINGS):
                    return first
        return self.num_layers - 1

    def no_decay(self) -> set[str]:
        """Trained parameters without weight decay: those of at most one dimension, and position tables."""
        return {
            name
            for name, parameter in self.named_parameters()
            if parameter.requires_grad and (parameter.ndim <= 1 or name.endswith("positional_embedding"))
        }

    def check_frames(self, frames_BCTHW: Tensor) -> None:
        """Raise ValueError unless the clip has the shape this model was built for."""
        wanted = (3, self.frames, self.image_size_px, self.image_size_px)
        if tuple(frames_BCTHW.shape[1:]) != wanted:
            raise ValueError(
                f"{self.kind} takes clips of shape B×{'×'.join(map(str, wanted))} (channels, frames, height, "
                f"width), not {'×'.join(map(str, frames_BCTHW.shape))}"
            )
