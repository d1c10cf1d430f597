"""The provider `vision` against a server that looks: what it is sent, what it is asked, what is kept."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avion_core.config import NarratorSettings
from avion_core.data.chunks import ChunkIndex
from avion_core.data.clips import ClipTable
from avion_core.data.tables import map_table
from avion_core.files import read_json
from avion_core.media.chunk_table import read_chunk_table, write_chunk_table
from avion_core.media.crop import Crop
from avion_core.narrate.budget import BudgetError
from avion_core.narrate.exchange import ProviderError
from avion_core.narrate.narrated import NARRATED, estimate_clips, gather_narrated, narrate_shard
from avion_core.narrate.provider import NarrateError
from avion_core.narrate.vision_probe import SERVER_FILE
from tests.support.chunk_index import chunk_index
from tests.support.narrated import narrate, write_narrated
from tests.support.vision_server import Limits, VisionServer

VIDEOS = {"a": [60], "b": [30, 40]}
CLIPS = [("a", 0.0, 1.2), ("b", 0.2, 0.9), ("b", 0.2, 0.9), ("a", 1.5, 1.9)]
"""The second and third are the same frames."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("made")
    chunk_index(home, VIDEOS)
    write_narrated(home, CLIPS)
    return home


@pytest.fixture(autouse=True)
def shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def settings(server: VisionServer | str, **changes: Any) -> NarratorSettings:
    common = {name: changes.pop(name) for name in list(changes) if name in NarratorSettings.model_fields}
    url = server if isinstance(server, str) else server.url
    prices = {"usd_per_million_input_tokens": 0.4, "usd_per_million_output_tokens": 1.6}
    vision = {"base_url": url, "model": "m", "image_size_px": 64, "first_wait_seconds": 0.01}
    vision |= {**prices, **changes}
    windows = {"texts_per_clip": 3, "window_seconds": 0.5, "step_seconds": 0.5}
    return NarratorSettings.model_validate({"provider": "vision", **windows, **common, "vision": vision})


def colours(row: dict[str, Any], chunks: ChunkIndex, frames: int = 4) -> np.ndarray:
    """Mean colour of the frames in the middle of a clip's equal parts, read one by one."""
    start, end = round(row["start_s"] * 30), round(row["end_s"] * 30)
    numbers = [start + int((end - start) * (part + 0.5) / frames) for part in range(frames)]
    whole = chunks.read(row["video_id"], numbers, crop=Crop(0, 0, 128, 128), size_px=128)
    return whole.reshape(-1, 3).mean(0)


def told(text: str) -> np.ndarray:
    return np.array(list(map(int, text.split()[-3:])))


def test_the_model_sees_the_frames_of_each_clip_and_window(made, tmp_path):
    with VisionServer(Limits()) as server:
        rows = narrate(made, tmp_path, settings(server))
        chunks = ChunkIndex.load(made / "chunks.parquet")
        assert all(len(row["texts"]) == 3 and row["reason"] is None for row in rows)
        for row in rows:
            for text in row["texts"]:
                assert np.abs(told(text) - colours(row, chunks)).max() <= 3, row
        clips = [(row["video_id"], row["start_s"], row["end_s"]) for row in rows if row["narration_id"]]
        assert clips == sorted(CLIPS) and len(rows) > len(CLIPS), "and there are windows"
        asked = server.answered()
        assert len(asked) == len(set(asked)) == len(rows) - 1, "the same frames are asked about once"
        assert [line["n"] for line in server.requests] == [3] * len(server.requests)
        assert all(len(line["images"]) == 4 and line["schema"] for line in server.requests)
        again = len(server.requests)
        assert narrate(made, tmp_path, settings(server)) == rows and len(server.requests) == again


class Changing(VisionServer):
    """Refuses, or fails on, all images after the probe and some answers."""

    def __init__(self, status: int) -> None:
        super().__init__(Limits())
        self.status = status

    def note(self, line: dict[str, Any]) -> None:
        super().note(line)
        if len(self.requests) == 4:
            self.limits = Limits(images=0, image_error=self.status)


@pytest.mark.parametrize("status", [400, 500])
def test_a_server_that_takes_no_images_any_more_costs_no_clip(made, tmp_path, status):
    """It answers text, but no picture of a clip is at fault."""
    with Changing(status) as server:
        chosen = settings(server, parallel_requests=1, outage_minutes=0.005, max_attempts=2)
        said = r"in the form that it took earlier" if status == 400 else "no answer for 0.005 minutes"
        with pytest.raises(ProviderError, match=said):
            narrate(made, tmp_path, chosen)
        assert '"dead"' not in (tmp_path / "journal/1-of-1.jsonl").read_text()
        answered = server.answered()
        server.limits = Limits()
        assert all(row["texts"] for row in narrate(made, tmp_path, chosen))
        assert Counter(server.answered()).most_common(1)[0][1] == 1 < len(answered)


