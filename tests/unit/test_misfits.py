"""Settings that mean nothing where they stand: each is one error that names it and what it goes with."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from avion_core.config import (
    STAGE_TASKS,
    EvaluationSettings,
    SettingsError,
    StageSettings,
    evaluation_class,
    load_settings,
)
from avion_core.configfile import lay_over, read_config
from avion_core.evaluations import EVALUATIONS
from avion_core.layouts import LAYOUTS

CAPTIONING = {"task": "captioning", "dataset": "ego4d", "model": "toy_narrator", "batch_size": 32}
DEMO = lay_over(
    read_config(Path(__file__).parents[2] / "config.yaml"),
    {"stages": {"narrator": CAPTIONING}, "runs": {"llm": {"stages": {"narrator": {}}}}},
)
STAGES = {
    "contrastive": "pretrain",
    "relevancy": "finetune_mir",
    "classification": "finetune_cls",
    "reconstruction": "pretrain_videomae",
    "captioning": "narrator",
}
"""A stage of the demo for every task."""
RUNS = {name: "videomae" if name == "pretrain_videomae" else "llm" for name in STAGES.values()}
LOSS = {"contrastive": "info_nce", "relevancy": "max_margin"}
"""The losses of these stages."""

OF_A_TASK: dict[str, tuple[Any, tuple[str, ...]]] = {
    "narrations": (["rephrased"], ("contrastive", "captioning")),
    "neighbours": (True, ("contrastive",)),
    "neighbour_seconds": (30.0, ("contrastive",)),
    "negatives": ("local", ("contrastive", "relevancy")),
    "loss": ("max_margin", ("contrastive", "relevancy")),
    "min_relevancy": (0.5, ("relevancy",)),
    "patch_dropout": (0.5, ("contrastive", "relevancy", "classification")),
    "label": ("verb", ("classification",)),
    "further_labels": (["noun"], ("classification",)),
    "mixup": (0.8, ("classification",)),
    "cutmix": (1.0, ("classification",)),
    "label_smoothing": (0.1, ("classification",)),
    "head_dropout": (0.5, ("classification",)),
    "head": ("attentive", ("classification",)),
    "mask_ratio": (0.5, ("reconstruction",)),
    "target_epsilon": (1e-3, ("reconstruction",)),
    "decoder_mask_ratio": (0.5, ("reconstruction",)),
    "freeze_language_model": (True, ("captioning",)),
    "text_only": (True, ("captioning",)),
    "text_dropout": (0.0, ("captioning",)),
    "loss_mean": ("places", ("captioning",)),
}
"""Settings of some tasks: a value, and the tasks that read them."""
OF_A_LOSS: dict[str, tuple[Any, dict[str, tuple[str, ...]]]] = {
    "temperature": (0.05, {"contrastive": ("info_nce", "sigmoid", "egonce")}),
    "learn_temperature": (True, {"contrastive": ("info_nce", "sigmoid", "egonce")}),
    "narrated_temperature": (0.1, {"contrastive": ("info_nce",)}),
    "tags": ("verb", {"contrastive": ("egonce",)}),
    "logit_bias": (-5.0, {"contrastive": ("sigmoid",)}),
    "margin": (0.3, {"relevancy": ("symmetric_multi_similarity", "max_margin", "adaptive_max_margin")}),
    "relaxation": (0.2, {"relevancy": ("symmetric_multi_similarity",)}),
}
"""Settings of some losses: a value, and the tasks' losses that read them."""
OF_A_KIND: dict[str, tuple[Any, tuple[str, ...]]] = {
    "mirror": (True, ("retrieval",)),
    "ensemble": ([{"run": "llm", "evaluation": "mir"}], ("retrieval",)),
    "dual_softmax": (True, ("retrieval",)),
    "similarity": ("dot", ("multiple_choice",)),
    "templates": (["#C C {}"], ("zero_shot_classes",)),
    "pool": ("mean", ("zero_shot_classes",)),
    "softmax": (True, ("zero_shot_classes",)),
    "sampling": ("window", ("zero_shot_classes",)),
    "stride": (2, ("zero_shot_classes",)),
}
"""Settings of some kinds of evaluation: a value, and the kinds that read them."""
WITHOUT_VALIDATION = {"validate_with": "kinetics", "validate_every_epochs": 2, "best_metric": "top1"}
"""Settings of all tasks whose models some evaluation measures."""
KINDS = {
    "contrastive": ("retrieval", "multiple_choice", "zero_shot_classes"),
    "relevancy": ("retrieval", "multiple_choice", "zero_shot_classes"),
    "classification": ("recognition",),
    "reconstruction": (),
    "captioning": ("captions",),
}
"""Kinds of evaluation that a task's models are measured by."""
EVALUATED = tuple(dict.fromkeys(sum(KINDS.values(), ())))


