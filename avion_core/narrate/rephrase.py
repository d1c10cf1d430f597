"""Rewrites narrations: each distinct text once, in shards, and then joined with the clips.

Many narrations are the same sentence, so only the distinct texts are rewritten: sorted, every n-th in a
shard. Each shard's table holds what the provider returned. Gathering then gives every clip its original text
and the new sentences, row by row as in the clip table (the form of LaViLa's rephrased narrations).
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from avion_core.config import FilterSettings, NarrateSettings
from avion_core.data.clips import CLIPS, write_clips
from avion_core.data.tables import BATCH_ROWS, map_table, write_table
from avion_core.files import publish, write_json
from avion_core.narrate.budget import Estimate
from avion_core.narrate.class_lists import load_class_lists
from avion_core.narrate.cosines import Cosines
from avion_core.narrate.filtered import Filtered
from avion_core.narrate.ledger import journal_summary
from avion_core.narrate.provider import NarrateError, Work, provider_of
from avion_core.shards import shard_numbers

REPHRASED = pa.schema(
    [
        pa.field("text", pa.string(), nullable=False),
        pa.field("rephrased", pa.list_(pa.string()), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("tries", pa.int64()),
        pa.field("other_subject", pa.int64()),
    ]
)
"""Table of a shard: each of its distinct texts in order, with the new sentences or why there are none, the
number of requests sent, and of sentences left out because their subject is not the narration's."""
DEAD_LETTERS, SUMMARY = "dead_letters.csv", "summary.json"
"""Beside the table of all rephrased clips: narrations without a usable sentence, and counts."""


def estimate(
    clips: Path,
    settings: NarrateSettings,
    *,
    journal_dir: Path | None = None,
    before: Sequence[Path] = (),
) -> Estimate:
    """Size and price of rephrasing a clip table, without what the journal answers and what the tables
    `before` have. Sends nothing."""
    texts = owned_texts([*before, clips])[-1]
    return provider_of(settings).estimate(texts, journal_dir=journal_dir)


def owned_texts(tables: Sequence[Path]) -> list[pa.Array]:
    """The distinct texts of each clip table that none before it has, sorted; blank ones are left out."""
    found: list[pa.Array] = []
    for table in tables:
        texts = distinct_texts(table)
        for earlier in found:
            texts = texts.filter(pc.invert(pc.is_in(texts, value_set=earlier)))
        found.append(texts)
    return found


def distinct_texts(clips: Path) -> pa.Array:
    """Every text of a clip table once, sorted; blank ones are left out."""
    texts = pc.unique(pc.list_flatten(map_table(clips, CLIPS).column("texts")))
    pieces = (texts.slice(start, BATCH_ROWS).to_pylist() for start in range(0, len(texts), BATCH_ROWS))
    filled = np.array([bool(text and text.strip()) for piece in pieces for text in piece], np.bool_)
    order = np.asarray(pc.array_sort_indices(texts))
    return texts.take(pa.array(order[filled[order]]))


def rephrase_shard(
    clips: Path,
    *,
    settings: NarrateSettings,
    shard: str,
    class_lists: Sequence[Path],
    journal_dir: Path,
    out: Path,
    before: Sequence[Path] = (),
    after: Sequence[Path] = (),
) -> None:
    """Rewrite every n-th distinct text of a clip table from the k-th (`shard` is "k-of-n", k from 1).

    `class_lists` are CSVs of verb and noun classes; `journal_dir` keeps paid answers. `before` and `after`
    are the tables of other data sets that share answers and limit: texts of those before are left to them.
    Publishes the shard's table. Raises ValueErrors that name the problem and the way out.
    """
    provider = provider_of(settings)
    provider.check()
    try:
        first, step = shard_numbers(shard)
    except ValueError as error:
        raise NarrateError(str(error)) from None
    tables = [*before, clips, *after]
    owned = dict(zip(tables, owned_texts(tables), strict=True))
    every_text = owned.pop(clips)
    texts = every_text.take(pa.array(np.arange(first - 1, len(every_text), step)))
    others = {journal_of(table, like=journal_dir): theirs for table, theirs in owned.items()}
    found = provider.rephrase(Work(texts, every_text, shard, class_lists, journal_dir, others))
    rows = (
        {
            "text": entry.text,
            "rephrased": entry.sentences,
            "reason": entry.reason,
            "tries": entry.tries,
            "other_subject": entry.other_subject,
        }
        for entry in found
    )
    write_table(out, rows, REPHRASED)


def journal_of(clips: Path, *, like: Path) -> Path:
    """The folder of the same provider's answers for the data set of another clip table."""
    return clips.parents[1] / "narrations" / like.parent.name / like.name


