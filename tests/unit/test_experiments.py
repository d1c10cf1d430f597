"""The experiments of `configs/` against the published recipes, as they really ran."""

from functools import cache
from typing import Any

import pytest

from avion_core.config import Settings, SettingsError, StageSettings, load_settings
from avion_core.models.sizes import Size, stage_size
from avion_core.train.memory import USABLE, step_bytes
from avion_core.train.parts import schedule_of
from avion_core.workflow import Workflow
from avion_core.workflow.inputs import evaluation_files
from tests.support import experiments
from tests.support.experiments import ROOT

GPU_BYTES = 24 * 2**30
"""Of the GPUs that the heads of the experiments name."""

CROP = {"crop": "random_resized", "crop_scale": (0.5, 1.0), "horizontal_flip": 0.0}
MIXED = {"mixup": 0.8, "cutmix": 1.0, "label_smoothing": 0.1}
WINDOW = {"frames": 16, "stride": 4}
PRETRAIN = {
    **CROP,
    "optimizer": "adamw",
    "schedule": "constant",
    "warmup_epochs": 0,
    "epochs": 5,
    "weight_decay": 0.01,
    "betas": (0.9, 0.999),
    "frames": 4,
    "sampling": "segments",
    "drop_path": 0,
    "loss_name": "info_nce",
    "loss_values": {"temperature": 0.07, "learn_temperature": False, "narrated_temperature": None},
    "negatives": "global",
    "validate_with": "avion_zero_shot_mir",
    "validate_every_epochs": 1,
    "best_metric": "mAP.mean",
}
MIR = {
    **CROP,
    "optimizer": "adamw",
    "schedule": "cosine",
    "warmup_epochs": 1,
    "batch_size": 512,
    "epochs": 100,
    "weight_decay": 0.01,
    "betas": (0.9, 0.999),
    "frames": 16,
    "sampling": "segments",
    "drop_path": 0,
    "loss_values": {"margin": 0.2},
    "min_relevancy": 0.1,
    "start": "avion_pretrain",
    "validate_with": "avion_mir_test",
    "best_metric": "mAP.mean",
}
SMS = {
    **MIR,
    "batch_size": 256,
    "loss_values": {"margin": 0.6, "relaxation": 0.1},
    "validate_with": "avion_mir_sms_test",
}
CLS = {
    **CROP,
    **MIXED,
    "optimizer": "sgd",
    "momentum": 0.9,
    "schedule": "cosine",
    "warmup_epochs": 2,
    "batch_size": 512,
    "epochs": 100,
    "weight_decay": 4e-5,
    "frames": 16,
    "drop_path": 0.1,
    "head_dropout": 0.5,
    "label": "action",
    "start": "avion_pretrain",
    "validate_with": "avion_cls_test",
    "best_metric": "action_top1",
}
MASKED = {
    **WINDOW,
    "schedule": "cosine",
    "warmup_epochs": 40,
    "epochs": 800,
    "weight_decay": 0.05,
    "betas": (0.9, 0.95),
    "crop": "multi_scale",
    "drop_path": 0,
    "mask_ratio": 0.9,
}
KINETICS = {
    **WINDOW,
    **MIXED,
    "optimizer": "adamw",
    "schedule": "cosine",
    "warmup_epochs": 5,
    "epochs": 100,
    "weight_decay": 0.05,
    "betas": (0.9, 0.999),
    "crop": "random_resized",
    "crop_scale": (0.08, 1.0),
    "horizontal_flip": 0.5,
    "random_erasing": 0.25,
    "drop_path": 0.1,
    "layer_decay": 0.75,
    "sampling": "spread_window",
    "rand_augment": "rand-m7-n4-mstd0.5-inc1",
    "validate_with": "kinetics_400_one_view",
    "best_metric": "top1",
}
AVIONS_MASKED = {
    "optimizer": "lion",
    "batch_size": 256,
    "horizontal_flip": 0.5,
    "sampling": "jittered_window",
    "target_epsilon": 1e-6,
    "no_weight_decay": (),
}
ORIGINAL_MASKED = {
    "optimizer": "adamw",
    "batch_size": 2048,
    "horizontal_flip": 0.0,
    "sampling": "window",
    "target_epsilon": 2.55e-4,
    "no_weight_decay": ("mask_token",),
}
AVIONS_AUGMENT = {"rand_augment_interpolation": "bilinear", "rand_augment_whole_frame": False}
ORIGINAL_AUGMENT = {"rand_augment_interpolation": "bicubic", "rand_augment_whole_frame": True}
ALL = {"image_size_px": 224, "precision": "fp16", "gradient_clip": None, "ema_decay": None}
RATES_MIR, RATES_CLS = (3e-5, 1e-6, 1e-5), (1.2e-2, 4e-6, 4e-5)
PUBLISHED = {"epochs": 0, "start": None}
EGOVLP_PRETRAIN = {
    **CROP,
    "horizontal_flip": 0.5,
    "optimizer": "adamw",
    "schedule": "constant",
    "warmup_epochs": 0,
    "epochs": 10,
    "batch_size": 512,
    "weight_decay": 0,
    "frames": 4,
    "loss_name": "egonce",
    "loss_values": {"temperature": 0.05, "learn_temperature": False, "tags": "verb_and_noun"},
    "neighbours": True,
    "neighbour_seconds": 60,
}
EGOVLP_MIR = {
    **CROP,
    "horizontal_flip": 0.5,
    "optimizer": "adamw",
    "schedule": "constant",
    "epochs": 100,
    "weight_decay": 0,
    "frames": 16,
    "loss_name": "max_margin",
    "loss_values": {"margin": 0.2},
    "min_relevancy": 0.1,
    "start": "egovlp_pretrain",
}
EGOVLP_CHARADES = {
    "task": "contrastive",
    "epochs": 20,
    "frames": 16,
    "loss_name": "egonce",
    "loss_values": {"temperature": 0.05, "learn_temperature": False, "tags": "none"},
    "neighbours": False,
}
EGOVLP: dict[str, tuple[dict[str, Any], tuple[float, float, float]]] = {
    "egovlp_pretrain": (EGOVLP_PRETRAIN, (3e-5, 1e-6, 1e-5)),
    "egovlp_mir": (EGOVLP_MIR, (3e-5, 1e-6, 1e-5)),
    "egovlp_plus_mir": (
        {**EGOVLP_MIR, "loss_name": "adaptive_max_margin", "loss_values": {"margin": 0.4}},
        (3e-5, 1e-6, 1e-5),
    ),
    "egovlp_charades": (EGOVLP_CHARADES, (3e-5, 1e-6, 1e-5)),
}
DECAYED = {"force_weight_decay": ("*.positional_embedding", "*.class_embedding")}
LAVILA_PRETRAIN = {
    **PRETRAIN,
    **DECAYED,
    "batch_size": 1024,
    "sampling": "lavila_segments",
    "validate_with": "lavila_zero_shot_mir",
    "narrations": ("rephrased", "narrated"),
}
LAVILA_MIR = {
    **MIR,
    **DECAYED,
    "drop_path": 0.1,
    "sampling": "lavila_segments",
    "start": "lavila_pretrain",
    "validate_with": "lavila_mir_test",
}
LAVILA_CLS = {
    **CROP,
    **DECAYED,
    "optimizer": "sgd",
    "momentum": 0.9,
    "schedule": "cosine",
    "warmup_epochs": 1,
    "batch_size": 512,
    "epochs": 100,
    "weight_decay": 4e-5,
    "frames": 16,
    "horizontal_flip": 0.5,
    "drop_path": 0.1,
    "head_dropout": 0.5,
    "label_smoothing": 0.1,
    "mixup": 0,
    "start": "lavila_pretrain",
}
LAVILA: dict[str, tuple[dict[str, Any], tuple[float, float, float]]] = {
    "lavila_pretrain": (LAVILA_PRETRAIN, (3e-5, 1e-6, 1e-5)),
    "lavila_mir": (LAVILA_MIR, (3e-5, 1e-6, 1e-5)),
    "lavila_cls": ({**LAVILA_CLS, "label": "action", "further_labels": ("verb", "noun")}, (3e-4, 1e-6, 1e-6)),
    "lavila_egtea": ({**LAVILA_CLS, "sampling": "padded_window", "stride": 2}, (3e-4, 1e-6, 1e-6)),
    "lavila_charades": (
        {
            **DECAYED,
            **{"task": "contrastive", "epochs": 10, "loss_name": "info_nce", "drop_path": 0.1, "frames": 16},
        },
        (3e-5, 1e-6, 1e-5),
    ),
}
RECIPES: dict[tuple[str, str, str], tuple[dict[str, Any], tuple[float, float, float]]] = {
    ("avion", "vit_b_human", "avion_pretrain"): ({**PRETRAIN, "batch_size": 2048}, (3e-5, 1e-6, 1e-5)),
    ("avion", "vit_b_llm", "avion_pretrain"): ({**PRETRAIN, "batch_size": 2048}, (3e-5, 1e-6, 1e-5)),
    ("avion", "vit_l_llm", "avion_pretrain"): ({**PRETRAIN, "batch_size": 896}, (3e-5, 1e-6, 1e-5)),
    **{
        ("avion", run, stage): recipe
        for run in ("vit_b_human", "vit_b_llm", "vit_l_llm")
        for stage, recipe in {
            "avion_mir": (MIR, RATES_MIR),
            "avion_mir_sms": (SMS, (2e-5, 1e-6, 2e-6)),
            "avion_cls": (CLS, RATES_CLS),
        }.items()
    },
    ("avion", "vit_l_llm", "avion_mir_sms"): ({**SMS, "batch_size": 240}, (2e-5, 1e-6, 1e-6)),
    ("videomae", "videomae_avion", "vit_b_videomae"): (
        {**MASKED, **AVIONS_MASKED},
        (1.5e-4, 1e-6, 1e-5),
    ),
    ("videomae", "videomae_avion", "vit_b_kinetics"): (
        {**KINETICS, **AVIONS_AUGMENT, "batch_size": 256},
        (1.5e-3, 1e-6, 1e-6),
    ),
    ("videomae", "videomae_original", "vit_b_videomae"): (
        {**MASKED, **ORIGINAL_MASKED},
        (1.2e-3, 0.0, 8e-5),
    ),
    ("videomae", "videomae_original", "vit_b_kinetics"): (
        {**KINETICS, **ORIGINAL_AUGMENT, "batch_size": 512},
        (2e-3, 0.0, 2e-6),
    ),
    **{("egovlp", "egovlp", stage): recipe for stage, recipe in EGOVLP.items()},
    **{
        ("egovlp", "egovlp_published", stage): recipe
        for stage, recipe in {**EGOVLP, "egovlp_pretrain": (PUBLISHED, (3e-5, 1e-6, 1e-5))}.items()
    },
    **{
        ("lavila", run, stage): recipe
        for run in ("tsf_b", "tsf_l")
        for stage, recipe in LAVILA.items()
        if (run, stage) != ("tsf_l", "lavila_pretrain")
    },
    ("lavila", "tsf_l", "lavila_pretrain"): ({**LAVILA_PRETRAIN, "epochs": 3}, (3e-5, 1e-6, 1e-5)),
    ("lavila", "tsf_b_published", "lavila_pretrain"): (PUBLISHED, (3e-5, 1e-6, 1e-5)),
    ("lavila", "tsf_l_published", "lavila_pretrain"): (PUBLISHED, (3e-5, 1e-6, 1e-5)),
}
"""By experiment, run and stage: settings, and the rates as they are used: peak, start of warm-up, end."""


