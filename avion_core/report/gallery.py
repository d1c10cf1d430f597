"""Gallery of retrieved clips: text queries and their top clips, as strips of frames."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file

from avion_core.data.chunks import ChunkIndex
from avion_core.data.clips import ClipTable, Sentences
from avion_core.evaluate.relevancy import equal_text_relevancy, relevancy_matrix
from avion_core.media import MediaError
from avion_core.media.crop import center_crop
from avion_core.media.sample import BLACK, Sampling, spread
from avion_core.report.plan import ReportError, require
from avion_core.report.results import EvaluationResult, Results

QUERIES = 12
CLIPS_A_QUERY = 5
FRAMES_A_STRIP = 4
FRAME_PX = 112
GAP_PX = 2
JPEG_QUALITY = 72


@dataclass(frozen=True)
class Strip:
    """Frames of one clip side by side, or the reason why they cannot be shown."""

    data_uri: str
    problem: str = ""
    width_px: int = FRAMES_A_STRIP * (FRAME_PX + GAP_PX) - GAP_PX
    height_px: int = FRAME_PX


@dataclass(frozen=True)
class RetrievedClip:
    """One retrieved clip: its place, sentence and relevancy."""

    video_id: str
    start_s: float
    end_s: float
    sentence: str
    relevancy: float
    strip: Strip

    @property
    def verdict(self) -> str:
        """`right` for relevancy 1, `partly` in between, `wrong` for 0."""
        return "right" if self.relevancy == 1 else "partly" if self.relevancy > 0 else "wrong"


@dataclass(frozen=True)
class Query:
    """A sentence and its nearest clips, nearest first."""

    text: str
    clips: tuple[RetrievedClip, ...]
    right: int
    """Number of clips of relevancy 1 in the split."""
    first_right_rank: int
    """Rank of the first of them, counted from 1."""


@dataclass(frozen=True)
class Gallery:
    """The queries of one evaluation."""

    result: EvaluationResult
    clips: int
    sentences: int
    queries: tuple[Query, ...]


@dataclass(frozen=True)
class _Ranking:
    """Similarity and relevancy of N clips to M sentences."""

    clips: ClipTable
    rows: NDArray[np.int64]
    """Row of each clip in the table, N."""
    texts: list[str]
    """Sentences, M."""
    similarity: NDArray[np.float32]
    """Cosine of the embeddings, M,N."""
    relevancy: NDArray[np.float32]
    """Relevancy, M,N: 1 for the same verb and nouns, or the same text."""


def choose_evaluation(results: Results) -> EvaluationResult | None:
    """The retrieval to show: fine-tuned before zero-shot, then the highest headline figure."""
    shown = [result for result in results.evaluations if result.kind.in_gallery]
    return max(shown, key=lambda result: (result.fine_tuned, result.figures[result.headline]), default=None)


def build_gallery(result: EvaluationResult, *, queries: int = QUERIES, clips: int = CLIPS_A_QUERY) -> Gallery:
    """Queries spread evenly over the distinct sentences, each with its top `clips` clips.

    Raises ReportError when a file is missing or the embeddings do not fit the tables.
    """
    ranking = _load(result)
    chunks = ChunkIndex.load(require(result.planned.files["chunks"], "the gallery"))
    sampling = seen_frames(result)
    strips: dict[int, Strip] = {}
    made = []
    for query in choose_queries(ranking.texts, ranking.relevancy, queries):
        order_N = np.argsort(-ranking.similarity[query], kind="stable")
        right_N = ranking.relevancy[query][order_N] == 1
        shown = []
        for place in order_N[:clips]:
            row = int(ranking.rows[place])
            if row not in strips:
                strips[row] = clip_strip(ranking.clips, row, chunks, sampling)
            shown.append(
                RetrievedClip(
                    video_id=ranking.clips.video_id(row),
                    start_s=ranking.clips.start_s(row),
                    end_s=ranking.clips.end_s(row),
                    sentence=ranking.clips.texts(row)[0],
                    relevancy=float(ranking.relevancy[query, place]),
                    strip=strips[row],
                )
            )
        first = int(np.flatnonzero(right_N)[0]) + 1
        made.append(Query(ranking.texts[query], tuple(shown), int(right_N.sum()), first))
    return Gallery(result, len(ranking.rows), len(ranking.texts), tuple(made))


def choose_queries(texts_M: Sequence[str], relevancy_MN: NDArray[np.float32], count: int) -> list[int]:
    """`count` sentences at equal distances in the sorted list of those with a clip of relevancy 1.

    The choice does not depend on results.
    """
    answerable = [index for index in range(len(texts_M)) if (relevancy_MN[index] == 1).any()]
    return spread(sorted(answerable, key=lambda index: texts_M[index]), count)


def seen_frames(result: EvaluationResult) -> Sampling:
    """Sampling of the evaluation, from its manifest as far as recorded; an even spread if the run no longer
    has the stage that it measured."""
    if not result.stages:
        return Sampling(frames=FRAMES_A_STRIP, sampling="segments", stride=1)
    settings, stage = result.manifest.get("settings", {}), result.stages[-1].settings
    frames, clips = settings.get("frames", stage.frames), settings.get("clips", 1)  # defaults if not recorded
    return Sampling(frames=frames, sampling=stage.sampling, stride=stage.stride, clips=clips)


def clip_strip(clips: ClipTable, row: int, chunks: ChunkIndex, sampling: Sampling) -> Strip:
    """Frames of a clip that the model saw, as one JPEG, or the reason if it cannot be decoded."""
    video_id = clips.video_id(row)
    try:
        fps, frame_count = float(chunks.fps(video_id)), chunks.frame_count(video_id)
        start_s, end_s = clips.start_s(row), clips.end_s(row)
        seen = [
            sampling.numbers(start_s, end_s, fps=fps, frame_count=frame_count, view=view)
            for view in range(sampling.clips)
        ]
        frames = np.array(
            spread(sorted(n for n in np.concatenate(seen).tolist() if n != BLACK), FRAMES_A_STRIP)
        )
        crop = center_crop(*chunks.size(video_id))
        strip = jpeg_strip(chunks.read(video_id, frames, crop=crop, size_px=FRAME_PX))
        return Strip(strip, width_px=len(frames) * (FRAME_PX + GAP_PX) - GAP_PX)
    except MediaError as error:
        return Strip("", problem=error.reason)


def jpeg_strip(frames_THWC: NDArray[np.uint8]) -> str:
    """Frames side by side as a data URI."""
    frames, height, width, channels = frames_THWC.shape
    canvas = np.full((height, frames * (width + GAP_PX) - GAP_PX, channels), 128, np.uint8)
    for index, frame in enumerate(frames_THWC):
        canvas[:, index * (width + GAP_PX) : index * (width + GAP_PX) + width] = frame
    stream = io.BytesIO()
    Image.fromarray(canvas).save(stream, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def _load(result: EvaluationResult) -> _Ranking:
    where = f"evaluation '{result.name}' of run '{result.run}'"
    path = require(result.planned.folder / "outputs.safetensors", where)
    tensors = load_file(path)
    for name in ("rows_N", "video_embed_ND", "text_embed_MD"):
        if name not in tensors:
            raise ReportError(f"{path}: no '{name}'; it holds {', '.join(tensors)}")
    video_ND, text_MD = tensors["video_embed_ND"], tensors["text_embed_MD"]
    clips = ClipTable.load(require(result.planned.files["clips"], where))
    rows_N = tensors["rows_N"]
    if len(rows_N) != len(video_ND) or (len(rows_N) and rows_N.max() >= len(clips)):
        raise ReportError(
            f"{path}: {len(video_ND)} clips do not fit the {len(clips)} of {result.planned.files['clips']}"
        )
    texts_M, relevancy_MN = _relevancy(result, path, clips, rows_N)
    if len(texts_M) != len(text_MD):
        raise ReportError(f"{path}: {len(text_MD)} texts, but the split has {len(texts_M)} sentences")
    similarity_MN = text_MD.astype(np.float32) @ video_ND.astype(np.float32).T
    return _Ranking(clips, rows_N, texts_M, similarity_MN, relevancy_MN)


def _relevancy(
    result: EvaluationResult, path: Path, clips: ClipTable, rows_N: NDArray[np.int64]
) -> tuple[list[str], NDArray[np.float32]]:
    """The ranked sentences and their relevancy to each clip, by classes or by equal text."""
    if "sentences" not in result.planned.files:
        with safe_open(path, framework="numpy") as stream:
            texts_M = json.loads((stream.metadata() or {}).get("sentences", "[]"))
        return texts_M, equal_text_relevancy(texts_M, [clips.texts(int(row))[0] for row in rows_N])
    sentences = Sentences.load(require(result.planned.files["sentences"], f"evaluation '{result.name}'"))
    nouns_N = [clips.nouns(int(row)) for row in rows_N]
    relevancy_MN = relevancy_matrix(sentences.verbs, sentences.nouns, clips.column("verb")[rows_N], nouns_N)
    return sentences.texts, relevancy_MN