def gather_narrations(
    clips: Path,
    shards: Sequence[Path],
    *,
    filters: FilterSettings,
    journal_dir: Path,
    out: Path,
    class_lists: Sequence[Path] = (),
    cosines: Sequence[Path] = (),
    shared: Sequence[Path] = (),
) -> None:
    """Publish the clip table whose rows are those of `clips`, with the new sentences after their texts.

    A clip whose text has no rephrasing, or none that the filters keep, keeps only that text. `class_lists`
    are CSVs of verb and noun classes, `cosines` the tables of a filter by these. Beside the table,
    DEAD_LETTERS lists the texts for which a language model gave no usable sentence, with the reason and the
    number of requests; SUMMARY has the counts, those of each filter with examples, and the journal's bill.
    `shared` are shards of other data sets, which have some of the texts, and count them.
    Raises NarrateError if a text is in no shard, as when shards and clips are from different runs.
    """
    tables = [map_table(shard, REPHRASED) for shard in shards]
    filtered = Filtered(
        filters,
        class_lists=load_class_lists(class_lists),
        cosines=Cosines(cosines) if cosines else None,
    )
    write_clips(out, (_with_rephrasings(batch, filtered) for batch in new_texts(clips, [*shared, *shards])))
    _publish_dead_letters(tables, out.with_name(DEAD_LETTERS))
    write_json(out.with_name(SUMMARY), _summary(tables, journal_dir) | filtered.summary())


def new_texts(clips: Path, shards: Sequence[Path]) -> Iterator[pa.RecordBatch]:
    """The rows of a clip table with the new sentences of all shards as `texts`, before any filter, and the
    clips' own as `human`. Raises NarrateError if a text is in no shard."""
    new: dict[str, list[str]] = {}
    for shard in shards:
        table = map_table(shard, REPHRASED)
        new.update(zip(table.column("text").to_pylist(), table.column("rephrased").to_pylist(), strict=True))
    for batch in map_table(clips, CLIPS).to_batches(max_chunksize=BATCH_ROWS):
        rows = []
        for human in batch.column("texts").to_pylist():
            missing = [text for text in human if text.strip() and text not in new]
            if missing:
                raise NarrateError(
                    f"{clips}: no shard has the text '{missing[0]}'; delete the shards to remake them"
                )
            added = dict.fromkeys(sentence for text in human for sentence in new.get(text, ()))
            rows.append([sentence for sentence in added if sentence not in human])
        place = batch.schema.get_field_index("texts")
        told = batch.set_column(place, "texts", pa.array(rows, pa.list_(pa.string())))
        yield told.append_column("human", batch.column("texts"))


def _publish_dead_letters(tables: Sequence[pa.Table], path: Path) -> None:
    with publish(path) as draft, draft.open("w", encoding="utf-8", newline="") as stream:
        lines = csv.writer(stream, lineterminator="\n")
        lines.writerow(("text", "reason", "tries"))
        for dead in _dead(tables):
            for row in dead.to_pylist():
                lines.writerow((row["text"], row["reason"], row["tries"]))


def _dead(tables: Sequence[pa.Table]) -> Iterator[pa.Table]:
    """Rows with a reason; tables of earlier versions have none."""
    for table in tables:
        if "reason" in table.column_names:
            yield table.filter(pc.is_valid(table["reason"]))


def _summary(tables: Sequence[pa.Table], journal_dir: Path) -> dict[str, Any]:
    reasons = Counter(reason for dead in _dead(tables) for reason in dead["reason"].to_pylist())
    others = (
        pc.sum(table["other_subject"]).as_py() for table in tables if "other_subject" in table.column_names
    )
    return {
        "texts": sum(len(table) for table in tables),
        "other_subject": sum(count or 0 for count in others),
        "reasons": dict(reasons.most_common()),
        **journal_summary(journal_dir),
    }


def _with_rephrasings(batch: pa.RecordBatch, filtered: Filtered) -> pa.Table:
    """The rows with the sentences that stay after their own texts."""
    texts, human = batch.column("texts").to_pylist(), batch.column("human").to_pylist()
    rows = [
        list(dict.fromkeys([*own, *(new[place] for place in places)]))
        for own, new, places in zip(human, texts, filtered.places(batch), strict=True)
    ]
    columns = {name: batch.column(name) for name in batch.schema.names if name != "human"}
    columns["texts"] = pa.array(rows, pa.list_(pa.string()))
    columns["source"] = pa.array(["rephrased"] * len(rows), pa.string())
    return pa.table(columns)
