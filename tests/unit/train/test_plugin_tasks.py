"""A task and losses that a plug-in registers are configured, planned and trained as our own are."""

import sys
from pathlib import Path

import pytest

from avion_core.config import (
    CONTRASTIVE_LOSSES,
    RELEVANCY_LOSSES,
    STAGE_TASKS,
    SettingsError,
    load_settings,
)
from avion_core.configfile import lay_over, read_config
from avion_core.models.store import load_model
from avion_core.registry import load as reference
from avion_core.train.tasks.setup import TaskSetup
from avion_core.workflow import Workflow, inputs
from tests.support.recipes import CONTRASTIVE
from tests.support.training import equal, lines, train

DEMO = read_config(Path(__file__).parents[3] / "config.yaml")
SHORT = {**CONTRASTIVE, "epochs": 1}


@pytest.fixture(scope="module", autouse=True)
def _plugin():
    with pytest.MonkeyPatch.context() as patch:
        for registry in (STAGE_TASKS, CONTRASTIVE_LOSSES, RELEVANCY_LOSSES):
            patch.setattr(registry, "_records", dict(registry._records))
        patch.syspath_prepend(Path(__file__).parent / "plugin")
        load({})
        yield
        for name in ("stub_tasks", "stub_objectives"):
            sys.modules.pop(name, None)


def load(stages, **overlay):
    return load_settings(lay_over(DEMO, {"plugins": ["stub_tasks"], "stages": stages, **overlay}))


def agreement(dataset):
    recipe = {"task": "agreement", "dataset": dataset, "model": "toy_dual_encoder", "strength": 0.5}
    runs = {"r": {"title": "R", "stages": {"agree": {}}, "evaluations": []}}
    return Workflow(load({"agree": recipe}, runs=runs, selected_runs=["r"]))


def test_a_task_is_configured_and_planned():
    workflow = agreement("ego4d")
    [stage] = workflow.stages()
    assert stage.recipe.recipe()["strength"] == 0.5
    assert stage.recipe.pretrains
    assert inputs.training_files(workflow, "r", "agree") == {
        "clips_1": "data/ego4d/clips/train.arrow",
        "chunks": "data/ego4d/chunks.parquet",
    }


def test_a_task_goes_with_layouts_that_have_what_it_reads():
    with pytest.raises(SettingsError, match="layout kinetics serves classification and reconstruction"):
        agreement("kinetics")


@pytest.mark.parametrize(
    ("stage", "values", "message"),
    [
        ("pretrain", {"strength": 2}, "strength does not go with .*; it is a setting of agreement"),
        ("pretrain", {"loss": "scaled"}, "the task 'contrastive' has no loss 'scaled'"),
        ("pretrain", {"weight": 2}, "weight does not go with .*; .* contrastive with the loss weighted"),
        ("finetune_mir", {"hundredths": 2}, "hundredths .*; .* relevancy with the loss scaled"),
    ],
)
def test_its_settings_go_with_it_alone(stage, values, message):
    with pytest.raises(SettingsError, match=message):
        load({stage: values})


def test_a_task_is_trained(kitchen, tmp_path):
    recipe = {**CONTRASTIVE, "task": "agreement"}
    out = train(kitchen, tmp_path / "whole", recipe)
    assert lines(out)[-1]["loss"] < lines(out)[0]["loss"]
    description = load_model(out)[1]
    assert (description.kind, description.task) == ("dual_encoder", "agreement")
    half = train(kitchen, tmp_path / "half", {**recipe, "epochs": 1, "strength": 0.5})
    assert lines(half)[0]["loss"] == pytest.approx(lines(out)[0]["loss"] / 2)


def test_a_contrastive_loss_is_trained(kitchen, tmp_path):
    """Its own settings go to its function, those of the model to the model."""
    tempered = {**SHORT, "temperature": 0.2}
    plain = train(kitchen, tmp_path / "plain", tempered)
    out = train(kitchen, tmp_path / "weighted", {**tempered, "loss": "weighted", "weight": 3.0})
    assert lines(out)[0]["loss"] == pytest.approx(3 * lines(plain)[0]["loss"])
    assert lines(out)[0]["temperature"] == pytest.approx(0.2)


def test_a_ranking_loss_is_trained(kitchen, tmp_path):
    ranked = {**SHORT, "task": "relevancy"}
    plain = train(kitchen, tmp_path / "plain", {**ranked, "loss": "max_margin", "margin": 0.3})
    out = train(kitchen, tmp_path / "scaled", {**ranked, "loss": "scaled", "hundredths": 30})
    assert equal(out, plain)
    default = train(kitchen, tmp_path / "default", {**ranked, "loss": "scaled"})
    assert lines(default)[0]["loss"] == pytest.approx(lines(plain)[0]["loss"] - 0.1)


def test_every_task_and_loss_says_what_works_it_out():
    """Of ours and of the plug-in."""
    for settings in STAGE_TASKS.values():
        assert issubclass(reference(settings.setup), TaskSetup)
    for losses in (CONTRASTIVE_LOSSES, RELEVANCY_LOSSES):
        for loss in losses.values():
            assert callable(reference(loss.function))
            assert set(loss.of_the_model) <= loss.model_fields.keys()
