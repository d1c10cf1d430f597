"""Tables as mapped files: written as they come, opened without a copy, refused by name."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from avion_core.data import tables
from avion_core.data.clips import CLIPS, ClipTable, write_clips
from avion_core.data.tables import BATCH_ROWS, TableError, column_names, map_table, row_count, write_table

SCHEMA = pa.schema([pa.field("text", pa.string(), nullable=False), pa.field("label", pa.int32())])


def rows(count: int, first: int = 0) -> list[dict]:
    return [{"text": f"text {row}", "label": row} for row in range(first, first + count)]


def test_rows_tables_and_record_batches_are_the_same_to_the_writer(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "BATCH_ROWS", 4)
    whole = pa.Table.from_pylist(rows(10), schema=SCHEMA)
    parts = [pa.Table.from_pylist(rows(5, first), schema=SCHEMA) for first in (0, 5)]
    forms = {
        "rows": (row for row in rows(10)),
        "table": whole,
        "tables": iter(parts),
        "batches": (batch for part in parts for batch in part.to_batches()),
    }
    for name, form in forms.items():
        write_table(tmp_path / name, form, SCHEMA)
        found = map_table(tmp_path / name, SCHEMA)
        assert found.equals(whole)
        assert max(len(batch) for batch in found.to_batches()) <= 4
        assert (row_count(tmp_path / name), column_names(tmp_path / name)) == (10, ["text", "label"])


def test_a_stream_is_written_as_it_comes(tmp_path):
    """At no time are more than two of forty batches in memory."""
    held = pa.total_allocated_bytes()
    seen = []

    def batches() -> Iterator[pa.Table]:
        for _ in range(40):
            yield pa.table({"text": ["x" * 10_000] * 100})
            seen.append(pa.total_allocated_bytes() - held)

    write_table(tmp_path / "t.arrow", batches(), SCHEMA)
    assert row_count(tmp_path / "t.arrow") == 4000
    assert max(seen) < 2.5 * 1_000_000 < (tmp_path / "t.arrow").stat().st_size / 15


def test_opening_and_joining_copy_nothing(tmp_path):
    long = [{"text": "x" * 1000, "label": 1}] * 1000
    write_table(tmp_path / "one.arrow", itertools.chain.from_iterable([long] * 10), SCHEMA)
    held = pa.total_allocated_bytes()
    found = map_table(tmp_path / "one.arrow", SCHEMA)
    assert found["text"][9_999].as_py() == "x" * 1000
    assert pa.total_allocated_bytes() - held < 10_000
    clips = [{"video_id": "v" * 1000, "start_s": 0.0, "end_s": 1.0, "texts": ["a"]}] * 3000
    write_clips(tmp_path / "bare.arrow", clips)
    write_clips(tmp_path / "labelled.arrow", [{**row, "label": 3} for row in clips])
    joined = ClipTable.load(tmp_path / "bare.arrow", tmp_path / "labelled.arrow")
    assert len(joined) == 6000 and not joined.has("label")
    assert pa.total_allocated_bytes() - held < 30_000  # the missing labels, which are one array of nulls


def resident_bytes(path: Path) -> int:
    """How much of a mapped file this process has looked at."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    inside = [next(line for line in lines if line.startswith("Rss:")) for line in lines if str(path) in line]
    return sum(int(line.split()[1]) * 1024 for line in inside)


def test_opening_reads_next_to_nothing_of_a_file(tmp_path):
    path = tmp_path / "train.arrow"
    rows = pa.table(
        {"video_id": ["v" * 36], "start_s": [0.0], "end_s": [1.0], "texts": [["takes a cup " * 5]]}
    ).take(pa.array([0] * 20_000))
    write_clips(path, itertools.repeat(rows, 20))
    clips = ClipTable.load(path)
    size = path.stat().st_size
    assert size > 40e6 and resident_bytes(path) < 0.06 * size
    assert pc.sum(clips.arrow()["start_s"]).as_py() == 0
    assert resident_bytes(path) > 0.07 * size


def test_missing_columns_of_millions_of_rows_cost_one_array(monkeypatch):
    bare = pa.table({"text": pa.array(["a"]).take(pa.array([0] * (2 * BATCH_ROWS + 5)))})
    held = pa.total_allocated_bytes()
    filled = tables.with_nulls(bare, SCHEMA)
    assert filled["label"].null_count == len(filled) == len(bare)
    assert pa.total_allocated_bytes() - held < 1.2 * (4 + 1 / 8) * BATCH_ROWS


def test_the_first_batch_decides_the_columns(tmp_path):
    bare = pa.table({"text": ["c"]})
    full = pa.Table.from_pylist(rows(2), schema=SCHEMA)
    write_table(tmp_path / "t.arrow", iter([full, bare]), SCHEMA)
    assert map_table(tmp_path / "t.arrow", SCHEMA)["label"].to_pylist() == [0, 1, None]
    with pytest.raises(TableError, match=r"late\.arrow: column 'label' is not in the first batch"):
        write_table(tmp_path / "late.arrow", iter([bare, full]), SCHEMA)
    assert [path.name for path in tmp_path.iterdir()] == ["t.arrow"]


def test_a_stream_that_fails_publishes_nothing(tmp_path):
    def batches() -> Iterator[pa.Table]:
        yield pa.table({"text": ["a"]})
        raise OSError("the source is gone")

    with pytest.raises(OSError, match="the source is gone"):
        write_table(tmp_path / "t.arrow", batches(), SCHEMA)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["truncated", "empty", "parquet", "mistyped", "lacking", "missing"])
def test_a_file_that_is_not_a_whole_table_is_named_with_the_way_out(tmp_path, damage):
    path = tmp_path / "train.arrow"
    if damage == "truncated":
        write_table(path, rows(100), SCHEMA)
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "empty":
        path.touch()
    elif damage == "parquet":
        pq.write_table(pa.Table.from_pylist(rows(3), schema=SCHEMA), path)
    elif damage == "mistyped":
        other = pa.schema([("text", pa.string()), ("label", pa.float64())])
        write_table(path, rows(3), other)
    elif damage == "lacking":
        write_table(path, [{"label": 1}], pa.schema([("label", pa.int32())]))
    words = {
        "mistyped": "'label' is double and not int32",
        "lacking": "missing column 'text'",
        "missing": "no such table",
    }.get(damage, "not a whole Arrow file")
    with pytest.raises(TableError, match=rf"train\.arrow: .*{words}.*run the stage.*annotate.*narrate"):
        map_table(path, SCHEMA)


def test_pandas_reads_them(tmp_path):
    write_clips(tmp_path / "train.arrow", [{"video_id": "a", "start_s": 0.5, "end_s": 1.0, "texts": ["b"]}])
    [row] = pd.read_feather(tmp_path / "train.arrow").to_dict("records")
    assert (row["video_id"], row["start_s"], list(row["texts"])) == ("a", 0.5, ["b"])
    assert column_names(tmp_path / "train.arrow") == CLIPS.names[:4]
