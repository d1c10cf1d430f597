"""How a text differs from a human narration: who acts, the thing acted on, the language. Pure.

Only what is sure counts: a text that the lexicon does not understand tells of no other thing.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from lemminflect import getAllLemmas

from avion_core.narrate.analysis import analyse
from avion_core.narrate.class_lists import ClassLists
from avion_core.narrate.grammar import PRONOUNS, NounPhrase, word_set
from avion_core.narrate.lexicon import load_table
from avion_core.narrate.sentences import clean
from avion_core.narrate.words import load_words

TAG = re.compile(r"#\s*([a-z])\b(?:\s+\1\b)?", re.IGNORECASE)
"""The tag of who acts: "#C C", "#O"."""

_TALK: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("talk.yaml").read_text(encoding="utf-8"))
_ALIKE = [frozenset(group.split()) for group in _TALK["alike"]]
_PEOPLE = word_set(_TALK["people"])
_FOREIGN = word_set(_TALK["foreign"])
_SMALL = word_set(
    " ".join(_TALK[name] for name in ("english", "small", "people", "prepositions", "determiners"))
)
_SPEAKER = word_set("i i'm i've i'll my me we we're our you your")
_DETERMINERS = word_set("a an the this that another some")


def words_of(text: str) -> list[str]:
    """Words in lower case, without the tag and punctuation."""
    return clean(TAG.sub(" ", text, count=1), wearer=False).casefold().split()


def has_other_actor(text: str, narration: str) -> bool:
    """Whether somebody else acts than in the narration: another tag, a person, a letter, "I" or "you".

    Of the camera wearer an instruction ("take the cup") is told too; of others it is not.
    """
    told, own = _actor(text), _actor(narration)
    if told == own or told in narration.casefold().split():
        return False
    if own in ("c", ""):
        return told not in ("c", "")
    if own not in ("o", "person"):
        return False
    return told in ("c", "speaker") or (told == "" and own == "o" and _is_instruction(text))


def _actor(text: str) -> str:
    """`c`, `o` … for a tag or a letter, `speaker`, `person`, or empty if none is named at the beginning."""
    if tag := TAG.match(text.strip()):
        return tag[1].casefold()
    if clean(text, wearer=True).startswith("#C C "):
        return "c"
    first, second, third = [*words_of(text), "", "", ""][:3]
    if first in _SPEAKER:
        return "speaker"
    if first in _PEOPLE or (first in _DETERMINERS and _PEOPLE & {second, third}):
        return "person"
    return first if len(first) == 1 and first.isalpha() and first != "a" else ""


def _is_instruction(text: str) -> bool:
    first = next(iter(words_of(text)), "")
    return first in getAllLemmas(first, "VERB").get("VERB", ()) and not getAllLemmas(first, "NOUN")


def share_known(words: Sequence[str], *, told: Iterable[str] = ()) -> float:
    """Share of the words that the dictionary knows as English, or that are in `told`; 1 without words."""
    mine = frozenset(told)
    counted = [word for word in words if any(map(str.isalpha, word))]
    known = sum(word in mine or _is_english(word) for word in counted)
    return known / len(counted) if counted else 1.0


@lru_cache(maxsize=100_000)
def _is_english(word: str) -> bool:
    word = word.removesuffix("'s")
    if word in _SMALL or word in load_words().singulars or word in _parts_of_things():
        return True
    if word in _FOREIGN:
        return False
    return any(map(getAllLemmas, (word, *word.split("-"))))


@lru_cache(maxsize=1)
def _parts_of_things() -> frozenset[str]:
    return frozenset(part for thing in load_words().things for part in thing.split())


@dataclass(frozen=True)
class Things:
    """Compares the things of texts, by the lexicon, and by class lists if there are any."""

    lists: ClassLists = field(default_factory=ClassLists)

    def are_other(self, text: str, narration: str) -> bool | None:
        """Whether a text surely acts on another thing than the narration; None where one is not understood.

        Neither may the text name what the narration acts on, nor the narration what the text acts on.
        """
        own, told = _objects(narration), _objects(text)
        if own is None or told is None:
            return None
        pairs = [(own[0], thing) for thing in told] + [(thing, told[0]) for thing in own]
        return not any(self.may_be_same(one, other) for one, other in pairs)

    def may_be_same(self, one: str, other: str) -> bool:
        """Whether two things share a word, are synonyms, alike or of one class, or one is not known."""
        if not self._knows(one) or not self._knows(other):
            return True
        return any(
            mine == theirs
            or mine in _synonyms(theirs)
            or theirs in _synonyms(mine)
            or bool(self._classes(mine) & self._classes(theirs))
            or any(mine in group and theirs in group for group in _ALIKE)
            for mine in _parts(one)
            for theirs in _parts(other)
        )

    def _classes(self, thing: str) -> frozenset[int]:
        return self.lists.nouns.get(thing, frozenset())

    def _knows(self, thing: str) -> bool:
        """Whether synonyms of the thing, or of one that it is a kind of, would be known."""
        return any(part in _compared() or part in self.lists.nouns for part in _parts(thing))


@lru_cache(maxsize=100_000)
def _objects(text: str) -> tuple[str, ...] | None:
    """The thing that a sentence acts on, then the others; None if it is not understood or names none."""
    sentence = analyse(text, load_words())
    if sentence is None or not sentence.understood or sentence.object is None:
        return None
    if sentence.object.noun[0] in PRONOUNS:
        return None
    named = [phrase for phrase in (sentence.object, *sentence.rest) if isinstance(phrase, NounPhrase)]
    return tuple(load_words().singular(phrase.noun) for phrase in named)


def _parts(thing: str) -> Iterator[str]:
    """ "red coffee mug": itself, "red coffee", "coffee mug", "red", "coffee", "mug"."""
    words = thing.split()
    for start, end in itertools.combinations(range(len(words) + 1), 2):
        yield " ".join(words[start:end])


def _synonyms(thing: str) -> frozenset[str]:
    return frozenset(name for by_noun in load_table().nouns.values() for name in by_noun.get(thing, ()))


@lru_cache(maxsize=1)
def _compared() -> frozenset[str]:
    """Things of which the reviewed tables say what is like them."""
    tabled = {
        name
        for by_noun in load_table().nouns.values()
        for thing in by_noun
        for name in (thing, *by_noun[thing])
    }
    return load_table().countable.union(tabled, *_ALIKE)
