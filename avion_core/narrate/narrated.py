"""Narrates clips from their frames, in shards, and gathers the clip table `narrated`.

The clips are those with human narrations, and windows over the stretches without. Clips with the same frames
are narrated once: the distinct ones are dealt out, every n-th to a shard. A shard's table has a row for each
of its clips; the gathered table has those with texts.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from avion_core.config import NarratorSettings
from avion_core.data.chunks import ChunkIndex
from avion_core.data.clips import CLIPS, write_clips
from avion_core.data.tables import BATCH_ROWS, map_table, write_table
from avion_core.files import publish, write_json
from avion_core.layouts import TAG_COLUMNS
from avion_core.narrate.budget import Estimate
from avion_core.narrate.clip_provider import ClipProvider, ClipTexts, ClipWork, OtherClips, clip_provider_of
from avion_core.narrate.cosines import Cosines
from avion_core.narrate.filtered import FILTERED, Filtered
from avion_core.narrate.ledger import journal_summary
from avion_core.narrate.provider import NarrateError
from avion_core.narrate.rephrase import DEAD_LETTERS, SUMMARY, journal_of
from avion_core.narrate.windows import PLACES, are_windows, clips_and_windows
from avion_core.shards import shard_numbers

NARRATED = pa.schema(
    [
        *PLACES,
        pa.field("texts", pa.list_(pa.string()), nullable=False),
        pa.field("scores", pa.list_(pa.float64())),
        pa.field("reason", pa.string()),
        pa.field("tries", pa.int64(), nullable=False),
    ]
)
"""Table of a shard: each of its clips with the texts, or why there are none, and the requests sent."""
IDENTITY = ["video_id", "start_s", "end_s", "narration_id"]


@dataclass(frozen=True)
class _Listed:
    """The clips and windows of a data set."""

    every: pa.Table
    """All of them, by video and time."""
    distinct: NDArray[np.int64]
    """Rows of those narrated for all with the same key, in order."""
    same_as: NDArray[np.int64]
    """For each row its place among the distinct ones."""
    keys: NDArray[np.uint64]
    """Keys of the distinct ones."""


def estimate_clips(
    clips: Path,
    chunks: Path,
    settings: NarratorSettings,
    *,
    journal_dir: Path,
    held_out: Sequence[Path] = (),
) -> Estimate:
    """Size and price of narrating a data set's clips, without what the journal answers. Sends nothing."""
    provider, index = clip_provider_of(settings), ChunkIndex.load(chunks)
    listed = _listed(clips, index, settings, provider, held_out)
    distinct = listed.every.take(pa.array(listed.distinct))
    return provider.estimate(distinct, listed.keys, chunks=index, journal_dir=journal_dir)


def narrate_shard(
    clips: Path,
    chunks: Path,
    *,
    settings: NarratorSettings,
    shard: str,
    model: Path | None,
    journal_dir: Path,
    out: Path,
    others: Sequence[tuple[Path, Path]] = (),
    held_out: Sequence[Path] = (),
) -> None:
    """Narrate every n-th distinct clip from the k-th (`shard` is "k-of-n", k from 1).

    `clips` is the table with human narrations; `model` the weights that the provider needs, if any;
    `journal_dir` keeps paid answers. `others` are clip tables and chunk indexes of other data sets that share
    answers and limit. `held_out` are tables of clips that windows leave out, each beside the clip table that
    it is about. Publishes the shard's table. Raises ValueErrors that name the problem and the way out.
    """
    provider = clip_provider_of(settings)
    provider.check()
    try:
        first, step = shard_numbers(shard)
    except ValueError as error:
        raise NarrateError(str(error)) from None
    index = ChunkIndex.load(chunks)
    listed = _listed(clips, index, settings, provider, held_out)
    work = ClipWork(
        clips=listed.every.take(pa.array(listed.distinct)),
        keys=listed.keys,
        places=np.arange(first - 1, len(listed.distinct), step),
        shard=shard,
        chunks=index,
        journal_dir=journal_dir,
        others={
            journal_of(other, like=journal_dir): _other(
                other, ChunkIndex.load(theirs), settings, provider, held_out
            )
            for other, theirs in others
        },
        model=model,
    )
    found = dict(zip(work.places.tolist(), provider.narrate(work), strict=True))
    write_table(out, _rows(listed, found), NARRATED)


def gather_narrated(
    clips: Path,
    chunks: Path,
    shards: Sequence[Path],
    *,
    settings: NarratorSettings,
    journal_dir: Path,
    out: Path,
    cosines: Sequence[Path] = (),
    held_out: Sequence[Path] = (),
) -> None:
    """Publish the clip table of all clips and windows that have texts after the filters, by video and time.

    `cosines` are the tables of their cosines, for a filter by these; `held_out` as for `narrate_shard`.
    Beside the table, DEAD_LETTERS lists the other clips with the reason, and SUMMARY has the counts, those of
    each filter with examples, and the journal's bill. Raises NarrateError if a clip is in no shard, as when
    shards and clips are from different runs.
    """
    index = ChunkIndex.load(chunks)
    expected = _places(clips, index, settings, held_out)
    found = written_texts(shards)
    if not found.select(IDENTITY).equals(expected.combine_chunks()):
        raise NarrateError(
            f"{clips}: its clips are not those of the shards; delete the shards to remake them"
        )
    filtered = Filtered(settings.filters, cosines=Cosines(cosines) if cosines else None)
    human = _human_rows(clips, found)
    rows = found.append_column("human", human["texts"]).to_batches(max_chunksize=BATCH_ROWS)
    found = pa.Table.from_batches((_kept(filtered, batch) for batch in rows), found.schema)
    for name in TAG_COLUMNS:
        if name in human.column_names:
            found = found.append_column(name, pc.coalesce(human[name], pa.scalar([], human[name].type)))
    told = pc.greater(pc.list_value_length(found["texts"]), 0)
    _publish_dead_letters(found.filter(pc.invert(told)), out.with_name(DEAD_LETTERS))
    write_json(out.with_name(SUMMARY), _summary(found, journal_dir) | filtered.summary())
    kept = found.filter(told).drop_columns(["reason", "tries"])
    if "scores" in kept.column_names and kept["scores"].null_count:
        kept = kept.drop_columns(["scores"])
    source = pa.repeat(pa.scalar("narrated"), len(kept))
    write_clips(out, kept.append_column("source", source))


