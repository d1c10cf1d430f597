"""The rule `annotate`: convert each layout's annotations to clip tables of one schema.

Clips are checked against the chunk index. Those whose video has no chunks (quarantined, or not on disk) are
left out and listed (`avion_core.data.dropped`); the others are cut to their video's length.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from avion_core.data.annotation import Annotation
from avion_core.data.chunks import ChunkIndex
from avion_core.data.dropped import DroppedClips
from avion_core.data.layout_files import layout_reader
from avion_core.data.repeats import repeats
from avion_core.data.source_videos import SourceError
from avion_core.data.tables import SUFFIX, row_count


def annotate(
    dataset: str,
    *,
    recipe: Mapping[str, Any],
    raw_dir: Path,
    videos: Path,
    chunks: Path,
    clips_dir: Path,
) -> None:
    """Write `<split>.arrow` and the layout's further tables into `clips_dir`.

    `dropped.csv` there lists the clips that were left out, `dropped.json` counts them. `videos` is the list
    of source videos, `chunks` the chunk index. Raises SourceError, naming the data set, if annotations
    cannot be read or no training clip is left.
    """
    annotation = Annotation(recipe, raw_dir, clips_dir, ChunkIndex.load(chunks), DroppedClips())
    try:
        layout_reader(recipe["layout"]).annotate(annotation)
    except SourceError as error:
        raise SourceError(f"data set '{dataset}': {error}") from None
    annotation.dropped.publish(clips_dir)
    for sentence in repeats(annotation.clips):
        print(f"data set '{dataset}': {sentence}", file=sys.stderr)
    if row_count(clips_dir / f"train{SUFFIX}") == 0:
        count = pq.read_metadata(videos).num_rows
        reasons = "; ".join(f"{reason}: {number}" for reason, number in annotation.dropped.reasons().items())
        raise SourceError(f"data set '{dataset}': no training clip is left, of {count} videos ({reasons})")
