"""Settings: what is refused and what the message says; what a stage inherits."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from avion_core.config import (
    STAGE_TASKS,
    NarrateSettings,
    RephraserSettings,
    SettingsError,
    StageJob,
    StageSettings,
    load_settings,
)
from avion_core.configfile import lay_over
from avion_core.workflow import Workflow

ROOT = Path(__file__).parents[2]
DEMO = yaml.safe_load((ROOT / "config.yaml").read_text())
FROZEN = {
    "task": "captioning",
    "dataset": "ego4d",
    "model": "toy_narrator",
    "freeze_language_model": True,
}


def broken(change: Callable[[dict[str, Any]], Any]) -> str:
    config = copy.deepcopy(DEMO)
    change(config)
    with pytest.raises(SettingsError) as caught:
        load_settings(config)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(sede=1), ["'sede'", "'seed'"]),
        (lambda c: c.update(transcode={"chunk_second": 3}), ["'transcode.chunk_second'", "'chunk_seconds'"]),
        (
            lambda c: c["stages"]["finetune_mir"].update(learning_rte=1),
            ["stages.finetune_mir.learning_rte", "'learning_rate'"],
        ),
        (
            lambda c: c["runs"]["llm"]["stages"]["finetune_mir"].update(learning_rte=1),
            ["runs.llm.stages.finetune_mir", "'learning_rate'"],
        ),
        (
            lambda c: c["narrate"].update(language_model={"max_used": 1}),
            ["narrate.language_model.max_used", "'max_usd'"],
        ),
    ],
)
def test_unknown_setting_is_refused_with_the_nearest_name(
    change: Callable[..., Any], words: list[str]
) -> None:
    message = broken(change)
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(transcode={"crf": 99}), ["transcode.crf", "51", "99"]),
        (
            lambda c: c["stages"]["finetune_mir"].update(learning_rate=0),
            ["stages.finetune_mir.learning_rate", "greater than 0"],
        ),
        (lambda c: c["stages"]["finetune_mir"].update(batch_size=0), ["stages.finetune_mir.batch_size"]),
        (
            lambda c: c["stages"]["finetune_mir"].update(batch_size=9, processes=2),
            ["batch_size (9)", "(1 x 2)"],
        ),
        (
            lambda c: c["stages"]["finetune_mir"].update(batch_size=12, nodes=4, processes=2),
            ["batch_size (12)", "nodes times processes (4 x 2)"],
        ),
        (
            lambda c: c["stages"]["finetune_mir"].update(batch_size=12, processes=2, accumulation_steps=4),
            ["accumulation_steps (4)", "(6: batch_size 12 over nodes times processes (1 x 2))"],
        ),
        (lambda c: c["stages"]["finetune_mir"].update(ema_decay=1), ["stages.finetune_mir.ema_decay", "1"]),
        (
            lambda c: c["stages"]["finetune_mir"].update(best_metric="mAP.mean"),
            ["best_metric", "validate_with"],
        ),
        (
            lambda c: c["runs"]["llm"]["stages"]["finetune_mir"].update(epochs=-1),
            ["runs.llm.stages.finetune_mir", "epochs"],
        ),
        (lambda c: c["narrate"].update(provider="gpt"), ["narrate.provider", "lexicon", "language_model"]),
        (
            lambda c: c["stages"]["finetune_mir"].update(start_weights="a.pt"),
            ["start and start_weights exclude each other"],
        ),
        (
            lambda c: c["stages"]["pretrain"].update(
                rand_augment="rand-m9", rand_augment_whole_frame=True, augment_on="device"
            ),
            ["augment_on (device)", "rand_augment_whole_frame", "set augment_on: loader"],
        ),
        (
            lambda c: c["stages"]["pretrain_videomae"].update(decoder_mask_ratio=0.3),
            ["decoder_mask_ratio", "multiple of 0.25"],
        ),
        (lambda c: c["stages"]["pretrain"].update(patch_dropout=1), ["patch_dropout", "less than 1"]),
        (lambda c: c.update(seed=-1), ["seed", "greater than or equal to 0"]),
        (
            lambda c: c["narrate"].update(rephrase={"instruction": "Say it\0again."}),
            ["narrate.rephrase: instruction: has a NUL"],
        ),
        (
            lambda c: c.update(narrator={"instruction": "Say what they're doing. " * 1200}),
            ["narrator: instruction: too long for a job's command (33604 bytes"],
        ),
        (
            lambda c: c["stages"]["pretrain"].update(waive_missing=["a", "ü" * 6000]),
            ["stages.pretrain: waive_missing: too long"],
        ),
        (
            lambda c: (c["stages"].update(narrator=FROZEN), c["runs"]["llm"]["stages"].update(narrator={})),
            ["runs.llm.stages.narrator: freeze_language_model: ", "start from a narrator"],
        ),
    ],
)
def test_value_out_of_range_is_refused_by_name(change: Callable[..., Any], words: list[str]) -> None:
    message = broken(change)
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(selected_runs=["lllm"]), ["selected_runs", "'lllm'", "'llm'"]),
        (
            lambda c: c["runs"]["llm"]["stages"].update(finetune_mirr={}),
            ["runs.llm.stages", "'finetune_mirr'", "'finetune_mir'"],
        ),
        (lambda c: c["stages"]["finetune_mir"].update(dataset="ek10"), ["dataset", "'ek10'", "'ek100'"]),
        (
            lambda c: c["stages"]["finetune_mir"].update(start="pretrain_videomae"),
            ["start", "pretrain_videomae"],
        ),
        (
            lambda c: (
                c["stages"]["finetune_mir"].update(validate_with="other"),
                c["evaluations"].update(other={**c["evaluations"]["mir"], "dataset": "ek10"}),
            ),
            ["evaluations.other.dataset", "'ek10'", "'ek100'"],
        ),
        (
            lambda c: c["stages"]["finetune_mir"].update(validate_with="mir", best_metric="mAP.maen"),
            ["best_metric", "'mAP.maen'", "'mAP.mean'"],
        ),
        (lambda c: c["runs"]["human"].update(evaluations=["mir"]), ["'finetune_mir'", "runs.human"]),
        (lambda c: c["evaluations"].update(pretrain=c["evaluations"]["mir"]), ["'pretrain'", "stage"]),
        (lambda c: c["runs"].update(report=c["runs"]["human"]), ["'report'"]),
        (lambda c: c["datasets"]["ego4d"].update(source="folder"), ["datasets.ego4d", "section 'folder'"]),
    ],
)
def test_name_that_refers_to_nothing_is_refused(change: Callable[..., Any], words: list[str]) -> None:
    message = broken(change)
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(selected_runs="human"), ["selected_runs", "write [human]", "'human'"]),
        (lambda c: c["runs"]["llm"].update(evaluations="mir"), ["runs.llm.evaluations", "write [mir]"]),
        (lambda c: c["runs"]["llm"].update(stages="pretrain"), ["runs.llm.stages", "a mapping"]),
        (lambda c: c["runs"]["llm"].update(stages=["pretrain"]), ["runs.llm.stages", "a mapping"]),
        (lambda c: c["stages"]["pretrain"].update(narrations="human"), ["narrations", "write [human]"]),
        (lambda c: c["stages"]["pretrain"].update(betas=0.9), ["stages.pretrain.betas", "a list"]),
        (
            lambda c: c["runs"]["llm"]["stages"]["pretrain"].update(narrations="human"),
            ["runs.llm.stages.pretrain", "narrations", "write [human]"],
        ),
        (lambda c: c.update(stages=None), ["stages", "a mapping"]),
        (lambda c: c["stages"].update(pretrain=None), ["stages.pretrain", "a mapping"]),
        (lambda c: c["stages"].update(pretrain=[]), ["stages.pretrain", "a mapping"]),
        (lambda c: c["narrate"].update(rephrase="more"), ["narrate.rephrase", "a mapping"]),
    ],
)
def test_a_value_where_a_list_or_a_section_is_meant(change: Callable[..., Any], words: list[str]) -> None:
    message = broken(change)
    assert all(word in message for word in words), message
    assert "\n" not in message


def test_what_a_new_entry_lacks_is_explained() -> None:
    """An experiment that says `source` brings a new data set: the demo's layout is not taken over."""
    message = broken(lambda c: c["datasets"].update(ek100={"source": "local", "local": {"path": "x"}}))
    assert "'datasets.ek100.layout' is missing" in message
    assert "takes nothing from config.yaml" in message


