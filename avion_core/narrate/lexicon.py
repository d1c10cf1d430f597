"""The offline provider: rewrites a narration with synonyms and other sentence patterns, without a network.

A replacement must be in the reviewed table `synonyms.yaml`. If class lists are given, a word is not replaced
by one of another class, so that a rephrased clip keeps its verb and noun class. Class lists also allow near
synonyms that annotators put into one class (mug and cup), and short names ("coffee mug", "mug"). Half of the
sentences are in the plain form of EPIC-KITCHENS-100 ("take mug"), half in that of Ego4D ("#C C grabs the
mug"). The same text always gives the same sentences.
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

from avion_core.narrate.analysis import PLAIN_ADJECTIVES, analyse
from avion_core.narrate.class_lists import ClassLists
from avion_core.narrate.grammar import (
    ARTICLES,
    MOVABLE,
    PARTICLES,
    POSSESSIVES,
    PREPOSITIONS,
    PRONOUNS,
    REFLEXIVES,
    NounPhrase,
    Sentence,
    Verb,
    inflect,
    map_nouns,
    render,
    word_set,
)
from avion_core.narrate.sentences import distinct
from avion_core.narrate.words import Words, load_words

TABLE = Path(__file__).with_name("synonyms.yaml")
PLACES = word_set("in into on onto at under over near beside behind inside")
TIED = word_set(
    "get rub brush shake tap knock bang scrape scratch wrap hit stick wipe set leave lay transfer point run"
)
"""Verbs that mean another action without the place: "rub cream on the hands" is not "rub cream"."""
SOURCES = word_set("take pick grab get fetch remove lift collect")
"""Verbs for which "from the table" only says where."""
COUNTING = word_set("a an another each every one")
"""Words before a single thing: "another loaf" is not "another bread"."""
VISITED = word_set("at to towards behind")
"""Prepositions before a shop's counter, which is no worktop."""
MEANS = frozenset(("tools", "containers", "gadgets", "devices", "clothes", "materials", "matter", "body"))
"""Kinds of what a thing is done with; "mix the flour with the milk" says what to mix."""


@dataclass(frozen=True)
class Rule:
    """Replacements of a verb, and the objects and prepositions that they are limited to."""

    others: tuple[str, ...]
    of: frozenset[str] | None
    """Kinds of the object; empty: there must be none; None: any."""
    then: frozenset[str] | None
    """Prepositions after the object; None: any."""

    def fits(self, sentence: Sentence, words: Words) -> bool:
        """Whether the rule applies to the sentence's object and what follows it."""
        used = {part for part in sentence.rest if part in PREPOSITIONS | {"out of"}}
        if self.then is not None and not used <= self.then:
            return False
        if _involves_someone(sentence, words):
            return False
        if sentence.object is None or self.of == frozenset():
            return sentence.object is None and self.of == frozenset()
        return self.of is None or all(self.of & _kinds(phrase, words) for phrase in _objects(sentence))


@dataclass(frozen=True)
class Table:
    """The content of `synonyms.yaml`."""

    verbs: Mapping[str, Mapping[str, tuple[Rule, ...]]]
    """By "always" and "in_class": the rules for each verb."""
    nouns: Mapping[str, Mapping[str, tuple[str, ...]]]
    """By "always" and "in_class": what may stand for each noun."""
    countable: frozenset[str]


@cache
def load_table(path: Path = TABLE) -> Table:
    """Read the reviewed table."""
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    return Table(
        {use: _rules(rows) for use, rows in raw["verbs"].items()},
        {use: _gathered(_directed(row) for row in rows) for use, rows in raw["nouns"].items()},
        frozenset(raw["countable"]),
    )


def _rules(rows: Iterable[Mapping[str, Any]]) -> dict[str, tuple[Rule, ...]]:
    found: dict[str, list[Rule]] = {}
    for row in rows:
        of = frozenset() if row.get("of") == "nothing" else frozenset(row["of"]) if "of" in row else None
        then = frozenset(row["then"].split()) if "then" in row else None
        for verb, others in _directed(row["words"]).items():
            rule = Rule(others, of, then)
            found.setdefault(verb, []).append(rule)
    return {verb: tuple(rules) for verb, rules in found.items()}


