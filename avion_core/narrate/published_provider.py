"""Providers that take texts from LaViLa's published pickles instead of making them.

Rephrasings are found by the narration that they rephrase, the first text of a row. Narrated clips are the
rows of the narrator's file: its places in the videos take the place of clips and windows.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from avion_core.config.narration import PublishedRephrasings
from avion_core.config.narrator import PublishedNarrations
from avion_core.data.annotation import sound_clips
from avion_core.data.chunks import ChunkIndex
from avion_core.data.dropped import NOT_A_TIME
from avion_core.data.published_text import check_rows, read_rows
from avion_core.data.source_videos import SourceError
from avion_core.narrate.clip_provider import ClipProvider, ClipTexts, ClipWork
from avion_core.narrate.provider import NarrateError, Provider, Rephrasing, Work
from avion_core.narrate.windows import PLACES
from avion_core.plain_text import plain

CHECKED_AT_ONCE_BYTES = 50_000_000
"""Larger files are read by the jobs only."""
NO_REPHRASING = "the published file has no rephrasing of it"
EXAMPLES = 5


class PublishedRephrasingsProvider(Provider):
    """Looks each narration up in the rephraser's file."""

    def check(self) -> None:
        """The file exists, and can be read unless it is large."""
        _check(
            Path(self.settings.of(PublishedRephrasings).file), "rephrased", "narrate.published_rephrasings"
        )

    def rephrase(self, work: Work) -> Iterator[Rephrasing]:
        """The published rephrasings of each text; the log counts narrations that the table does not have."""
        path = Path(self.settings.of(PublishedRephrasings).file)
        count = self.settings.rephrase.texts_per_narration
        known = {_key(text) for text in work.every_text.to_pylist()}
        texts = work.texts.to_pylist()
        found: dict[str, dict[str, None]] = {_key(text): {} for text in texts}
        strange: dict[str, None] = {}
        for batch in read_rows(path, "rephrased"):
            for row in batch["texts"].to_pylist():
                original = _key(row[0]) if row else ""
                if (mine := found.get(original)) is not None:
                    mine.update(dict.fromkeys(map(_key, row[1:])))
                elif original not in known:
                    strange[original] = None
        if strange:
            _report(path, f"{len(strange)} distinct narrations are not in the clip table", list(strange))
        for text in texts:
            sentences = [sentence for sentence in found[_key(text)] if sentence][:count]
            yield Rephrasing(text, sentences, None if sentences else NO_REPHRASING)


class PublishedNarrationsProvider(ClipProvider):
    """Takes clips and texts from the narrator's file."""

    def check(self) -> None:
        """The file exists, and can be read unless it is large."""
        _check(self._path, "narrated", "narrator.published_narrations")

    @property
    def _path(self) -> Path:
        return Path(self.settings.of(PublishedNarrations).file)

    def places(self, chunks: ChunkIndex) -> pa.Table:
        """The file's clips, cut to their videos; the log counts those that are left out."""
        kept, left_out, reasons = self._read_places(chunks)
        if len(left_out):
            counts = Counter(reasons.to_pylist())
            told = "; ".join(f"{count}: {reason}" for reason, count in counts.most_common())
            names = [f"{row['video_id']} {row['start_s']} to {row['end_s']} s" for row in _first(left_out)]
            _report(self._path, f"rows left out: {told}", names)
        return (
            kept.select(["video_id", "start_s", "end_s"])
            .append_column("narration_id", pa.nulls(len(kept), pa.string()))
            .cast(PLACES)
        )

    def narrate(self, work: ClipWork) -> Iterator[ClipTexts]:
        """The published texts and scores of each of the shard's clips."""
        rows = self._read_places(work.chunks)[0]["row"].to_numpy()[work.places]
        wanted, first, found = np.sort(rows), 0, []
        for batch in read_rows(self._path, "narrated"):
            low, high = np.searchsorted(wanted, [first, first + len(batch)])
            if high > low:
                found.append(batch.select(["texts", "scores"]).take(pa.array(wanted[low:high] - first)))
            first += len(batch)
        if not found:
            return
        table = pa.Table.from_batches(found).combine_chunks()
        for place in np.searchsorted(wanted, rows).tolist():
            texts, scores = (table[name][place].as_py() for name in ("texts", "scores"))
            count = self.settings.texts_per_clip
            yield ClipTexts(
                [_key(text) for text in texts[:count]], scores[:count], None if texts else "no text"
            )

    def _read_places(self, chunks: ChunkIndex) -> tuple[pa.Table, pa.Table, pa.Array]:
        """Rows of the file with their number: those to keep by video and time, the others, and why."""
        names = ["video_id", "start_s", "end_s"]
        table = pa.Table.from_batches([batch.select(names) for batch in read_rows(self._path, "narrated")])
        table = table.append_column("row", pa.array(np.arange(len(table)))).combine_chunks()
        finite = pc.and_(pc.is_finite(table["start_s"]), pc.is_finite(table["end_s"]))
        kept, left_out, reasons = sound_clips(table.filter(finite), chunks)
        strange = table.filter(pc.invert(finite))
        order = [(name, "ascending") for name in (*names, "row")]
        every_reason = pa.concat_arrays(
            [pa.array(reasons), pa.array([NOT_A_TIME] * len(strange), pa.string())]
        )
        return kept.combine_chunks().sort_by(order), pa.concat_tables([left_out, strange]), every_reason


def _check(path: Path, form: str, where: str) -> None:
    try:
        if not path.is_file():
            raise SourceError(f"{path}: no such file; correct the path")
        if path.stat().st_size <= CHECKED_AT_ONCE_BYTES:
            check_rows(path, form)
    except SourceError as error:
        raise NarrateError(f"{where}.file: {error}") from None


def _key(text: str) -> str:
    """A text as clip tables have it."""
    return (text if text.isprintable() else plain(text)).strip()


def _first(table: pa.Table) -> list[dict[str, object]]:
    return list(table.slice(0, EXAMPLES).to_pylist())


def _report(path: Path, sentence: str, names: Sequence[str]) -> None:
    print(f"{path.name}: {sentence}, such as: {'; '.join(names[:EXAMPLES])}", file=sys.stderr)