@pytest.mark.parametrize(
    ("section", "entry", "words"),
    [
        ("datasets", {"folder": {"videos": "x", "narrations": "y"}}, ["layout", "--configfile"]),
        ("stages", {"epochs": 3}, ["stages.new.task", "--configfile"]),
        ("runs", {"evaluations": ["mir"]}, ["runs.new.title", "--configfile"]),
        ("datasets", {"layout": "ek100", "source": "local", "local": {}}, ["datasets.new.local.path"]),
    ],
)
def test_a_change_to_an_entry_that_no_file_defines_is_explained(section, entry, words) -> None:
    """As when the experiment's own file was forgotten on the command line."""
    message = broken(lambda c: c[section].update(new=entry))
    assert all(word in message for word in ["is missing", *words])


def test_common_transcode_setting_out_of_range_is_reported_once() -> None:
    assert broken(lambda c: c.update(transcode={"crf": 99})).count("\n") == 0


@pytest.mark.parametrize(
    ("stage", "change", "words"),
    [
        ("finetune_mir", {"loss": "sigmoid"}, ["'relevancy' has no loss 'sigmoid'", "max_margin"]),
        ("finetune_mir", {"loss": "triplet"}, ["stages.finetune_mir.loss", "'triplet'"]),
        ("finetune_cls", {"loss": "info_nce"}, ["'classification' has no loss 'info_nce'", "leave loss out"]),
        ("pretrain", {"margin": 0.2}, ["margin", "'contrastive'", "'info_nce', which takes temperature"]),
        ("pretrain", {"logit_bias": -5}, ["logit_bias", "'info_nce', which takes"]),
        ("pretrain", {"narrated_temperature": 0.1}, ["the stage has no narrated clips; add 'narrated'"]),
        ("pretrain", {"tags": "verb"}, ["tags does not go with", "'info_nce'", "with the loss egonce"]),
        ("finetune_mir", {"relaxation": 0.1}, ["relaxation", "'max_margin', which takes margin"]),
        ("finetune_cls", {"margin": 0.2}, ["margin", "'classification'"]),
        (
            "finetune_cls",
            {"negatives": "local"},
            ["negatives does not go with the task 'classification'", "contrastive and relevancy"],
        ),
        ("pretrain", {"processes": 32, "negatives": "local"}, ["at least two", "batch_size"]),
        ("pretrain", {"nodes": 8, "processes": 4, "negatives": "local"}, ["at least two", "batch_size"]),
        ("finetune_cls", {"mixup": 0.8, "batch_size": 6, "processes": 2}, ["(3) must be even"]),
    ],
)
def test_what_does_not_fit_the_loss_is_one_clear_error(
    stage: str, change: dict[str, Any], words: list[str]
) -> None:
    message = broken(lambda c: c["stages"][stage].update(change))
    assert all(word in message for word in words), message
    assert "\n" not in message