@cache
def experiment(name: str) -> Settings:
    return load_settings(experiments.experiment(name))


@pytest.mark.parametrize("place", RECIPES, ids="-".join)
def test_a_recipe_is_the_published_one(place: tuple[str, str, str]) -> None:
    settings = experiment(place[0]).stage(*place[1:])
    published, rates = RECIPES[place]
    wanted = {**ALL, **published}
    assert {name: getattr(settings, name) for name in wanted} == wanted
    schedule = schedule_of(settings, steps_per_epoch=10)
    assert (schedule.peak, schedule.start, schedule.final) == pytest.approx(rates)


def test_chunks_are_as_high_as_the_originals() -> None:
    datasets = {**experiment("avion").datasets, "kinetics": experiment("videomae").datasets["kinetics"]}
    heights = {name: datasets[name].transcode.short_side_px for name in ("ego4d", "ek100", "kinetics")}
    assert heights == {"ego4d": 288, "ek100": 320, "kinetics": 320}


def test_windows_of_kinetics_count_the_frames_of_its_files() -> None:
    datasets = {**experiment("avion").datasets, "kinetics": experiment("videomae").datasets["kinetics"]}
    rates = {name: datasets[name].transcode.fps for name in ("ego4d", "ek100", "kinetics")}
    assert rates == {"ego4d": 30, "ek100": 30, "kinetics": None}


