"""What would fail later is one list before any job."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from avion_core.config import NarrateSettings, RephraserSettings, SettingsError, StageSettings, load_settings
from avion_core.configfile import lay_over, read_config
from avion_core.data.clips import write_clips
from avion_core.data.source_videos import SourceVideo, write_videos
from avion_core.files import fingerprint, sha256, write_json
from avion_core.layouts import LAYOUTS
from avion_core.media.source_file import FileMark
from avion_core.models import foreign
from avion_core.models.architecture import MODELS, model_kind
from avion_core.models.checkpoint_file import read_checkpoint
from avion_core.models.export import avion_state_dict
from avion_core.models.starts import surely_starts
from avion_core.models.store import build_model, check_stage_start
from avion_core.narrate.journal import Entry, Journal
from avion_core.narrate.rephrase import rephrase_shard
from avion_core.narrate.rephrase_questions import PARSER, key_texts
from avion_core.precheck import (
    check_evaluations,
    check_layouts,
    check_models,
    check_patterns,
    check_start_files,
    check_starts,
    missing_gpus,
    problems,
    warnings,
)
from avion_core.sources.state import SourceRecord
from avion_core.workflow import Workflow, planned_runs, trains
from tests.support.experiments import DEMO, EXPERIMENTS, ROOT, experiment


@pytest.fixture(autouse=True)
def _no_data_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The repository's folder may hold those of a demo."""
    monkeypatch.chdir(tmp_path)


def found(overlay: dict[str, Any], *runs: str) -> list[str]:
    """Problems of the demo with this overlay, those that its loading has first."""
    try:
        settings = load_settings(lay_over(DEMO, overlay))
    except SettingsError as error:
        return str(error).replace("config: ", "").splitlines()
    return problems(Workflow(settings, runs))


def refused(overlay: dict[str, Any]) -> str:
    """What loading the demo with this overlay says."""
    with pytest.raises(SettingsError) as caught:
        load_settings(lay_over(DEMO, overlay))
    (line,) = str(caught.value).splitlines()
    return line.removeprefix("config: ")


def test_the_demo_has_no_problems() -> None:
    assert found({}) == []


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_settings_of_an_experiment_have_no_problems(name: str) -> None:
    """But for tokenizers that the user brings. LaViLa reads videos of 288 pixels at 336, as published."""
    workflow = Workflow(load_settings(experiment(name)))
    for check in (check_models, check_starts, check_layouts, check_evaluations):
        assert [line for line in check(workflow) if not re.search("the tokenizer '.+' needs the", line)] == []
    enlarged = name == "lavila" and "larger than the chunks of 'ego4d', which are enlarged"
    assert [line for line in warnings(workflow) if not (enlarged and enlarged in line)] == []


def test_every_problem_is_listed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    overlay = {
        "narrate": {"provider": "language_model"},
        "datasets": {"ek100": {"layout": "ek100", "source": "local", "local": {"path": "nowhere"}}},
        "stages": {"pretrain": {"start_weights": "wieghts/vit.pt"}, "finetune_cls": {"image_size_px": 90}},
    }
    lines = found(overlay)
    for word in ("OPENAI_API_KEY", "nowhere", "wieghts/vit.pt: no such file", "image_size_px (90)"):
        assert sum(word in line for line in lines) >= 1, lines
    assert found(overlay, "scratch") == []


@pytest.mark.parametrize(
    ("stage", "pattern", "changes", "message"),
    [
        ("finetune_cls", "visual.*", {}, "freeze: no weight of this video_classifier matches 'visual.*'"),
        ("finetune_mir", "*", {}, "freeze: all weights are frozen"),
        ("finetune_cls", "vision.*", {"start": None}, "freeze: the stage starts from nothing"),
        ("pretrain", "vision.*", {}, "freeze: the stage starts from nothing"),
        ("finetune_cls", "head.*", {}, "start: freeze: head.bias has no value in the start weights"),
        (
            "finetune_mir",
            "vision.*",
            {"start_fresh": ["vision.p*"]},
            "start: freeze: vision.patch.weight has",
        ),
        ("finetune_mir", "vision.*", {"start_fresh": ["vision.temporal_embedding"]}, ""),
        ("finetune_cls", "vision.*", {}, ""),
        ("finetune_mir", "*", {"epochs": 0}, ""),
    ],
)
def test_what_cannot_be_frozen_is_said_before_any_job(
    stage: str, pattern: str, changes: dict[str, Any], message: str
) -> None:
    lines = found({"stages": {stage: {"freeze": [pattern], **changes}}}, "llm")
    assert [line for line in lines if "freeze" in line] == ([lines[0]] if message else [])
    assert not message or f"{stage}: {message}" in lines[0]


