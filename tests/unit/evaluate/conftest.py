"""A place to evaluate at."""

import pytest

from avion_core.evaluate import subject
from avion_core.media.chunk_table import write_chunk_table
from tests.support.evaluated import NoVideos


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a chunk index, and no real videos."""
    monkeypatch.setattr(subject, "ClipDataset", NoVideos)
    NoVideos.seen.clear()
    write_chunk_table(tmp_path / "chunks.parquet", [])
    return tmp_path