PUBLISHED: dict[str, dict[str, dict[str, Any]]] = {
    "contrastive": {
        "info_nce": {"temperature": 0.07, "learn_temperature": False, "narrated_temperature": None},
        "sigmoid": {"temperature": 0.1, "learn_temperature": True, "logit_bias": -10.0},
        "egonce": {"temperature": 0.05, "learn_temperature": False, "tags": "verb_and_noun"},
    },
    "relevancy": {
        "symmetric_multi_similarity": {"margin": 0.6, "relaxation": 0.1},
        "max_margin": {"margin": 0.2},
        "adaptive_max_margin": {"margin": 0.4},
    },
}
"""Settings of every loss, the default of each task first."""


def test_every_loss_is_in_the_table() -> None:
    losses = {task: list(settings.losses) for task, settings in STAGE_TASKS.items() if len(settings.losses)}
    assert losses == {task: list(losses) for task, losses in PUBLISHED.items()}


@pytest.mark.parametrize("task", PUBLISHED)
def test_a_loss_has_its_published_values_unless_they_are_set(task: str) -> None:
    common = {"task": task, "dataset": "any", "model": "any"}
    assert StageSettings.model_validate(common).loss_name == next(iter(PUBLISHED[task]))
    for loss, published in PUBLISHED[task].items():
        settings = StageSettings.model_validate({**common, "loss": loss})
        assert settings.loss_values == published
        for name, value in published.items():
            wanted = {bool: lambda on: not on, str: lambda _: "verb"}.get(type(value), lambda _: 0.25)(value)
            other = StageSettings.model_validate({**common, "loss": loss, name: wanted})
            assert other.loss_values == {**published, name: wanted}
            null = StageSettings.model_validate({**common, "loss": loss, name: None})
            assert null.loss_values == published


