"""BERT's tokenizer for lower-case English: words, cut into the longest pieces of a vocabulary.

Devlin et al., "BERT", NAACL 2019; Wu et al., arXiv 1609.08144, for the pieces. The vocabulary is no part of
this package.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

VOCABULARY = Path("data/weights/bert-base-uncased/vocab.txt")
"""One token a line, in the order of their numbers; a path in the working directory."""
LONGEST_WORD = 100
"""Characters of a word; longer ones are unknown."""
IDEOGRAPHS = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0xF900, 0xFAFF), (0x20000, 0x2FA1F))
"""Unicode ranges whose characters are words."""


def bert(texts: Sequence[str], context_length: int) -> torch.Tensor:
    """Token numbers int64 [B, context_length]: [CLS], the text, [SEP]; a text that is too long keeps [SEP].

    Raises ValueError if the vocabulary is missing or is something else.
    """
    import torch

    numbers = _vocabulary()
    tokens_BL = torch.zeros(len(texts), context_length, dtype=torch.long)
    for row, text in enumerate(texts):
        inner = [piece for word in words(text) for piece in pieces(word, numbers)]
        tokens = ["[CLS]", *inner[: context_length - 2], "[SEP]"]
        tokens_BL[row, : len(tokens)] = torch.tensor([numbers[token] for token in tokens])
    return tokens_BL


def check_vocabulary(size: int) -> None:
    """Raise ValueError if the file is missing, is something else, or has not `size` tokens."""
    if (found := len(_vocabulary())) != size:
        raise ValueError(
            f"{VOCABULARY}: has {found} tokens, the model {size}: it is another model's; put the file "
            "vocab.txt of bert-base-uncased there"
        )


def _vocabulary() -> dict[str, int]:
    """Numbers of the tokens."""
    if not VOCABULARY.is_file():
        raise ValueError(
            f"the tokenizer 'bert' needs the vocabulary of bert-base-uncased: put the file vocab.txt of that "
            f"model at {VOCABULARY}"
        )
    return _read_vocabulary(VOCABULARY.absolute())


@functools.cache
def _read_vocabulary(path: Path) -> dict[str, int]:
    try:
        with path.open(encoding="utf-8") as lines:  # a token may hold any other separator than a line break
            numbers = {line.rstrip("\n"): number for number, line in enumerate(lines)}
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as text ({error})") from None
    if numbers.get("[PAD]") != 0 or not numbers.keys() >= {"[UNK]", "[CLS]", "[SEP]"}:
        raise ValueError(f"{path}: not a vocabulary of BERT's (needs [PAD] first, and [UNK], [CLS], [SEP])")
    return numbers


def words(text: str) -> list[str]:
    """Lower-case words without accents; each punctuation mark and ideograph is a word."""
    spaced = "".join(f" {char} " if _is_ideograph(char) else char for char in text if not _is_control(char))
    plain = (char for char in unicodedata.normalize("NFD", spaced.lower()))
    plain = (char for char in plain if unicodedata.category(char) != "Mn")
    return "".join(f" {char} " if _is_punctuation(char) else char for char in plain).split()


def pieces(word: str, numbers: Mapping[str, int]) -> list[str]:
    """The longest pieces of the vocabulary from left to right; `[UNK]` if a rest has none."""
    found: list[str] = []
    start = 0
    while start < len(word):
        prefix = "##" if start else ""
        ends = range(len(word), start, -1)
        end = next((end for end in ends if prefix + word[start:end] in numbers), None)
        if end is None or len(word) > LONGEST_WORD:
            return ["[UNK]"]
        found.append(prefix + word[start:end])
        start = end
    return found


def _is_control(char: str) -> bool:
    return char == "�" or (unicodedata.category(char).startswith("C") and char not in "\t\n\r")


def _is_ideograph(char: str) -> bool:
    return any(first <= ord(char) <= last for first, last in IDEOGRAPHS)


def _is_punctuation(char: str) -> bool:
    """Unicode's, and all of ASCII's marks."""
    is_mark = char.isascii() and char.isprintable() and not char.isalnum() and char != " "
    return is_mark or unicodedata.category(char).startswith("P")
