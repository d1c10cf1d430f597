"""Real chunks, clips and classes that whole stages are trained on."""

import signal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from avion_core.config import TranscodeSettings
from avion_core.data.clips import write_clips, write_sentences
from avion_core.files import write_json
from avion_core.processes import STOP_SIGNALS
from tests.support.chunked import transcode_all
from tests.support.counted_video import write_counted


@pytest.fixture(autouse=True)
def _signals_are_heard():
    """A training that was asked to stop ignores them to its process's end, which here is the tests' own."""
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory):
    """Nine clips of three videos, with texts, classes and sentences."""
    home = tmp_path_factory.mktemp("kitchen")
    videos = {name: write_counted(home / f"{name}.mp4", 60, width=96, height=64) for name in "abc"}
    table = {"video_id": list(videos), "path": [str(path) for path in videos.values()], "bytes": [1, 1, 1]}
    pq.write_table(pa.table(table), home / "videos.parquet")
    transcode_all(home, TranscodeSettings(chunk_seconds=1, short_side_px=64, preset="ultrafast"))
    rows = [
        {
            "video_id": video,
            "start_s": 0.5 * number,
            "end_s": 0.5 * number + 0.8,
            "texts": [f"text {video} {number}", f"other text {video} {number}"],
            "verb": number,
            "noun": place,
            "nouns": [place],
            "label": number * 3 + place,
        }
        for place, video in enumerate(videos)
        for number in range(3)
    ]
    write_clips(home / "clips.arrow", rows)
    sentences = [
        {"sentence_id": number, "text": row["texts"][0], "verb": row["verb"], "nouns": row["nouns"]}
        for number, row in enumerate(rows)
    ]
    write_sentences(home / "sentences.arrow", sentences)
    names = [f"{verb}:{noun}" for verb in range(3) for noun in range(3)]
    write_json(home / "classes.json", {"verb": ["v"] * 3, "noun": ["n"] * 3, "action": names, "label": []})
    return home