def said(overlay: dict[str, Any]) -> str:
    """What loading the demo with an overlay ends with."""
    with pytest.raises(SettingsError) as caught:
        load_settings(lay_over(copy.deepcopy(DEMO), overlay))
    return str(caught.value)


def places(stage: str, setting: str, value: Any) -> list[tuple[str, dict[str, Any]]]:
    """Where a stage's setting may stand: (its section as a message has it, overlay)."""
    own, run = {stage: {setting: value}}, RUNS[stage]
    return [
        (f"stages.{stage}", {"stages": own}),
        (f"runs.{run}.stages.{stage}", {"runs": {run: {"stages": own}}}),
    ]


def test_the_tables_hold_every_setting_of_some_tasks_only() -> None:
    common = StageSettings.model_fields.keys()
    of_tasks = {name for settings in STAGE_TASKS.values() for name in settings.model_fields.keys() - common}
    losses = [loss for settings in STAGE_TASKS.values() for loss in settings.losses.values()]
    assert of_tasks == OF_A_TASK.keys()
    assert {name for loss in losses for name in loss.model_fields} == OF_A_LOSS.keys()
    assert set(STAGE_TASKS) == STAGES.keys() == KINDS.keys()


@pytest.mark.parametrize(
    ("task", "setting"),
    [(task, name) for name, (_, tasks) in OF_A_TASK.items() for task in STAGES if task not in tasks],
)
def test_a_setting_of_other_tasks(task: str, setting: str) -> None:
    value, tasks = OF_A_TASK[setting]
    for place, overlay in places(STAGES[task], setting, value):
        message = said(overlay)
        assert message.count("\n") == 0
        if setting == "loss":
            where = f"{place}.loss" if place.startswith("stages") else f"{place}: loss"
            no_choice = f"the task '{task}' has no loss 'max_margin'; it has but one, so leave loss out"
            assert message == f"config: {where}: {no_choice}"
            continue
        assert message == (
            f"config: {place}: {setting} does not go with the task '{task}'; it is a setting of "
            f"{' and '.join(tasks)}"
        )


@pytest.mark.parametrize(
    ("task", "setting"),
    [
        (task, name)
        for name, (_, homes) in OF_A_LOSS.items()
        for task in STAGES
        if LOSS.get(task) not in homes.get(task, ())
    ],
)
def test_a_setting_of_other_losses(task: str, setting: str) -> None:
    value, homes = OF_A_LOSS[setting]
    for place, overlay in places(STAGES[task], setting, value):
        message = said(overlay)
        assert message.startswith(f"config: {place}: {setting} does not go with the task '{task}'")
        assert message.count("\n") == 0
        assert (f"and the loss '{LOSS.get(task)}', which takes " in message) == (task in LOSS)
        ((home, losses),) = homes.items()
        assert message.endswith(f"; it is a setting of {home} with the loss {' or '.join(losses)}")


@pytest.mark.parametrize(("task", "loss"), [("contrastive", "max_margin"), ("relevancy", "sigmoid")])
def test_a_loss_of_another_task(task: str, loss: str) -> None:
    message = said({"stages": {STAGES[task]: {"loss": loss}}})
    choice = ", ".join(STAGE_TASKS[task].losses)
    where = f"config: stages.{STAGES[task]}.loss"
    assert message == f"{where}: the task '{task}' has no loss '{loss}'; it has: {choice}"


