"""GPT-2's byte-pair encoding, by tiktoken, which is not among the requirements."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def gpt2(texts: Sequence[str], context_length: int) -> torch.Tensor:
    """The end-of-text token before and after each text; a text that is too long is cut before the last."""
    import torch

    encoding = _gpt2_encoding()
    tokens_BL = torch.zeros(len(texts), context_length, dtype=torch.long)
    for row_L, text in zip(tokens_BL, texts, strict=True):
        words = encoding.encode_ordinary(text)[: context_length - 2]
        row_L[: len(words) + 2] = torch.tensor([encoding.eot_token, *words, encoding.eot_token])
    return tokens_BL


def gpt2_text(tokens: Sequence[int]) -> str:
    """The text; incomplete characters are replaced."""
    text: str = _gpt2_encoding().decode(list(tokens))
    return text.strip()


def check_package() -> None:
    """Raise ValueError without tiktoken."""
    if importlib.util.find_spec("tiktoken") is None:
        raise ValueError("the tokenizer 'gpt2' needs the package tiktoken; install it: pip install tiktoken")


@functools.cache
def _gpt2_encoding() -> Any:
    """GPT-2's vocabulary, which tiktoken fetches once. Raises ValueError without the package or network."""
    check_package()
    import tiktoken

    try:
        return tiktoken.get_encoding("gpt2")
    except OSError as error:
        raise ValueError(
            "the tokenizer 'gpt2' needs its vocabulary, which tiktoken could not fetch: fetch it where there "
            f"is a network, and set TIKTOKEN_CACHE_DIR to the folder it is in ({error})"
        ) from None
