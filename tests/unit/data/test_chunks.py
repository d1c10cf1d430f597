import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from avion_core.config import CHUNK_FORMATS, TranscodeSettings
from avion_core.data.chunks import ChunkIndex
from avion_core.data.source_videos import SourceVideo, write_videos
from avion_core.media import MediaError
from avion_core.media.chunk_table import write_chunk_table
from avion_core.media.crop import Crop
from avion_core.media.source_file import FileMark
from tests.support.chunk_index import chunk_index
from tests.support.chunked import transcode_all
from tests.support.counted_video import read_number, write_counted

WHOLE = Crop(0, 0, 128, 128)


@pytest.fixture
def index(tmp_path: Path) -> ChunkIndex:
    """Video `b` of chunks with 40, 40 and 10 frames; video `a` of one with 25."""
    return chunk_index(tmp_path, {"b": [40, 40, 10], "a": [25]})


def test_lengths_and_rates_come_from_the_index_alone(index, tmp_path):
    for path in tmp_path.glob("*.mp4"):
        path.unlink()
    assert index.video_ids == ["a", "b"] and index.has("a") and not index.has("c")
    assert index.fps("b") == Fraction(30) and index.size("b") == (128, 128)
    assert index.frame_count("b") == 90 and index.duration_s("b") == 3.0
    assert index.frame_count("a") == 25


def test_frames_in_any_order_across_chunks_with_one_crop(index):
    numbers = [89, 0, 39, 40, 79, 80, 40, 12]
    clip = index.read("b", numbers, crop=WHOLE, size_px=128)
    assert [read_number(frame) for frame in clip] == [9, 0, 39, 0, 39, 0, 0, 12]
    part = index.read("b", numbers, crop=Crop(32, 0, 64, 64), size_px=64)
    np.testing.assert_array_equal(part, clip[:, 0:64, 32:96])


def test_what_is_not_there_is_named(index, tmp_path):
    with pytest.raises(MediaError, match="c: the video is not in the chunk index"):
        index.read("c", [0], crop=WHOLE, size_px=64)
    with pytest.raises(MediaError, match="b: frames 3 to 90 are asked for, it has 90"):
        index.read("b", [3, 90], crop=WHOLE, size_px=64)
    with pytest.raises(MediaError, match="it has 90"):
        index.read("b", [-1], crop=WHOLE, size_px=64)


def test_a_chunk_that_is_gone_or_changed_is_an_error(index, tmp_path):
    (tmp_path / "b1.mp4").unlink()
    with pytest.raises(MediaError, match=r"b1\.mp4: the chunk is gone"):
        index.read("b", [0, 45], crop=WHOLE, size_px=64)
    assert len(index.read("b", [0, 85], crop=WHOLE, size_px=64)) == 2
    with (tmp_path / "b2.mp4").open("ab") as stream:
        stream.write(b"more")
    with pytest.raises(MediaError, match="bytes, it had"):
        index.read("b", [85], crop=WHOLE, size_px=64)


def read_everything(path: Path | str) -> list[int]:
    index = ChunkIndex.load(path)
    assert not list(index.changed_chunks())
    return [read_number(frame) for frame in index.read("a", range(100), crop=WHOLE, size_px=128)]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`data/it`, transcoded from `tmp_path` with relative paths, as the workflow does."""
    monkeypatch.chdir(tmp_path)
    source = write_counted(Path("data/it/raw/a.mp4"), 100, width=128, height=128)
    write_videos(Path("data/it/videos.parquet"), {SourceVideo("a", source): FileMark(1, 1)})
    transcode_all(Path("data/it"), TranscodeSettings(chunk_seconds=2, short_side_px=128, preset="ultrafast"))
    return tmp_path / "data/it"


@pytest.mark.parametrize("name", ["plain", "a b", "it's $HOME", 'a "quoted" {x}'])
def test_an_index_is_read_and_made_again_wherever_its_data_lie(data, tmp_path, monkeypatch, name):
    before = {path.name: path.stat().st_mtime_ns for path in (data / "chunks").rglob("*.mp4")}
    moved = tmp_path / name
    shutil.move(data, moved)
    monkeypatch.chdir("/")
    assert read_everything(moved / "chunks.parquet") == list(range(100))
    settings = TranscodeSettings(chunk_seconds=2, short_side_px=128, preset="ultrafast")
    assert read_everything(transcode_all(moved, settings)) == list(range(100))
    assert {path.name: path.stat().st_mtime_ns for path in (moved / "chunks").rglob("*.mp4")} == before


def test_an_index_is_read_through_links_and_from_two_directories_at_once(data, tmp_path, monkeypatch):
    (tmp_path / "linked").symlink_to(data)
    (tmp_path / "alone.parquet").symlink_to(data / "chunks.parquet")
    for path in (tmp_path / "linked/chunks.parquet", tmp_path / "alone.parquet"):
        assert read_everything(path) == list(range(100))
    index = ChunkIndex.load("data/it/chunks.parquet")
    monkeypatch.chdir(data)
    other = ChunkIndex.load("chunks.parquet")
    monkeypatch.chdir("/")
    first, second = (each.read("a", [70], crop=WHOLE, size_px=128) for each in (index, other))
    assert read_number(first[0]) == read_number(second[0]) == 70


def test_an_index_of_an_earlier_version_is_read_where_it_was_made_and_explained_elsewhere(data, monkeypatch):
    table = pq.read_table(data / "chunks.parquet").replace_schema_metadata(None)
    names = pa.array([f"data/it/{name}" for name in table["path"].to_pylist()])
    pq.write_table(table.set_column(table.column_names.index("path"), "path", names), data / "chunks.parquet")
    assert read_everything("data/it/chunks.parquet") == list(range(100))
    monkeypatch.chdir("/")
    with pytest.raises(ValueError, match=r"an earlier version .* --forcerun transcode_videos"):
        ChunkIndex.load(data / "chunks.parquet")


def test_an_index_without_rows(tmp_path):
    write_chunk_table(tmp_path / "chunks.parquet", [])
    index = ChunkIndex.load(tmp_path / "chunks.parquet")
    assert index.video_ids == [] and not index.has("a")


@pytest.mark.parametrize("name", CHUNK_FORMATS)
def test_every_format_and_decoder_gives_the_frames_of_a_plain_decode(tmp_path, name):
    source = write_counted(tmp_path / "a.mp4", 100, width=128, height=128)
    listed = {"video_id": ["a"], "path": [str(source)], "bytes": [1]}
    pq.write_table(pa.table(listed), tmp_path / "videos.parquet")
    settings = TranscodeSettings(format=name, chunk_seconds=2, short_side_px=128, preset="veryfast")
    index = ChunkIndex.load(transcode_all(tmp_path, settings))
    plain = []
    for path in sorted((tmp_path / "chunks").rglob("*.mp4")):
        with av.open(str(path)) as container:
            plain += [frame.to_ndarray(format="gbrp") for frame in container.decode(video=0)]
    assert len(plain) == index.frame_count("a") == 100
    for number in range(100):
        [frame] = index.read("a", [number], crop=WHOLE, size_px=128)
        np.testing.assert_array_equal(frame, plain[number])
        assert read_number(frame) == number
    mixed = [99, 11, 12, 13, 60, 59, 70, 85, 0]
    clip = index.read("a", mixed, crop=WHOLE, size_px=128, backend="decord")
    assert [read_number(frame) for frame in clip] == mixed