def written_texts(shards: Sequence[Path]) -> pa.Table:
    """The rows of all shards by video and time, before any filter."""
    tables = [map_table(shard, NARRATED) for shard in shards]
    order = [(name, "ascending") for name in IDENTITY]
    return pa.concat_tables(tables, promote_options="default").combine_chunks().sort_by(order)


def _kept(filtered: Filtered, batch: pa.RecordBatch) -> pa.RecordBatch:
    """The rows with the texts that stay and their scores, without the column `human`."""
    schema = pa.schema([field for field in batch.schema if field.name != "human"])
    rows = []
    for row, places in zip(batch.to_pylist(), filtered.places(batch), strict=True):
        del row["human"]
        if row["texts"] and not places:
            row["reason"] = FILTERED
        lists = [name for name in ("texts", "scores") if row.get(name) is not None]
        rows.append(row | {name: [row[name][place] for place in places] for name in lists})
    return pa.RecordBatch.from_pylist(rows, schema=schema)


def _places(clips: Path, index: ChunkIndex, settings: NarratorSettings, held_out: Sequence[Path]) -> pa.Table:
    """The clips to narrate: the provider's own, or those of the table and windows."""
    if settings.own.brings_clips:
        return clip_provider_of(settings).places(index)
    return clips_and_windows(
        clips,
        index,
        held_out=[path for path in held_out if path.parent == clips.parent],
        window_seconds=settings.window_seconds,
        step_seconds=settings.step_seconds,
    )


def _listed(
    clips: Path,
    index: ChunkIndex,
    settings: NarratorSettings,
    provider: ClipProvider,
    held_out: Sequence[Path],
) -> _Listed:
    every = _places(clips, index, settings, held_out)
    keys = provider.keys(every, index)
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))
    return _Listed(every, np.sort(first), rank[inverse], keys[np.sort(first)])


def _other(
    clips: Path,
    index: ChunkIndex,
    settings: NarratorSettings,
    provider: ClipProvider,
    held_out: Sequence[Path],
) -> OtherClips:
    listed = _listed(clips, index, settings, provider, held_out)
    return OtherClips(listed.every.take(pa.array(listed.distinct)), listed.keys, index)


def _rows(listed: _Listed, found: dict[int, ClipTexts]) -> Iterator[dict[str, Any]]:
    """Rows of a shard's table, from the narrations of its distinct clips by their place."""
    mine = np.flatnonzero(np.isin(listed.same_as, np.array([*found], np.int64)))
    for place, row in zip(listed.same_as[mine].tolist(), mine.tolist(), strict=True):
        told = found[place]
        yield {
            **{name: listed.every[name][row].as_py() for name in IDENTITY},
            "texts": list(told.texts),
            "scores": None if told.scores is None else list(told.scores),
            "reason": told.reason,
            "tries": told.tries,
        }


def _human_rows(clips: Path, found: pa.Table) -> pa.Table:
    """Texts, and tags if there are any, of the human clip behind each row of `found`, which is sorted by
    IDENTITY; null for windows."""
    table = map_table(clips, CLIPS)
    columns = ["texts", *(name for name in TAG_COLUMNS if name in table.column_names)]
    narrated = np.asarray(pc.is_valid(found["narration_id"]))
    if not narrated.any():
        return pa.table({name: pa.nulls(len(found), CLIPS.field(name).type) for name in columns})
    table = table.select([*IDENTITY, *columns])
    order = [(name, "ascending") for name in IDENTITY]
    told = table.filter(pc.is_valid(table["narration_id"])).sort_by(order)
    places = pa.array(np.cumsum(narrated) - 1, mask=~narrated)
    return told.select(columns).take(places)


def _publish_dead_letters(dead: pa.Table, path: Path) -> None:
    names = ["video_id", "start_s", "end_s", "reason", "tries"]
    with publish(path) as draft, draft.open("w", encoding="utf-8", newline="") as stream:
        lines = csv.writer(stream, lineterminator="\n")
        lines.writerow(names)
        lines.writerows([row[name] for name in names] for row in dead.to_pylist())


def _summary(found: pa.Table, journal_dir: Path) -> dict[str, Any]:
    reasons = Counter(reason for reason in found["reason"].to_pylist() if reason is not None)
    return {
        "texts": len(found),
        "windows": pc.sum(are_windows(found)).as_py() or 0,
        "other_subject": 0,
        "reasons": dict(reasons.most_common()),
        **journal_summary(journal_dir),
    }
