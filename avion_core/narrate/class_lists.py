"""Verb and noun classes of EPIC-KITCHENS-100: which words annotators took for the same thing.

The column `instances` holds what annotators wrote, in a notation of its own: `pick-up` is "pick up",
`spoon:wooden` is "wooden spoon". The lists are noisy (misspellings, parts, neighbours in kind), so they
say which words a class has seen, not that any two of them are synonyms.
"""

from __future__ import annotations

import ast
import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


class ClassListError(ValueError):
    """A class list cannot be read. The message names the file and the row."""


@dataclass(frozen=True)
class ClassLists:
    """Classes of each verb and noun phrase, in words as they stand in a sentence."""

    verbs: Mapping[str, frozenset[int]] = field(default_factory=dict)
    nouns: Mapping[str, frozenset[int]] = field(default_factory=dict)


def load_class_lists(paths: Sequence[Path]) -> ClassLists:
    """Read lists with the columns `id,key,instances`; a file's name says `verb` or `noun`.

    Raises ClassListError for a name that says neither, a missing column or an unreadable row.
    """
    found: dict[str, dict[str, set[int]]] = {"verb": {}, "noun": {}}
    for path in paths:
        kinds = [kind for kind in found if kind in path.name.lower()]
        if len(kinds) != 1:
            raise ClassListError(f"{path}: a class list's file name must say either 'verb' or 'noun'")
        for phrase, number in _read(path, kinds[0]):
            found[kinds[0]].setdefault(phrase, set()).add(number)
    verbs, nouns = ({phrase: frozenset(ids) for phrase, ids in found[kind].items()} for kind in found)
    return ClassLists(verbs, nouns)


def _read(path: Path, kind: str) -> list[tuple[str, int]]:
    to_words = verb_words if kind == "verb" else noun_words
    pairs = []
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        missing = {"id", "key", "instances"} - set(reader.fieldnames or ())
        if missing:
            raise ClassListError(f"{path}: missing column '{sorted(missing)[0]}'")
        for row in reader:
            try:
                number, instances = int(row["id"]), ast.literal_eval(row["instances"])
                pairs += [(to_words(str(word)), number) for word in [row["key"], *instances]]
            except (ValueError, SyntaxError, TypeError):
                raise ClassListError(
                    f"{path}, line {reader.line_num}: needs a number and a list of words"
                ) from None
    return pairs


def verb_words(instance: str) -> str:
    """`pick-up` → "pick up"."""
    return instance.replace("-", " ").strip().lower()


def noun_words(instance: str) -> str:
    """`spoon:wooden` → "wooden spoon": the head comes first, its qualifiers after it in their order."""
    head, *qualifiers = instance.strip().lower().split(":")
    return " ".join([*qualifiers, head])
