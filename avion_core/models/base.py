"""Base classes of models and towers: names of weights, position tables, layer numbers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Protocol, Self

from torch import Tensor, nn

from avion_core.models.architecture import MODELS, Architecture
from avion_core.models.layers import Normalise
from avion_core.models.names import Names, Part
from avion_core.models.towers import TEXT_TOWERS, VISION_TOWERS, TextTowerConfig, VisionTowerConfig
from avion_core.registry import load

UNDECAYED = ("positional_embedding", "pos_embed", "cls_token")
"""Ends of the names of tables without weight decay."""
Adapter = Callable[[Tensor, Tensor], Tensor]
"""Resizes a position table (first argument) to the shape of another (second)."""


class Tower(nn.Module):
    """A transformer, `blocks`, with its embedding and output layers."""

    blocks: nn.ModuleList
    blocks_name: ClassVar[str] = "blocks."
    """Prefix of the blocks' weights."""
    embeddings: ClassVar[tuple[str, ...]] = (
        "patch.",
        "class_embedding",
        "positional_embedding",
        "temporal_embedding",
        "token_embedding.",
    )
    """Prefixes of the weights before the first block."""
    inert: ClassVar[tuple[str, ...]] = ()
    """Weights (fnmatch patterns) that its image model lacks: it may stay without them."""

    @property
    def adapters(self) -> Mapping[str, Adapter]:
        """How a table of positions is made to fit another length, by its name."""
        return {}

    @classmethod
    def names(cls, config: Any) -> dict[str, Names]:
        """Third-party names of the weights, by format. Formats that no export has are only read."""
        return {}


class VisionTower(Tower):
    """Clips to embeddings.

    Built from its fields and `frames, image_size_px, activation, drop_path, patch_dropout, embed_dim`;
    `embed_dim` is None for a tower without projection.
    """

    def forward(self, frames_BCTHW: Tensor) -> Tensor:
        """Normalised frames to B,width, or projected to B,embed_dim."""
        raise NotImplementedError

    def tokens(self, frames_BCTHW: Tensor) -> Tensor:
        """Normalised frames to all tokens after the final norm, B,N,width."""
        raise NotImplementedError


class TextTower(Tower):
    """Texts to embeddings. Built from its fields and `activation, embed_dim`."""

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """Token ids, zeros after the end of a text, to B,embed_dim; L is that of the longest text or more."""
        raise NotImplementedError

    def dry_run(self, tokens_BL: Tensor) -> Tensor:
        """The forward pass for token ids without values (on the device "meta")."""
        embeddings_BD: Tensor = self(tokens_BL)
        return embeddings_BD


def vision_class(config: VisionTowerConfig) -> type[VisionTower]:
    """The class of the towers of this kind."""
    found: type[VisionTower] = load(VISION_TOWERS[config.kind].code, base=VisionTower)
    return found


def text_class(config: TextTowerConfig) -> type[TextTower]:
    """The class of the towers of this kind."""
    found: type[TextTower] = load(TEXT_TOWERS[config.kind].code, base=TextTower)
    return found


