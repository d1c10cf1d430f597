"""A client of a plug-in drives text and vision; a shared section; answers of earlier versions are found."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from avion_core.config import CLIENTS, NarrateSettings, NarratorSettings, SettingsError, load_settings
from avion_core.configfile import lay_over, read_config
from avion_core.data.clips import write_clips
from avion_core.data.tables import map_table
from avion_core.narrate.clip_questions import clip_keys
from avion_core.narrate.exchange import ProviderError
from avion_core.narrate.ledger import journal_spend
from avion_core.narrate.narrated import NARRATED, narrate_shard
from avion_core.narrate.rephrase import REPHRASED, rephrase_shard
from avion_core.narrate.rephrase_questions import key_texts
from avion_core.plugins import load_plugins
from tests.support.chunk_index import chunk_index

DEMO = read_config(Path(__file__).parents[3] / "config.yaml")
STUB = '''
import json

from avion_core.config import CLIENTS, Client
from avion_core.narrate.chat_reply import ChatReply
from avion_core.narrate.exchange import Usage
from avion_core.narrate.transport import Transport

ASKED = []


class StubTransport(Transport):
    """Answers without a server."""

    async def exchange(self, request, form, *, answered):
        ASKED.append((self._settings.address, self._key.value, self._settings.model, request))
        said = "#C C grabs the cup"
        parts = request.messages[-1]["content"]
        if isinstance(parts, list):
            said = f"#C C sees {sum(part['type'] == 'image_url' for part in parts)} pictures"
        count = 1 if request.choices > 1 else 2
        reply = json.dumps({"1": [said, f"{said} again"][:count]})
        return ChatReply(reply, "stop", Usage(10, 5), False, others=(reply,) * (request.choices - 1))


CLIENTS.register("stub", Client("stub_client:StubTransport", "stub://here", "STUB_KEY"))
'''
PRICES = {"usd_per_million_input_tokens": 0.15, "usd_per_million_output_tokens": 0.6}
COMMON = {"client": "stub", "max_usd": 3.0, "parallel_requests": 2, **PRICES}


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What the stub was asked: address, key, model, request."""
    monkeypatch.setattr(CLIENTS, "_records", dict(CLIENTS._records))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STUB_KEY", "none")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (tmp_path / "stub_client.py").write_text(STUB)
    load_plugins(["stub_client"])
    yield sys.modules["stub_client"].ASKED
    del sys.modules["stub_client"]


def load(**overlay: Any) -> Any:
    return load_settings(lay_over(DEMO, overlay))


def rephrase(clips: Path, settings: NarrateSettings, journal: Path) -> list[dict[str, Any]]:
    out = clips.with_name("1-of-1.arrow")
    rephrase_shard(clips, settings=settings, shard="1-of-1", class_lists=[], journal_dir=journal, out=out)
    return map_table(out, REPHRASED).to_pylist()


def test_a_client_of_a_plug_in_rephrases_narrations(asked: list[Any], tmp_path: Path) -> None:
    clips = tmp_path / "clips.arrow"
    place = {"video_id": "v", "start_s": 0.0, "end_s": 1.0}
    write_clips(clips, [{**place, "texts": [text]} for text in ("#C C takes a cup", "#C C lifts a cup")])
    own = {"provider": "language_model", "language_model": {"model": "m"}}
    settings = load(language_model=COMMON, narrate=own).narrate
    assert NarrateSettings.join(settings.recipe(), settings.job_settings()) == settings
    rows = rephrase(clips, settings, tmp_path / "journal")
    assert all("#C C grabs the cup" in row["rephrased"] for row in rows)
    assert [entry[:3] for entry in asked] == [("stub://here", "none", "m")] * 2
    assert sum(bill.input_tokens for bill in journal_spend(tmp_path / "journal").values()) == 20
    assert rephrase(clips, settings, tmp_path / "journal") == rows and len(asked) == 2, "answers are kept"
    other = load(language_model=PRICES, narrate=own).narrate
    assert settings.recorded != other.recorded and settings.recipe() != other.recipe()
    with pytest.raises(ProviderError, match="OPENAI_API_KEY"):
        rephrase(clips, other, tmp_path / "journal")  # the answers of another client are not its