@pytest.mark.parametrize(("clips", "own"), [(1, {}), (2, {}), (2, {"sampling": "window"})])
def test_a_sampling_without_several_views_is_refused_before_any_job(clips: int, own: dict[str, str]) -> None:
    entry = {"kind": "zero_shot_classes", "dataset": "ek100", "stage": "finetune_mir", "clips": clips, **own}
    overlay = {
        "stages": {"finetune_mir": {"sampling": "lavila_segments"}},
        "evaluations": {"views": {**entry, "frames": 8}},
        "runs": {"llm": {"evaluations": ["views"]}},
    }
    words = "evaluations.views: lavila_segments take one temporal view"
    assert [words in line for line in found(overlay, "llm")] == ([True] if clips == 2 and not own else [])


def test_all_that_the_papers_data_need_is_listed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(variable, str(tmp_path / "none"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    text = "\n".join(found(read_config(ROOT / "configs/avion.yaml")))
    for word in ("aws configure --profile ego4d", "egomcq.json", "epic-kitchens-100", "OPENAI_API_KEY"):
        assert word in text


def test_a_tokenizer_without_its_vocabulary_is_a_problem_unless_no_text_is_read() -> None:
    egovlp = {"model": "egovlp_tsf_b", "image_size_px": 64}
    wanted = (
        "pretrain: the tokenizer 'bert' needs the vocabulary of bert-base-uncased: put the file vocab.txt"
    )
    assert any(wanted in line for line in found({"stages": {"pretrain": egovlp}}))
    lines = found({"stages": {"finetune_cls": {**egovlp, "start": None}}})
    assert not any("vocabulary" in line for line in lines)


def test_a_folder_whose_name_is_not_utf_8_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert [line.partition(":")[0] for line in found({})] == ["data_dir", "results_dir"]
    assert all("caf\\udce9" in line for line in found({}))
    assert found({name: str(tmp_path / name) for name in ("data_dir", "results_dir")}) == []


def test_an_ffmpeg_that_is_not_there_stops_a_run_with_videos_to_transcode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AVION_FFMPEG", str(tmp_path / "ffmpeg"))
    overlay = {"data_dir": str(tmp_path)}
    [line] = found(overlay)
    assert "unset AVION_FFMPEG" in line
    for dataset in ("ego4d", "ek100", "kinetics"):
        (tmp_path / dataset).mkdir()
        (tmp_path / dataset / "chunks.parquet").touch()
    assert found(overlay) == []


KINDS = ["retrieval", "recognition", "multiple_choice"]
STAGES = {
    "contrastive": {"model": "toy_dual_encoder"},
    "relevancy": {"model": "toy_dual_encoder"},
    "classification": {"model": "toy_dual_encoder"},
    "reconstruction": {"model": "toy_videomae", "frames": 8, "image_size_px": 64},
}
LABEL = {"ek100": "action"}


def one_run(task: str, trained: str, kind: str | None, measured: str, **stage: Any) -> dict[str, Any]:
    """An experiment of one stage and, with a kind, one evaluation."""
    recipe = {"task": task, "dataset": trained, **STAGES[task]}
    recipe |= {"label": LABEL.get(trained, "label")} if task == "classification" else {}
    entry = {"kind": kind, "dataset": measured, "stage": "s", "frames": 8 if task == "reconstruction" else 4}
    return {
        "stages": {"s": recipe | {"image_size_px": 64} | stage},
        "evaluations": {"e": entry} if kind else {},
        "runs": {"r": {"title": "R", "stages": {"s": {}}, "evaluations": ["e"] if kind else []}},
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dataset", ["ego4d", "ek100", "kinetics"])
@pytest.mark.parametrize("task", STAGES)
def test_what_annotate_does_not_make_cannot_be_measured(task: str, dataset: str, kind: str) -> None:
    """Retrieval needs clips with texts, recognition classes, multiple choice questions."""
    serves = {
        "retrieval": dataset == "ek100" and task in ("contrastive", "relevancy"),
        "recognition": dataset == "ek100" and task == "classification",
        "multiple_choice": dataset == "ego4d" and task in ("contrastive", "relevancy"),
    }
    experiment = one_run(task, "ek100", kind, dataset)
    if kind not in LAYOUTS[dataset].evaluations:
        line = refused(experiment)
        assert line.startswith("evaluations.e") and f"the layout {dataset} serves" in line, line
        assert not serves[kind]
        return
    lines = [line for line in found(experiment) if line.startswith("evaluations.e")]
    assert bool(lines) != serves[kind], lines


@pytest.mark.parametrize(
    ("task", "dataset", "words"),
    [
        ("contrastive", "kinetics", ["'contrastive'", "'kinetics'", "classification and reconstruction"]),
        ("relevancy", "ego4d", ["'relevancy'", "'ego4d'"]),
        ("classification", "ego4d", ["'classification'", "'ego4d'"]),
    ],
)
def test_a_task_that_a_layout_cannot_serve_is_listed(task: str, dataset: str, words: list[str]) -> None:
    line = refused(one_run(task, dataset, None, dataset))
    assert line.startswith("runs.r.stages.s") and all(word in line for word in words), line


def test_tags_that_a_data_set_cannot_have_are_listed(tmp_path: Path) -> None:
    egonce = {"stages": {"pretrain": {"loss": "egonce"}}}
    assert found(egonce, "llm") == []  # the toy kitchen writes them
    own = {"datasets": {"ego4d": {"layout": "ego4d", "source": "ego4d", "ego4d": {}}}}
    [told] = [line for line in found(lay_over(egonce, own), "llm") if "egonce" in line]
    assert told == (
        "runs.llm.stages.pretrain: the loss 'egonce' needs verb and noun tags, which are in egoclip.csv, "
        "and 'ego4d' has no such file; add it (docs/ego4d.md), or set tags: none"
    )
    file = {"datasets": {"ego4d": {"ego4d": {"egoclip": str(tmp_path / "egoclip.csv")}}}}
    for settled in (file, {"stages": {"pretrain": {"tags": "none"}}}):
        lines = found(lay_over(lay_over(egonce, own), settled), "llm")
        assert not any("needs verb and noun tags" in line for line in lines)
    settings = load_settings(lay_over(lay_over(DEMO, egonce), own | {"selected_runs": ["llm"]}))
    assert not any("egonce" in line for line in problems(Workflow(settings), trains=False))
    videos = {"layout": "folder", "source": "folder", "folder": {"videos": "v", "narrations": "n.csv"}}
    folder = {"datasets": {"own": videos}, "stages": {"pretrain": {"dataset": "own", "loss": "egonce"}}}
    lines = found(folder, "llm")
    assert any(
        "the layout folder of the data set 'own' does not have; choose another data set" in x for x in lines
    )
    published = {"datasets": {"ego4d": {"clips_from": "ego4d_train.pkl"}}}
    assert refused(lay_over(egonce, published)).endswith(
        "needs verb and noun tags, which clips of ego4d_train.pkl do not have; set datasets.ego4d.clips_from "
        "to egoclip.csv or null, or set tags: none"
    )


def test_a_missing_file_of_clips_is_listed(tmp_path: Path) -> None:
    own = {"layout": "ego4d", "source": "ego4d", "clips_from": "ego4d_train.pkl", "ego4d": {}}
    config = {"datasets": {"ego4d": own}}
    [told] = [line for line in found(config, "llm") if "clips_from" in line]
    assert told.startswith("data set 'ego4d': clips_from: ego4d_train.pkl is not there; put it beside")
    named = {"datasets": {"ego4d": {"ego4d": {"ego4d_train": str(tmp_path / "none.pkl")}}}}
    lines = found(lay_over(config, named), "llm")
    assert not any("clips_from" in line for line in lines)
    assert any("none.pkl: no such file; correct the path" in line for line in lines)


def test_a_label_that_a_layout_lacks_is_listed() -> None:
    line = refused(one_run("classification", "ek100", None, "ek100", label="label"))
    assert all(word in line for word in ("runs.r.stages.s", "'label'", "verb, noun, action")), line


def test_videomae_is_evaluated_at_the_length_it_was_trained_with() -> None:
    (line,) = found({"evaluations": {"kinetics": {"frames": 16}}})
    assert all(word in line for word in ("evaluations.kinetics", "16", "set frames: 8")), line
    assert found({"evaluations": {"kinetics": {"frames": 16}}}, "human") == []
    assert found({"evaluations": {"zero_shot_mir": {"frames": 16}}}) == []  # its embedding is interpolated
    (line,) = found({"evaluations": {"kinetics": {"frames": 7}}})
    assert "evaluations.kinetics" in line


def test_what_validates_a_stage_is_checked_like_an_evaluation() -> None:
    overlay = one_run("contrastive", "ego4d", "retrieval", "ego4d", validate_with="e")
    overlay["runs"]["r"]["evaluations"] = []
    line = refused(overlay)
    assert line.startswith("runs.r.stages.s.validate_with: retrieval cannot be measured"), line


def test_what_a_run_that_is_only_named_cannot_do_is_listed() -> None:
    """Runs that are not selected may be left over from a configuration that was laid over."""
    overlay = one_run("contrastive", "kinetics", None, "kinetics") | {"selected_runs": ["human"]}
    assert found(overlay) == []
    (line,) = found(overlay, "r")
    assert line.startswith("runs.r.stages.s: the task 'contrastive' cannot be trained"), line


@pytest.mark.parametrize(
    ("wanted", "here", "missing"), [(0, 0, False), (1, 1, False), (1, 0, True), (8, 4, True)]
)
def test_gpus_that_are_not_here_stop_a_run_on_this_machine(
    monkeypatch: pytest.MonkeyPatch, wanted: int, here: int, missing: bool
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: here)
    message = missing_gpus(wanted)
    assert (message is not None) == missing
    assert message is None or (f"gpus: {wanted}" in message and f"shows {here}" in message)


def test_chunks_smaller_than_the_input_are_a_warning() -> None:
    def said(overlay: dict[str, Any]) -> list[str]:
        return warnings(Workflow(load_settings(lay_over(DEMO, overlay))))

    assert said({}) == []
    (line,) = said(one_run("contrastive", "ego4d", None, "ego4d", image_size_px=224))
    assert all(word in line for word in ("runs.r.stages.s", "224", "(80)", "datasets.ego4d.transcode")), line


def test_a_quarantined_video_that_is_back_is_a_warning(tmp_path: Path) -> None:
    video, overlay = tmp_path / "a.mp4", {"data_dir": str(tmp_path)}

    def said() -> list[str]:
        return warnings(Workflow(load_settings(lay_over(DEMO, overlay))))

    entries = [{"video_id": name, "path": str(tmp_path / f"{name}.mp4"), "away": True} for name in "ab"]
    write_json(tmp_path / "ego4d/quarantine.json", entries)
    assert said() == []
    video.write_text("a video")
    (line,) = said()
    assert "'ego4d': 1 quarantined videos" in line and str(video) in line and "again" in line


def test_chunks_that_other_settings_would_remake_are_a_warning(tmp_path: Path) -> None:
    video = tmp_path / "a.mp4"
    video.write_text("a video")
    settings = load_settings(lay_over(DEMO, {"data_dir": str(tmp_path)}))
    recipe = fingerprint(settings.datasets["ego4d"].transcode.model_dump())
    write_videos(tmp_path / "ego4d/videos.parquet", {SourceVideo("a", video): FileMark.of(video)})
    write_json(tmp_path / "ego4d/chunks/a/chunks/done.json", {"settings": recipe, "chunks": []})
    assert warnings(Workflow(settings)) == []
    other = lay_over(
        DEMO, {"data_dir": str(tmp_path), "datasets": {"ego4d": {"transcode": {"preset": "slow"}}}}
    )
    (line,) = warnings(Workflow(load_settings(other)))
    assert "'ego4d'" in line and "made anew" in line and "datasets.ego4d.transcode" in line


def answer_everything(journal_dir: Path, texts: list[str], settings: NarrateSettings) -> None:
    """Write a journal with a model's answer to each text."""
    with Journal(journal_dir, "1-of-1") as journal:
        for text in texts:
            reply = json.dumps([f"#C C lifts a cup {text[-1]}", f"lift the cup {text[-1]} up"])
            entry = Entry(
                answers=None,
                keys=list(key_texts([text], settings)),
                usable=[True],
                parser=PARSER,
                provider="openai",
                model=settings.of(RephraserSettings).model,
                input_tokens=1,
                cached_tokens=0,
                output_tokens=1,
                measured=True,
                usd=0.0,
                prices="as set",
                day="2026-01-31",
                seconds=0.1,
                finish="stop",
                limit=200,
                reasons=False,
                texts=[text],
                reply=reply,
            )
            journal.add(entry)


def test_the_key_is_needed_only_for_what_has_no_answer_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    overlay = {"data_dir": str(tmp_path), "narrate": {"provider": "language_model"}, "selected_runs": ["llm"]}
    workflow = Workflow(load_settings(lay_over(DEMO, overlay)))
    narrate = workflow.settings.narrate
    texts = ["#C C takes the cup 1", "#C C takes the cup 2"]
    clips = Path(workflow.clip_table("ego4d", "train"))
    journal = Path(workflow.narration_table("ego4d")).parent / "journal"

    def missing() -> bool:
        return any("OPENAI_API_KEY" in line for line in problems(workflow))

    assert missing()  # there are no clips yet
    row = {"video_id": "v", "start_s": 0.0, "end_s": 1.0, "source": "human"}
    write_clips(clips, [{**row, "texts": [text]} for text in texts])
    assert missing()
    answer_everything(journal, texts[:1], narrate)
    assert missing()
    answer_everything(journal, texts[1:], narrate)
    assert not missing()
    out = Path(workflow.narration_table("ego4d", "1-of-1"))
    rephrase_shard(clips, settings=narrate, shard="1-of-1", class_lists=[], journal_dir=journal, out=out)

    shutil.rmtree(journal)
    assert missing()
    for number in range(1, workflow.settings.shards + 1):
        Path(workflow.narration_table("ego4d", f"{number}-of-{workflow.settings.shards}")).touch()
    assert not missing()


def write_result(workflow: Workflow, run: str, stage: str) -> None:
    """A finished stage as the configuration has it."""
    planned = workflow.stage(run, stage)
    folder = Path(workflow.settings.results_dir) / run / stage
    folder.mkdir(parents=True)
    recorded = {"stage": planned.recipe.model_dump(mode="json"), "seed": workflow.settings.seed}
    write_json(folder / "manifest.json", {"revision": "x", "settings": recorded, "inputs": {}})
    (folder / "model.safetensors").touch()


def test_a_file_of_weights_is_needed_until_the_stage_is_made_with_it(tmp_path: Path) -> None:
    weights = tmp_path / "theirs.pt"

    def said(**recipe: Any) -> list[str]:
        overlay = {
            "results_dir": str(tmp_path / "results"),
            "stages": {"pretrain": {"start_weights": str(weights), **recipe}},
        }
        nonlocal workflow
        workflow = Workflow(load_settings(lay_over(DEMO, overlay)), ("human",))
        return problems(workflow)

    workflow: Workflow
    (line,) = said()
    assert line.startswith(f"runs.human.stages.pretrain: start_weights: {weights}: no such file")
    write_result(workflow, "human", "pretrain")
    assert said() == []
    (line,) = said(epochs=99)  # would be silent: Snakemake takes the model for a plain file
    assert "no such file" in line
    weights.write_bytes(b"not a checkpoint")
    (line,) = said()
    assert line.startswith("runs.human.stages.pretrain: start_weights: ") and "theirs.pt" in line
    os.utime(weights, (0, 0))  # older than the model
    assert said() == []


def test_weights_of_open_clip_are_checked_by_name_and_once_they_are_fetched(tmp_path: Path) -> None:
    def said(name: str) -> list[str]:
        stages = {"pretrain": {"start_weights": f"open_clip:{name}"}}
        return found({"data_dir": str(tmp_path), "stages": stages}, "human")

    assert said("ViT-B-16/openai") == []
    (line,) = said("ViT-B16/openai")
    assert "did you mean 'ViT-B-16'" in line
    file = tmp_path / "weights" / "open_clip" / "ViT-B-16" / "openai"
    file.parent.mkdir(parents=True)
    save_file({"conv.weight": np.zeros(3, np.float32)}, file)
    (line,) = said("ViT-B-16/openai")
    assert line.startswith("runs.human.stages.pretrain: start_weights: ") and str(file) in line
    assert "none of its weights belongs to a dual_encoder" in line


def test_a_report_of_other_results_is_known(tmp_path: Path) -> None:
    def workflow(**overlay: Any) -> Workflow:
        runs = {"human": {"evaluations": []}, "untrained": {"evaluations": []}}
        config = {"results_dir": str(tmp_path), "runs": runs, "selected_runs": ["human"], **overlay}
        return Workflow(load_settings(lay_over(DEMO, config)))

    both = workflow(selected_runs=["human", "untrained"])
    for run in ("human", "untrained"):
        write_result(both, run, "pretrain")
    manifest = tmp_path / "human/pretrain/manifest.json"
    assert not workflow().report_is_outdated()  # there is none
    provenance = {"manifests": {str(manifest): sha256(manifest)}}
    write_json(tmp_path / "report/metrics.json", {"runs": {"human": {}}, "provenance": provenance})
    assert not workflow().report_is_outdated()
    assert both.report_is_outdated()
    assert workflow(selected_runs=["untrained"]).report_is_outdated()
    manifest.write_text("{}")
    assert workflow().report_is_outdated()
    manifest.unlink()
    assert workflow().report_is_outdated()


def test_weights_of_another_model_are_listed_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"visual.proj": np.zeros((4, 4), np.float32)}, path)
    read = []
    monkeypatch.setattr(
        foreign, "read_checkpoint", lambda *a, **b: read.append(a) or read_checkpoint(*a, **b)
    )
    overlay = {"stages": {"pretrain": {"start_weights": str(path)}}, "runs": {"human": {"seeds": [0, 1, 2]}}}
    lines = found(overlay, "human", "untrained")
    assert len(lines) == 2 and all("other.safetensors" in line for line in lines), lines
    assert len(read) == 2, "once for all seeds of a run"


def test_what_surely_fits_its_start_does_fit_it() -> None:
    experiments = [DEMO, *map(experiment, EXPERIMENTS)]
    found = set()
    for settings in map(load_settings, experiments):
        for stage in Workflow(settings, tuple(settings.runs)).trained_stages():
            source = stage.recipe.start and settings.stage(stage.run, stage.recipe.start)
            if not source or not surely_starts(stage.recipe, source):
                continue
            models = (stage.recipe.task, stage.recipe.model, source.task, source.model)
            if models not in found:
                found.add(models)
                fresh = MODELS[model_kind(stage.recipe)].fresh  # what the rule goes by, and no more
                check_stage_start(stage.recipe.model_copy(update={"waive_missing": fresh}), source)
    dual = ("toy_dual_encoder", "contrastive", "toy_dual_encoder")
    assert {("classification", *dual), ("relevancy", *dual)} < found
    assert ("classification", "toy_videomae", "reconstruction", "toy_videomae") in found


def test_a_stage_that_may_not_fit_its_start_is_looked_at() -> None:
    settings = load_settings(lay_over(DEMO, {"stages": {"pretrain": {"loss": "sigmoid"}}}))
    pretrain = settings.stage("llm", "pretrain")
    for name, change in (("finetune_mir", {}), ("finetune_cls", {"waive_missing": ["haed.*"]})):
        stage = settings.stage("llm", name)
        stage = StageSettings.model_validate({**stage.model_dump(exclude_unset=True), **change})
        assert not surely_starts(stage, pretrain)
        with pytest.raises(
            ValueError, match=r"pretrain: its weights do not fit this .*(logit_bias|head\.weight)"
        ):
            check_stage_start(stage, pretrain)


def classifiers(tmp_path: Path, **second: Any) -> Workflow:
    """A run of two classifiers, the second started from the first, with 7 and 5 classes as annotated."""
    first = {
        "task": "classification",
        "dataset": "kinetics",
        "model": "toy_dual_encoder",
        "image_size_px": 64,
    }
    overlay = {
        **{name: str(tmp_path / name) for name in ("data_dir", "results_dir")},
        "stages": {"a": first, "b": {**first, "dataset": "ek100", "label": "action", "start": "a", **second}},
        "runs": {"r": {"title": "R", "stages": {"a": {}, "b": {}}, "evaluations": []}},
    }
    workflow = Workflow(load_settings(lay_over(DEMO, overlay)), ("r",))
    classes = {"kinetics": {"label": ["x"] * 7}, "ek100": {"action": ["0:0"] * 5, "verb": ["v"], "noun": []}}
    for dataset, lists in classes.items():
        path = Path(workflow.clips(dataset, "classes.json"))
        path.parent.mkdir(parents=True)
        write_json(path, lists)
        SourceRecord(state=workflow.source_state(dataset)).write(workflow.data_set(dataset).home)
    return workflow


def test_another_number_of_classes_than_the_start_has_is_listed_once_annotated(tmp_path: Path) -> None:
    workflow = classifiers(tmp_path)
    [line] = check_starts(workflow)
    assert line.startswith("runs.r.stages.b: start: a: its weights do not fit this video_classifier: ")
    assert "head.weight (7×192 for 5×192)" in line and "waive_missing" in line
    SourceRecord().write(workflow.data_set("ek100").home)  # of another source, so that they will change
    assert list(check_starts(Workflow(workflow.settings, ("r",)))) == []


def test_another_number_of_classes_than_a_file_has_is_listed_once_annotated(tmp_path: Path) -> None:
    model = build_model("video_classifier", "toy_dual_encoder", frames=4, image_size_px=64, classes=7)
    tensors = {name: tensor.detach().numpy() for name, tensor in avion_state_dict(model).items()}
    save_file(tensors, tmp_path / "x.safetensors")
    weights = {"start": None, "start_weights": str(tmp_path / "x.safetensors")}
    [line] = check_start_files(classifiers(tmp_path, **weights))
    assert line.startswith("runs.r.stages.b: start_weights: ")
    assert "head.weight (7×192 for 5×192)" in line


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"further_labels": ["verb"]}, "start: a: .* 2 missing: further_heads.verb.weight, further"),
        ({"further_labels": ["verb"], "waive_missing": ["*head*"]}, ""),
        ({"no_weight_decay": ["haed.*"]}, "no_weight_decay: no weight of this model matches 'haed.*'"),
        ({"force_weight_decay": ["text.*"]}, "force_weight_decay: no weight of this model matches 'text.*'"),
        ({"force_weight_decay": ["*_embedding"]}, ""),
    ],
)
def test_heads_and_patterns_of_decay_that_do_not_fit_are_listed(
    tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    workflow = classifiers(tmp_path, **{"waive_missing": ["head.*"], **changes})
    lines = [*check_starts(workflow), *check_patterns(workflow)]
    assert len(lines) == bool(problem)
    assert all(re.match(f"runs.r.stages.b: {problem.replace('*.', '.*')}", line) for line in lines), lines


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"dataset": "kinetics", "label": "label", "further_labels": ["verb"]},
            "further_labels: the data set",
        ),
        ({"further_labels": ["verb", "action"]}, "a label is named twice: action, verb, action; remove one"),
    ],
)
def test_further_labels_that_cannot_be_learned_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        classifiers(tmp_path, **changes)


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ({"waive_missing": ["pool.*", "language_model.*"]}, []),
        (
            {},
            [
                "start: pretrain: its weights do not fit this narrator",
                "missing: pool.queries",
                "waive_missing",
            ],
        ),
        ({"waive_missing": ["*"], "freeze_language_model": True}, ["freeze_language_model: language_model."]),
        (
            {"waive_missing": ["*"], "model": "narrator_gpt2"},
            ["start: pretrain: was made with vision.kind clip"],
        ),
    ],
)
def test_a_stage_that_does_not_fit_its_start_is_listed_until_it_is_trained(
    tmp_path: Path, stage: dict[str, Any], words: list[str]
) -> None:
    narrator = {"task": "captioning", "dataset": "ego4d", "model": "toy_narrator", "start": "pretrain"}
    overlay = {
        "results_dir": str(tmp_path),
        "stages": {"narrator": {**narrator, "image_size_px": 64, **stage}},
        "runs": {"human": {"stages": {"narrator": {}}}},
    }
    workflow = Workflow(load_settings(lay_over(DEMO, overlay)), ("human",))
    lines = list(check_starts(workflow))
    assert len(lines) == bool(words) and all(word in lines[0] for word in words), lines
    write_result(workflow, "human", "narrator")
    assert list(check_starts(workflow)) == []