class VideoModel(nn.Module):
    """A model of clips with `frames` frames of image_size_px × image_size_px pixels.

    `normalise(frames_BTHWC)` turns uint8 frames into the float frames_BCTHW that forward takes.
    """

    kind: ClassVar[str]
    """Name in the registry of models."""
    towers: ClassVar[tuple[str, ...]]
    """Names of its attributes that are towers."""
    not_weights: ClassVar[tuple[str, ...]] = ()
    """Entries (fnmatch patterns) of third-party files that are copies or constants."""

    def __init__(self, config: Architecture, *, frames: int, image_size_px: int) -> None:
        super().__init__()
        config.check_input(frames=frames, image_size_px=image_size_px)
        self.config = config
        self.frames = frames
        self.image_size_px = image_size_px
        self.normalise = Normalise(config.pixel_mean, config.pixel_std)

    @classmethod
    def optional_arguments(cls, weights: Iterable[str]) -> dict[str, Any]:
        """Arguments that build a model with the optional weights among these."""
        return {}

    @classmethod
    def names(cls, config: Any) -> tuple[Part, ...]:
        """The parts of its weights with their third-party names."""
        raise NotImplementedError

    def parts(self) -> tuple[Part, ...]:
        """The parts of this model, with arguments that change the third-party names of its weights."""
        return self.names(self.config)

    def check_foreign(self, weights: Mapping[str, Tensor]) -> None:
        """Raise ValueError if third-party weights, under our names, do not fit this model."""

    def after_start(self, fresh: Collection[str]) -> None:
        """Called once the start weights are loaded, if there are any; they do not fill the weights `fresh`.

        Raises ValueError where training would make no sense with these.
        """

    def foreign_copies(self) -> dict[str, Tensor]:
        """Entries of `not_weights` that an exported file has, under their names there."""
        return {}

    @property
    def adapters(self) -> dict[str, Adapter]:
        """How a table of positions is made to fit another length, by its name."""
        return {
            f"{prefix}.{name}": adapt
            for prefix, tower in self._towers().items()
            for name, adapt in tower.adapters.items()
        }

    @property
    def num_layers(self) -> int:
        """Number of layers for layer decay: embeddings, blocks, and one for the head."""
        return max(len(tower.blocks) for tower in self._towers().values()) + 2

    def layer_of(self, parameter_name: str) -> int:
        """Layer number of a parameter, 0 (embeddings) … num_layers − 1 (head, final norms).

        The rate's factor is layer_decay ** (num_layers − 1 − layer), as in BEiT and VideoMAE. Shallower
        towers are counted from the top.
        """
        prefix, _, rest = parameter_name.partition(".")
        tower = self._towers().get(prefix)
        if tower is not None:
            first = self.num_layers - 2 - len(tower.blocks)
            if rest.startswith(tower.blocks_name):
                return first + 1 + int(rest.removeprefix(tower.blocks_name).split(".")[0])
            if rest.startswith(tower.embeddings):
                return first
        return self.num_layers - 1

    def no_decay(self) -> set[str]:
        """Trained parameters without weight decay: vectors, scalars and position tables."""
        return {
            name
            for name, parameter in self.named_parameters()
            if parameter.requires_grad and (parameter.ndim <= 1 or name.endswith(UNDECAYED))
        }

    def check_frames(self, frames_BCTHW: Tensor) -> None:
        """Raise ValueError unless the clip has the shape this model was built for."""
        wanted = (3, self.frames, self.image_size_px, self.image_size_px)
        if tuple(frames_BCTHW.shape[1:]) != wanted:
            raise ValueError(
                f"{self.kind} takes clips of shape B×{'×'.join(map(str, wanted))} (channels, frames, height, "
                f"width), not {'×'.join(map(str, frames_BCTHW.shape))}"
            )

    def dry_run(self, frames_BCTHW: Tensor) -> Tensor:
        """The forward pass of a training step for tensors without values (on the device "meta").

        A task may have further arguments (`StageSettings.dry_run_arguments`).
        """
        output: Tensor = self(frames_BCTHW)
        return output

    def freeze(self, patterns: Sequence[str]) -> None:
        """Exclude weights (fnmatch patterns) from training.

        Raises ValueError for a pattern without a match, and if nothing is left to train.
        """
        weights = dict(self.named_parameters())
        for pattern in patterns:
            matching = [name for name in weights if fnmatchcase(name, pattern)]
            if not matching:
                raise ValueError(f"freeze: no weight of this {self.kind} matches '{pattern}'")
            for name in matching:
                weights[name].requires_grad_(False)
        if not any(weight.requires_grad for weight in weights.values()):
            raise ValueError("freeze: all weights are frozen; leave out a pattern, or set epochs: 0")
        self.train(self.training)

    def check_frozen(self, patterns: Sequence[str], *, fresh: Collection[str]) -> None:
        """Raise ValueError for a weight that `freeze` would keep as it is, though no start weights fill it.

        Those of `Tower.inert` may stay fresh.
        """
        inert = [f"{prefix}.{name}" for prefix, tower in self._towers().items() for name in tower.inert]
        for name in sorted(fresh):
            frozen, harmless = (any(fnmatchcase(name, each) for each in own) for own in (patterns, inert))
            if frozen and not harmless:
                raise ValueError(
                    f"freeze: {name} has no value in the start weights and would stay random; leave it out "
                    "or start from weights that have it"
                )

    def train(self, mode: bool = True) -> Self:
        """Training or evaluation mode; frozen towers stay in evaluation mode."""
        super().train(mode)
        for tower in self._towers().values():
            if not any(weight.requires_grad for weight in tower.parameters()):
                tower.eval()
        return self

    def _towers(self) -> dict[str, Tower]:
        return {name: getattr(self, name) for name in self.towers}


def model_class(kind: str) -> type[VideoModel]:
    """The class of the models of this kind. Raises ValueError for an unknown one."""
    found: type[VideoModel] = load(MODELS[kind].code, base=VideoModel)
    return found


class Embedder(Protocol):
    """A model that embeds clips and texts in one space, with length 1 if `normalize`."""

    config: Architecture
    normalise: Normalise

    def encode_video(self, frames_BCTHW: Tensor, *, normalize: bool = True) -> Tensor:
        """Normalised frames to float32 B,embed_dim."""

    def encode_text(self, tokens_BL: Tensor, *, normalize: bool = True) -> Tensor:
        """Token ids to float32 B,embed_dim."""