def test_shards_share_the_clips_and_the_probe_and_are_joined(made, tmp_path):
    with VisionServer(Limits()) as server:
        chosen = settings(server)
        rows = [row for shard in ("1-of-2", "2-of-2") for row in narrate(made, tmp_path, chosen, shard=shard)]
        assert sum(line["probe"] for line in server.requests) == 1
        assert len(set(server.answered())) == len(server.answered()) == len(rows) - 1
        whole = narrate(made, tmp_path / "whole", chosen)
    shards = [tmp_path / f"{number}-of-2.arrow" for number in (1, 2)]
    files = {"settings": chosen, "journal_dir": tmp_path / "journal", "out": tmp_path / "train.arrow"}
    gather_narrated(made / "train.arrow", made / "chunks.parquet", shards, **files)
    table = ClipTable.load(tmp_path / "train.arrow")
    assert [table.texts(row) for row in range(len(table))] == [row["texts"] for row in whole]
    assert set(table.arrow()["source"].to_pylist()) == {"narrated"}
    summary = read_json(tmp_path / "summary.json")
    assert summary["windows"] == len(whole) - len(CLIPS) and summary["bill"]["m"]["usd"] > 0
    assert (tmp_path / "dead_letters.csv").read_text() == "video_id,start_s,end_s,reason,tries\n"
    with pytest.raises(NarrateError, match="delete the shards to remake them"):
        gather_narrated(made / "train.arrow", made / "chunks.parquet", shards[:1], **files)


@pytest.mark.parametrize(
    ("limits", "sheet", "choices", "schema"),
    [
        (Limits(images=1), True, True, True),
        (Limits(images=3), True, True, True),
        (Limits(images=1, image_error=500), True, True, True),
        (Limits(tokens=399), True, True, True),
        (Limits(choices="refused"), False, False, True),
        (Limits(choices="ignored"), False, False, True),
        (Limits(images=1, choices="refused", schema="refused"), True, False, False),
        (Limits(limit_name="max_completion_tokens"), False, True, True),
    ],
    ids=lambda limits: repr(limits) if isinstance(limits, Limits) else "",
)
def test_servers_that_take_less_are_asked_for_less(made, tmp_path, limits, sheet, choices, schema):
    with VisionServer(limits) as server:
        rows = narrate(made, tmp_path, settings(server, max_attempts=2))
    found = read_json(tmp_path / "journal" / SERVER_FILE)
    assert (found["sheet"], found["choices"], found["form"]["schema"]) == (sheet, choices, schema)
    assert found["tokens_per_image"] == pytest.approx(100, abs=40)
    assert all(len(row["texts"]) == 3 for row in rows)
    clips = [
        line for line in server.requests if line["said"] == "ok" and line["images"] and not line["probe"]
    ]
    assert len(clips) == len(rows) - 1 and all(len(line["images"]) == (1 if sheet else 4) for line in clips)
    refused = [line for line in server.requests if line["said"] != "ok"]
    assert all(line["probe"] for line in refused), refused


def test_a_contact_sheet_is_used_where_the_settings_say_so(made, tmp_path):
    with VisionServer(Limits()) as server:
        narrate(made, tmp_path, settings(server, images_per_request=3))
    assert all(len(line["images"]) == 1 for line in server.requests)


def test_a_model_without_eyes_is_named_with_the_servers_words(made, tmp_path):
    with VisionServer(Limits(images=0)) as server, pytest.raises(ProviderError) as raised:
        narrate(made, tmp_path, settings(server))
    assert "image input is not supported" in str(raised.value) and "narrator.vision.model" in str(
        raised.value
    )
    assert not (tmp_path / "journal" / SERVER_FILE).exists() and not server.answered()


def test_a_server_that_takes_less_than_it_did_gives_nobody_up(made, tmp_path):
    with VisionServer(Limits()) as server:
        chosen = settings(server)
        narrate(made, tmp_path, chosen, shard="1-of-2")
        before = set(server.answered())
        server.limits.images = 1
        with pytest.raises(ProviderError, match="start it again"):
            narrate(made, tmp_path, chosen, shard="2-of-2")
        rows = narrate(made, tmp_path, chosen, shard="2-of-2")
        assert rows and all(row["texts"] for row in rows)
        assert before.isdisjoint(server.answered()[len(before) :])


def test_keys_are_of_frames_and_need_no_decoding(made, tmp_path):
    with VisionServer(Limits()) as server:
        rows = narrate(made, tmp_path, settings(server))
        asked = len(server.requests)
        moved = tmp_path / "moved"
        shutil.copytree(made, moved)
        for video in moved.glob("*.mp4"):
            video.write_bytes(b"gone")  # nothing can be decoded any more
        assert narrate(moved, tmp_path, settings(server)) == rows and len(server.requests) == asked
        for change in ({"frames": 2}, {"image_size_px": 32}, {"model": "other"}, {"instruction": "Look."}):
            left = estimate_clips(
                made / "train.arrow",
                made / "chunks.parquet",
                settings(server, **change),
                journal_dir=tmp_path / "journal",
            )
            assert left.requests == len(rows) - 1, f"{change} asks again"
        for change in ({"images_per_request": 1}, {"max_usd": 3}, {"base_url": "http://elsewhere/v1"}):
            left = estimate_clips(
                made / "train.arrow",
                made / "chunks.parquet",
                settings(server, **change),
                journal_dir=tmp_path / "journal",
            )
            assert left.requests == 0, f"{change} asks nothing again"
    assert len(server.requests) == asked


