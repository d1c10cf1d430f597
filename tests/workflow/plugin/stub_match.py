"""The work behind `stub_lists`: clip tables from lines of text, and clips matched with their sentences."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from avion_core.data.annotation import human_clips
from avion_core.data.clips import ClipTable, Sentences, write_sentences
from avion_core.data.layout_files import LayoutReader
from avion_core.evaluate.bootstrap import Scores
from avion_core.evaluate.subject import Measurement, clip_counts, filled, video_numbers


def annotate(annotation):
    """The same clips for training and for the evaluation, and all sentences in a table of their own."""
    lines = (annotation.raw_dir / "lines.txt").read_text().splitlines()
    videos, starts, ends, texts = zip(*(line.split(",") for line in lines), strict=True)
    times = [list(map(float, column)) for column in (starts, ends)]
    ids = [f"line {number}" for number in range(len(lines))]
    for split in ("train", "asked"):
        annotation.write_clips(split, pa.table(human_clips(annotation, split, videos, *times, texts, ids)))
    pool = [{"sentence_id": k, "text": text, "verb": 0, "nouns": []} for k, text in enumerate(texts)]
    write_sentences(annotation.clips_dir / "pool.arrow", pool)


READER = LayoutReader(annotate=annotate)


class Match:
    """Per cent of the clips whose own sentence is the nearest of the pool, which has one for each clip."""

    def __init__(self, subject):
        self.subject = subject

    def run(self):
        encoder = self.subject.embedder()
        clips = ClipTable.load(self.subject.files["clips"])
        videos = self.subject.embed_clips(clips, encoder)
        texts = Sentences.load(self.subject.files["pool"]).texts
        similarity_NM = videos.outputs @ self.subject.embed_texts(texts, encoder).T
        right_N = 100.0 * (similarity_NM.argmax(1) == videos.rows)
        figures = {
            "own_first": float(right_N.mean()),
            "chance": {"own_first": 100 / len(texts)},
            "bad_clips": videos.bad_clips(),
            **clip_counts(clips, videos),
        }
        found, strict = (
            Scores(
                np.arange(len(clips)),
                video_numbers(clips),
                {"own_first": filled(right_N, videos.rows, len(clips), unread)},
                {},
            )
            for unread in (np.nan, 0)
        )
        return Measurement(figures, {"rows_N": videos.rows}, found, strict)