SIZES: dict[str, Size] = {}
"""By what decides them; several recipes train the same model."""


def size_of(stage: StageSettings) -> Size:
    further = {"classes": 3806} if stage.predicts else {}
    what = repr(
        (stage.model, stage.trains, stage.model_arguments(), stage.precision, stage.dry_run_arguments())
    )
    if what not in SIZES:
        SIZES[what] = stage_size(stage, **further)
    return SIZES[what]


SMALLER = ("lavila_cls", "lavila_egtea", "lavila_charades", "egovlp_charades")
"""Stages that take no more memory than their experiment's retrieval, on as many clips of as many frames."""
LARGE = [place for place, (recipe, _) in RECIPES.items() if recipe.get("epochs") and place[2] not in SMALLER]


@pytest.mark.slow
@pytest.mark.parametrize("place", LARGE, ids="-".join)
def test_a_stage_fits_the_gpus_that_its_head_names(place: tuple[str, str, str]) -> None:
    stage = experiment(place[0]).stage(*place[1:])
    assert stage.gradient_checkpointing == "auto"
    size = size_of(stage)
    plain, checkpointed = (step_bytes(stage, size, checkpointing=on) for on in (False, True))
    assert checkpointed < USABLE * GPU_BYTES
    small = place[0] == "videomae" or stage.process_batch_size == 4
    assert (plain < USABLE * GPU_BYTES) == small, (
        "only VideoMAE and EgoVLP's fine-tuning need no checkpointing"
    )