def test_runs_that_a_target_names_are_checked_too() -> None:
    settings = load_settings(lay_over(DEMO, {"selected_runs": ["human"]}))
    assert planned_runs(settings, ["evaluate", "results/llm/cls/metrics.json"]) == ("human", "llm")
    assert planned_runs(settings, ["results", "data/llm", "results/report/index.html", "llm"]) == ("human",)
    assert planned_runs(settings, [str(Path("results/scratch").absolute())]) == ("human", "scratch")


def folder_run(home: Path, rows: list[str], **recipe: Any) -> list[str]:
    """Problems of an experiment over a folder of videos with these rows of the CSV."""
    return problems(folder_workflow(home, rows, **recipe))


def folder_workflow(home: Path, rows: list[str], **recipe: Any) -> Workflow:
    for row in rows:
        (home / row.partition(",")[0]).touch()
    (home / "n.csv").write_text("\n".join(["video,start,end,text,split", *rows]) + "\n")
    source = {"videos": str(home), "narrations": str(home / "n.csv"), "validation_fraction": 0.0}
    overlay = one_run("contrastive", "own", "retrieval", "own", **recipe)
    overlay |= {"data_dir": str(home / "data"), "results_dir": str(home / "results")}
    overlay |= {"datasets": {"own": {"layout": "folder", "source": "folder", "folder": source}}}
    return Workflow(load_settings(lay_over(DEMO, overlay)))


