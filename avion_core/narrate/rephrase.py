"""Narrations rewritten: each distinct text once, in shards, then laid beside the clips again.

Many narrations are the same sentence, so the work is the distinct texts, sorted, every n-th for a shard.
What a provider returns goes into the shard's table; gathering gives every clip its original and the new
sentences, aligned by row with the clip table (LaViLa's rephrased narrations have this form).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from avion_core.config import NarrateSettings
from avion_core.data.clips import CLIPS, write_clips
from avion_core.data.tables import map_table, write_table
from avion_core.narrate.budget import Estimate, estimate_texts, reply_tokens
from avion_core.progress import Progress

REPHRASED = pa.schema([("text", pa.string()), ("rephrased", pa.list_(pa.string()))])
"""Table of a shard: each of its distinct texts and the new sentences, in the texts' order."""


class NarrateError(ValueError):
    """Narration cannot be set up or its parts do not fit. The message says what to do."""


@dataclass(frozen=True)
class Work:
    """One shard of rephrasing, as a provider gets it."""

    texts: Sequence[str]
    """The shard's distinct texts, sorted."""
    every_text: Sequence[str]
    """The distinct texts of all shards."""
    settings: NarrateSettings
    shard: str
    """`k-of-n`."""
    class_lists: Sequence[Path]
    journal_dir: Path


def _with_lexicon(work: Work) -> dict[str, list[str]]:
    from avion_core.narrate.class_lists import load_class_lists
    from avion_core.narrate.lexicon import Lexicon

    lexicon = Lexicon(load_class_lists(work.class_lists))
    found = {}
    with Progress(f"narrate {work.shard}", len(work.texts), unit="narrations") as progress:
        for text in work.texts:
            found[text] = lexicon.rephrase(text, work.settings.rephrase.texts_per_narration)
            progress.advance()
    return found


def _with_openai(work: Work) -> dict[str, list[str]]:
    from avion_core.narrate.language_model import rephrase_with_model

    return rephrase_with_model(
        work.texts,
        settings=work.settings,
        shard=work.shard,
        every_text=work.every_text,
        journal_dir=work.journal_dir,
    )


PROVIDERS: dict[str, Callable[[Work], dict[str, list[str]]]] = {
    "lexicon": _with_lexicon,
    "openai": _with_openai,
}
"""Who rewrites: new sentences for each text of a shard. Imported when used; `openai` is slow to load."""


def check_provider(settings: NarrateSettings) -> None:
    """Cheap checks before any work: a known provider, an address, room for the reply.

    Raises NarrateError with the way out.
    """
    if settings.provider not in PROVIDERS:
        raise NarrateError(
            f"narrate.provider: unknown name '{settings.provider}'; known: {', '.join(PROVIDERS)}"
        )
    if settings.provider != "openai":
        return
    model = settings.openai
    if model.base_url is not None and not re.match(r"https?://[^/\s]+", model.base_url):
        raise NarrateError(
            f"narrate.openai.base_url must start with http:// or https:// (got '{model.base_url}')"
        )
    typical = ["#C C picks up a cup from the table"] * model.narrations_per_request
    needed = reply_tokens(typical, count=settings.rephrase.texts_per_narration)
    if needed > model.max_tokens_per_reply:
        raise NarrateError(
            f"narrate.openai.max_tokens_per_reply ({model.max_tokens_per_reply}) cannot hold "
            f"{settings.rephrase.texts_per_narration} sentences for {model.narrations_per_request} "
            f"narrations (about {needed} tokens); raise it or lower narrations_per_request"
        )


def check_key(settings: NarrateSettings) -> None:
    """Raise ProviderError unless the provider's key is there. Only what is still to ask needs it."""
    if settings.provider == "openai":
        from avion_core.narrate.api_key import read_api_key

        read_api_key(settings.openai.base_url or "")


def estimate(clips: Path, settings: NarrateSettings, *, journal_dir: Path | None = None) -> Estimate:
    """Size and price of rephrasing a clip table; with a journal, of what it does not answer yet.

    Nothing is sent. The provider `lexicon` has no requests and costs nothing.
    """
    texts = distinct_texts(clips)
    if settings.provider != "openai":
        return Estimate(len(texts), 0, 0, 0, 0.0)
    if journal_dir is not None:
        from avion_core.narrate.journal import entries_by_key
        from avion_core.narrate.language_model import open_texts_of

        texts = open_texts_of(texts, settings=settings, entries=entries_by_key(journal_dir))
    return estimate_texts(texts, rephrase=settings.rephrase, openai=settings.openai)


def distinct_texts(clips: Path) -> list[str]:
    """Every text of a clip table once, sorted; blank ones are left out."""
    column = map_table(clips, CLIPS).column("texts")
    return sorted(text for text in pc.unique(pc.list_flatten(column)).to_pylist() if text and text.strip())


def rephrase_shard(
    clips: Path,
    *,
    settings: NarrateSettings,
    shard: str,
    class_lists: Sequence[Path],
    journal_dir: Path,
    out: Path,
) -> None:
    """Rewrite every n-th distinct text of a clip table from the k-th (`shard` is "k-of-n", k from 1).

    `class_lists` are EPIC-KITCHENS CSVs for the lexicon; `journal_dir` keeps a language model's answers.
    Publishes the shard's table. Raises ValueErrors that name what is wrong and the way out.
    """
    check_provider(settings)
    first, step = _parse_shard(shard)
    every_text = distinct_texts(clips)
    texts = every_text[first - 1 :: step]
    found = PROVIDERS[settings.provider](Work(texts, every_text, settings, shard, class_lists, journal_dir))
    write_table(out, pa.table([texts, [found[text] for text in texts]], schema=REPHRASED), REPHRASED)


def gather_narrations(clips: Path, shards: Sequence[Path], *, out: Path) -> None:
    """Publish the clip table whose rows are those of `clips`, with the new sentences after their texts.

    A clip whose text has no rephrasing keeps the text alone. Raises NarrateError if a text is in no
    shard, which means that shards and clips are not of one run.
    """
    new: dict[str, list[str]] = {}
    for shard in shards:
        table = map_table(shard, REPHRASED)
        new.update(zip(table.column("text").to_pylist(), table.column("rephrased").to_pylist(), strict=True))
    batches = map_table(clips, CLIPS).to_batches()
    write_clips(out, (_with_rephrasings(batch, new, clips) for batch in batches))


def _with_rephrasings(batch: pa.RecordBatch, new: dict[str, list[str]], clips: Path) -> pa.Table:
    rows = []
    for row in batch.column("texts").to_pylist():
        missing = [text for text in row if text.strip() and text not in new]
        if missing:
            raise NarrateError(
                f"{clips}: no shard has the text '{missing[0]}'; delete the shards to remake them"
            )
        rows.append(list(dict.fromkeys([*row, *(added for text in row for added in new.get(text, ()))])))
    columns = {name: batch.column(name) for name in batch.schema.names}
    columns["texts"] = pa.array(rows, pa.list_(pa.string()))
    columns["source"] = pa.array(["rephrased"] * len(rows), pa.string())
    return pa.table(columns)


def _parse_shard(shard: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)-of-(\d+)", shard)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise NarrateError(f"shard '{shard}': expected k-of-n with k from 1 to n")
    return int(match[1]), int(match[2])
