"""Measures the cosines between clips and the texts that a provider wrote about them, by a trained stage.

A shard is a range of the clips in the order of the texts' table. Clips with the same place are embedded once.
Cosines are kept as they are measured, one line per clip, so that a stopped shard continues, and changed texts
repeat only the clips that they are about. Clips that could not be read are tried again by the next start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avion_core.config import CosineFilter, EvaluationSettings
from avion_core.data.chunks import ChunkIndex
from avion_core.data.clips import CLIPS, ClipTable
from avion_core.data.tables import map_table, write_table
from avion_core.files import fingerprint, sha256
from avion_core.narrate.cosines import COSINES
from avion_core.narrate.journal import Journal
from avion_core.narrate.kept_lines import kept_lines
from avion_core.narrate.narrated import written_texts
from avion_core.narrate.provider import NarrateError
from avion_core.narrate.rephrase import new_texts
from avion_core.shards import shard_numbers

if TYPE_CHECKING:
    from torch import Tensor

    from avion_core.evaluate.subject import Subject
    from avion_core.models.base import Embedder

MEASURED = "measured"
"""Folder, beside the shards' tables, of what is measured."""
COLUMNS = [name for name in COSINES.names if name != "cosines"]
Place = tuple[str, float, float]
"""Video, start and end in seconds."""


@dataclass(frozen=True)
class Measured:
    """A line of a shard's file."""

    clip: str
    """Digest of the weights, the video's chunks, the clip's place and the texts."""
    cosines: list[float]


def measure_cosines(
    clips: Path,
    chunks: Path,
    texts: Sequence[Path],
    *,
    looks: bool,
    settings: CosineFilter,
    shard: str,
    model: Path,
    out: Path,
) -> None:
    """Publish the cosines of the k-th of n ranges of the clips (`shard` is "k-of-n", k from 1).

    `clips` is the table with human narrations; `texts` are a provider's shards, with `looks` of narrated
    clips, else of rephrased narrations; `model` is the file of a dual encoder's weights. Raises ValueError
    for another model, and if too many clips cannot be read.
    """
    try:
        number, count = shard_numbers(shard)
    except ValueError as error:
        raise NarrateError(str(error)) from None
    rows = _rows(clips, texts, looks=looks, number=number, count=count)
    distinct = _by_place(rows)
    index = ChunkIndex.load(chunks)
    names = _names(distinct, index, sha256(model), settings)
    folder = out.parent / MEASURED
    wanted = set(names.values())
    kept = {line["clip"]: line["cosines"] for line in kept_lines(folder) if line["clip"] in wanted}
    missing = {place: own for place, own in distinct.items() if own and names[place] not in kept}
    if missing:
        with Journal(folder, shard) as journal:

            def keep(place: Place, cosines: list[float]) -> None:
                journal.add(Measured(names[place], cosines))
                kept[names[place]] = cosines

            share = min(1.0, settings.max_bad_share * len(distinct) / len(missing))
            title = f"cosines {shard}"
            _measure(_subject(model, settings, bad_share=share, title=title, chunks=index), missing, keep)
    found: dict[Place, list[float] | None] = {
        place: kept.get(names[place]) if own else [] for place, own in distinct.items()
    }
    write_table(out, (_with_cosines(row, distinct[_place(row)], found[_place(row)]) for row in rows), COSINES)