def _directed(group: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """`[a, b]` → a: b and b: a; `[a > b, c]` → a: b, c."""
    narrow, arrow, wide = group[0].partition(" > ")
    if arrow:
        return {narrow: (wide, *group[1:])}
    return {word: tuple(other for other in group if other != word) for word in group}


def _gathered(rows: Iterable[Mapping[str, tuple[str, ...]]]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for row in rows:
        for word, others in row.items():
            found[word] = (*found.get(word, ()), *others)
    return found


class Lexicon:
    """Rewrites narrations by table and class lists."""

    def __init__(
        self, class_lists: ClassLists | None = None, *, table: Table | None = None, words: Words | None = None
    ) -> None:
        self.lists = class_lists or ClassLists()
        self.table = table or load_table()
        self.words = words or load_words()

    def rephrase(self, text: str, count: int) -> list[str]:
        """Up to `count` sentences that mean the same as `text`; fewer or none if words run out."""
        sentence = analyse(text, self.words)
        if sentence is None:
            return []
        candidates = self._candidates(sentence, text) if sentence.understood else _forms(sentence)
        return distinct(_once(itertools.islice(candidates, 30 * count)), original=text, count=count)

    def _candidates(self, sentence: Sentence, text: str) -> Iterator[str]:
        """Sentences, the most useful first; a digest of the text breaks ties."""
        pick = int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)
        verbs = _rotated(self._verb_synonyms(sentence), pick)
        named = _rotated(self._renamed(sentence), pick >> 4)
        plain, told = sentence.actor != "other", sentence.tag
        for place in range(max(len(verbs), len(named), 1)):
            verb = verbs[place % len(verbs)] if verbs else sentence.verb
            other = named[place % len(named)] if named else sentence
            spoken = replace(other if pick & 1 else sentence, verb=verb)
            if plain and place == 0:
                yield _instruction(_bare(sentence) if pick & 2 else sentence)
            yield render(self._articles(spoken, pick), tag=told)
            if plain:
                short = self._short if pick & 4 else _bare
                yield _instruction(short(replace(other, verb=verb)))
            yield render(replace(sentence if pick & 1 else other, verb=verb), tag=told)
        if plain:
            yield _instruction(_bare(sentence))
            yield _instruction(self._short(sentence))
        yield from self._other_forms(sentence, verbs, named)

    def _other_forms(
        self, sentence: Sentence, verbs: Sequence[Verb], named: Sequence[Sentence]
    ) -> Iterator[str]:
        """Variations without synonyms: aspect, articles, the particle's place."""
        told = sentence.tag
        if _moves(sentence, known=bool(verbs)):
            yield render(sentence, tag=told, particle_last=True)
        yield from _forms(sentence)
        for other, verb in itertools.product(named, (sentence.verb, *verbs)):
            yield render(replace(other, verb=verb), tag=told)
        plain = sentence.actor != "other"
        for flip in (0, 8):
            yield render(self._articles(sentence, flip), tag=told)
            if plain:
                yield _instruction(self._articles(sentence, flip))
        for verb in verbs:
            changed = replace(sentence, verb=verb)
            if plain:
                yield from (_instruction(form(changed)) for form in (_bare, self._short))
            yield from _aspects(changed)
            if _moves(changed, known=True):
                yield render(changed, tag=told, particle_last=True)

    def _verb_synonyms(self, sentence: Sentence) -> list[Verb]:
        rules = {
            use: [
                other
                for rule in by_verb.get(str(sentence.verb), ())
                if rule.fits(sentence, self.words)
                for other in rule.others
            ]
            for use, by_verb in self.table.verbs.items()
        }
        return [Verb.parse(word) for word in _agreed(str(sentence.verb), rules, self.lists.verbs)]

    def _renamed(self, sentence: Sentence) -> list[Sentence]:
        """The sentence with other names for its things: the first choice of each, then the second, …"""
        names = {phrase: self._names(phrase) for phrase in _phrases(sentence)}
        for first, second in itertools.pairwise((sentence.object, *sentence.rest)):
            if isinstance(first, NounPhrase) and second == "of":
                names[first] = []  # a cup of flour is no mug of flour
            if isinstance(second, NounPhrase) and first in VISITED and second.noun[-1].lower() == "counter":
                names[second] = []
        most = max(map(len, names.values()), default=0)

        def change(phrase: NounPhrase, choice: int) -> NounPhrase:
            if not names[phrase]:
                return phrase
            *first, head = names[phrase][choice % len(names[phrase])].split()
            head = inflect(head, "NNS") if self.words.is_plural(phrase.noun) else head
            return replace(phrase, noun=(*first, head))

        renamed = (map_nouns(sentence, partial(change, choice=choice)) for choice in range(most))
        return [
            new for new in renamed if len({phrase.noun for phrase in _phrases(new)}) == len(_phrases(new))
        ]

    def _names(self, phrase: NounPhrase) -> list[str]:
        noun = self.words.singular(phrase.noun)
        rules = {use: by_noun.get(noun, ()) for use, by_noun in self.table.nouns.items()}
        counted = self.words.is_plural(phrase.noun) or COUNTING & {word.lower() for word in phrase.before}
        return [
            name
            for name in _agreed(noun, rules, self.lists.nouns)
            if not counted or name in self.table.countable
        ]

    def _short(self, sentence: Sentence) -> Sentence:
        """Verb and thing alone ("take mug") if the rest only says where or how; else the bare sentence."""
        if sentence.object is None or not self._only_tells_where(sentence, sentence.object):
            return _bare(sentence)
        return replace(sentence, object=self._head(sentence.object), rest=())

    def _only_tells_where(self, sentence: Sentence, target: NounPhrase) -> bool:
        """Whether what follows the object only says where, how or with what."""
        first, second = (*sentence.rest, "", "")[:2]
        verb = str(sentence.verb)
        if "and" in sentence.rest or target.noun[0] in PRONOUNS or "people" in _kinds(target, self.words):
            return False
        if first in ("with", "using"):
            return isinstance(second, NounPhrase) and bool(_kinds(second, self.words) & MEANS)
        if first in ("from", "out of"):
            return sentence.verb.lemma in SOURCES
        if first == "to":
            return isinstance(second, str) and second.endswith("side")
        poured = verb in ("put", "place") and "stuff" in self.words.kinds(target.noun)
        return not first or (first in PLACES and verb not in TIED and not poured)

    def _head(self, phrase: NounPhrase) -> NounPhrase:
        """The thing without colour and size; of a compound vessel, the last word if both have one class."""
        bare = _without_articles(phrase)
        kept = tuple(word for word in bare.before if word.lower() not in PLAIN_ADJECTIVES)
        words, classes = (*bare.before, *bare.noun), self.lists.nouns
        head = self.words.singular(words[-1:])
        for start in range(len(words) - 1):
            own = classes.get(self.words.singular(words[start:]))
            if own is not None:
                shared = own & classes.get(head, frozenset())
                vessel = self.words.kinds(words[-1:]) & {"tools", "containers"}
                return NounPhrase(kept, words[-1:]) if shared and vessel else NounPhrase((), words)
        return NounPhrase(kept, bare.noun)

    def _articles(self, sentence: Sentence, pick: int) -> Sentence:
        """Half of the time "a" for "the" (for countable things), always "the" for "a"."""
        if pick & 8 or "of" in sentence.rest:
            return sentence

        def change(phrase: NounPhrase) -> NounPhrase:
            first, *inner = (*phrase.before, "")
            if first.lower() not in ARTICLES or not set(map(str.lower, inner)) <= PLAIN_ADJECTIVES | {""}:
                return phrase
            definite = first.lower() == "the"
            if definite and " ".join(phrase.noun).lower() not in self.table.countable:
                return phrase
            return replace(phrase, before=("a" if definite else "the", *phrase.before[1:]))

        return map_nouns(sentence, change)


def _agreed(
    word: str, rules: Mapping[str, Iterable[str]], classes: Mapping[str, frozenset[int]]
) -> list[str]:
    """Replacements of `word` that the class lists (possibly empty) allow."""
    own = classes.get(word)
    free = [other for other in rules["always"] if own is None or other not in classes or own & classes[other]]
    close = [other for other in rules["in_class"] if own and own & classes.get(other, frozenset())]
    return list(dict.fromkeys([*free, *close]))


def _forms(sentence: Sentence) -> Iterator[str]:
    """The same words as an instruction, and in the other aspect."""
    wearer = any(str(part).lower() in POSSESSIVES | REFLEXIVES for part in sentence.rest)
    if not sentence.understood and sentence.actor != "other" and not wearer:
        yield render(sentence, tag="VB")
    yield from _aspects(sentence)


def _aspects(sentence: Sentence) -> Iterator[str]:
    """ "takes" for "is taking" and the other way round."""
    if sentence.subject and not (sentence.helper and sentence.helper.link == "ing"):
        yield render(sentence, tag="VBZ" if sentence.tag == "VBG" else "VBG")


def _instruction(sentence: Sentence) -> str:
    """The sentence in EPIC-KITCHENS' form; bare if it has a possessive: no command says "with his hand"."""
    possessive = any(word.lower() in POSSESSIVES for phrase in _phrases(sentence) for word in phrase.before)
    return render(_bare(sentence) if possessive else sentence, tag="VB")


def _bare(sentence: Sentence) -> Sentence:
    """Without articles: "take red mug from table"."""
    return map_nouns(sentence, _without_articles)


def _without_articles(phrase: NounPhrase) -> NounPhrase:
    left = tuple(word for word in phrase.before if word.lower() not in ARTICLES | POSSESSIVES | {"some"})
    return replace(phrase, before=left)


def _moves(sentence: Sentence, *, known: bool) -> bool:
    """Whether the particle may follow the object: "pick the mug up", but no "pick the jar up of pesto"."""
    short = sentence.object is not None and len(sentence.object.words()) <= 3
    joined = sentence.rest[:1] in (("of",), ("and",))
    particle = sentence.verb.particle
    return short and not joined and (particle in MOVABLE or (known and particle in PARTICLES))


def _phrases(sentence: Sentence) -> list[NounPhrase]:
    return [part for part in (sentence.object, *sentence.rest) if isinstance(part, NounPhrase)]


def _objects(sentence: Sentence) -> list[NounPhrase]:
    """The object; of "spices and salt", both."""
    found = [sentence.object] if sentence.object else []
    for joint, part in itertools.pairwise(sentence.rest):
        if joint in PREPOSITIONS:
            break
        if joint == "and" and isinstance(part, NounPhrase):
            found.append(part)
    return found


def _involves_someone(sentence: Sentence, words: Words) -> bool:
    """Whether something is taken from a person, who may hand it over, or clothes are put on one."""
    worn = sentence.object is not None and "clothes" in _kinds(sentence.object, words)
    veto = {"from": {"people"}, "on": {"people", "body"} if worn else set()}
    return any(
        isinstance(second, NounPhrase) and bool(veto.get(str(first), set()) & _kinds(second, words))
        for first, second in itertools.pairwise(sentence.rest)
    )


def _kinds(phrase: NounPhrase, words: Words) -> frozenset[str]:
    if len(phrase.noun) == 1 and phrase.noun[0] in PRONOUNS:
        return frozenset(("held",))
    named = len(phrase.noun) > 1 and len(phrase.noun[-1]) == 1
    kinds = words.kinds(phrase.noun[:-1] if named else phrase.noun)
    own = "body" in kinds and any(word.lower() in POSSESSIVES for word in phrase.before)
    return frozenset(("body",)) if own else kinds  # nobody takes or grabs "his nails"


def _once(sentences: Iterable[str]) -> Iterator[str]:
    seen = set[str]()
    for sentence in sentences:
        if sentence not in seen:
            seen.add(sentence)
            yield sentence


def _rotated(items: list[Any], by: int) -> list[Any]:
    cut = by % len(items) if items else 0
    return items[cut:] + items[:cut]
