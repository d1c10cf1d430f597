"""Sentences to token numbers with CLIP's byte-pair encoding, as open_clip implements it."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def tokenize(texts: Sequence[str], context_length: int = 77) -> torch.Tensor:
    """Token numbers int64 [B, context_length]: start, text, end-of-text (the largest number), zeros.

    A text that is too long is cut, and still ends with end-of-text.
    """
    tokens: torch.Tensor = _tokenizer()(list(texts), context_length=context_length)
    return tokens


@functools.cache
def _tokenizer() -> Any:
    """open_clip's SimpleTokenizer, from its one file: importing the whole package takes seconds."""
    package = importlib.util.find_spec("open_clip")
    if package is None or not package.submodule_search_locations:
        raise ImportError("the tokenizer needs the package open_clip_torch")
    file = Path(package.submodule_search_locations[0]) / "tokenizer.py"
    spec = importlib.util.spec_from_file_location("_open_clip_tokenizer", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SimpleTokenizer()
