"""Judges whether a string of a language model's reply is a sentence about a narration's action.

Narrations are plain: "#C C picks up the red mug", "take mug". So a sentence must have its verb in the same
place, no words that only talk about the task, and the narration's language; others are left out with the
reason. Words of the narration itself never count against a sentence. For narrations that are not in English,
only script, language and talk are judged. The cleaning follows LaViLa: punctuation is stripped, duplicates
and copies of the original are removed.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import yaml
from lemminflect import getAllLemmas

from avion_core.plain_text import plain

COPY = "a copy of the narration"
COPY_OF_PROMPT = "a copy of the prompt"
LANGUAGE = "another language"
NO_SENTENCE = "no sentence"
OPPOSITE = "the opposite"
OTHER_SUBJECT = "other subject"
OTHER_THING = "other things"
REFUSED = "refused"
TOO_LONG = "too long"

LONGEST_WORDS = 77
"""LaViLa's limit, in tokens there; sentences beyond it are talk, not narration."""
LONGEST_CHARACTERS = 300
"""Of a sentence, for words without end."""


MOST_ADDED = 3
"""Words of things that a sentence may not have beside the narration's."""

_TABLE = yaml.safe_load(Path(__file__).with_name("talk.yaml").read_text(encoding="utf-8"))
_ALIKE = [frozenset(group.split()) for group in _TABLE.pop("alike")]
_OPPOSITES: dict[str, list[tuple[frozenset[str], frozenset[str]]]] = {}
"""Of each word, the words that stand with it and those that stand against it."""
for _pair in _TABLE.pop("opposites"):
    _one, _other = (frozenset(_side.split()) for _side in _pair)
    for _with, _against in ((_one, _other), (_other, _one)):
        for _word in _with:
            _OPPOSITES.setdefault(_word, []).append((_with, _against))
_SEXES = [frozenset(words.split()) for words in _TABLE.pop("sexes")]
_WORDS = {name: frozenset(words.split()) for name, words in _TABLE.items()}
_TALK = _WORDS["talk"] | _WORDS["refusal"]
_SMALL = _WORDS["small"] | _WORDS["english"]
_DENIED = _WORDS["negations"] | {"does", "do", "is"}
_PREFIX = re.compile(r"(?:re|un|de|pre|over|dis)-?(?=\w{3})")

_WEARER = re.compile(
    r"^(?:#\s*cc?(?:\s+#?c)*|c(?:\s+c)*|(?:the |a )?(?:camera )?wearer|"
    r"the camera (?:operator|user|holder|person)|"
    r"the person (?:wearing|with|who wears|who is wearing) (?:the|a) camera)\s+(?=\S)",
    re.IGNORECASE,
)
_TAG = re.compile(r"(?<!\w)#\s*c\b(?:\s+c\b)?", re.IGNORECASE)
_BREAK = re.compile(
    r"[.!?…][\"'”’)*]{0,3}\s|[?？]|…|\.\.|[;；→=]|[:：](?!\d)|->|\s/\s|[\"“”`]|(?<!\w)['‘](?=\w)|[][{}<>|\\]|_|\w/\w"
)
"""What joins several sentences, asks, or quotes: no part of one plain sentence."""
_PLACEHOLDER = re.compile(r"\w+ (?:\d+|one|two|three|four|five|here|[a-z])", re.IGNORECASE)


@lru_cache(maxsize=10_000)
def clean(sentence: str, *, wearer: bool) -> str:
    """One sentence without punctuation and doubled spaces; "#" stays, and so do "'" and "-" within words.

    With `wearer`, a subject that means the camera wearer ("C", "#c c", "The camera wearer") becomes "#C C".
    """
    text = re.sub(r"(?<=\d)[.,](?=\d)", "\0", plain(sentence))
    text = re.sub(r"[.,;:!?\"“”„()\[\]{}*_`|<>…。，！？]", " ", text).replace("\0", ".")
    text = re.sub(r"(?<!\w)['‘’-]+|['‘’-]+(?!\w)", " ", text).replace("’", "'")
    text = " ".join(text.split())
    return _WEARER.sub("#C C ", text) if wearer else text


def is_of_wearer(narration: str) -> bool:
    """Whether a narration has the camera wearer's tag as its subject."""
    return bool(re.match(r"#c\b|C\s", narration.strip().replace("# ", "#"), re.IGNORECASE))