@pytest.mark.parametrize("setting", WITHOUT_VALIDATION)
def test_validation_of_a_task_that_nothing_measures(setting: str) -> None:
    for place, overlay in places("pretrain_videomae", setting, WITHOUT_VALIDATION[setting]):
        assert said(overlay) == (
            f"config: {place}: {setting} does not go with the task 'reconstruction', which no evaluation "
            "measures"
        )


@pytest.mark.parametrize(
    ("task", "kind"),
    [(task, kind) for task in KINDS for kind in EVALUATED if kind not in KINDS[task]],
)
def test_an_evaluation_of_another_tasks_models(task: str, kind: str) -> None:
    entry = {"kind": kind, "dataset": LAYOUTS_OF[kind][0], "stage": STAGES[task]}
    run = RUNS[STAGES[task]]
    overlay = {"evaluations": {"e": entry}, "runs": {run: {"evaluations": ["e"]}}}
    assert said(overlay) == (
        f"config: evaluations.e: {kind} of the stage '{STAGES[task]}', whose task {task} allows "
        f"{' or '.join(KINDS[task]) or 'no evaluation'}"
    )


def evaluation(kind: str, **settings: Any) -> dict[str, Any]:
    """The demo with one more evaluation."""
    entry = {"kind": kind, "dataset": LAYOUTS_OF[kind][0], "stage": "pretrain", **settings}
    return {"evaluations": {"e": entry}}


def test_the_table_of_kinds_holds_every_setting_of_some_kinds_only() -> None:
    assert set(EVALUATED) == set(EVALUATIONS)
    own = {kind: evaluation_class(kind).model_fields.keys() for kind in EVALUATIONS}
    for kind, names in own.items():
        assert names - EvaluationSettings.model_fields.keys() == {
            setting for setting, (_, kinds) in OF_A_KIND.items() if kind in kinds
        }


@pytest.mark.parametrize(
    ("kind", "setting"),
    [(kind, name) for name, (_, kinds) in OF_A_KIND.items() for kind in EVALUATED if kind not in kinds],
)
def test_a_setting_of_other_kinds_of_evaluation(kind: str, setting: str) -> None:
    value, kinds = OF_A_KIND[setting]
    assert said(evaluation(kind, **{setting: value})) == (
        f"config: evaluations.e: {setting} does not go with {kind}; it is a setting of {' and '.join(kinds)}"
    )
    kept = load_settings(lay_over(copy.deepcopy(DEMO), evaluation(kind, **{setting: None})))
    assert setting not in kept.evaluations["e"].recipe()


@pytest.mark.parametrize("setting", OF_A_KIND)
def test_a_kinds_own_setting_decides_the_result_unless_it_is_the_default(setting: str) -> None:
    value, kinds = OF_A_KIND[setting]
    for kind in kinds:
        plain, changed = (
            load_settings(lay_over(copy.deepcopy(DEMO), evaluation(kind, **settings))).evaluations["e"]
            for settings in ({}, {setting: value})
        )
        assert changed.recipe() == plain.recipe() | {setting: value}
        assert setting not in plain.recipe()
        assert type(plain).model_validate(changed.recipe()) == changed


@pytest.mark.parametrize(
    ("layout", "metric", "others"), [("charades_ego", "top1", "mAP"), ("egtea", "mAP", "top1, top5")]
)
def test_the_best_metric_is_one_that_the_layouts_clips_have(layout: str, metric: str, others: str) -> None:
    overlay = one_run("contrastive", "ego4d", validate_with="e", best_metric=metric)
    overlay["evaluations"] = {"e": {"kind": "zero_shot_classes", "dataset": layout, "stage": "s"}}
    message = said(overlay)
    assert message.startswith(f"config: runs.r.stages.s.best_metric: unknown name '{metric}'; ")
    assert others in message or "did you mean" in message
    good = others.partition(",")[0]
    overlay["stages"]["s"]["best_metric"] = good
    assert load_settings(lay_over(copy.deepcopy(DEMO), overlay)).stage("r", "s").best_metric == good


@pytest.mark.parametrize(
    ("templates", "message"),
    [
        (["{}", "x"], "e.templates.1: 'x' needs one {}, the place of the class's name"),
        (["{} {}"], "e.templates.0: '{} {}' needs one {}, the place of the class's name"),
        ("{}", "e.templates: a list is expected; write ['{}'] (got '{}')"),
    ],
)
def test_a_template_has_one_place_for_the_name(templates: Any, message: str) -> None:
    overlay = evaluation("zero_shot_classes", templates=templates)
    assert said(overlay) == f"config: evaluations.{message}"