def test_a_split_without_clips_and_a_batch_that_is_not_filled_are_listed(tmp_path: Path) -> None:
    train = [f"a.mp4,{k},{k + 1},takes cup {k},train" for k in range(4)]
    few, nothing = folder_run(tmp_path, train, batch_size=5)
    assert few.startswith("runs.r.stages.s: 4 clips of 'own' do not fill one batch of 5")
    assert nothing.startswith("evaluations.e: there is nothing in 'own' to evaluate on: no row is held out")
    held_out = "b.mp4,0,1,opens jar,validation"
    assert folder_run(tmp_path, [*train, held_out], batch_size=4) == []
    assert folder_run(tmp_path, [*train, held_out], batch_size=8, narrations=["human", "rephrased"]) == []
    assert folder_run(tmp_path, [*train, held_out], batch_size=5, epochs=0) == []


def test_too_few_clips_stop_no_run_that_only_makes_data(tmp_path: Path) -> None:
    settings = load_settings(DEMO)
    for targets in (["annotate"], ["download", "narrate"], ["preflight"], ["data/ego4d/chunks.parquet"]):
        assert not trains(settings, targets)
    for targets in ([], ["all"], ["annotate", "pretrain"], ["results/llm/cls/metrics.json"], ["report"]):
        assert trains(settings, targets)
    workflow = folder_workflow(tmp_path, ["a.mp4,0,1,takes cup,train"])
    assert len(problems(workflow)) == 2
    assert problems(workflow, trains=False) == []
    assert warnings(workflow, trains=False) == problems(workflow)


