from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from avion_core.media.file_table import read_file_table, write_file_table


def table(*paths: Path | str) -> pa.Table:
    return pa.table({"path": [str(path) for path in paths]})


def stored(path: Path) -> list[str]:
    return pq.read_table(path)["path"].to_pylist()


def paths(path: Path | str) -> list[str]:
    return read_file_table(path)["path"].to_pylist()


def test_paths_inside_are_relative_on_disk_and_others_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_file_table("data/t.parquet", table("data/a b/1.mp4", "own/2.mp4", "/else/3.mp4", "data2/4.mp4"))
    outside = [str(tmp_path / "own/2.mp4"), "/else/3.mp4", str(tmp_path / "data2/4.mp4")]
    assert stored(tmp_path / "data/t.parquet") == ["a b/1.mp4", *outside]
    monkeypatch.chdir("/")
    assert paths(tmp_path / "data/t.parquet") == [str(tmp_path / "data/a b/1.mp4"), *outside]


@pytest.mark.parametrize("name", ["plain", "a b", "it's", '"$HOME"', "50%", "ü", "{x}", "a\nb"])
def test_a_table_can_be_moved_to_any_name(tmp_path, name):
    write_file_table(tmp_path / "data/t.parquet", table(tmp_path / "data/chunks/1.mp4"))
    (tmp_path / "data").rename(tmp_path / name)
    assert paths(tmp_path / name / "t.parquet") == [str(tmp_path / name / "chunks/1.mp4")]


def test_files_reached_through_a_link_are_inside_when_either_path_is(tmp_path, monkeypatch):
    """The folder may be a link, hold a link to its files, or be named by its real path in the table."""
    (tmp_path / "disk/store").mkdir(parents=True)
    (tmp_path / "data").symlink_to("disk")
    write_file_table(tmp_path / "data/t.parquet", table(tmp_path / "disk/1.mp4", tmp_path / "data/2.mp4"))
    assert stored(tmp_path / "data/t.parquet") == ["1.mp4", "2.mp4"]
    (tmp_path / "home").mkdir()
    (tmp_path / "home/raw").symlink_to(tmp_path / "disk/store")
    write_file_table(tmp_path / "home/t.parquet", table(tmp_path / "home/raw/1.mp4"))
    assert stored(tmp_path / "home/t.parquet") == ["raw/1.mp4"]


def test_a_link_to_the_table_alone_finds_the_files_and_one_beside_links_to_them_those(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/1.mp4").touch()
    write_file_table(tmp_path / "data/t.parquet", table(tmp_path / "data/1.mp4"))
    alone, annexed = tmp_path / "alone/t.parquet", tmp_path / "annexed/t.parquet"
    for link in (alone, annexed):
        link.parent.mkdir()
        link.symlink_to(tmp_path / "data/t.parquet")
    (annexed.parent / "1.mp4").symlink_to(tmp_path / "data/1.mp4")
    assert paths(alone) == [str(tmp_path / "data/1.mp4")]
    assert paths(annexed) == [str(annexed.parent / "1.mp4")]


def test_a_table_of_an_earlier_version_is_relative_to_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    pq.write_table(table("data/1.mp4", "/else/2.mp4"), tmp_path / "data/t.parquet")
    monkeypatch.chdir(tmp_path)
    assert paths("data/t.parquet") == [str(tmp_path / "data/1.mp4"), "/else/2.mp4"]


def test_writing_again_what_was_read_elsewhere_keeps_the_files(tmp_path):
    write_file_table(tmp_path / "data/t.parquet", table(tmp_path / "data/chunks/1.mp4"))
    write_file_table(tmp_path / "other/t.parquet", read_file_table(tmp_path / "data/t.parquet"))
    assert stored(tmp_path / "other/t.parquet") == [str(tmp_path / "data/chunks/1.mp4")]
    shutil.rmtree(tmp_path / "data")
    assert paths(tmp_path / "other/t.parquet") == [str(tmp_path / "data/chunks/1.mp4")]
