"""Sentences to token numbers and back: byte pairs of CLIP (open_clip) and GPT-2, and BERT's word pieces."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from avion_core.data.gpt2_tokens import check_package, gpt2, gpt2_text
from avion_core.data.wordpiece import bert, check_vocabulary
from avion_core.registry import Registry

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer by its functions."""

    encode: Callable[[Sequence[str], int], torch.Tensor]
    """Texts and a length to token numbers int64 [texts, length], zeros after the end of a text."""
    decode: Callable[[Sequence[int]], str] | None = None
    """Token numbers, without start and end, to their text; None if no language model needs it."""
    check: Callable[[int], object] = lambda vocabulary: None
    """Raises ValueError without its package or vocabulary, or if that is not one of this many tokens."""


def tokenize(texts: Sequence[str], context_length: int = 77, *, tokenizer: str = "clip") -> torch.Tensor:
    """Token numbers int64 [B, context_length] by one of TOKENIZERS, zeros after the end of a text."""
    return TOKENIZERS[tokenizer].encode(texts, context_length)


def decode(tokens: Sequence[int], *, tokenizer: str = "clip") -> str:
    """The text of token numbers, without start and end, by one of TOKENIZERS."""
    to_text = TOKENIZERS[tokenizer].decode
    assert to_text is not None, f"check_tokenizer refuses {tokenizer} for narrators"
    return to_text(tokens)


def check_tokenizer(tokenizer: str, *, vocabulary: int, writes: bool = False) -> None:
    """Raise ValueError if a tokenizer lacks its package, the `vocabulary` (its size) of a model or, for a
    narrator, `decode`."""
    found = TOKENIZERS[tokenizer]
    if writes and found.decode is None:
        able = ", ".join(name for name, other in TOKENIZERS.items() if other.decode is not None)
        raise ValueError(
            f"the tokenizer '{tokenizer}' cannot turn tokens into text; a narrator needs: {able}"
        )
    found.check(vocabulary)


def longest(tokens_BL: npt.ArrayLike) -> int:
    """Length of the longest of these texts, in tokens."""
    return 1 + int(np.flatnonzero(np.asarray(tokens_BL).any(axis=0)).max(initial=0))


def clip(texts: Sequence[str], context_length: int) -> torch.Tensor:
    """Start, text, end of text (the largest number); a text that is too long is cut before the end token."""
    tokens: torch.Tensor = _tokenizer()(list(texts), context_length=context_length)
    return tokens


def clip_text(tokens: Sequence[int]) -> str:
    """Lower-case text, as CLIP's tokenizer makes it."""
    text: str = _tokenizer().decode(list(tokens))
    return text.strip()


TOKENIZERS: Registry[Tokenizer] = Registry("tokenizer", record=Tokenizer)
TOKENIZERS.register("clip", Tokenizer(clip, clip_text))
TOKENIZERS.register("bert", Tokenizer(bert, check=check_vocabulary))
TOKENIZERS.register("gpt2", Tokenizer(gpt2, gpt2_text, lambda vocabulary: check_package()))


@functools.cache
def _tokenizer() -> Any:
    """open_clip's SimpleTokenizer, loaded from its file alone: importing the package takes seconds."""
    package = importlib.util.find_spec("open_clip")
    if package is None or not package.submodule_search_locations:
        raise ImportError("the tokenizer needs the package open_clip_torch")
    file = Path(package.submodule_search_locations[0]) / "tokenizer.py"
    spec = importlib.util.spec_from_file_location("_open_clip_tokenizer", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SimpleTokenizer()