def distinct(sentences: Iterable[str], *, original: str, count: int) -> list[str]:
    """The first `count` cleaned sentences that differ from each other and from the original."""
    wearer = is_of_wearer(original)
    seen = {clean(original, wearer=wearer).casefold()}
    kept: list[str] = []
    for sentence in sentences:
        if len(kept) == count:
            break
        text = clean(sentence, wearer=wearer)
        usable = re.search(r"[^\W\d_]{2}", text) and len(text.split()) <= LONGEST_WORDS
        if usable and text.casefold() not in seen:
            seen.add(text.casefold())
            kept.append(text)
    return kept


def refuses(text: str) -> bool:
    """Whether a text has the words of a refusal."""
    return not _WORDS["refusal"].isdisjoint(_bare_words(text))


@dataclass(frozen=True)
class Narration:
    """A narration, as far as sentences are compared with it."""

    text: str
    words: tuple[str, ...]
    """In lower case, without the wearer's tag."""
    scripts: frozenset[str]
    english: bool
    of_wearer: bool
    """Whether its subject is the camera wearer, or it has none."""
    forms: frozenset[str]
    """The words and their base forms."""
    meant: frozenset[str]
    """What sentences share with it: in English words, their base forms and those like them, else letters."""
    prompt: str
    """The instruction's words, without articles and tags."""

    @classmethod
    def read(cls, text: str, *, instruction: str) -> Narration:
        """Take a narration apart; `instruction` is what the model was told about it."""
        wearer = _wearer_in(text, tagged=is_of_wearer(text))
        words = _bare_words(text.removeprefix(wearer))
        plain_form = bool(words) and words[0] not in _WORDS["people"] and _is_verb(words[0])
        known = plain_form or not _WORDS["english"].isdisjoint(words)
        english = known and _WORDS["foreign"].isdisjoint(words)
        return cls(
            text=text,
            words=tuple(words),
            scripts=_scripts(words),
            english=english,
            of_wearer=bool(wearer) or plain_form,
            forms=_forms_of(words),
            meant=_meant(words) if english else _pieces(words),
            prompt=_words_of_prompt(instruction),
        )

    def judge(self, candidate: str) -> str | None:
        """Why a candidate is not a sentence about this narration's action; None if it is one."""
        wearer = _wearer_in(candidate, tagged=is_of_wearer(self.text))
        words = _bare_words(candidate.removeprefix(wearer))
        new = {word for word in words if _forms(word).isdisjoint(self.forms)}
        if new & _WORDS["refusal"]:
            return REFUSED
        if len(candidate) > LONGEST_CHARACTERS or len(words) > min(LONGEST_WORDS, 3 * len(self.words) + 10):
            return TOO_LONG
        if _BREAK.search(candidate) and not _BREAK.search(self.text):
            return NO_SENTENCE
        if not self._is_enough(words, wearer=wearer):
            return NO_SENTENCE
        if not _scripts(words) <= self.scripts:
            return LANGUAGE
        if not self.english:
            return LANGUAGE if new & _WORDS["surely_english"] else self._unshared(words)
        if new & _TALK:
            return NO_SENTENCE
        if self._is_unfinished(candidate):
            return NO_SENTENCE
        if self._is_negated(words):
            return OPPOSITE
        if new & _WORDS["foreign"]:
            return LANGUAGE
        opposite = OPPOSITE if _opposite(self.forms, _forms_of(words)) else None
        if not self.of_wearer:
            return self._judge_other(words, wearer=wearer) or opposite
        return (
            self._judge_subject(words, wearer=wearer)
            or (None if wearer else self._judge_plain(words))
            or opposite
            or self._judge_things(words)
        )

    def _judge_other(self, words: Sequence[str], *, wearer: str) -> str | None:
        """Check a sentence for a narration about someone other than the wearer: same person, an action."""
        own, told = ([not sex.isdisjoint(each) for sex in _SEXES] for each in (self.words, words))
        if wearer or (any(own) and any(there and not here for here, there in zip(own, told, strict=True))):
            return OTHER_SUBJECT
        return NO_SENTENCE if _acts(self.words) and not _acts(words) else self._unshared(words)

    def _judge_subject(self, words: Sequence[str], *, wearer: str) -> str | None:
        """Check that only the wearer acts, the verb is in place and no later clause has an auxiliary."""
        people, late = _WORDS["people"], _WORDS["auxiliaries"].intersection(words[2:]).difference(self.words)
        begins = words[0] in people or (words[0] in _WORDS["determiners"] and people.intersection(words[1:4]))
        if people.intersection(words) and (people.isdisjoint(self.words) or (begins and not wearer)):
            return OTHER_SUBJECT
        if wearer:
            if len(words) == 1 and len(self.words) > 1 and self._unshared(words):
                return NO_SENTENCE  # "#C C refuses"
            if (
                words[0] == "is"
                and "is" not in self.words
                and _WORDS["prepositions"].intersection(words[1:2])
            ):
                return NO_SENTENCE  # "#C C is at the table"
            told = any(map(_verb_lemmas, words[:3])) and (len(words) > 1 or words[0] not in self.words[1:])
            return None if told and not late else NO_SENTENCE
        return NO_SENTENCE if late and words[0] not in _WORDS["determiners"] else None

    def _judge_plain(self, words: Sequence[str]) -> str | None:
        """Check that a sentence without the wearer has a known form and shares a word with the narration."""
        verb = next((word for word in words[:3] if word not in _WORDS["adverbs"]), words[0])
        after = words[list(words).index(verb) + 1 :]
        if words[0] in _WORDS["determiners"]:  # "the plate is picked up"
            formed = any(not _kin(word).isdisjoint(self.meant) for word in _passive(words))
        elif words[0] in _WORDS["openers"]:  # "with both hands, pick up the plate"
            formed = any(_is_verb(word) for word in words[2:] if word not in self.words[1:])
        else:
            formed = verb in self.words[:1] or (_is_verb(verb) and not self._is_thing(verb, after))
        whole = len(self.words) == 1 or not _SMALL.issuperset(after) or _SMALL.issuperset(self.words[1:])
        piece = f" {' '.join(words)} " in f" {' '.join(self.words[1:])} "
        if piece or not (formed and whole):
            return NO_SENTENCE
        return self._unshared(words)

    def _is_negated(self, words: Sequence[str]) -> bool:
        """Whether only the sentence is negated, or only the narration is and both have the same verb."""
        negated, said = (not _WORDS["negations"].isdisjoint(each) for each in (words, self.words))
        verb = next((word for word in self.words if word not in _DENIED), "")
        return negated != said and (negated or not _forms(verb).isdisjoint(_forms_of(words)))

    def _is_unfinished(self, candidate: str) -> bool:
        last = clean(candidate, wearer=False).casefold().split()[-1]
        return last in _WORDS["unfinished"] and last != self.words[-1]

    def _is_thing(self, word: str, after: Sequence[str]) -> bool:
        """Whether a word is a noun of the narration in the verb's place: "plate on the table"."""
        if word not in self.words[1:] or not after or after[0] in self.words:
            return False
        return after[0] in _WORDS["prepositions"] or bool(_verb_lemmas(after[0]))

    def _is_enough(self, words: Sequence[str], *, wearer: str) -> bool:
        """Whether there are enough words for the narration and script, and none is repeated."""
        if sum(character.isalpha() for word in words for character in word) < 2:
            return False
        short = len(words) == 1 and len(self.words) > 1 and _has_spaces(words[0])
        if not wearer and (short or _PLACEHOLDER.fullmatch(" ".join(words))):
            return False
        counts = Counter(word for word in words if word not in _SMALL)
        return all(count <= max(1, self.words.count(word)) for word, count in counts.items())

    def _unshared(self, words: Sequence[str]) -> str | None:
        """NO_SENTENCE unless the sentence shares a word, or one like it, with the narration."""
        meant = _meant(words) if self.english else _pieces(words)
        return NO_SENTENCE if meant.isdisjoint(self.meant) else None

    def _judge_things(self, words: Sequence[str]) -> str | None:
        """Check that a sentence adds no side, not several things, and has some of the narration's things."""
        told = [word for word in words if word not in _WORDS["adverbs"]][1:]
        added = {word for word in told if word not in _SMALL and _kin(word).isdisjoint(self.meant)}
        if added and len(words) > 2 and f" {' '.join(_without_articles(words))} " in self.prompt:
            return COPY_OF_PROMPT
        things = _meant(self.words[1:])
        lost = len(added) > 1 and things and things.isdisjoint(_meant(told))
        return OTHER_THING if lost or len(added) >= MOST_ADDED or added & _WORDS["sides"] else None


