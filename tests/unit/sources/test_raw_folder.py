"""In a raw folder, only what the pipeline wrote and nobody changed is replaced."""

import os

import pytest

from avion_core.data.source_videos import SourceError
from avion_core.sources.raw_folder import RawFolder


def test_what_the_pipeline_wrote_is_replaced_and_nothing_else(tmp_path):
    RawFolder(tmp_path).write("sub/a.csv", "one")
    RawFolder(tmp_path).write("sub/a.csv", "two")
    assert (tmp_path / "sub/a.csv").read_text() == "two"
    (tmp_path / "b.csv").write_text("the user's")
    with pytest.raises(SourceError, match=r"b\.csv: it was not written by the pipeline"):
        RawFolder(tmp_path).write("b.csv", "ours")
    assert (tmp_path / "b.csv").read_text() == "the user's"


def test_a_users_edit_stays_while_there_is_nothing_new_to_write(tmp_path, capsys):
    RawFolder(tmp_path).write("a.csv", "one")
    (tmp_path / "a.csv").write_text("edited")
    RawFolder(tmp_path).write("a.csv", "one")
    assert (tmp_path / "a.csv").read_text() == "edited"
    assert "it was edited since the pipeline wrote it" in capsys.readouterr().err
    with pytest.raises(SourceError, match="edited since"):
        RawFolder(tmp_path).write("a.csv", "two")
    assert (tmp_path / "a.csv").read_text() == "edited"


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_link_to_the_source_is_left_alone(tmp_path, link):
    raw, source = tmp_path / "raw", tmp_path / "a.csv"
    raw.mkdir()
    source.write_text("one")
    link(source, raw / "a.csv")
    RawFolder(raw).copy(source, "a.csv")
    assert (raw / "a.csv").samefile(source)
    assert source.read_text() == "one"


def test_a_users_link_to_something_else_is_not_replaced(tmp_path):
    raw, source, other = tmp_path / "raw", tmp_path / "a.csv", tmp_path / "other.csv"
    raw.mkdir()
    source.write_text("one")
    other.write_text("other")
    (raw / "a.csv").symlink_to(other)
    with pytest.raises(SourceError, match=r"raw/a\.csv: it was not written by the pipeline"):
        RawFolder(raw).copy(source, "a.csv")
    assert (raw / "a.csv").readlink() == other


def test_a_kill_between_record_and_file_is_mended_by_the_next_run(tmp_path, monkeypatch):
    RawFolder(tmp_path).write("a.csv", "one")
    with monkeypatch.context() as patched:
        patched.setattr(
            "avion_core.sources.raw_folder.publish", lambda _: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            RawFolder(tmp_path).write("a.csv", "two")
    RawFolder(tmp_path).write("a.csv", "three")
    assert (tmp_path / "a.csv").read_text() == "three"
