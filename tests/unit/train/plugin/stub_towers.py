"""A plug-in with a vision tower, a text tower, a tokenizer and an architecture that uses them."""

from pathlib import Path
from typing import ClassVar

from avion_core.data.tokenizer import TOKENIZERS, Tokenizer
from avion_core.models.architecture import FOLDERS
from avion_core.models.towers import (
    TEXT_TOWERS,
    VISION_TOWERS,
    TextTowerConfig,
    Tower,
    VisionTowerConfig,
)


class StubVisionConfig(VisionTowerConfig):
    """A small vision transformer with a bias on its patches."""

    kind: ClassVar[str] = "stub"


class StubTextConfig(TextTowerConfig):
    """A small encoder, read at its first token."""

    kind: ClassVar[str] = "stub"
    tokenizer: ClassVar[str] = "bytes"


def bytes_of(texts, context_length):
    """Each byte plus 1, behind a token 257."""
    import torch

    rows = [[257, *(byte + 1 for byte in text.encode())][:context_length] for text in texts]
    return torch.tensor([row + [0] * (context_length - len(row)) for row in rows])


FOLDERS.append(Path(__file__).parent / "architectures")
TOKENIZERS.register("bytes", Tokenizer(bytes_of))
VISION_TOWERS.register("stub", Tower(StubVisionConfig, "stub_modules:StubVision"))
TEXT_TOWERS.register("stub", Tower(StubTextConfig, "stub_modules:StubText"))