def test_a_client_of_a_plug_in_narrates_clips(asked: list[Any], tmp_path: Path) -> None:
    chunk_index(tmp_path, {"a": [60]})
    write_clips(
        tmp_path / "train.arrow", [{"video_id": "a", "start_s": 0.0, "end_s": 2.0, "texts": ["#C C does it"]}]
    )
    own = {"provider": "vision", "texts_per_clip": 2, "vision": {"frames": 3, "image_size_px": 32}}
    settings = load(language_model=COMMON, narrator=own).narrator
    assert NarratorSettings.join(settings.recipe(), settings.job_settings()) == settings
    narrate_shard(
        tmp_path / "train.arrow",
        tmp_path / "chunks.parquet",
        settings=settings,
        shard="1-of-1",
        model=None,
        journal_dir=tmp_path / "journal",
        out=tmp_path / "out.arrow",
    )
    (row,) = map_table(tmp_path / "out.arrow", NARRATED).to_pylist()
    assert row["texts"] == ["#C C sees 3 pictures"] * 2 or row["texts"] == ["#C C sees 3 pictures"]
    assert len(asked) == 2 and asked[1][3].choices == 2, "a probe and the clip"


def test_a_provider_s_section_overrides_the_common_one() -> None:
    common = {"max_usd": 3.0, "base_url": "http://here/v1", "key_variable": "MY_KEY"}
    settings = load(
        language_model=common,
        narrate={"provider": "language_model", "language_model": {"max_usd": 4.0}},
        narrator={"provider": "vision"},
    )
    text, vision = settings.narrate.own, settings.narrator.own
    assert (text.max_usd, vision.max_usd) == (4.0, 3.0)
    assert text.address == vision.address == "http://here/v1" and text.key_from == "MY_KEY"
    assert vision.max_tokens_per_reply == 400, "its own default, as the common section does not set it"
    assert load(language_model={"batch": True}).narrate.own.recipe() == {}, "others have no such settings"


@pytest.mark.parametrize(
    ("overlay", "said"),
    [
        ({"narrate": {"provider": "openai"}}, "is now called 'language_model'"),
        ({"narrate": {"openai": {"max_usd": 3}}}, "is now called 'language_model'"),
        ({"language_model": {"client": "opnai"}}, "unknown client 'opnai'; did you mean 'openai'?"),
        ({"language_model": {"max_used": 1}}, "unknown setting 'language_model.max_used'; did you mean"),
        ({"language_model": {"model": "m"}}, "unknown setting 'language_model.model'"),
        ({"language_model": {"key_variable": "sk-1x2y"}}, "not the key itself"),
        ({"language_model": {"max_usd": -1}, "narrator": {"provider": "vision"}}, "language_model.max_usd"),
        ({"narrate": {"language_model": 3}, "language_model": {"max_usd": 1}}, "a mapping is expected"),
        ({"narrate": 3, "language_model": {"max_usd": 1}}, "narrate: "),
    ],
)
def test_a_wrong_setting_is_one_error(overlay: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as raised:
        load(**overlay)
    assert said in str(raised.value) and "1x2y" not in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1, "the section that inherits it does not repeat it"


def test_a_client_without_batches_takes_none(asked: list[Any]) -> None:
    with pytest.raises(SettingsError, match="the client 'stub' has no batches"):
        load(language_model={**COMMON, "batch": True})


class Frames:
    """Names the frames of a clip."""

    def identity(self, video_id: str, start_s: float, end_s: float) -> list[tuple[str, int]]:
        return [(f"sha of {video_id}", int(moment * 30)) for moment in (start_s, end_s)]


def test_answers_and_records_of_earlier_versions_are_those_of_the_present_settings() -> None:
    """The keys and recipes below were made by the version before clients had names."""
    own = {"model": "m", "temperature": 0.3}
    prompt = {"texts_per_narration": 2, "instruction": "Rewrite."}
    text = NarrateSettings.model_validate(
        {"provider": "language_model", "language_model": own, "rephrase": prompt}
    )
    assert list(key_texts(["#C C takes a cup"], text)) == ["4abe1f9b48efdc4b"]
    assert json.dumps(text.recipe()) == json.dumps({"provider": "openai", "rephrase": prompt, "openai": own})
    assert text.recorded == "openai", "the folder of its tables"
    job = {"max_failed_share": 0.5, "openai": {"max_usd": 7.0}}
    assert NarrateSettings.join(text.recipe(), job).of(type(text.own)).max_usd == 7.0
    clip = {"instruction": "Look.", "texts_per_clip": 2, "vision": {"model": "m"}}
    vision = NarratorSettings.model_validate({"provider": "vision", **clip})
    clips = pa.table({"video_id": ["a"], "start_s": [0.0], "end_s": [1.0]})
    frames: Any = Frames()
    assert [f"{key:016x}" for key in clip_keys(clips, frames, vision)] == ["aa8fd26ffe44a243"]
    assert vision.recorded == "vision" and "client" not in vision.recipe()["vision"]
