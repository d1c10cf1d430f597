"""Verb and noun classes of EPIC-KITCHENS-100: which words annotators took for the same thing.

The column `instances` holds what annotators wrote, in a notation of its own: `pick-up` is "pick up",
`spoon:wooden` is "wooden spoon". The lists are noisy (misspellings, parts, neighbours in kind), so they
say which words a class has seen, not that any two of them are synonyms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from avion_core.data.ek100 import read_class_list


@dataclass(frozen=True)
class ClassLists:
    """Classes of each verb and noun phrase, in words as they appear in a sentence."""

    verbs: Mapping[str, frozenset[int]] = field(default_factory=dict)
    nouns: Mapping[str, frozenset[int]] = field(default_factory=dict)


def load_class_lists(paths: Sequence[Path]) -> ClassLists:
    """Read lists with the columns `id,key,instances`; a file's name says `verb` or `noun`.

    Raises ValueError for a name that says neither, a missing column or an unreadable row.
    """
    found: dict[str, dict[str, set[int]]] = {"verb": {}, "noun": {}}
    for path in paths:
        kinds = [kind for kind in found if kind in path.name.lower()]
        if len(kinds) != 1:
            raise ValueError(f"{path}: a class list's file name must say either 'verb' or 'noun'")
        for number, entry in enumerate(read_class_list(path)):
            for word in (entry.key, *entry.instances):
                found[kinds[0]].setdefault(TO_WORDS[kinds[0]](word), set()).add(number)
    verbs, nouns = ({phrase: frozenset(ids) for phrase, ids in found[kind].items()} for kind in found)
    return ClassLists(verbs, nouns)


def verb_words(instance: str) -> str:
    """`pick-up` → "pick up"."""
    return instance.replace("-", " ").strip().lower()


def noun_words(instance: str) -> str:
    """`spoon:wooden` → "wooden spoon": the head comes first, its qualifiers after it in their order."""
    head, *qualifiers = instance.strip().lower().split(":")
    return " ".join([*qualifiers, head])


TO_WORDS = {"verb": verb_words, "noun": noun_words}
"""What an instance of either kind says."""
