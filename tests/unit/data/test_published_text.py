"""LaViLa's pickles: plain values only, rows of the documented forms, and back."""

from __future__ import annotations

import os
import pickle
import pickletools
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from avion_core.data.plain_pickle import read_list
from avion_core.data.published_text import FORMS, read_rows, write_pickle
from avion_core.data.source_videos import SourceError

VIDEO = "0a1b2c3d-0000-4000-8000-00000000000a"
SHARED = ["#C C cuts ä carrot", "#C C slices the carrot"]
ROWS: dict[str, list[Any]] = {
    "human": [(VIDEO, 0.5, 1, "#C C cuts ä carrot"), (VIDEO, 2, 3.25, "#C C " + "looks " * 60)],
    "rephrased": [(VIDEO, 0.5, 1.5, SHARED), (VIDEO, 2.0, 3.0, SHARED), (VIDEO, 70000, 80000, ["x"])],
    "narrated": [(VIDEO, 0.5, 1.5, ["a", "b"], [1.25, 2.5]), (VIDEO, -1, 300, [], [])],
}


def _write(path: Path, rows: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(rows, protocol))
    return path


def _read(path: Path, form: str) -> list[tuple[Any, ...]]:
    rows = [row for batch in read_rows(path, form) for row in batch.to_pylist()]
    return [tuple(row[name] for name in FORMS[form]) for row in rows]


def _as_read(form: str) -> list[tuple[Any, ...]]:
    return [(*row[:3], [row[3]], *row[4:]) if form == "human" else tuple(row) for row in ROWS[form]]


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("form", list(FORMS))
def test_rows_of_each_form_are_read(form: str, protocol: int, tmp_path: Path):
    path = _write(tmp_path / "rows.pkl", ROWS[form], protocol)
    assert _read(path, form) == _as_read(form)
    path.write_bytes(pickletools.optimize(path.read_bytes()))
    assert _read(path, form) == _as_read(form)


@pytest.mark.parametrize("protocol", range(2, 6))
def test_values_come_as_pickle_reads_them(protocol: int, tmp_path: Path):
    text = "x" * 300
    inner = [1, 255, 256, 65535, 65536, -5, 2**40, -(2**40), 0.1, text, (), (1,), (1, 2), (1, 2, 3)]
    rows = [inner, *(([text, number], number) for number in range(2500)), inner, [[]]]
    batches = list(read_list(_write(tmp_path / "rows.pkl", rows, protocol)))
    assert [item for batch in batches for item in batch] == rows
    assert max(map(len, batches)) == 1000


class _Runs:
    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


@pytest.mark.parametrize(
    ("value", "opcode"),
    [(_Runs(), "GLOBAL"), ({}, "EMPTY_DICT"), (None, "NONE"), (True, "NEWTRUE"), (b"x", "BINBYTES|GLOBAL")],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_anything_but_plain_values_is_refused_before_the_first_row(
    value: Any, opcode: str, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    path = _write(tmp_path / "rows.pkl", [*ROWS["human"] * 600, value], protocol)
    with pytest.raises(SourceError, match=rf"rows\.pkl: byte \d+: the opcode \w*({opcode})"):
        next(read_list(path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"(lp0\n.", "not a pickle of protocol 2 to 5"),
        (b"\x80\x04\xff.", "the byte 0xff is refused"),
        (b"\x80\x04K\x01.", "not a list of rows"),
        (b"\x80\x04](K\x01", "cut short"),
        (b"\x80\x04]K\x01X\xff\xff\xff\xffabc", "cut short"),
        (b"\x80\x04e.", "damaged"),
        (b"\x80\x04]h\x07a.", "damaged"),
        (b"\x80\x04]q\x00h\x00a.", "damaged.*a list in itself"),
        (b"\x80\x04](\x8c\x01\xffe.", "damaged.*utf-8"),
    ],
)
def test_damaged_files_are_told_from_others(content: bytes, message: str, tmp_path: Path):
    (tmp_path / "rows.pkl").write_bytes(content)
    with pytest.raises(SourceError, match=message):
        list(read_list(tmp_path / "rows.pkl"))


def test_a_file_cut_anywhere_gives_no_row(tmp_path: Path):
    whole = pickle.dumps(ROWS["narrated"], 4)
    for length in range(2, len(whole)):
        (tmp_path / "rows.pkl").write_bytes(whole[:length])
        with pytest.raises(SourceError, match="cut short"):
            next(read_list(tmp_path / "rows.pkl"))


@pytest.mark.parametrize(
    ("form", "row"),
    [
        ("human", (VIDEO, 0.5, 1.5)),
        ("human", (VIDEO, 0.5, 1.5, ["text"])),
        ("human", (VIDEO, "0.5", 1.5, "text")),
        ("human", (VIDEO, 0.5, 1.5, 2.5)),
        ("human", "text"),
        ("rephrased", (VIDEO, 0.5, 1.5, "text")),
        ("rephrased", (VIDEO, 0.5, 1.5, ["text", 1.0])),
        ("narrated", (VIDEO, 0.5, 1.5, ["text"])),
        ("narrated", (VIDEO, 0.5, 1.5, ["text"], [1.0, 2.0])),
        ("narrated", (VIDEO, 0.5, 1.5, ["text"], ["1.0"])),
        ("narrated", (5, 0.5, 1.5, ["text"], [1.0])),
    ],
)
def test_a_row_of_another_form_is_named(form: str, row: Any, tmp_path: Path):
    path = _write(tmp_path / "rows.pkl", [*ROWS[form] * 600, row])
    place = len(ROWS[form]) * 600
    with pytest.raises(SourceError, match=rf"rows\.pkl: row {place}: .* is not \(video, start_s, end_s, "):
        _read(path, form)


@pytest.mark.parametrize("form", list(FORMS))
def test_clips_are_written_as_the_pickle_that_they_came_from(form: str, tmp_path: Path):
    rows = ROWS[form][:2] if form != "narrated" else ROWS[form][:1]
    many = rows * 1500
    clips = pa.Table.from_batches(list(read_rows(_write(tmp_path / "rows.pkl", many), form)))
    write_pickle(tmp_path / "again.pkl", clips, form)
    assert pickle.loads((tmp_path / "again.pkl").read_bytes()) == many
    assert _read(tmp_path / "again.pkl", form) == _read(tmp_path / "rows.pkl", form)


def test_clips_without_texts_or_scores_are_not_written(tmp_path: Path):
    clips = pa.Table.from_batches(
        list(read_rows(_write(tmp_path / "rows.pkl", ROWS["narrated"]), "narrated"))
    )
    with pytest.raises(SourceError, match="has no text"):
        write_pickle(tmp_path / "again.pkl", clips, "narrated")
    with pytest.raises(SourceError, match="no column 'scores'"):
        write_pickle(tmp_path / "again.pkl", clips.drop_columns(["scores"]), "narrated")
    assert not (tmp_path / "again.pkl").exists()