def _bare_words(text: str) -> list[str]:
    return clean(_TAG.sub(" ", text), wearer=False).casefold().split()


@lru_cache
def _words_of_prompt(instruction: str) -> str:
    return f" {' '.join(_without_articles(_bare_words(instruction)))} "


def _without_articles(words: Iterable[str]) -> list[str]:
    return [word for word in words if word not in ("the", "a", "an")]


@lru_cache(maxsize=100_000)
def _verb_lemmas(word: str) -> tuple[str, ...]:
    """Base forms of a verb form that the dictionary knows, perhaps after a prefix."""
    for known in (word, _PREFIX.sub("", word, count=1)):
        lemmas = getAllLemmas(known, "VERB").get("VERB", ())
        if lemmas or known.removesuffix("s") in _WORDS["rare_verbs"]:
            return tuple(lemmas) or (known.removesuffix("s"),)
    return ()


def _is_verb(word: str) -> bool:
    """Whether a word can be a verb in the forms of narrations: "take", "takes", "taking"."""
    lemmas = set(_verb_lemmas(word)) - {"be"}
    return bool(lemmas) and word.endswith((*lemmas, "s", "ing"))


def _acts(words: Iterable[str]) -> bool:
    """Whether there may be a verb."""
    return any(_is_verb(word) for word in words if word not in _WORDS["people"])


