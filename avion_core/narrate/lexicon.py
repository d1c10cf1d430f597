"""The offline provider: rewrites a narration with synonyms and other sentence forms, without a network.

A replacement must be in the reviewed table `synonyms.yaml`, and class lists, where given, have a veto: a
word is never replaced by one of another class, so a rephrased clip keeps its verb and noun class. The class
lists add what is close enough only if annotators saw it so (mug and cup), and short names ("coffee mug",
"mug"). Half of the sentences are in the plain form of EPIC-KITCHENS-100 ("take mug"), half in that of Ego4D
("#C C grabs the mug"). The same text always gives the same sentences.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import yaml

from avion_core.narrate.class_lists import ClassLists
from avion_core.narrate.grammar import (
    ARTICLES,
    CONJUNCTIONS,
    DETERMINERS,
    PARTICLES,
    NounPhrase,
    Sentence,
    Verb,
    analyse,
    has_second_verb,
    inflect,
    is_plural,
    map_nouns,
    noun_lemma,
    render,
)
from avion_core.narrate.sentences import distinct

TABLE = Path(__file__).with_name("synonyms.yaml")


@dataclass(frozen=True)
class Synonyms:
    """For each word, what may stand for it: at any time, or only within one class."""

    always: Mapping[str, tuple[str, ...]]
    in_class: Mapping[str, tuple[str, ...]]

    def of(self, word: str, classes: Mapping[str, frozenset[int]]) -> list[str]:
        """Replacements of `word` that the class lists (possibly empty) do not speak against."""
        own = classes.get(word)
        free = [
            other
            for other in self.always.get(word, ())
            if own is None or other not in classes or own & classes[other]
        ]
        close = [
            other for other in self.in_class.get(word, ()) if own and own & classes.get(other, frozenset())
        ]
        return list(dict.fromkeys([*free, *close]))

    def words(self) -> frozenset[str]:
        """Every word of the table."""
        pairs = [*self.always.items(), *self.in_class.items()]
        return frozenset(word for key, others in pairs for word in (key, *others))


@dataclass(frozen=True)
class Table:
    """`synonyms.yaml`, read."""

    verbs: Synonyms
    nouns: Synonyms
    fixed_objects: frozenset[str]
    countable: frozenset[str]


@cache
def load_table(path: Path = TABLE) -> Table:
    """Read the reviewed table."""
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    verbs, nouns = (
        Synonyms(_directed(raw[kind]["always"]), _directed(raw[kind]["in_class"]))
        for kind in ("verbs", "nouns")
    )
    return Table(verbs, nouns, frozenset(raw["fixed_objects"]), frozenset(raw["countable"]))


def _directed(groups: Iterable[Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """`[a, b]` → a: b and b: a; `[a > b, c]` → a: b, c."""
    found: dict[str, list[str]] = {}
    for group in groups:
        narrow, arrow, wide = group[0].partition(" > ")
        if arrow:
            found.setdefault(narrow, []).extend([wide, *group[1:]])
        else:
            for word in group:
                found.setdefault(word, []).extend(other for other in group if other != word)
    return {word: tuple(dict.fromkeys(others)) for word, others in found.items()}


class Lexicon:
    """Rewrites narrations by table and class lists."""

    def __init__(self, class_lists: ClassLists | None = None, *, table: Table | None = None) -> None:
        self.lists = class_lists or ClassLists()
        self.table = table or load_table()
        self._verbs = self.table.verbs.words()

    def rephrase(self, text: str, count: int) -> list[str]:
        """Up to `count` sentences that say what `text` says; fewer (or none) where the table ends."""
        sentence = analyse(text, is_phrasal=self._verbs.__contains__)
        if sentence is None:
            return []
        return distinct(
            itertools.islice(self._candidates(sentence, text), 30 * count), original=text, count=count
        )

    def _candidates(self, sentence: Sentence, text: str) -> Iterator[str]:
        """Sentences, the most useful first; a digest of the text picks among equals."""
        pick = int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)
        verbs = _rotated(self._verb_synonyms(sentence), pick)
        named = _rotated(self._renamed(sentence), pick >> 4)
        plain = sentence.plain() and not has_second_verb(sentence)
        told = _told(sentence)
        for place in range(max(len(verbs), len(named), 1)):
            verb = verbs[place % len(verbs)] if verbs else sentence.verb
            other = named[place % len(named)] if named else sentence
            spoken = replace(other if pick & 1 else sentence, verb=verb)
            if plain and place == 0:
                yield render(self._bare(sentence) if pick & 2 else sentence, tag="VB")
            yield render(self._articles(spoken, pick), tag=told)
            if plain:
                short = self._short if pick & 4 else self._bare
                yield render(short(replace(other, verb=verb)), tag="VB")
            yield render(replace(sentence if pick & 1 else other, verb=verb), tag=told)
        if plain:
            yield render(self._bare(sentence), tag="VB")
            yield render(self._short(sentence), tag="VB")
        yield from self._other_forms(sentence, verbs, named, plain=plain)

    def _other_forms(
        self, sentence: Sentence, verbs: Sequence[Verb], named: Sequence[Sentence], *, plain: bool
    ) -> Iterator[str]:
        """Forms that are left when synonyms have run out: aspect, articles, the particle's place."""
        told = _told(sentence)
        if sentence.verb.particle in PARTICLES and sentence.object:
            yield render(sentence, tag=told, particle_last=True)
        if sentence.subject and not has_second_verb(sentence):
            yield render(sentence, tag="VBZ" if sentence.progressive else "VBG")
        for other, verb in itertools.product(named, (sentence.verb, *verbs)):
            yield render(replace(other, verb=verb), tag=told)
        for flip in (0, 8):
            yield render(self._articles(sentence, flip), tag=told)
            if plain:
                yield render(self._articles(sentence, flip), tag="VB")
        for verb in verbs:
            changed = replace(sentence, verb=verb)
            if plain:
                yield from (render(form(changed), tag="VB") for form in (self._bare, self._short))
            if sentence.subject and not has_second_verb(sentence):
                yield render(changed, tag="VBG")
            if verb.particle in PARTICLES and sentence.object:
                yield render(changed, tag=told, particle_last=True)

    def _verb_synonyms(self, sentence: Sentence) -> list[Verb]:
        target = sentence.object
        if target is not None and noun_lemma(target.noun[-1]) in self.table.fixed_objects:
            return []
        words = self.table.verbs.of(str(sentence.verb), self.lists.verbs)
        return [Verb.parse(word) for word in words]

    def _renamed(self, sentence: Sentence) -> list[Sentence]:
        """The sentence with other names for its things: the first choice of each, then the second, …"""
        most = max((len(self._names(phrase)) for phrase in _phrases(sentence)), default=0)

        def change(phrase: NounPhrase, choice: int) -> NounPhrase:
            names = self._names(phrase)
            if not names:
                return phrase
            *first, head = names[choice % len(names)].split()
            head = inflect(head, "NNS") if is_plural(phrase.noun[-1]) else head
            return replace(phrase, noun=(*first, head))

        return [map_nouns(sentence, partial(change, choice=choice)) for choice in range(most)]

    def _names(self, phrase: NounPhrase) -> list[str]:
        return self.table.nouns.of(_singular(phrase), self.lists.nouns)

    def _bare(self, sentence: Sentence) -> Sentence:
        """Without articles: "take red mug from table"."""
        return map_nouns(sentence, lambda phrase: _without(phrase, DETERMINERS))

    def _short(self, sentence: Sentence) -> Sentence:
        """Verb and thing alone: "take mug"; the whole bare sentence when the thing is not named in one piece
        ("piece of bread", "egg and rice") or there is none."""
        joined = sentence.rest and str(sentence.rest[0]).lower() in CONJUNCTIONS | {"of"}
        if sentence.object is None or joined:
            return self._bare(sentence)
        return replace(sentence, object=self._head(sentence.object), rest=())

    def _head(self, phrase: NounPhrase) -> NounPhrase:
        """The noun alone; of a compound, the last word if the class lists have both in one class."""
        words, classes = (*phrase.before, *phrase.noun), self.lists.nouns
        head = classes.get(noun_lemma(words[-1]), frozenset())
        for start in range(len(words) - 1):
            own = classes.get(_singular(NounPhrase((), words[start:])))
            if own is not None:
                return NounPhrase((), words[-1:] if own & head else words[start:])
        return NounPhrase((), phrase.noun)

    def _articles(self, sentence: Sentence, pick: int) -> Sentence:
        """Half of the time "a" for "the" (of things one can count), always "the" for "a"."""

        def change(phrase: NounPhrase) -> NounPhrase:
            if not phrase.before or phrase.before[0].lower() not in ARTICLES:
                return phrase
            definite = phrase.before[0].lower() == "the"
            if definite and (_singular(phrase) not in self.table.countable or is_plural(phrase.noun[-1])):
                return phrase
            if pick & 8:
                return phrase
            return replace(phrase, before=("a" if definite else "the", *phrase.before[1:]))

        return map_nouns(sentence, change)


def _told(sentence: Sentence) -> Any:
    """Verb form of the sentence as it came."""
    if not sentence.subject:
        return "VB"
    return "VBG" if sentence.progressive else "VBZ"


def _phrases(sentence: Sentence) -> list[NounPhrase]:
    return [part for part in (sentence.object, *sentence.rest) if isinstance(part, NounPhrase)]


def _singular(phrase: NounPhrase) -> str:
    """Noun as tables and lists have it."""
    return " ".join([*(word.lower() for word in phrase.noun[:-1]), noun_lemma(phrase.noun[-1])])


def _without(phrase: NounPhrase, words: frozenset[str]) -> NounPhrase:
    return replace(phrase, before=tuple(word for word in phrase.before if word.lower() not in words))


def _rotated(items: list[Any], by: int) -> list[Any]:
    cut = by % len(items) if items else 0
    return items[cut:] + items[:cut]