def test_neighbours_are_in_a_recipe_only_if_there_are_any() -> None:
    common = {"task": "contrastive", "dataset": "any", "model": "any"}
    without = StageSettings.model_validate({**common, "neighbour_seconds": 30})
    assert without.recipe() == StageSettings.model_validate(common).recipe()
    assert without.clips_per_row == 1
    recipes = []
    for seconds in (30.0, 60.0):
        chosen = StageSettings.model_validate({**common, "neighbours": True, "neighbour_seconds": seconds})
        assert chosen.clips_per_row == 2
        recipes.append(chosen.recipe())
        assert StageSettings.model_validate(recipes[-1]).recipe() == recipes[-1]
    assert recipes[0] == recipes[1] | {"neighbour_seconds": 30.0} != recipes[1]


def test_another_loss_in_a_run_brings_its_own_values() -> None:
    config = copy.deepcopy(DEMO)
    config["runs"]["llm"]["stages"]["finetune_mir"] = {"loss": "symmetric_multi_similarity"}
    settings = load_settings(config)
    assert settings.stages["finetune_mir"].loss_values == {"margin": 0.2}
    assert settings.stage("llm", "finetune_mir").loss_values == {"margin": 0.6, "relaxation": 0.1}


def test_run_changes_only_what_it_names() -> None:
    settings = load_settings(DEMO)
    common = settings.stages["pretrain"].model_dump()
    assert settings.stage("untrained", "pretrain").model_dump() == common | {"epochs": 0}


def test_data_set_inherits_transcode_and_may_differ() -> None:
    config = copy.deepcopy(DEMO)
    config["transcode"] = {"crf": 30}
    config["datasets"]["ego4d"].pop("transcode")
    config["datasets"]["kinetics"]["transcode"] = {"short_side_px": 64}
    settings = load_settings(config)
    common = settings.transcode
    assert settings.datasets["ego4d"].transcode == common
    assert settings.datasets["kinetics"].transcode == common.model_copy(update={"short_side_px": 64})


@pytest.mark.parametrize(
    ("start_weights", "paths"),
    [
        (None, []),
        ("open_clip:ViT-B-16/openai", [("data/weights/open_clip/ViT-B-16/openai", True)]),
        ("weights/avion.pt", [("weights/avion.pt", False)]),
        (
            ["open_clip:ViT-L-14/openai", "distilbert.safetensors"],
            [("data/weights/open_clip/ViT-L-14/openai", True), ("distilbert.safetensors", False)],
        ),
    ],
)
def test_start_weights_are_files_or_are_downloaded(
    start_weights: str | list[str] | None, paths: list[tuple[str, bool]]
) -> None:
    config = copy.deepcopy(DEMO)
    config["stages"]["pretrain"]["start_weights"] = start_weights
    settings = load_settings(config)
    files = Workflow(settings).weight_files(settings.stages["pretrain"])
    assert [(file.path, file.fetched) for file in files] == paths


def test_a_key_goes_with_one_file_of_weights() -> None:
    config = copy.deepcopy(DEMO)
    config["stages"]["pretrain"] |= {"start_weights": ["a.pt", "b.pt"], "start_weights_key": "ema"}
    with pytest.raises(SettingsError, match="start_weights_key goes with a single file"):
        load_settings(config)


