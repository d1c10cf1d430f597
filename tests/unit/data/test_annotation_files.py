"""Text, JSON and CSV as people and spreadsheets save them: read, or refused with the place."""

import json

import pytest

from avion_core.data.annotation_files import Row, read_json, read_rows, read_text
from avion_core.data.source_videos import SourceError

ROWS = [{"a": "1", "b": "café"}, {"a": "2", "b": 'x, "y"; z'}]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-mark", "utf-16-be-mark"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["lf", "crlf", "cr"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_a_csv_is_read_however_it_was_saved(tmp_path, encoding, end, separator):
    lines = ["a,b", "1,café", "", '2,"x, ""y""; z"', ",", ""]
    lines = [line.replace(",", separator, 1) for line in lines]
    text = end.join(lines)
    if encoding.endswith("-mark"):
        encoding, text = encoding.removesuffix("-mark"), "\ufeff" + text
    (tmp_path / "it.csv").write_bytes(text.encode(encoding))
    rows = read_rows(tmp_path / "it.csv", columns=("a", "b"))
    assert [row.values for row in rows] == ROWS
    assert [row.line for row in rows] == [2, 4]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('a,b\n1,2\n1,"2\n3,4\n5,"6\n', "line 3: a quotation mark is not closed"),
        ('a,b\n1,"2\n3,4"\n', "line 2: a quotation mark is not closed"),
        ('a,b\n1,"2" 3\n', "line 2: a quotation mark is not closed on its line, or text follows"),
        ("a,b\n1,2,3\n", "line 2: more values than columns"),
        ("a,b,\n1,2,3\n", "line 2: more values than columns"),
        ("a,b\n1,2\n1\n", r"line 3: the row ends before column 'b' \(1 values, 2 columns\)"),
        ("a,b,b\n1,2,3\n", "line 1: column 'b' is there more than once"),
        ("a,c\n1,2\n", "line 1: column 'b' is missing; the columns are a, c, needed are a, b"),
        ("a;c\n1;2\n", "line 1: column 'b' is missing; the columns are a, c, needed"),
        ("", "line 1: column 'a' is missing"),
        ("sep=;\n", "line 2: column 'a' is missing"),
        ("sep=;\na;b\n1;2;3\n", "line 3: more values"),
        ("a,b\n1," + "2" * 200_000 + "\n", "line 2: a value has more than 131,072 characters"),
    ],
)
def test_a_wrong_csv_is_refused_with_the_line(tmp_path, text, message):
    (tmp_path / "it.csv").write_text(text)
    with pytest.raises(SourceError, match=rf"it\.csv: {message}"):
        read_rows(tmp_path / "it.csv", columns=("a", "b"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\nb\ncafé".encode("latin-1"), "line 3: not UTF-8 text"),
        ("a\ncafé".encode("utf-16-le"), "line 2: not UTF-8|line 1: a zero byte"),
        ("a\nb".encode("utf-16-le"), "line 1: a zero byte"),
        (b"\xff\xfea\x00b", "line 1: not UTF-16 text"),
        ("ab".encode("utf-32"), "line 1: a zero byte"),
        (b"PK\x03\x04rest", "an Excel workbook; save it as 'CSV UTF-8'"),
        (b"\x1f\x8b\x08\x00", "line 1: not UTF-8"),
    ],
)
def test_what_is_no_text_is_refused_with_the_line(tmp_path, content, message):
    (tmp_path / "it").write_bytes(content)
    with pytest.raises(SourceError, match=f"it: ({message})"):
        read_text(tmp_path / "it")


def test_a_file_that_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(SourceError, match="gone: no such file"):
        read_text(tmp_path / "gone")
    with pytest.raises(SourceError, match="cannot be read"):
        read_text(tmp_path)


def test_json_may_have_a_byte_order_mark_and_not_a_number(tmp_path):
    (tmp_path / "it.json").write_text('\ufeff{"a": [NaN, 1]}')
    assert read_json(tmp_path / "it.json")["a"][1] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1,\n "b": [2, 3', "line 2, column 12: not valid JSON"),
        ("", "line 1, column 1: not valid JSON"),
        ('{"a": 1} {"b": 2}', "line 1, column 10: not valid JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("9" * 5000, "cannot be read as JSON"),
        ('{"a": 1, "b": {"c": 1, "d": 2, "c": 3}}', r"cannot be read as JSON \('c' is there more than once"),
    ],
)
def test_wrong_json_is_refused_with_the_place(tmp_path, text, message):
    (tmp_path / "it.json").write_text(text)
    with pytest.raises(SourceError, match=rf"it\.json: {message}"):
        read_json(tmp_path / "it.json")


def test_a_json_file_cut_anywhere_is_refused_by_name(tmp_path):
    whole = json.dumps({"videos": {"u": [1.5, None, True, "é"]}}, ensure_ascii=False).encode()
    for length in range(len(whole)):
        (tmp_path / "it.json").write_bytes(whole[:length])
        with pytest.raises(SourceError, match=r"it\.json: line 1"):
            read_json(tmp_path / "it.json")


def test_a_value_in_a_message_cannot_fool_a_terminal(tmp_path):
    row = Row(tmp_path / "x.csv", 3, {"end": "1"}, ",")
    message = str(row.error("end", "'\x1b[2J\u202e1\r' is not a time"))
    assert message == f"{tmp_path / 'x.csv'}: line 3: column 'end': ' 1 ' is not a time"