def test_clips_that_cannot_be_read_are_listed_and_not_asked_about(made, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(made, broken)
    chunk = broken / "b1.mp4"
    chunk.write_bytes(bytes(chunk.stat().st_size))
    index = ChunkIndex.load(broken / "chunks.parquet")
    assert index.frame_count("b") == 70
    relocated = read_relocated(broken)
    with VisionServer(Limits()) as server:
        rows = narrate(relocated, tmp_path, settings(server))
        lost = [row for row in rows if not row["texts"]]
        assert lost and all(row["reason"].startswith("cannot be read: ") for row in lost)
        assert {row["video_id"] for row in lost} == {"b"} and all(row["end_s"] > 1 for row in lost)
        with pytest.raises(ProviderError, match=r"max_failed_share.*cannot|damaged.*max_failed_share"):
            narrate(relocated, tmp_path / "strict", settings(server, max_failed_share=0))


def read_relocated(folder: Path) -> Path:
    """The folder with an index of its own files."""
    rows = read_chunk_table(folder / "chunks.parquet").to_pylist()
    for row in rows:
        row["path"] = str(folder / Path(row["path"]).name)
    write_chunk_table(folder / "chunks.parquet", rows)
    return folder


def test_the_estimate_counts_what_is_sent(made, tmp_path):
    def left(chosen: NarratorSettings) -> Any:
        return estimate_clips(
            made / "train.arrow", made / "chunks.parquet", chosen, journal_dir=tmp_path / "journal"
        )

    before = left(settings("http://127.0.0.1:9/v1"))
    with VisionServer(Limits()) as server:
        chosen = settings(server)
        rows = narrate(made, tmp_path, chosen)
        assert left(chosen).requests == 0
    assert (before.count, before.requests, before.images) == (
        len(rows) - 1,
        len(rows) - 1,
        4 * (len(rows) - 1),
    )
    assert before.usd > 0 and before.sent_bytes > 4 * 64 * 64 * 0.02 * before.images / 4
    assert "distinct clips" in str(before) and f"{before.images} images" in str(before)


def test_too_small_a_budget_stops_before_the_first_request(made, tmp_path):
    with VisionServer(Limits()) as server, pytest.raises(BudgetError, match=r"narrator\.vision\.max_usd"):
        narrate(made, tmp_path, settings(server, max_usd=1e-5))
    assert not server.requests


@pytest.mark.parametrize("says", ["I'm sorry, I cannot help with that.", "[]"])
def test_a_model_that_says_nothing_usable_ends_the_run(made, tmp_path, says):
    with (
        VisionServer(Limits(says=says)) as server,
        pytest.raises(ProviderError, match="got no usable sentence"),
    ):
        narrate(made, tmp_path, settings(server, max_attempts=1))


def test_every_line_of_the_journal_is_billed_once(made, tmp_path):
    with VisionServer(Limits()) as server:
        narrate(made, tmp_path, settings(server))
    lines = [json.loads(line) for line in (tmp_path / "journal/1-of-1.jsonl").read_text().splitlines()]
    answers = [line for line in lines if "answers" in line]
    assert sorted(line["answers"] for line in answers) == sorted(
        line["try"] for line in lines if "try" in line
    )
    assert all(isinstance(line["reply"], list) and len(line["reply"]) == 3 for line in answers)
    highest = {line["try"]: line["usd"] for line in lines if "try" in line}
    assert all(line["usd"] <= highest[line["answers"]] for line in answers)


def test_data_sets_share_a_limit_and_answers(made, tmp_path, capsys):
    for name in "ab":
        (tmp_path / name / "clips").mkdir(parents=True)
        shutil.copy(made / "train.arrow", tmp_path / name / "clips")
    clips = {name: tmp_path / name / "clips/train.arrow" for name in "ab"}
    with VisionServer(Limits()) as server:
        for own, other in ("ab", "ba"):
            narrate_shard(
                clips[own],
                made / "chunks.parquet",
                settings=settings(server, max_usd=6),
                shard="1-of-1",
                model=None,
                journal_dir=tmp_path / own / "narrations/vision/journal",
                out=tmp_path / own / "out.arrow",
                others=[(clips[other], made / "chunks.parquet")],
            )
    said = capsys.readouterr().err
    assert "limit $6.00 for all shards of all data sets, $3.00 for this one" in said
    assert len(server.answered()) == len(set(server.answered())), "the same clips are narrated once"
    tables = [map_table(tmp_path / name / "out.arrow", NARRATED).to_pylist() for name in "ab"]
    assert tables[0] == tables[1] and all(row["texts"] for row in tables[0])