def test_recipe_and_job_part_the_settings() -> None:
    settings = load_settings(DEMO)
    stage, evaluation = settings.stages["pretrain"], settings.evaluations["mir"]
    assert stage.job_settings().keys() == StageJob.model_fields.keys()
    assert evaluation.job_settings().keys() == {
        "threads",
        "gpus",
        "memory_mb",
        "clip_timeout_seconds",
        "max_bad_share",
    }
    for job, left_out in (
        (stage, stage.omitted()),
        (evaluation, {"precision", "mirror", "ensemble", "dual_softmax"}),
    ):
        assert job.recipe().keys() | job.job_settings().keys() == type(job).model_fields.keys() - left_out
        assert type(job).model_validate(json.loads(json.dumps(job.recipe() | job.job_settings()))) == job
    elsewhere = stage.model_copy(update={"nodes": 2, "processes": 4, "gpus": 4})
    assert elsewhere.recipe() == stage.recipe()
    apart = [job.model_copy(update={"negatives": "local"}) for job in (stage, elsewhere)]
    assert apart[0].recipe() != apart[1].recipe()  # a process's negatives are others then
    assert StageSettings.model_validate(apart[1].recipe() | apart[1].job_settings()) == apart[1]


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        (
            {"stages": {"pretrian": {"epochs": 2}}},
            "'stages.pretrian.task' is missing; no entry is called 'pretrian'",
        ),
        (
            {"stages": {"pretrain": {"epochs": True}}},
            "stages.pretrain: epochs: a number is expected .got true",
        ),
        ({"shards": True}, "shards: a number is expected"),
        (
            {"stages": {"pretrain": {"learning_rate_batch": True}}},
            "learning_rate_batch: a number is expected",
        ),
        ({"stages": {"pretrain": {"betas": [0.9, False]}}}, "betas: a number is expected .got false"),
        ({"evaluations": {"kinetics": {"crops": True}}}, "evaluations.kinetics: crops: a number is expected"),
        ({"stages": {"pretrain": {"learning_rate": float("inf")}}}, "learning_rate: .*finite"),
        ({"stages": {"pretrain": {"narrations": []}}}, "narrations: .*at least 1"),
        (
            {"stages": {"pretrain": {"start": "pretrain"}}},
            "pretrain.start: the stage would start from itself",
        ),
        ({"selected_runs": []}, "selected_runs: .*at least 1"),
        ({"selected_runs": ["human", "human"]}, "selected_runs: a run is named twice"),
        (
            {"runs": {"mine": {"title": "M", "stages": {}, "evaluations": []}}},
            "runs.mine.stages: .*at least 1",
        ),
        ({"results_dir": "./data/"}, "data_dir and results_dir are the same folder"),
        (
            {"datasets": {"ek100": {"source": "local", "layout": "ek100", "local": {"paht": "x"}}}},
            "'datasets.ek100.local.paht'; did you mean 'path'",
        ),
    ],
)
def test_what_no_run_can_mean_is_refused(overlay, message):
    with pytest.raises(SettingsError, match=message):
        load_settings(lay_over(DEMO, overlay))


def test_stages_that_start_from_each_other_are_refused():
    stages = {"finetune_mir": {"start": "finetune_cls"}, "finetune_cls": {"start": "finetune_mir"}}
    runs = {"mine": {"title": "M", "stages": stages, "evaluations": []}}
    with pytest.raises(SettingsError, match=r"finetune_mir\.start: the stage would start from itself"):
        load_settings(lay_over(DEMO, {"runs": runs}))


@pytest.mark.parametrize(
    "address",
    [
        "https://me:hunter2word@api.example/v1",
        "https://hunter2word@api.example/v1",
        "https://api.example/v1?api-key=hunter2word",
        "https://api.example/v1#hunter2word",
        ["https://me:hunter2word@api.example/v1?key=hunter2word"],
        {"url": "https://me:hunter2word@api.example"},
    ],
)
def test_a_password_in_an_address_is_refused_and_not_shown(address):
    said = broken(lambda c: c.update(narrate={"language_model": {"base_url": address}}))
    assert "narrate.language_model.base_url" in said and "hunter2word" not in said
    said = broken(lambda c: c.update(narrate=str(address)))
    assert "hunter2word" not in said.replace("#hunter2word", "")
    with pytest.raises(ValueError, match="base_url") as caught:
        RephraserSettings.model_validate({"base_url": address})
    assert "hunter2word" not in str(caught.value)


def test_a_job_that_waits_for_batches_has_more_than_a_day() -> None:
    settings = NarrateSettings.model_validate(
        {"provider": "language_model", "language_model": {"batch": True}}
    )
    assert 24 * 60 < settings.own.job_minutes < 2 * 24 * 60
    assert NarrateSettings().own.job_minutes == 720


def test_of_a_language_models_settings_only_model_and_temperature_decide_a_text() -> None:
    settings = NarrateSettings.model_validate({"provider": "language_model"})
    changes: dict[str, Any] = {
        "base_url": "http://127.0.0.1:9/v1",
        "temperature": 0.1,
        "model": "m",
        "schema_bound": False,
        "requests_per_minute": 60,
        "tokens_per_minute": 1000,
        "batch": True,
        "batch_price_share": 0.7,
        "key_variable": "MY_KEY",
    }
    for name, value in settings.of(RephraserSettings).model_dump(exclude={"client"}).items():
        changed = changes[name] if name in changes else (value or 0) + 1
        own = settings.of(RephraserSettings).model_copy(update={name: changed})
        other = settings.model_copy(update={"language_model": own})
        decides = other.recipe() != settings.recipe()
        assert decides == (name in ("model", "temperature")), name
        assert NarrateSettings.join(other.recipe(), other.job_settings()) == other, (
            "nothing is lost on the way"
        )
