"""EgoVLP's file of tags: which lines count, which narrations find theirs, and the columns they become."""

import json
from pathlib import Path

import pytest

from avion_core.config import DatasetSettings, ToyKitchenSettings
from avion_core.data import ego4d
from avion_core.data.clips import ClipTable
from avion_core.data.egoclip import COLUMNS, EGOCLIP, check_header, read_egoclip
from avion_core.data.source_videos import SourceError
from avion_core.sources.toy_kitchen.egoclip import egoclip_csv, tags_of
from tests.support.annotated import annotate_raw

HEADER = "clip_idx\tvideo_uid\tvideo_dur\tnarration_time\tclip_text\ttag_verb\ttag_noun\n"


def line(time, text, verbs="[1]", nouns="[2, 3]", video="a"):
    return f"0\t{video}\t9.0\t{time}\t{text}\t{verbs}\t{nouns}\n"


@pytest.fixture
def write(tmp_path):
    def written(*lines, header=HEADER):
        (tmp_path / EGOCLIP).write_text(header + "".join(lines), encoding="utf-8")
        return tmp_path / EGOCLIP

    return written


def test_a_narration_finds_its_tags_by_video_time_and_text(write):
    path = write(
        line(1.2345, "#C C cuts"),
        line(1.2345, "#C C cuts", "[4]", "[]", "b"),
        line(8, "#C C cuts", "[5]"),
        line(8.04, "#C C cuts", "[6]"),
    )
    found = read_egoclip(path, videos=["a"])
    assert (found.rows, found.malformed) == (4, 0)
    assert found.tags("a", 1.2345, "#C C cuts") == ((1,), (2, 3))
    assert found.tags("a", 1.2, "#C C cuts ") == ((1,), (2, 3))  # rounded, with a space
    for near in (7.9, 8.0, 8.1):
        assert found.tags("a", near, "#C C cuts") == ((5,), (2, 3))  # the first line with this narration
    for other in (("b", 1.2345, "#C C cuts"), ("a", 4.0, "#C C cuts"), ("a", 1.2345, "#C C takes")):
        assert found.tags(*other) == ((), ())


@pytest.mark.parametrize(
    "bad",
    [
        line("soon", "#C C a"),
        line("nan", "#C C a"),
        line("1e400", "#C C a"),
        line(1, "#C C a", verbs="1"),
        line(1, "#C C a", verbs="['one']"),
        line(1, "#C C a", nouns="[-1]"),
        line(1, "#C C a", nouns="[10000000000]"),
        line(1, "#C C a", nouns="[1"),
        line(1, "#C C a", nouns="__import__('os').getpid()"),
        line(1, "#C C a\tb"),
        line(1, '"#C C a'),
        "only words\n",
        "\n",
    ],
)
def test_a_malformed_line_is_counted_and_swallows_no_other(write, bad):
    found = read_egoclip(write(line(1, "#C C b"), bad, line(2, "#C C c")), videos=["a"])
    assert (found.rows, found.malformed) == (2, 1)
    assert found.tags("a", 2.0, "#C C c") == ((1,), (2, 3))


def test_quotes_and_other_ways_to_write_a_list(write):
    path = write(line(1, '"#C C says ""go"""', "", "[2,3]"), line(2, "#C C x", '"[1, 2]"', " [] "))
    found = read_egoclip(path, videos=["a"])
    assert found.tags("a", 1.0, '#C C says "go"') == ((), (2, 3))
    assert found.tags("a", 2.0, "#C C x") == ((1, 2), ())


def test_a_file_of_another_kind_is_one_clear_error(write, tmp_path):
    with pytest.raises(SourceError, match=r"column 'tag_verb' is missing; EgoVLP's file is tab-separated"):
        check_header(write(header=HEADER.replace("tag_verb", "verbs")))
    with pytest.raises(SourceError, match="column 'video_uid' is missing"):
        read_egoclip(write(header=HEADER.replace("\t", ",")))
    with pytest.raises(SourceError, match="1 of its 1 rows cannot be read"):
        read_egoclip(write("nothing\n"))
    with pytest.raises(SourceError, match="0 of its 0 rows cannot be read"):
        read_egoclip(write())
    with pytest.raises(SourceError, match="2 of its 3 rows cannot be read"):
        read_egoclip(write(line(1, "a"), line(2, "a", verbs="[1.0]"), line(3, "a", nouns="[2.0]")))
    with pytest.raises(SourceError, match=r"none\.csv: cannot be read"):
        check_header(tmp_path / "none.csv")