@pytest.mark.parametrize("name", ["avion", "videomae", "egovlp", "lavila"])
def test_every_stage_of_every_run_is_in_the_table(name: str) -> None:
    settings = experiment(name)
    stages = {(name, run, stage) for run in settings.selected_runs for stage in settings.runs[run].stages}
    assert stages == {place for place in RECIPES if place[0] == name}


def test_the_published_texts_are_trained_on_with_avions_recipe() -> None:
    avion, published = experiment("avion"), experiment("avion_published_text")
    [run] = published.selected_runs
    stage = published.stage(run, "avion_pretrain").recipe()
    assert stage.pop("narrations") == ["rephrased", "narrated"]
    theirs = avion.stage("vit_b_llm", "avion_pretrain").recipe()
    assert theirs.pop("narrations") == ["rephrased"] and stage == theirs
    assert published.datasets["ego4d"].clips_from == "ego4d_train.pkl"
    assert (published.narrate.chosen, published.narrator.chosen) == (
        "published_rephrasings",
        "published_narrations",
    )


def test_the_records_are_avions_models_with_four_gpus_and_other_evaluations() -> None:
    avion, records = experiment("avion"), experiment("records")
    for run in ("vit_b_llm", "vit_l_llm"):
        for stage in ("avion_pretrain", "avion_mir_sms"):
            assert records.stage(run, stage).recipe() == avion.stage(run, stage).recipe()
    stage = records.stage("vit_b_llm", "avion_mir_sms")
    assert (stage.world_size, stage.process_batch_size) == (4, 64)
    best = records.evaluations["records_dual_softmax"]
    assert best.recipe() == avion.evaluations["avion_mir_sms_test"].recipe() | {
        "mirror": True,
        "ensemble": [{"run": "vit_b_llm", "evaluation": "records_mirror"}],
        "dual_softmax": True,
    }
    workflow = Workflow(records)
    files = evaluation_files(workflow, best)
    assert files["ensemble_1"] == "results/vit_b_llm/records_mirror/outputs.safetensors"
    alone = Workflow(records, ("vit_l_llm",))
    assert ("vit_b_llm", "avion_mir_sms") in {(stage.run, stage.name) for stage in alone.trained_stages()}


@pytest.mark.parametrize(
    ("run", "evaluation", "message"),
    [
        ("vit_x", "records_mirror", "needs the evaluation 'records_mirror' of a run 'vit_x'"),
        ("vit_b_llm", "avion_egomcq", "needs the evaluation 'avion_egomcq' of a run 'vit_b_llm'"),
        ("vit_l_llm", "records_ensemble", "'records_ensemble' has an ensemble itself"),
        ("human", "egomcq", "'egomcq' measures multiple_choice on 'ego4d', not retrieval on 'ek100'"),
        ("vit_l_llm", "records_mirror", "'records_mirror' of the run 'vit_l_llm' has the model and"),
    ],
)
def test_members_that_cannot_be_averaged_are_refused(run: str, evaluation: str, message: str) -> None:
    settings = experiment("records").model_dump(exclude_unset=True)
    settings["evaluations"]["records_dual_softmax"]["ensemble"] = [{"run": run, "evaluation": evaluation}]
    with pytest.raises(SettingsError) as caught:
        load_settings(settings)
    assert f"evaluations.records_dual_softmax.ensemble: {message}" in str(caught.value)


def test_a_member_is_named_once() -> None:
    settings = experiment("records").model_dump(exclude_unset=True)
    settings["evaluations"]["records_dual_softmax"]["ensemble"] *= 2
    with pytest.raises(SettingsError, match="ensemble: names an evaluation twice"):
        load_settings(settings)


def test_an_ensemble_validates_no_stage() -> None:
    settings = experiment("records").model_dump(exclude_unset=True)
    settings["stages"]["avion_mir_sms"]["validate_with"] = "records_ensemble"
    with pytest.raises(SettingsError, match="'records_ensemble' has an ensemble; name one without"):
        load_settings(settings)


@pytest.mark.parametrize("name", ["avion", "videomae", "records", "egovlp", "lavila"])
def test_the_head_says_command_hardware_hours_and_result_with_its_source(name: str) -> None:
    head = (ROOT / "configs" / f"{name}.yaml").read_text().partition("\n\n")[0]
    source = {"egovlp": "arXiv 2206.01670", "lavila": "arXiv 2212.04501"}.get(name, "arXiv 2309.16669")
    words = ["snakemake --cores all", "hardware", "GPU hours", source]
    assert all(word in head for word in [*words, *experiment(name).selected_runs]), head