def test_tables_that_are_made_of_the_source_as_it_is_are_counted(tmp_path: Path) -> None:
    overlay = {"data_dir": str(tmp_path), "selected_runs": ["human"]}
    workflow = Workflow(load_settings(lay_over(DEMO, overlay)))
    clip = {"video_id": "v", "start_s": 0.0, "end_s": 1.0, "texts": ["takes cup"], "source": "human"}
    for dataset, tables in {"ego4d": ("train", "egomcq"), "ek100": ("train", "validation")}.items():
        for table in tables:
            write_clips(Path(workflow.clip_table(dataset, table)), [clip] * (table == "train"))
    assert problems(workflow) == []  # tables of who knows what
    for dataset in workflow.used_datasets():
        home = workflow.data_set(dataset).home
        SourceRecord(state=workflow.source_state(dataset)).write(home)
    lines = problems(workflow)
    words = ("1 clips of 'ego4d' do not fill one batch of 32", "evaluations.egomcq", "zero_shot_mir")
    assert [any(word in line for line in lines) for word in words] == [True] * 3, lines
    tagged = lay_over(overlay, {"stages": {"pretrain": {"loss": "egonce"}}})
    told = "the loss 'egonce' cannot be trained on 'ego4d': no clip has verb tags, which this loss needs"
    for change, expected in (({}, True), ({"epochs": 0}, False), ({"tags": "none"}, False)):
        settings = load_settings(lay_over(lay_over(DEMO, tagged), {"stages": {"pretrain": change}}))
        assert any(told in line for line in problems(Workflow(settings))) == expected
