"""The provider `lexicon`: synonyms and other sentence patterns, offline."""

from __future__ import annotations

from collections.abc import Iterator

from avion_core.narrate.class_lists import load_class_lists
from avion_core.narrate.lexicon import Lexicon
from avion_core.narrate.provider import Provider, Rephrasing, Work
from avion_core.progress import Progress


class LexiconProvider(Provider):
    """Rewrites each text by table and class lists."""

    def rephrase(self, work: Work) -> Iterator[Rephrasing]:
        """New sentences for each text; none where the lexicon has no words for it."""
        lexicon = Lexicon(load_class_lists(work.class_lists))
        count = self.settings.rephrase.texts_per_narration
        with Progress(f"narrate {work.shard}", len(work.texts), unit="narrations") as progress:
            for text in work.texts.to_pylist():
                yield Rephrasing(text, lexicon.rephrase(text, count))
                progress.advance()