def test_several_misfits_of_an_evaluation_are_all_listed() -> None:
    assert said(evaluation("retrieval", similarity="dot", framse=3)).splitlines() == [
        "config: evaluations.e: similarity does not go with retrieval; it is a setting of multiple_choice",
        "config: unknown setting 'evaluations.e.framse'; did you mean 'frames'?",
    ]
    assert "unknown kind of evaluation 'retreival'; did you mean 'retrieval'?" in said(
        {"evaluations": {"e": {"kind": "retreival", "dataset": "ek100", "stage": "pretrain"}}}
    )
    assert "setting 'evaluations.e.kind' is missing" in said(
        {"evaluations": {"e": {"dataset": "ek100", "stage": "pretrain"}}}
    )


def test_several_misfits_of_a_stage_are_all_listed() -> None:
    message = said({"stages": {"pretrain": {"mask_ratio": 0.5, "label": "verb", "epocs": 3}}})
    assert message.splitlines() == [
        "config: stages.pretrain: mask_ratio does not go with the task 'contrastive'; it is a setting of "
        "reconstruction",
        "config: stages.pretrain: label does not go with the task 'contrastive'; it is a setting of "
        "classification",
        "config: unknown setting 'stages.pretrain.epocs'; did you mean 'epochs'?",
    ]


def test_a_run_may_change_the_task_and_drop_by_null_what_does_not_go_with_it() -> None:
    change = {"task": "classification", "label": "action"}
    run = {"title": "R", "evaluations": []}
    common = {"task": "contrastive", "dataset": "ek100", "model": "toy_dual_encoder", "patch_dropout": 0.5}
    stages = {"s": {**common, "narrations": ["rephrased"]}}
    overlay = {"stages": stages, "runs": {"r": {**run, "stages": {"s": change}}}}
    assert "runs.r.stages.s: narrations does not go with the task 'classification'" in said(overlay)
    overlay["runs"]["r"]["stages"]["s"] = {**change, "narrations": None}
    recipe = load_settings(lay_over(copy.deepcopy(DEMO), overlay)).stage("r", "s")
    assert (recipe.task, recipe.predicts, recipe.clip_tables) == ("classification", "action", ("human",))
    assert recipe.model_arguments()["patch_dropout"] == 0.5


def test_a_task_that_nobody_registered_is_named_with_the_nearest() -> None:
    message = said({"stages": {"s": {"task": "contrastiv", "dataset": "ego4d", "model": "toy_dual_encoder"}}})
    assert message == "config: stages.s.task: unknown task 'contrastiv'; did you mean 'contrastive'?"


LAYOUTS_OF = {
    "retrieval": ("ek100", "folder"),
    "recognition": ("ek100", "kinetics", "egtea"),
    "multiple_choice": ("ego4d",),
    "zero_shot_classes": ("ek100", "kinetics", "egtea", "charades_ego"),
    "captions": ("ego4d", "ek100", "folder"),
    "contrastive": ("ego4d", "ek100", "charades_ego", "folder"),
    "relevancy": ("ek100",),
    "classification": ("ek100", "kinetics", "egtea"),
    "reconstruction": ("ego4d", "ek100", "kinetics", "egtea", "charades_ego", "folder"),
    "captioning": ("ego4d", "ek100", "charades_ego", "folder"),
    "action": ("ek100",),
    "verb": ("ek100",),
    "noun": ("ek100",),
    "label": ("kinetics", "egtea", "charades_ego"),
}
"""Layouts that serve a kind of evaluation, a task, a label."""


def not_served(names: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(name, layout) for name in names for layout in LAYOUTS if layout not in LAYOUTS_OF[name]]