def narrated(*told):
    return {
        "narration_pass_1": {
            "narrations": [
                {"timestamp_sec": time, "narration_text": text, "annotation_uid": f"n{time}"}
                for time, text in told
            ]
        },
        "narration_pass_2": {"narrations": []},
    }


VIDEOS = {
    "a": narrated((1.0, "#C C cuts the carrot"), (3.0, "#C C looks around")),
    "b": narrated((2.0, "#C C takes the mug from the counter")),
}


@pytest.mark.parametrize("with_file", [True, False])
def test_tags_become_columns_if_there_is_the_file(tmp_path, monkeypatch, capsys, with_file):
    raw = tmp_path / "raw"
    (raw / "v2/annotations").mkdir(parents=True)
    (raw / "ego4d.json").write_text(json.dumps({"videos": [{"video_uid": uid} for uid in VIDEOS]}))
    (raw / "v2/annotations/narration.json").write_text(json.dumps({"videos": VIDEOS}))
    if with_file:
        (raw / EGOCLIP).write_text(egoclip_csv(VIDEOS, {"a": 9.0, "b": 9.0}))
    settings = DatasetSettings(layout="ego4d", source="toy_kitchen", toy_kitchen=ToyKitchenSettings())
    clips = ClipTable.load(
        annotate_raw(tmp_path, monkeypatch, settings, {"a": 9.0, "b": 9.0}) / "train.arrow"
    )
    assert ego4d.annotation_files(raw)[2:] == ([EGOCLIP] if with_file else [])
    if not with_file:
        assert not {"verb_tags", "noun_tags"} & set(clips.arrow().column_names)
        assert clips.tag_classes("verb") == clips.tag_classes("noun") == 0
        return
    texts = [clips.texts(row)[0] for row in range(len(clips))]
    assert texts == ["#C C cuts the carrot", "#C C looks around", "#C C takes the mug from the counter"]
    assert [(clips.tags(row, "verb"), clips.tags(row, "noun")) for row in range(3)] == [
        ([5], [8]),
        ([], []),
        ([0], [0, 17]),
    ]
    assert (clips.tag_classes("verb"), clips.tag_classes("noun")) == (6, 18)
    assert "0 malformed lines skipped; 2 of 3 narrations have tags" in capsys.readouterr().err


def test_the_toy_kitchens_file_has_the_real_ones_columns_and_its_words_classes():
    rows = [row.split("\t") for row in egoclip_csv(VIDEOS, {"a": 9.0, "b": 9.0}).splitlines()]
    assert rows[0][0] == "clip_idx" and set(COLUMNS) <= set(rows[0])
    assert [row[0] for row in rows[1:]] == ["0", "1", "2"]
    first = dict(zip(rows[0], rows[1], strict=True))
    assert (first["narration_source"], first["narration_time"], first["tag_verb"]) == (
        "narration_pass_1",
        "1.0",
        "[5]",
    )
    assert tags_of("#C C pours milk into the red saucepan") == ([6], [4, 13])
    assert tags_of("#O A man X walks around") == tags_of("#C C #unsure") == ([], [])


def test_epic_kitchens_classes_serve_as_tags(tmp_path: Path):
    row = {"video_id": "a", "start_s": 0.0, "end_s": 1.0, "texts": ["x"], "source": "human"}
    human = {**row, "verb": 3, "noun": 7, "nouns": [7, 2]}
    clips = ClipTable.from_rows([human, {**row, "source": "narrated"}])
    assert (clips.tags(0, "verb"), clips.tags(0, "noun")) == ([3], [7, 2])
    assert (clips.tags(1, "verb"), clips.tags(1, "noun")) == ([], [])
    assert (clips.tag_classes("verb"), clips.tag_classes("noun")) == (4, 8)
    assert [clips.is_narrated(place) for place in range(2)] == [False, True]
