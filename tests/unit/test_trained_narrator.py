"""Clips narrated by a trained narrator: the same texts whatever the shards, the batches and the kills."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from avion_core import precheck
from avion_core.config import NarratorFilters, NarratorSettings, SettingsError, load_settings
from avion_core.configfile import lay_over, read_config
from avion_core.data import tokenizer
from avion_core.data.clips import ClipTable
from avion_core.models.architecture import NarratorConfig
from avion_core.models.store import ModelDescription, build_model, save_model
from avion_core.narrate.narrated import gather_narrated
from avion_core.workflow import Workflow
from tests.support import narrated
from tests.support.chunk_index import chunk_index
from tests.support.evaluated import computed_batches
from tests.support.gates import open_gates
from tests.support.narrated import write_narrated

SMALL = NarratorConfig.model_validate(
    {
        "vision": {"width": 32, "layers": 1, "heads": 2, "patch_px": 16},
        "language_model": {"width": 32, "layers": 2, "heads": 2, "context_length": 6, "positions": 6},
        "queries": 4,
        "pool_heads": 2,
        "pool_head_width": 8,
    }
)
SIZES = {"frames": 2, "image_size_px": 32}
CLIPS = [("a", 0.0, 0.6), ("a", 0.7, 1.2), ("b", 0.2, 0.9)]
ROOT = Path(__file__).parents[2]


def save_narrator(folder: Path, seed: int, *, factor: float = 4.0) -> None:
    """Random weights, open gates, and words that differ by clip."""
    torch.manual_seed(seed)
    model = build_model("narrator", SMALL, **SIZES)
    open_gates(model, gain=factor)
    save_model(
        folder, model, ModelDescription("narrator", "toy_narrator", **SIZES, sampling="segments", stride=4)
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("made")
    chunk_index(home, {"a": [60], "b": [30]})
    write_narrated(home, CLIPS)
    save_narrator(home / "model", 0)
    return home


EVERYTHING = NarratorFilters(
    tagged=False, least_words=1, most_words=1000, least_known=None, unlike_human=(), alike=None
)
"""Filters that leave nothing out."""


def settings(**own: Any) -> NarratorSettings:
    common = {"provider": "trained", "texts_per_clip": 3, "window_seconds": 0.5, "step_seconds": 0.5}
    common |= {name: own.pop(name) for name in list(own) if name in NarratorSettings.model_fields}
    trained = {"run": "r", "stage": "narrator", "temperature": 1.0, "batch_size": 2, **own}
    return NarratorSettings.model_validate({**common, "trained": trained})


def narrate(made: Path, home: Path, *, shard: str = "1-of-1", model: str = "model", **own: Any):
    weights = made / model / "model.safetensors"
    return narrated.narrate(made, home, settings(**own), shard=shard, model=weights)


@pytest.fixture(scope="module")
def whole(made: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return narrate(made, tmp_path_factory.mktemp("whole"))


def test_clips_and_windows_have_distinct_texts_with_their_scores(whole: list[dict[str, Any]]) -> None:
    assert {(row["video_id"], row["start_s"], row["end_s"]) for row in whole} > set(CLIPS)
    for row in whole:
        assert 1 <= len(row["texts"]) == len(row["scores"]) <= 3
        assert len(set(row["texts"])) == len(row["texts"])
        assert all(1 < score < 49408 for score in row["scores"])
    assert len({tuple(row["texts"]) for row in whole}) == len(whole)


def by_clip(rows: list[dict[str, Any]]) -> dict[str, tuple[list[str], list[float]]]:
    return {
        f"{row['video_id']} {row['start_s']} {row['end_s']}": (row["texts"], row["scores"]) for row in rows
    }


@pytest.mark.parametrize("batch_size", [1, 16])
def test_texts_do_not_depend_on_shards_and_batches(
    made: Path, whole: list[dict[str, Any]], tmp_path: Path, batch_size: int
) -> None:
    parts = [narrate(made, tmp_path, shard=shard, batch_size=batch_size) for shard in ("1-of-2", "2-of-2")]
    assert all(parts)
    found, wanted = by_clip([*parts[0], *parts[1]]), by_clip(whole)
    assert found.keys() == wanted.keys()
    for clip, (texts, scores) in wanted.items():
        assert found[clip][0] == texts
        assert found[clip][1] == pytest.approx(scores, rel=1e-4)
    gather_narrated(
        made / "train.arrow",
        made / "chunks.parquet",
        [tmp_path / "1-of-2.arrow", tmp_path / "2-of-2.arrow"],
        settings=settings().model_copy(update={"filters": EVERYTHING}),
        journal_dir=tmp_path / "journal",
        out=tmp_path / "train.arrow",
    )
    table = ClipTable.load(tmp_path / "train.arrow")
    assert len(table) == len(whole)
    assert table.arrow().column("scores").null_count == 0


def test_a_stopped_shard_goes_on_where_it_was(
    made: Path, whole: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as stopping:
        first = computed_batches(stopping, stop_after=2)
        with pytest.raises(KeyboardInterrupt):
            narrate(made, tmp_path)
    assert first == [2, 2] and not (tmp_path / "1-of-1.arrow").exists()
    kept = tmp_path / "journal" / "written" / "1-of-1.jsonl"
    with kept.open("ab") as stream:  # what a kill in mid-line leaves
        stream.write(b'{"made_with": "abc", "cl')
    with monkeypatch.context() as counting:
        second = computed_batches(counting)
        found = narrate(made, tmp_path)
        assert sum(second) == len(whole) - 4
        del second[:]
        assert narrate(made, tmp_path) == found
        assert second == []
    assert by_clip(found).keys() == by_clip(whole).keys()
    assert all(found_texts == by_clip(whole)[clip][0] for clip, (found_texts, _) in by_clip(found).items())


def test_texts_of_another_model_or_other_draws_are_not_taken(
    made: Path, whole: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrate(made, tmp_path)
    save_narrator(made / "other", 1)
    sizes = computed_batches(monkeypatch)
    other = narrate(made, tmp_path, model="other")
    assert sum(sizes) == len(whole) and by_clip(other) != by_clip(whole)
    reseeded = narrate(made, tmp_path, seed=1)
    assert sum(sizes) == 2 * len(whole) and by_clip(reseeded) != by_clip(whole)
    narrate(made, tmp_path, batch_size=5)
    assert sum(sizes) == 2 * len(whole)


def test_another_number_of_shards_writes_no_text_again(
    made: Path, whole: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for shard in ("1-of-2", "2-of-2"):
        narrate(made, tmp_path, shard=shard)
    sizes = computed_batches(monkeypatch)
    assert by_clip(narrate(made, tmp_path)).keys() == by_clip(whole).keys() and sizes == []


def test_all_clips_may_be_shorter_than_what_the_model_takes(made: Path, tmp_path: Path) -> None:
    home = tmp_path / "short"
    home.mkdir()
    for name in ("chunks.parquet", "model"):
        (home / name).symlink_to(made / name)
    write_narrated(home, [("a", 0.0, 0.02)])
    (row,) = narrate(home, tmp_path, window_seconds=None)
    assert row["texts"]


def test_a_model_whose_outputs_are_not_finite_writes_no_text(made: Path, tmp_path: Path) -> None:
    save_narrator(made / "broken", 0, factor=1e35)
    with pytest.raises(ValueError, match="the model's outputs are not finite in fp32; look at the stage's"):
        narrate(made, tmp_path, model="broken")
    assert (tmp_path / "journal/written/1-of-1.jsonl").read_text() == ""


def test_texts_are_one_line_each(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "decode", lambda tokens, **_: f"a\n{tokens[0]}\x07 b\u2028")
    rows = narrate(made, tmp_path)
    assert all(re.fullmatch(r"a \d+ b", text) for row in rows for text in row["texts"])


def test_texts_of_other_chunks_are_not_taken(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "longer"
    home.mkdir()
    for name in ("train.arrow", "model"):
        (home / name).symlink_to(made / name)
    chunk_index(home, {"a": [60], "b": [30]})
    rows = narrate(home, tmp_path)
    chunk_index(home, {"a": [60], "b": [45]})
    sizes = computed_batches(monkeypatch)
    found = narrate(home, tmp_path)
    assert sum(sizes) == sum(row["video_id"] == "b" for row in found), "only the changed video is read"
    assert [row for row in found if row["video_id"] == "a"] == [row for row in rows if row["video_id"] == "a"]


def test_a_clip_that_cannot_be_read_has_a_reason_and_is_tried_again(made: Path, tmp_path: Path) -> None:
    home = tmp_path / "damaged"
    home.mkdir()
    chunk_index(home, {"a": [60], "b": [30]})
    (home / "train.arrow").symlink_to(made / "train.arrow")
    (home / "model").symlink_to(made / "model")
    whole = (home / "b0.mp4").read_bytes()
    (home / "b0.mp4").write_bytes(b"broken")
    rows = narrate(home, tmp_path)
    found = {row["video_id"]: row for row in rows}
    assert found["a"]["texts"] and not found["b"]["texts"]
    assert "b0.mp4" in found["b"]["reason"]
    assert narrate(home, tmp_path) == rows
    with pytest.raises(ValueError, match=r"more than narrator\.max_failed_share allows"):
        narrate(home, tmp_path, max_failed_share=0.1)
    (home / "b0.mp4").write_bytes(whole)
    assert all(row["texts"] for row in narrate(home, tmp_path))


RUN = {
    "title": "R",
    "stages": {"pretrain": {}, "narrator": {}},
    "evaluations": [],
}
STAGES = {
    "narrator": {
        "task": "captioning",
        "dataset": "ego4d",
        "model": "toy_narrator",
        "start": "pretrain",
        "waive_missing": ["pool.*", "language_model.*"],
        "image_size_px": 64,
        "batch_size": 32,
    }
}


def load(stage: str, selected: tuple[str, ...] = ("teacher", "llm"), **changes: Any):
    overlay = {
        "stages": {"narrator": {**STAGES["narrator"], **changes}},
        "runs": {"teacher": RUN, "llm": {"stages": {"pretrain": {"narrations": ["human", "narrated"]}}}},
        "narrator": {"provider": "trained", "trained": {"run": "teacher", "stage": stage}},
        "selected_runs": list(selected),
    }
    return load_settings(lay_over(read_config(ROOT / "config.yaml"), overlay))


def test_the_model_is_that_of_the_stage_which_must_train_a_narrator() -> None:
    chosen = load("narrator")
    assert Workflow(chosen).narrator_model() == "results/teacher/narrator/model.safetensors"
    with pytest.raises(SettingsError, match=r"needs a stage with the task captioning; runs\.teacher\.stages"):
        load("pretrain")
    with pytest.raises(SettingsError, match=r"sees the clips; runs\.teacher\.stages\.narrator has text_only"):
        load("narrator", text_only=True)


def test_the_narrator_of_a_run_that_is_not_selected_is_checked_and_planned_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # without data
    changes = {"dataset": "ek100", "narrations": ["rephrased"]}
    workflow = Workflow(load("narrator", selected=("llm",), start_weights="lost.pt", start=None, **changes))
    assert workflow.used_datasets() == Workflow(load("narrator", **changes)).used_datasets()
    assert "ek100" in workflow.rephrased_datasets()
    (problem,) = precheck.check_start_files(workflow)
    assert problem.startswith("runs.teacher.stages.narrator: start_weights: lost.pt: no such file")
    own = [(stage.run, stage.name) for stage in workflow.stages()]
    trained = [
        (stage.run, stage.name) for stage in Workflow(load("narrator", selected=("llm",))).trained_stages()
    ]
    assert trained == [("teacher", "pretrain"), ("teacher", "narrator"), *own]
    cosine = {"run": "teacher", "stage": "pretrain"}
    overlay = {
        "runs": {"teacher": {**RUN, "stages": {"pretrain": {}}}},
        "narrate": {"filters": {"cosine": cosine}},
        "selected_runs": ["llm"],
    }
    filtered = load_settings(lay_over(read_config(ROOT / "config.yaml"), overlay))
    assert [stage.run for stage in Workflow(filtered).trained_stages()][:2] == ["teacher", "llm"]
    human = load_settings(read_config(ROOT / "config.yaml"))
    assert Workflow(human).trained_stages() == Workflow(human).stages()


def test_only_what_affects_texts_is_in_the_recipe() -> None:
    plain = settings()
    assert (
        plain.recipe() == settings(batch_size=9, threads=3, memory_mb=9000, clip_timeout_seconds=5.0).recipe()
    )
    changes = {"temperature": 0.3, "nucleus": 0.5, "seed": 4, "stage": "x", "precision": "bf16"}
    for name, value in changes.items():
        assert plain.recipe() != settings(**{name: value}).recipe()
    joined = NarratorSettings.join(json.loads(json.dumps(plain.recipe())), plain.job_settings())
    assert joined == plain
