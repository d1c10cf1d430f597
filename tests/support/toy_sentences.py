"""What the annotators of the toy kitchen write."""

from __future__ import annotations

import itertools

from avion_core.sources.toy_kitchen.narrations import EGO4D_ENDINGS, EGO4D_WORDS
from avion_core.sources.toy_kitchen.vocabulary import COLOURS, GOES_WITH, LIQUIDS, NOUNS


def toy_sentences() -> list[str]:
    """Every sentence of the toy kitchen's Ego4D annotators, but for articles, colours and endings' number."""
    sentences = []
    for verb, ways in EGO4D_WORDS.items():
        for (third, infinitive), thing in itertools.product(ways, GOES_WITH[verb]):
            for noun, end in itertools.product(NOUNS[thing], ("", *EGO4D_ENDINGS.get(verb, ()))):
                phrase = f"the {COLOURS[thing][0]} {noun} {end}".strip()
                poured = f"{LIQUIDS[0]} into {phrase}" if verb == "pour" else phrase
                sentences += [f"#C C {third} {poured}", f"#C C tries to {infinitive} {poured}"]
    return sentences
