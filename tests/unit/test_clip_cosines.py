"""Cosines between clips and texts: those of the model, whatever the shards, the batches and the kills."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from avion_core.clip_cosines import MEASURED, measure_cosines
from avion_core.config import CosineFilter, Settings, SettingsError, load_settings
from avion_core.configfile import lay_over, read_config
from avion_core.data.clips import write_clips
from avion_core.data.tables import map_table, write_table
from avion_core.data.tokenizer import tokenize
from avion_core.evaluate.subject import EvaluationError
from avion_core.media.crop import center_crop
from avion_core.media.sample import Sampling
from avion_core.models.store import ModelDescription, build_model, load_model, save_model
from avion_core.narrate.cosines import COSINES
from avion_core.narrate.narrated import NARRATED
from avion_core.narrate.rephrase import REPHRASED
from avion_core.workflow import Workflow
from tests.support.chunk_index import chunk_index
from tests.support.evaluated import computed_batches

ROOT = Path(__file__).parents[2]
SIZES = {"frames": 2, "image_size_px": 64}
CLIPS = [("a", 0.0, 0.6), ("a", 0.7, 1.2), ("a", 0.7, 1.2), ("b", 0.2, 0.9), ("b", 0.5, 0.8)]
HUMAN = ["takes the mug", "opens the jar", "shuts the jar", "takes the mug", "waits"]
NEW = {
    "takes the mug": ["grabs the mug", "take mug"],
    "opens the jar": ["open jar"],
    "shuts the jar": ["close jar", "shuts the lid"],
    "waits": [],
}


def save(folder: Path, seed: int, kind: str = "dual_encoder", architecture: str = "toy_dual_encoder") -> None:
    torch.manual_seed(seed)
    model = build_model(kind, architecture, **SIZES)
    save_model(folder, model, ModelDescription(kind, architecture, **SIZES, sampling="segments", stride=4))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("made")
    chunk_index(home, {"a": [60], "b": [30]})
    names = ("video_id", "start_s", "end_s")
    places = [dict(zip(names, clip, strict=True)) for clip in CLIPS]
    write_clips(
        home / "train.arrow", [{**row, "texts": [text]} for row, text in zip(places, HUMAN, strict=True)]
    )
    rows = [{"text": text, "rephrased": new} for text, new in NEW.items()]
    write_table(home / "1-of-2.arrow", rows[::2], REPHRASED)
    write_table(home / "2-of-2.arrow", rows[1::2], REPHRASED)
    narrated = [
        {**row, "narration_id": f"{k}", "texts": NEW[text], "tries": 0}
        for k, (row, text) in enumerate(zip(places, HUMAN, strict=True))
    ]
    write_table(home / "told.arrow", narrated, NARRATED)
    save(home / "model", 0)
    return home


def measure(
    made: Path, home: Path, shard: str = "1-of-1", *, looks: bool = False, model: str = "model", **own: Any
) -> list[dict[str, Any]]:
    out = home / f"{shard}.arrow"
    texts = [made / "told.arrow"] if looks else [made / "1-of-2.arrow", made / "2-of-2.arrow"]
    measure_cosines(
        made / "train.arrow",
        made / "chunks.parquet",
        texts,
        looks=looks,
        settings=CosineFilter(run="r", stage="s", **{"batch_size": 2, **own}),
        shard=shard,
        model=made / model / "model.safetensors",
        out=out,
    )
    return map_table(out, COSINES).to_pylist()


@pytest.fixture(scope="module")
def whole(made: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return measure(made, tmp_path_factory.mktemp("whole"))


def test_cosines_are_those_of_the_model_s_embeddings(made: Path, whole: list[dict[str, Any]]) -> None:
    from avion_core.data.chunks import ChunkIndex

    chunks, (model, _) = ChunkIndex.load(made / "chunks.parquet"), load_model(made / "model")
    assert [row["texts"] for row in whole] == [NEW[text] for text in HUMAN]
    for row, (video, start_s, end_s) in zip(whole, CLIPS, strict=True):
        sampling = Sampling(frames=2, sampling="segments", stride=4)
        numbers = sampling.numbers(start_s, end_s, fps=30.0, frame_count=chunks.frame_count(video))
        crop = center_crop(*chunks.size(video))
        frames = torch.from_numpy(chunks.read(video, numbers, crop=crop, size_px=64))[None]
        for text, cosine in zip(row["texts"], row["cosines"], strict=True):
            with torch.no_grad():
                clip_1D = model.encode_video(model.normalise(frames))
                text_1D = model.encode_text(tokenize([text], model.config.context_length))
            assert cosine == pytest.approx(torch.cosine_similarity(clip_1D, text_1D).item(), abs=1e-5)
    assert len({round(cosine, 6) for row in whole for cosine in row["cosines"]}) >= 5


def values(rows: list[dict[str, Any]]) -> list[float]:
    return [cosine for row in rows for cosine in row["cosines"]]


def test_cosines_are_not_rounded_to_the_model_s_precision(made: Path, tmp_path: Path) -> None:
    found = torch.tensor(values(measure(made, tmp_path, precision="bf16")))
    assert (found != found.bfloat16()).float().mean() > 0.9


@pytest.mark.parametrize("looks", [False, True])
def test_shards_are_ranges_of_the_clips_and_change_nothing(
    made: Path, whole: list[dict[str, Any]], tmp_path: Path, looks: bool
) -> None:
    parts = [measure(made, tmp_path, f"{k}-of-3", looks=looks, batch_size=16) for k in (1, 2, 3)]
    assert [len(part) for part in parts] == [1, 2, 2]
    rows = [row for part in parts for row in part]
    assert [row["texts"] for row in rows] == [row["texts"] for row in whole]
    np.testing.assert_allclose(values(rows), values(whole), atol=1e-5)


def test_each_clip_is_embedded_once_and_a_stopped_shard_goes_on(
    made: Path, whole: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as stopping:
        first = computed_batches(stopping, stop_after=1)
        with pytest.raises(KeyboardInterrupt):
            measure(made, tmp_path)
    assert first == [2] and not (tmp_path / "1-of-1.arrow").exists()
    with (tmp_path / MEASURED / "1-of-1.jsonl").open("ab") as stream:  # what a kill in mid-line leaves
        stream.write(b'{"clip": "abc", "cos')
    sizes = computed_batches(monkeypatch)
    found = measure(made, tmp_path)
    assert sizes == [1], "two clips have the same place, and one has no texts"
    np.testing.assert_allclose(values(found), values(whole), atol=1e-5)
    assert measure(made, tmp_path) == found and sizes == [1]
    assert measure(made, tmp_path, batch_size=1, threads=2) == found and sizes == [1]


def test_another_model_and_other_texts_are_measured_again(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = measure(made, tmp_path)
    sizes = computed_batches(monkeypatch)
    save(made / "other", 1)
    assert values(measure(made, tmp_path, model="other")) != values(found) and sum(sizes) == 3
    home = tmp_path / "changed"
    home.mkdir()
    for name in ("train.arrow", "chunks.parquet", "1-of-2.arrow", "model", "a0.mp4", "b0.mp4"):
        (home / name).symlink_to(made / name)
    rows = [{"text": "opens the jar", "rephrased": ["unseals the jar"]}, {"text": "waits", "rephrased": []}]
    write_table(home / "2-of-2.arrow", rows, REPHRASED)
    measure(home, tmp_path)
    assert sum(sizes) == 4, "only the clip whose texts have changed"


def test_a_clip_that_cannot_be_read_has_no_cosines(made: Path, tmp_path: Path) -> None:
    home = tmp_path / "damaged"
    home.mkdir()
    chunk_index(home, {"a": [60], "b": [30]})
    for name in ("train.arrow", "1-of-2.arrow", "2-of-2.arrow", "model"):
        (home / name).symlink_to(made / name)
    (home / "b0.mp4").write_bytes(b"broken")
    with pytest.raises(ValueError, match="max_bad_share"):
        measure(home, tmp_path)
    found = measure(home, tmp_path, max_bad_share=0.5)
    assert [row["cosines"] is None for row in found] == [False, False, False, True, False]
    assert found[4]["cosines"] == [] and measure(home, tmp_path, max_bad_share=0.5) == found


def test_a_model_that_embeds_no_texts_is_refused(made: Path, tmp_path: Path) -> None:
    save(made / "videomae", 0, "videomae", "toy_videomae")
    with pytest.raises(EvaluationError, match="needs a stage with the task"):
        measure(made, tmp_path, model="videomae")


def load(section: str, *, run: str = "human", stage: str = "pretrain", **changes: Any) -> Settings:
    kinds = {"narrate": ["human", "rephrased"], "narrator": ["human", "narrated"]}[section]
    overlay = {
        "narrator": {"provider": "vision"},
        "runs": {"llm": {"stages": {"pretrain": {"narrations": kinds}}}},
        "selected_runs": ["llm"],
    }
    filters = {section: {"filters": {"cosine": {"run": run, "stage": stage}}}}
    return load_settings(
        lay_over(lay_over(lay_over(read_config(ROOT / "config.yaml"), overlay), filters), changes)
    )


@pytest.mark.parametrize("section", ["narrate", "narrator"])
def test_the_stage_that_filters_is_a_dual_encoder_trained_on_other_texts(section: str) -> None:
    workflow, kind = Workflow(load(section)), {"narrate": "rephrased", "narrator": "narrated"}[section]
    (provider,) = workflow.cosine_providers()
    assert workflow.cosine_model(provider) == "results/human/pretrain/model.safetensors"
    assert workflow.cosine_tables("ego4d", looks=section == "narrator") == [
        f"data/ego4d/narrations/{provider}/cosines/{shard}.arrow" for shard in ("1-of-2", "2-of-2")
    ]
    assert workflow.cosine_tables("ego4d", looks=section != "narrator") == []
    for wrong, said in (
        ({"run": "lost"}, f"{section}.filters.cosine: needs the stage 'pretrain' of a run 'lost'"),
        ({"run": "llm", "stage": "finetune_cls"}, "trains a dual encoder; runs.llm.stages.finetune_cls has "),
        ({"run": "llm"}, f"runs.llm.stages.pretrain cannot filter {kind} texts, as it needs them itself"),
        ({"run": "llm", "stage": "finetune_mir"}, f"finetune_mir cannot filter {kind} texts, as it needs"),
    ):
        with pytest.raises(SettingsError) as raised:
            load(section, **wrong)
        assert said in str(raised.value)


def test_stages_that_filter_each_other_s_texts_are_refused() -> None:
    """Rephrased texts by a stage trained on narrated ones, and those by one trained on rephrased texts."""
    own = {"stages": {"pretrain": {"narrations": ["human", "rephrased"]}}, "title": "Own", "evaluations": []}
    narrator = {"filters": {"cosine": {"run": "own", "stage": "pretrain"}}}
    assert load("narrator", run="own", runs={"own": own}).narrator.filters.cosine
    with pytest.raises(
        SettingsError, match=r"pretrain cannot filter rephrased texts, as it needs them itself"
    ):
        load(
            "narrate",
            run="third",
            runs={"own": own, "third": {**own, "stages": {"pretrain": {"narrations": ["narrated"]}}}},
            narrator=narrator,
        )
