"""What a training, an evaluation and the report read, without a DAG."""

import json
from pathlib import Path

import pytest

from avion_core.config import load_settings
from avion_core.configfile import lay_over, read_config
from avion_core.data.layout_files import layout_reader
from avion_core.layouts import LAYOUTS
from avion_core.report.plan import read_plan
from avion_core.workflow import Workflow, inputs
from avion_core.workflow.code import annotation_code
from avion_core.workflow.report_plan import report_plan
from avion_core.workflow.source_watch import SourceWatch

DEMO = read_config(Path(__file__).parents[3] / "config.yaml")


def demo(**overlay):
    return Workflow(load_settings(lay_over(DEMO, overlay)))


@pytest.mark.parametrize(
    ("run", "stage", "files"),
    [
        (
            "llm",
            "pretrain",
            {
                "clips_1": "data/ego4d/narrations/lexicon/train.arrow",
                "chunks": "data/ego4d/chunks.parquet",
            },
        ),
        (
            "llm",
            "finetune_mir",
            {
                "clips_1": "data/ek100/clips/train.arrow",
                "chunks": "data/ek100/chunks.parquet",
                "sentences": "data/ek100/clips/sentences_train.arrow",
                "start": "results/llm/pretrain/model.safetensors",
            },
        ),
        (
            "llm",
            "finetune_cls",
            {
                "clips_1": "data/ek100/clips/train.arrow",
                "chunks": "data/ek100/chunks.parquet",
                "classes": "data/ek100/clips/classes.json",
                "start": "results/llm/pretrain/model.safetensors",
            },
        ),
    ],
)
def test_a_training_reads_the_files_of_its_task(run, stage, files):
    assert inputs.training_files(demo(), run, stage) == files


def test_an_evaluation_reads_the_files_of_its_kind():
    workflow = demo()
    files = {
        name: inputs.evaluation_files(workflow, workflow.settings.evaluations[name])
        for name in ("mir", "cls", "egomcq")
    }
    assert files["mir"]["sentences"] == "data/ek100/clips/sentences_test.arrow"
    assert files["cls"]["classes"] == "data/ek100/clips/classes.json"
    assert files["egomcq"] == {
        "chunks": "data/ego4d/chunks.parquet",
        "clips": "data/ego4d/clips/egomcq.arrow",
    }


def test_what_validates_a_stage_is_read_beside_its_own_files():
    workflow = demo(stages={"pretrain": {"validate_with": "zero_shot_mir"}})
    files = inputs.validation_files(workflow, "llm", "pretrain")
    assert files["validation_clips"] == "data/ek100/clips/validation.arrow"
    assert not files.keys() & inputs.training_files(workflow, "llm", "pretrain").keys()
    packets = inputs.training_packets(workflow, "llm", "pretrain")
    assert packets == ["data/ego4d/packets.npy", "data/ek100/packets.npy"]
    assert inputs.validation_words(workflow, "llm", "pretrain").startswith("--validation '{")
    assert inputs.validation_files(demo(), "llm", "pretrain") == {}
    assert inputs.validation_words(demo(), "llm", "pretrain") == ""


def test_start_weights_that_are_gone_count_for_models_made_with_them_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = demo(stages={"pretrain": {"start_weights": "w.pt"}})
    assert inputs.start_weights(own, "llm", "pretrain") == {}
    Path("w.pt").touch()
    assert inputs.start_weights(own, "llm", "pretrain") == {"w.pt": True}
    fetched = demo(stages={"pretrain": {"start_weights": "open_clip:ViT-B-16/openai"}})
    path = "data/weights/open_clip/ViT-B-16/openai"
    assert inputs.start_weights(fetched, "llm", "pretrain") == {path: False}
    assert inputs.start_weights(demo(), "llm", "pretrain") == {}


def test_the_reports_plan_comes_back_from_json():
    plan = report_plan(demo())
    assert read_plan(plan.model_dump_json()) == plan
    files = plan.runs["llm"].evaluations["mir"].files
    assert files["sentences"] == Path("data/ek100/clips/sentences_test.arrow")
    assert "sentences" not in plan.runs["llm"].evaluations["egomcq"].files
    assert json.loads(plan.model_dump_json())["datasets"]["ek100"]["clips"].keys() == set(
        LAYOUTS["ek100"].tables
    )


def test_preflight_looks_at_the_tables_that_are_read():
    workflow = demo()
    assert set(workflow.clip_tables("ego4d")) == {"train", "narrations", "evaluation"}
    assert workflow.clip_tables("kinetics") == {
        "train": "data/kinetics/clips/train.arrow",
        "evaluation": "data/kinetics/clips/val.arrow",
    }


def test_jobs_of_a_queue_do_not_look_at_sources(monkeypatch):
    monkeypatch.setattr(Workflow, "source_state", lambda *_: pytest.fail("looked at a source"))
    watch = SourceWatch(demo(), looks=False)
    assert watch.digest("ek100") == watch.videos("ek100") == watch.annotations("ek100") == ""
    assert watch.same_videos("ek100") and watch.same_annotations("ek100") and watch.same_class_lists("ego4d")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_has_a_reader_and_files_that_its_record_names(layout):
    record = LAYOUTS[layout]
    assert callable(layout_reader(layout).annotate)
    named = {file for files in (record.training, *record.evaluations.values()) for file in files.values()}
    assert named <= set(record.files)
    assert len({annotation_code(name) for name in LAYOUTS}) == len(LAYOUTS)
