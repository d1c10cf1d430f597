"""LaViLa's pickles become rephrased and narrated clips; what matches nothing is counted and named."""

from __future__ import annotations

import csv
import json
import math
import pickle
from pathlib import Path
from typing import Any

import pytest

from avion_core.config import FilterSettings, NarrateSettings, NarratorSettings
from avion_core.config.filters import NarratorFilters
from avion_core.data.clips import ClipTable, write_clips
from avion_core.data.published_text import write_pickle
from avion_core.narrate.clip_provider import clip_provider_of
from avion_core.narrate.narrated import gather_narrated, narrate_shard
from avion_core.narrate.provider import NarrateError, provider_of
from avion_core.narrate.published_provider import NO_REPHRASING
from avion_core.narrate.rephrase import gather_narrations, rephrase_shard
from tests.support.chunk_index import chunk_index

TEXTS = ["#C C cuts", "#C C walks", "#C C cuts", "#C C unknown"]


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    chunk_index(tmp_path, {"a": [120], "b": [60]})
    row = {"video_id": "a", "source": "human"}
    rows = [
        {
            **row,
            "start_s": 0.5 * place,
            "end_s": 0.5 * place + 1.0,
            "texts": [text],
            "narration_id": f"{place}",
        }
        for place, text in enumerate(TEXTS)
    ]
    write_clips(tmp_path / "train.arrow", rows)
    return tmp_path / "train.arrow"


def _rephrasing(file: Path) -> NarrateSettings:
    return NarrateSettings.model_validate(
        {"provider": "published_rephrasings", "published_rephrasings": {"file": str(file)}}
    )


def _narrations(file: Path, **settings: Any) -> NarratorSettings:
    own = {"provider": "published_narrations", "published_narrations": {"file": str(file)}}
    return NarratorSettings.model_validate(own | settings)


@pytest.mark.parametrize("count", [1, 2])
def test_each_clip_gets_the_published_rephrasings_of_its_text(
    clips: Path, count: int, capsys: pytest.CaptureFixture[str]
):
    home = clips.parent
    rows = [
        ("a", 0.0, 1.0, ["#C C cuts", "#C C slices", "#C C cuts"]),
        ("a", 1.0, 2.0, ["#C C cuts", "#C C slices", "#C C chops"]),
        ("b", 1.0, 2.0, ["#C C walks ", "#C C strolls\n"]),
        ("b", 2.0, 3.0, ["#C C of no clip", "#C C nobody"]),
    ]
    (home / "rephraser.pkl").write_bytes(pickle.dumps(rows))
    settings = _rephrasing(home / "rephraser.pkl")
    settings = NarrateSettings.join(json.loads(json.dumps(settings.recipe())), settings.job_settings())
    shards = [home / f"{number}-of-{count}.arrow" for number in range(1, count + 1)]
    common = {"journal_dir": home / "journal", "class_lists": []}
    for shard in shards:
        rephrase_shard(clips, settings=settings, shard=shard.stem, out=shard, **common)
    no_filter = FilterSettings(least_known=None, unlike_human=())
    gather_narrations(clips, shards, filters=no_filter, out=home / "rephrased.arrow", **common)
    found = ClipTable.load(home / "rephrased.arrow").arrow()
    cuts = ["#C C cuts", "#C C slices", "#C C chops"]
    assert found["texts"].to_pylist() == [cuts, ["#C C walks", "#C C strolls"], cuts, ["#C C unknown"]]
    assert set(found["source"].to_pylist()) == {"rephrased"}
    assert (home / "dead_letters.csv").read_text() == f"text,reason,tries\n#C C unknown,{NO_REPHRASING},0\n"
    told = "rephraser.pkl: 1 distinct narrations are not in the clip table, such as: #C C of no clip\n"
    assert capsys.readouterr().err.count(told) == count
    write_pickle(home / "again.pkl", found, "rephrased")
    assert pickle.loads((home / "again.pkl").read_bytes())[1] == (
        "a",
        0.5,
        1.5,
        ["#C C walks", "#C C strolls"],
    )


@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_rows_of_the_narrators_file_become_clips(
    clips: Path, count: int, capsys: pytest.CaptureFixture[str]
):
    home = clips.parent
    rows = [
        ("b", 1.0, 2.0, ["#C C ä", "#C C b"], [1.5, 2.5]),
        ("a", 2.0, 9.0, ["#C C cut"], [3.5]),
        ("a", 0.5, 1.5, ["#C C c", "#C C d"], [4.5, 5.5]),
        ("a", 0.5, 1.5, [], []),
        ("away", 0.5, 1.5, ["#C C away"], [1.0]),
        ("a", math.nan, 1.5, ["#C C nan"], [1.0]),
    ]
    (home / "narrator.pkl").write_bytes(pickle.dumps(rows))
    no_filter = NarratorFilters(least_words=1, least_known=None, unlike_human=())
    settings = _narrations(home / "narrator.pkl", filters=no_filter, texts_per_clip=2)
    shards = [home / f"{number}-of-{count}.arrow" for number in range(1, count + 1)]
    files, common = (clips, home / "chunks.parquet"), {"settings": settings, "journal_dir": home / "journal"}
    for shard in shards:
        narrate_shard(*files, **common, shard=shard.stem, model=None, out=shard)
    told = capsys.readouterr().err
    gather_narrated(*files, shards, **common, out=home / "narrated.arrow")
    clips_of = ClipTable.load(home / "narrated.arrow").arrow()
    found = [tuple(row.values()) for row in clips_of.drop_columns(["narration_id", "source"]).to_pylist()]
    assert found == [
        ("a", 0.5, 1.5, ["#C C c", "#C C d"], [4.5, 5.5]),
        ("a", 2.0, 4.0, ["#C C cut"], [3.5]),
        ("b", 1.0, 2.0, ["#C C ä", "#C C b"], [1.5, 2.5]),
    ]
    assert set(clips_of["source"].to_pylist()) == {"narrated"}
    with (home / "dead_letters.csv").open(newline="") as stream:
        assert [row["reason"] for row in csv.DictReader(stream)] == ["no text"]
    assert "narrator.pkl: rows left out: 1: the video has no chunks; 1: the narration's time is not" in told
    assert "such as: away 0.5 to 1.5 s; a nan to 1.5 s" in told
    write_pickle(home / "again.pkl", clips_of, "narrated")
    assert pickle.loads((home / "again.pkl").read_bytes())[2] == rows[0]


def test_a_file_that_is_missing_or_of_another_form_is_refused_before_any_job(tmp_path: Path):
    file = tmp_path / "texts.pkl"
    with pytest.raises(
        NarrateError, match=r"narrate\.published_rephrasings\.file: .*texts\.pkl: no such file"
    ):
        provider_of(_rephrasing(file)).check()
    file.write_bytes(pickle.dumps([("a", 0.0, 1.0, "text")]))
    with pytest.raises(NarrateError, match=r"texts\.pkl: row 0: .* the form of LaViLa's rephrased texts"):
        provider_of(_rephrasing(file)).check()
    with pytest.raises(NarrateError, match=r"narrator\.published_narrations\.file: .* row 0: "):
        clip_provider_of(_narrations(file)).check()
    with pytest.raises(ValueError, match="published_rephrasings"):
        NarrateSettings.model_validate({"provider": "published_rephrasings"})
