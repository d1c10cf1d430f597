"""Shards and gathering: each distinct text once, whatever the number of shards, aligned with the clips."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from avion_core.config import FilterSettings, NarrateSettings
from avion_core.data.clips import ClipTable, write_clips
from avion_core.data.tables import write_table
from avion_core.files import read_json
from avion_core.narrate.lexicon_provider import LexiconProvider
from avion_core.narrate.provider import NarrateError, Rephrasing, Work, provider_of
from avion_core.narrate.rephrase import distinct_texts, estimate, gather_narrations, rephrase_shard

TEXTS = [
    "#C C takes the mug",
    "#C C opens the jar",
    "#C C #unsure",
    "#C C takes the mug",
    " ",
    "#C C closes the jar",
]
LEXICON = NarrateSettings()
EVERYTHING = FilterSettings(least_known=None, unlike_human=())
"""Filters that leave nothing out."""
MODEL = NarrateSettings.model_validate({"provider": "language_model"})


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    rows = [
        {
            "video_id": f"v{place}",
            "start_s": 0.5 * place,
            "end_s": place + 1.0,
            "texts": [text],
            "source": "human",
        }
        for place, text in enumerate(TEXTS)
    ]
    write_clips(tmp_path / "clips.arrow", rows)
    return tmp_path / "clips.arrow"


def run_shards(clips: Path, count: int) -> Path:
    home = clips.parent / f"{count}"
    shards = [home / f"{number}-of-{count}.arrow" for number in range(1, count + 1)]
    for shard in shards:
        rephrase_shard(
            clips, settings=LEXICON, shard=shard.stem, class_lists=[], journal_dir=home / "journal", out=shard
        )
    gather_narrations(
        clips, shards, filters=EVERYTHING, journal_dir=home / "journal", out=home / "train.arrow"
    )
    return home


def test_rows_stay_aligned_and_begin_with_the_original(clips):
    old, new = ClipTable.load(clips), ClipTable.load(run_shards(clips, 2) / "train.arrow")
    assert len(new) == len(old)
    for row in range(len(old)):
        assert (new.video_id(row), new.start_s(row), new.end_s(row)) == (
            old.video_id(row),
            old.start_s(row),
            old.end_s(row),
        )
        assert new.texts(row)[0] == old.texts(row)[0]
    assert len(new.texts(0)) == 1 + LEXICON.rephrase.texts_per_narration and new.texts(0) == new.texts(3)
    assert new.texts(2) == ["#C C #unsure"] and new.texts(4) == [" "]
    assert set(new.arrow().column("source").to_pylist()) == {"rephrased"}


def test_the_number_of_shards_changes_nothing(clips):
    tables = [ClipTable.load(run_shards(clips, count) / "train.arrow").arrow() for count in (1, 3, 7)]
    assert tables[0].equals(tables[1]) and tables[0].equals(tables[2])


def test_each_distinct_text_goes_to_one_provider_call(clips, monkeypatch):
    asked: list[str] = []

    def provider(work: Work) -> Iterator[Rephrasing]:
        asked.extend(work.texts.to_pylist())
        return (Rephrasing(text, [f"{text} again"]) for text in work.texts.to_pylist())

    monkeypatch.setattr(LexiconProvider, "rephrase", lambda _, work: provider(work))
    run_shards(clips, 2)
    assert (
        sorted(asked) == distinct_texts(clips).to_pylist() == sorted({text for text in TEXTS if text.strip()})
    )


def test_dead_letters_are_listed_and_counted_beside_the_table(clips, monkeypatch):
    odd = "#C C opens the jar"

    def provider(work: Work) -> Iterator[Rephrasing]:
        for text in work.texts.to_pylist():
            if text == odd:
                yield Rephrasing(text, [], 'said "no", twice', 5, 2)
            else:
                yield Rephrasing(text, [f"{text} again"], None, 0, 1)

    monkeypatch.setattr(LexiconProvider, "rephrase", lambda _, work: provider(work))
    journal = clips.parent / "2/journal/1-of-2.jsonl"
    journal.parent.mkdir(parents=True)
    journal.write_text('{"try": 0, "usd": 0.5, "model": "m"}\n{"try": 1')
    home = run_shards(clips, 2)
    with (home / "dead_letters.csv").open(newline="") as stream:
        assert list(csv.DictReader(stream)) == [{"text": odd, "reason": 'said "no", twice', "tries": "5"}]
    summary = read_json(home / "summary.json")
    bill, (spend,) = summary.pop("bill")["m"], summary.pop("spend")
    assert (spend["shard"], spend["model"], spend["usd"]) == ("1-of-2", "m", 0.5)
    assert summary == {
        "texts": 4,
        "other_subject": 5,
        "reasons": {'said "no", twice': 1},
        "written": 4,
        "filtered": {},
        "examples": {},
    }
    assert (bill["requests"], bill["lost"], bill["usd"]) == (1, 1, 0.5)
    assert ClipTable.load(home / "train.arrow").texts(1) == [odd]


def test_tables_of_earlier_versions_are_gathered(clips):
    home = clips.parent / "old"
    schema = pa.schema([("text", pa.string()), ("rephrased", pa.list_(pa.string()))])
    texts = distinct_texts(clips).to_pylist()
    write_table(home / "1-of-1.arrow", pa.table([texts, [["a"]] * len(texts)], schema=schema), schema)
    shards = [home / "1-of-1.arrow"]
    gather_narrations(
        clips, shards, filters=EVERYTHING, journal_dir=home / "journal", out=home / "train.arrow"
    )
    summary = read_json(home / "summary.json")
    assert summary == {
        "texts": 4,
        "other_subject": 0,
        "reasons": {},
        "bill": {},
        "spend": [],
        "written": 5,
        "filtered": {},
        "examples": {},
    }


def test_shards_of_other_clips_are_refused(clips):
    home = run_shards(clips, 2)
    with pytest.raises(NarrateError, match="no shard has the text"):
        gather_narrations(
            clips,
            [home / "1-of-2.arrow"],
            filters=EVERYTHING,
            journal_dir=home / "journal",
            out=home / "train.arrow",
        )


@pytest.mark.parametrize("shard", ["0-of-2", "3-of-2", "1", "a-of-b", "1-of-0"])
def test_a_malformed_shard_is_named(clips, shard):
    with pytest.raises(NarrateError, match="k-of-n"):
        rephrase_shard(
            clips,
            settings=LEXICON,
            shard=shard,
            class_lists=[],
            journal_dir=clips.parent,
            out=clips.parent / "o",
        )


def test_the_key_is_checked_before_any_work(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    provider_of(LEXICON).check_key()
    with pytest.raises(ValueError, match="OPENAI_API_KEY is not set"):
        provider_of(MODEL).check_key()
    monkeypatch.setenv("OPENAI_API_KEY", "sk-x")
    provider_of(MODEL).check_key()


@pytest.mark.parametrize(
    ("model", "message"),
    [({"base_url": "localhost:8000"}, "base_url"), ({"narrations_per_request": 50}, "max_tokens_per_reply")],
)
def test_settings_that_cannot_work_are_found_before_money_is_spent(model, message):
    with pytest.raises(NarrateError, match=message):
        provider_of(
            NarrateSettings.model_validate({"provider": "language_model", "language_model": model})
        ).check()


def test_the_estimate_counts_distinct_texts_and_sends_nothing(clips, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert estimate(clips, LEXICON).usd == 0
    found = estimate(clips, MODEL, journal_dir=clips.parent / "nowhere")
    assert (found.count, found.requests) == (4, 4) and found.usd > 0
    assert "4 distinct narrations" in str(found)


def test_narration_works_without_torch():
    program = (
        "import sys, avion_core.narrate.rephrase, avion_core.narrate.lexicon\n"
        "import avion_core.narrate.language_model\n"
        "print('torch' in sys.modules)"
    )
    root = Path(__file__).parents[3]
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == "False"