def _wearer_in(text: str, *, tagged: bool) -> str:
    """The leading words that mean the wearer; "C" does only if the narration is `tagged`."""
    match = _WEARER.match(text)
    if match is None or (len(match[0].strip()) == 1 and not tagged):
        return ""
    return match[0]


def _opposite(said: frozenset[str], says: frozenset[str]) -> bool:
    return any(
        says & against and not said & against and not says & alike
        for word in said
        for alike, against in _OPPOSITES.get(word, ())
    )


@lru_cache(maxsize=100_000)
def _forms(word: str) -> frozenset[str]:
    """A word and its base forms as verb and noun."""
    word = word.removesuffix("'s")
    return frozenset((word, word.removesuffix("s"), *_verb_lemmas(word)))


def _is_participle(word: str) -> bool:
    return word not in _verb_lemmas(word) or word in ("cut", "put", "set", "shut")


def _passive(words: Sequence[str]) -> list[str]:
    """What follows "is" or "being"."""
    return [
        word
        for before, word in itertools.pairwise(words)
        if before in ("is", "are", "gets", "being") and _is_participle(word)
    ]


def _forms_of(words: Iterable[str]) -> frozenset[str]:
    return frozenset().union(*map(_forms, words))


@lru_cache(maxsize=100_000)
def _kin(word: str) -> frozenset[str]:
    """A word that says something, its base forms, and words like them; nothing for others."""
    forms = _forms(word) - _SMALL
    return forms.union(*(group for group in _ALIKE if not forms.isdisjoint(group)))


def _meant(words: Iterable[str]) -> frozenset[str]:
    return frozenset().union(*map(_kin, words))


def _has_spaces(word: str) -> bool:
    """Whether a script puts spaces between words."""
    return not _scripts([word]) <= {"CJK", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN"}


def _scripts(words: Iterable[str]) -> frozenset[str]:
    """Of the letters: the first word of their Unicode names; Chinese and Japanese are one."""
    text = "".join(words)
    if text.isascii():
        return frozenset(["LATIN"]) if any(map(str.isalpha, text)) else frozenset()
    found = {unicodedata.name(letter, "?").split()[0] for letter in text if letter.isalpha()}
    return frozenset("CJK" if name in ("HIRAGANA", "KATAKANA", "FULLWIDTH") else name for name in found)


def _pieces(words: Iterable[str]) -> frozenset[str]:
    """Neighbouring letters: four, or two in scripts without spaces."""
    return frozenset(
        word[start : start + size]
        for word in words
        for size in [4 if _has_spaces(word) else 2]
        for start in range(max(1, len(word) - size + 1))
    )
