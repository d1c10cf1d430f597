"""The trainings of a run before anything is made, and once its clip tables and models are there."""

import json
from pathlib import Path

import pytest

from avion_core.config import load_settings
from avion_core.config.tasks import ClassificationStage
from avion_core.configfile import lay_over, read_config
from avion_core.data.clips import write_clips
from avion_core.files import write_json, write_manifest
from avion_core.models.sizes import training_flops
from avion_core.workflow import Workflow
from avion_core.workflow.trainings import STAND_IN_CLASSES, trainings

ROOT = Path(__file__).parents[3]
DEMO = read_config(ROOT / "config.yaml")
CLIP = {"video_id": "v", "start_s": 0.0, "end_s": 1.0, "texts": ["takes cup"], "source": "human"}
NO_INPUTS = {"inputs": {}, "identity": {"inputs": {}}}


def workflow_of(tmp_path, experiment=None, **overlay):
    own = read_config(ROOT / "configs" / f"{experiment}.yaml") if experiment else {}
    folders = {"data_dir": str(tmp_path / "data"), "results_dir": str(tmp_path / "results")}
    return Workflow(load_settings(lay_over(DEMO, {**own, **folders, **overlay})))


def flops(recipe, classes=0):
    """A figure that shows what it was computed from."""
    return 1000 + classes


def found(workflow, flops_per_clip=flops):
    return {(item.stage.run, item.stage.name): item for item in trainings(workflow, flops_per_clip)}


def test_before_anything_is_made_clips_and_classes_are_unknown(tmp_path):
    items = found(workflow_of(tmp_path, selected_runs=["llm"]))
    assert list(items) == [("llm", "pretrain"), ("llm", "finetune_mir"), ("llm", "finetune_cls")]
    pretrain, cls = items["llm", "pretrain"], items["llm", "finetune_cls"]
    assert (pretrain.clips, pretrain.steps, pretrain.finished, pretrain.gpus) == (None, None, False, 0)
    assert pretrain.flops == 10 * 1e6 * 1000
    assert cls.flops_per_clip == 1000 + STAND_IN_CLASSES
    assert (pretrain.layout, cls.layout) == ("ego4d", "ek100")


def test_a_task_of_a_plug_in_may_train_classes_without_a_label(tmp_path, monkeypatch):
    monkeypatch.setattr(ClassificationStage, "predicts", "")
    items = found(workflow_of(tmp_path, selected_runs=["llm"]))
    assert items["llm", "finetune_cls"].flops_per_clip == 1000 + STAND_IN_CLASSES


def test_clips_are_the_rows_of_all_tables_and_steps_whole_batches(tmp_path):
    overlay = {"runs": {"llm": {"stages": {"pretrain": {"narrations": ["human", "rephrased"]}}}}}
    workflow = workflow_of(tmp_path, selected_runs=["llm"], **overlay)
    write_clips(Path(workflow.clip_table("ego4d", "train")), [CLIP] * 50)
    write_clips(Path(workflow.clip_table("ek100", "train")), [CLIP] * 50)
    write_json(Path(workflow.clips("ek100", "classes.json")), {"action": ["0:1"] * 7, "verb": ["take"]})
    items = found(workflow)
    pretrain, cls = items["llm", "pretrain"], items["llm", "finetune_cls"]
    assert pretrain.clips == 100, (
        "those of the rephrased table, which is not there yet, are those of the human one"
    )
    assert pretrain.steps == 10 * 3, "of 32 clips each"
    assert pretrain.flops == 10 * 3 * 32 * 1000
    assert (cls.clips, cls.steps, cls.flops_per_clip) == (50, 7 * 3, 1007)


@pytest.mark.parametrize("damaged", [["take"], {"action": 3}, {"action": None}])
def test_a_damaged_list_of_classes_is_one_error(tmp_path, damaged):
    workflow = workflow_of(tmp_path, selected_runs=["llm"])
    write_json(Path(workflow.clips("ek100", "classes.json")), damaged)
    with pytest.raises(ValueError, match=r"classes.json: not lists of class names by label; delete it and"):
        found(workflow)


def test_a_stage_is_finished_once_its_model_is_made_with_these_settings(tmp_path):
    workflow = workflow_of(tmp_path, selected_runs=["human"])
    folder = Path(workflow.model("human", "pretrain")).parent
    folder.mkdir(parents=True)
    (folder / "model.safetensors").touch()
    recipe = workflow.settings.stage("human", "pretrain").model_dump(mode="json")
    write_manifest(folder / "manifest.json", settings={"stage": recipe, "seed": 0}, **NO_INPUTS)
    assert found(workflow)["human", "pretrain"].finished
    write_manifest(folder / "manifest.json", settings={"stage": {**recipe, "epochs": 3}}, **NO_INPUTS)
    assert not found(workflow)["human", "pretrain"].finished


def test_models_and_sizes_that_are_the_same_are_measured_once(tmp_path):
    measured = []

    def note(recipe, **further):
        measured.append((recipe.model, recipe.task, recipe.frames))
        return 1

    items = found(workflow_of(tmp_path, "avion"), note)
    assert len(items) == 12
    assert len(measured) == 6
    assert set(measured) == {
        ("clip_vit_b_16", "contrastive", 4),
        ("clip_vit_b_16", "relevancy", 16),
        ("clip_vit_b_16", "classification", 16),
        ("clip_vit_l_14", "contrastive", 4),
        ("clip_vit_l_14", "relevancy", 16),
        ("clip_vit_l_14", "classification", 16),
    }


@pytest.mark.slow
def test_the_papers_pretraining_is_nine_exaflop(tmp_path):
    """4 million clips, 5 epochs, 0.44 TFLOP a clip."""
    workflow = workflow_of(tmp_path, "avion", selected_runs=["vit_b_human"])
    pretrain = found(workflow, training_flops)["vit_b_human", "avion_pretrain"]
    assert 4 * pretrain.flops == pytest.approx(8.8e18, rel=0.02)
    assert pretrain.gpus == 8


@pytest.mark.parametrize("experiment", [None, "avion", "videomae", "folder"])
def test_settings_are_the_same_once_they_were_passed_on_as_json(tmp_path, experiment):
    """As the rule `plan` passes them to its program."""
    settings = workflow_of(tmp_path, experiment).settings
    assert load_settings(json.loads(settings.model_dump_json(exclude_unset=True))) == settings