def _rows(
    clips: Path, texts: Sequence[Path], *, looks: bool, number: int, count: int
) -> list[dict[str, Any]]:
    """The shard's clips with their texts."""
    written = written_texts(texts) if looks else None
    total = len(map_table(clips, CLIPS)) if written is None else len(written)
    start, end = (total * place // count for place in (number - 1, number))
    if written is not None:
        return list(written.select(COLUMNS).slice(start, end - start).to_pylist())
    found: list[dict[str, Any]] = []
    before = 0
    for batch in new_texts(clips, texts):
        first, last = max(0, start - before), max(0, end - before)
        found += batch.select(COLUMNS).slice(first, max(0, last - first)).to_pylist()
        before += len(batch)
    return found


def _place(row: dict[str, Any]) -> Place:
    return row["video_id"], row["start_s"], row["end_s"]


def _by_place(rows: Sequence[dict[str, Any]]) -> dict[Place, list[str]]:
    """The distinct texts about each distinct clip."""
    found: dict[Place, dict[str, None]] = {}
    for row in rows:
        found.setdefault(_place(row), {}).update(dict.fromkeys(row["texts"]))
    return {place: list(texts) for place, texts in found.items()}


def _subject(
    model: Path, settings: CosineFilter, *, bad_share: float, title: str, chunks: ChunkIndex
) -> Subject:
    """The model on its device. Raises EvaluationError unless it is a dual encoder."""
    from avion_core.evaluate.subject import unlisted_subject

    reading = EvaluationSettings.of_kind(
        "retrieval",
        dataset="any",
        stage=settings.stage,
        batch_size=settings.batch_size,
        precision=settings.precision,
        **settings.job_settings() | {"max_bad_share": bad_share},
    )
    limit = "the cosine filter's max_bad_share"
    subject = unlisted_subject(model.parent, reading, title=title, chunks=chunks, limit=limit)
    subject.embedder()
    return subject


def _names(
    distinct: dict[Place, list[str]], chunks: ChunkIndex, weights: str, settings: CosineFilter
) -> dict[Place, str]:
    """Digest of all that affects each clip's cosines."""
    videos = {video for video, _, _ in distinct}
    made_with = {
        video: fingerprint([weights, settings.recipe(), chunks.checksums(video) if chunks.has(video) else []])
        for video in videos
    }
    return {place: fingerprint([made_with[place[0]], place, texts]) for place, texts in distinct.items()}


def _measure(
    subject: Subject, texts: dict[Place, list[str]], keep: Callable[[Place, list[float]], None]
) -> None:
    """Embed clips and their texts, in batches, and hand over the cosines of those that can be read."""
    from avion_core.evaluate.inference import NothingReadError

    places, encoder = list(texts), subject.embedder()
    names = ("video_id", "start_s", "end_s")
    clips = ClipTable.from_rows({**dict(zip(names, place, strict=True)), "texts": []} for place in places)

    def forward(frames_BTHWC: Tensor, rows: Sequence[int]) -> Tensor:
        embed_BD = encoder.encode_video(encoder.normalise(frames_BTHWC)).float()
        own = [places[row] for row in rows]
        found = _cosines(subject, encoder, embed_BD, [texts[place] for place in own])
        for place, cosines in zip(own, found, strict=True):
            keep(place, cosines)
        return embed_BD[:, :1]

    try:
        subject.over_clips(clips, forward)
    except NothingReadError:
        if subject.settings.max_bad_share < 1:
            raise  # else all others were read by an earlier start


def _cosines(
    subject: Subject, encoder: Embedder, embed_BD: Tensor, texts: Sequence[Sequence[str]]
) -> Iterator[list[float]]:
    """Of each clip the cosines of its texts. Raises EvaluationError for embeddings that are not finite."""
    import torch

    from avion_core.models.precision import products

    subject.check_finite(embed_BD.cpu().numpy())
    every = list(dict.fromkeys(text for own in texts for text in own))
    text_MD = torch.from_numpy(subject.embed_texts(every, encoder)).to(embed_BD)
    unit_BD = embed_BD / embed_BD.norm(dim=-1, keepdim=True)
    unit_MD = text_MD / text_MD.norm(dim=-1, keepdim=True)
    number = {text: place for place, text in enumerate(every)}
    for own, cosine_M in zip(texts, products(unit_BD, unit_MD.T).tolist(), strict=True):
        yield [cosine_M[number[text]] for text in own]


def _with_cosines(row: dict[str, Any], texts: list[str], cosines: list[float] | None) -> dict[str, Any]:
    """The row with the cosines of its texts; null for a clip that could not be read."""
    if cosines is None:
        return row | {"cosines": None}
    by_text = dict(zip(texts, cosines, strict=True))
    return row | {"cosines": [by_text[text] for text in row["texts"]]}
