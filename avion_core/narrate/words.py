"""The words that the lexicon understands: what people do, and the things they do it to, by kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from lemminflect import getInflection

from avion_core.narrate.grammar import Tag, inflect

WORDS = Path(__file__).with_name("words.yaml")


@dataclass(frozen=True)
class Words:
    """`words.yaml`, with the forms of its words."""

    actions: Mapping[str, tuple[str, Tag]]
    """Forms of the verbs of action: "takes" is VBZ of "take"."""
    helpers: Mapping[str, tuple[str, Tag]]
    """Forms of "try", "continue", and the like."""
    before_to: frozenset[str]
    """Helpers of an infinitive ("tries to open")."""
    before_ing: frozenset[str]
    """Helpers of an -ing form ("continues opening")."""
    phrasal: frozenset[str]
    """Verbs with a particle or a fixed preposition that are understood as one ("pick up", "look at")."""
    naming: frozenset[str]
    """Verbs whose -ing form stands before nouns, too ("walking stick")."""
    light: frozenset[str]
    """Verbs that mean what their object says ("take a shower"), unless it is something to hold."""
    things: Mapping[str, frozenset[str]]
    """Kinds of each thing, in the singular."""
    singulars: Mapping[str, str]
    """Singular of each thing's plural."""
    openers: frozenset[str]
    """First words of things that have several."""

    def singular(self, noun: Sequence[str]) -> str:
        """A noun in the form used by tables and lists."""
        phrase = " ".join(noun).lower()
        if phrase in self.things:
            return phrase
        *first, head = phrase.split(" ")
        return " ".join([*first, self.singulars.get(head, head)])

    def is_plural(self, noun: Sequence[str]) -> bool:
        """Whether the noun is the plural of a thing."""
        return self.singular(noun) != " ".join(noun).lower()

    def kinds(self, noun: Sequence[str]) -> frozenset[str]:
        """Kinds of the longest known thing at the noun's end, including itself; none for an unknown noun.

        A chicken breast is a breast only if chicken breasts are not known.
        """
        singular = self.singular(noun)
        while singular:
            if singular in self.things:
                return self.things[singular]
            _, _, singular = singular.partition(" ")
        return frozenset()


@cache
def load_words(path: Path = WORDS) -> Words:
    """Read the reviewed words."""
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    things: dict[str, frozenset[str]] = {}
    for thing, kinds in _leaves(raw["things"]):
        things[thing] = things.get(thing, frozenset()) | kinds | {thing}
    heads = {thing.split(" ")[-1] for thing in things}
    before_to, before_ing = (frozenset(raw["helpers"][link]) for link in ("to", "ing"))
    return Words(
        openers=frozenset(thing.split(" ")[0] for thing in things if " " in thing),
        actions=_forms(raw["actions"]),
        helpers=_forms(before_to | before_ing - {"still"}) | {"still": ("still", "VB")},
        before_to=before_to,
        before_ing=before_ing,
        phrasal=frozenset(raw["phrasal"]),
        naming=frozenset(raw["naming"]),
        light=frozenset(raw["light"]),
        things=things,
        singulars={
            plural: head
            for head in sorted(heads)
            for plural in getInflection(head, "NNS")
            if plural not in things
        },
    )


def _leaves(tree: Any, kinds: frozenset[str] = frozenset()) -> Iterator[tuple[str, frozenset[str]]]:
    if isinstance(tree, dict):
        for kind, below in tree.items():
            yield from _leaves(below, kinds | {kind})
    else:
        for word in tree:
            yield word, kinds


def _forms(lemmas: Any) -> dict[str, tuple[str, Tag]]:
    tags: tuple[Tag, ...] = ("VBG", "VBZ", "VB")
    return {inflect(lemma, tag): (lemma, tag) for tag in tags for lemma in sorted(lemmas)}