def one_run(task: str, layout: str, **stage: Any) -> dict[str, Any]:
    """The demo with a data set of each layout, and one selected run of one stage."""
    folder = {"videos": "v", "narrations": "n.csv"}
    model = {"reconstruction": "toy_videomae", "captioning": "toy_narrator"}.get(task, "toy_dual_encoder")
    common = {"task": task, "dataset": layout, "model": model}
    return {
        "datasets": {
            "folder": {"layout": "folder", "source": "folder", "folder": folder},
            **{name: {"layout": name, "source": "toy_kitchen"} for name in ("egtea", "charades_ego")},
        },
        "stages": {"s": {**common, **stage}},
        "runs": {"r": {"title": "R", "stages": {"s": {}}, "evaluations": []}},
    }


def test_the_table_of_layouts_is_complete() -> None:
    labels = {label for layout in LAYOUTS.values() for label in layout.labels}
    assert LAYOUTS_OF.keys() == {*EVALUATED, *STAGE_TASKS, *labels}
    assert {layout for layouts in LAYOUTS_OF.values() for layout in layouts} == set(LAYOUTS)


@pytest.mark.parametrize(("task", "layout"), not_served(tuple(STAGES)))
def test_a_task_that_a_layout_cannot_serve(task: str, layout: str) -> None:
    message = said(one_run(task, layout))
    assert message.startswith(
        f"config: runs.r.stages.s: the task '{task}' cannot be trained on the data set '{layout}': the "
        f"layout {layout} serves "
    )
    assert message.count("\n") == 0


@pytest.mark.parametrize(
    ("label", "layout"),
    [
        (label, layout)
        for label, layout in not_served(("action", "verb", "noun", "label"))
        if layout in LAYOUTS_OF["classification"]
    ],
)
def test_a_label_that_a_layout_does_not_have(label: str, layout: str) -> None:
    message = said(one_run("classification", layout, label=label))
    assert message == (
        f"config: runs.r.stages.s: label: the data set '{layout}' has no '{label}'; the layout {layout} has "
        f"{', '.join(LAYOUTS[layout].labels)}"
    )


@pytest.mark.parametrize("place", ["evaluation", "validation"])
@pytest.mark.parametrize(("kind", "layout"), not_served(EVALUATED))
def test_a_kind_of_evaluation_that_a_layout_cannot_serve(kind: str, layout: str, place: str) -> None:
    task = {"recognition": "classification", "captions": "captioning"}.get(kind, "contrastive")
    label = {"label": "action"} if task == "classification" else {}
    validated = {"validate_with": "e"} if place == "validation" else {}
    overlay = one_run(task, "ek100", **label, **validated)
    overlay["evaluations"] = {"e": {"kind": kind, "dataset": layout, "stage": "s"}}
    overlay["runs"]["r"]["evaluations"] = ["e"] if place == "evaluation" else []
    where = "evaluations.e" if place == "evaluation" else "runs.r.stages.s.validate_with"
    assert said(overlay) == (
        f"config: {where}: {kind} cannot be measured on the data set '{layout}': the layout {layout} serves "
        f"{' and '.join(LAYOUTS[layout].evaluations)}"
    )


def test_a_layout_that_lacks_a_file_of_a_kind_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    record = replace(LAYOUTS["ek100"], evaluations={"recognition": {"clips": "validation.arrow"}})
    monkeypatch.setitem(LAYOUTS._records, "ek100", record)
    overlay = one_run("classification", "ek100", label="action")
    overlay["evaluations"] = {"e": {"kind": "recognition", "dataset": "ek100", "stage": "s"}}
    overlay["runs"]["r"]["evaluations"] = ["e"]
    assert said(overlay) == (
        "config: evaluations.e: recognition needs classes, which the layout ek100 does not list for it"
    )


def test_a_layout_brings_labels_with_their_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    overlay = one_run("classification", "ek100", label="tool")
    assert said(overlay).startswith("config: stages.s.label: unknown label 'tool'")
    layout = LAYOUTS["ek100"]
    monkeypatch.setitem(LAYOUTS._records, "ek100", replace(layout, labels={**layout.labels, "tool": "noun"}))
    assert load_settings(lay_over(DEMO, overlay)).stages["s"].predicts == "tool"
    monkeypatch.setitem(LAYOUTS._records, "ek100", replace(layout, labels={**layout.labels, "label": "noun"}))
    assert "has the label 'label' in the column 'label', another layout has it in 'noun'" in said(overlay)
