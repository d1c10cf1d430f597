"""Whole stages over real chunks: what they publish, how they chain, and what stops them."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from avion_core import command
from avion_core.config import RELEVANCY_LOSSES, EvaluationSettings
from avion_core.evaluations import EVALUATIONS
from avion_core.files import read_json, sha256
from avion_core.models import architecture, layers
from avion_core.models.export import EXPORTS
from avion_core.models.store import load_model
from avion_core.train.checkpoint import CheckpointStore
from avion_core.train.engine import Training
from avion_core.train.preemption import PREEMPTED_EXIT_CODE
from avion_core.train.validation import ValidationData
from tests.support.processes import PYTHON, in_processes
from tests.support.recipes import CLASSIFICATION, CONTRASTIVE, MASKED
from tests.support.training import equal, lines, train, weights
from tests.support.warm_python import wait_for_forks_in

PUBLISHED = ["manifest.json", "model.json", "model.safetensors", "train.jsonl"]


@pytest.fixture(scope="module")
def pretrained(kitchen, tmp_path_factory):
    return train(kitchen, tmp_path_factory.mktemp("run") / "pretrain", CONTRASTIVE)


def test_a_finished_stage_is_four_files_that_describe_it_and_a_folder_of_curves(kitchen, pretrained):
    assert sorted(path.name for path in pretrained.iterdir()) == sorted([*PUBLISHED, "tensorboard"])
    assert [line["step"] for line in lines(pretrained)] == [1, 2, 3, 4, 5, 6]
    _, description = load_model(pretrained)
    assert (description.kind, description.frames, description.image_size_px) == ("dual_encoder", 2, 32)
    assert (description.task, description.sampling, description.stride) == ("contrastive", "segments", 4)
    manifest = read_json(pretrained / "manifest.json")
    assert manifest["inputs"]["clips_1"]["sha256"] == sha256(kitchen / "clips.arrow")
    assert manifest["settings"]["seed"] == 0
    assert manifest["settings"]["stage"]["learning_rate"] == 1e-3


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ("nothing", True),
        ("machine", True),
        ("recipe", False),
        ("seed", False),
        ("start", False),
        ("architecture", False),
        ("validation", False),
        ("clips", False),
        ("chunks", False),
    ],
)
def test_a_finished_stage_is_trained_again_only_where_something_has_changed(
    kitchen, pretrained, tmp_path, monkeypatch, change, kept
):
    """And a stop in mid-training leaves the finished files whole."""
    home, out = tmp_path / "moved", tmp_path / "stage"
    shutil.copytree(pretrained, out)
    shutil.copytree(kitchen, home)
    if change in ("clips", "chunks"):
        with next(home.glob(f"{change}.*")).open("ab") as file:
            file.write(b"changed")
    elif change == "architecture":
        other = architecture.load_architecture("toy_dual_encoder").model_copy(update={"embed_dim": 7})
        monkeypatch.setattr("avion_core.train.stages.load_architecture", lambda name: other)
    recipe = {"recipe": {"learning_rate": 2e-3}, "machine": {"log_every_steps": 2}}.get(change, {})
    arguments = {"seed": 1 if change == "seed" else 0, "start": pretrained if change == "start" else None}
    if change == "validation":
        measured = EvaluationSettings.of_kind("retrieval", dataset="any", stage="pretrain")
        files = {"chunks": home / "chunks.parquet", "clips": home / "clips.arrow"}
        arguments["validation"] = ValidationData(measured, files)
    trained = []
    monkeypatch.setattr(
        "avion_core.train.stages._Stage.fresh_model", lambda stage: trained.append(1) or 1 / 0
    )
    before = {name: (out / name).read_bytes() for name in PUBLISHED}
    with suppress(ZeroDivisionError):
        train(home, out, {**CONTRASTIVE, **recipe}, **arguments)
    assert bool(trained) != kept
    assert {name: (out / name).read_bytes() for name in PUBLISHED} == before


def test_another_precision_of_its_validation_does_not_train_a_stage_again(kitchen, tmp_path, monkeypatch):
    """An evaluation that used to be in fp32 may be a validation of trainings that took days."""
    recipe = {**CONTRASTIVE, "epochs": 1, "validate_with": "own"}
    files = {"chunks": kitchen / "chunks.parquet", "clips": kitchen / "clips.arrow"}

    def run(out, **changes):
        entry = {"kind": "retrieval", "dataset": "any", "stage": "pretrain", **changes}
        return train(
            kitchen, out, recipe, validation=ValidationData(EvaluationSettings.model_validate(entry), files)
        )

    run(tmp_path)
    monkeypatch.setattr("avion_core.train.stages._Stage.fresh_model", lambda stage: 1 / 0)
    run(tmp_path, precision="bf16")
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, crops=3)


def test_a_kill_while_another_result_is_published_leaves_none_that_passes(
    kitchen, pretrained, tmp_path, monkeypatch
):
    out = tmp_path / "stage"
    shutil.copytree(pretrained, out)
    with monkeypatch.context() as broken:
        broken.setattr("avion_core.train.stages.shutil.copyfile", lambda *paths: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(kitchen, out, CONTRASTIVE, seed=1)
    assert not (out / "manifest.json").exists()
    assert equal(train(kitchen, out, CONTRASTIVE), pretrained)


@pytest.fixture(scope="module")
def masked(kitchen, tmp_path_factory):
    return train(kitchen, tmp_path_factory.mktemp("run") / "videomae", MASKED)


def test_the_seed_decides_the_bits(kitchen, masked, tmp_path):
    assert equal(train(kitchen, tmp_path / "again", MASKED), masked)
    assert not equal(train(kitchen, tmp_path / "other", MASKED, seed=1), masked)


def test_an_untrained_stage_decodes_nothing_and_keeps_the_start(kitchen, pretrained, tmp_path):
    recipe = {**CONTRASTIVE, "epochs": 0}
    elsewhere = tmp_path / "without chunks"
    elsewhere.mkdir()
    for name in ("clips.arrow", "chunks.parquet"):
        (elsewhere / name).write_bytes(b"not read")
    kept = train(elsewhere, tmp_path / "kept", recipe, start=pretrained)
    assert equal(kept, pretrained)
    assert sorted(path.name for path in kept.iterdir()) == PUBLISHED
    assert lines(kept) == []
    fresh = train(elsewhere, tmp_path / "fresh", recipe)
    assert not equal(fresh, pretrained)


@pytest.mark.parametrize("layout", ["avion", "avion_flash"])
def test_a_trained_videomae_comes_back_exactly(kitchen, masked, tmp_path, layout):
    """Though the plain layout has no bias of keys, and AdamW would move one."""
    foreign = tmp_path / "avion.pt"
    EXPORTS[layout](masked, foreign)
    started = train(kitchen, tmp_path / "started", {**MASKED, "epochs": 0, "start_weights": str(foreign)})
    assert equal(started, masked)


@pytest.mark.parametrize("layout", ["avion", "avion_flash"])
def test_a_stage_starts_from_others_weights_and_its_manifest_says_which(
    kitchen, pretrained, tmp_path, layout
):
    foreign = tmp_path / "avion.pt"
    EXPORTS[layout](pretrained, foreign)
    recipe = {**CONTRASTIVE, "epochs": 0, "start_weights": str(foreign)}
    started = train(kitchen, tmp_path / "started", recipe)
    assert equal(started, pretrained)
    assert read_json(started / "manifest.json")["inputs"]["start_weights"]["sha256"] == sha256(foreign)
    fresh = {**recipe, "start_fresh": ["*.projection"]}
    partly = weights(train(kitchen, tmp_path / "partly", fresh, seed=1))
    differing = {
        name for name, tensor in weights(pretrained).items() if not torch.equal(partly[name], tensor)
    }
    assert differing == {"vision.projection", "text.projection"}


@pytest.mark.slow
def test_weights_of_open_clip_come_from_a_fetched_file_alone(kitchen, pretrained, tmp_path):
    recipe = {**CONTRASTIVE, "epochs": 0, "start_weights": "open_clip:ViT-B-16/openai"}
    with pytest.raises(ValueError, match=r"run/stage: open_clip:ViT-B-16/openai .* 'snakemake weights'"):
        train(kitchen, tmp_path / "lost", recipe)
    fetched = tmp_path / "openai"
    EXPORTS["avion"](pretrained, fetched)
    started = train(kitchen, tmp_path / "started", recipe, start_weights=fetched)
    assert all(torch.equal(x, weights(pretrained)[name]) for name, x in weights(started).items())
    assert read_json(started / "manifest.json")["inputs"]["start_weights"]["sha256"] == sha256(fetched)


@pytest.mark.slow
def test_other_start_weights_do_not_resume_the_old_run(kitchen, pretrained, tmp_path, monkeypatch):
    foreign = tmp_path / "avion.pt"
    EXPORTS["avion"](pretrained, foreign)
    recipe = {**CONTRASTIVE, "start_weights": str(foreign), "checkpoint_every_steps": 1}
    first = train(kitchen, tmp_path / "first", recipe)
    updates = count_updates(monkeypatch)
    foreign.unlink()
    EXPORTS["avion_flash"](first, foreign)
    train(kitchen, tmp_path / "second", recipe)
    assert len(updates) == 6
    assert not equal(tmp_path / "second", first)


def test_checkpointing_changes_no_bit_of_a_stage(kitchen, masked, tmp_path):
    """That it is on then, test_settings_arrive says."""
    assert equal(train(kitchen, tmp_path / "again", {**MASKED, "gradient_checkpointing": True}), masked)


def test_a_stage_recomputes_where_its_device_is_too_small(kitchen, tmp_path, monkeypatch, capsys):
    chosen = []
    monkeypatch.setattr("avion_core.train.parts.set_checkpointing", lambda model, on: chosen.append(on))
    for device_bytes in (None, 10**12, 1):
        monkeypatch.setattr("avion_core.train.memory.device_bytes", lambda device, own=device_bytes: own)
        train(kitchen, tmp_path / str(device_bytes), {**CLASSIFICATION, "epochs": 1})
    assert chosen == [False, False, True]
    assert capsys.readouterr().err.count("run/stage: gradient checkpointing is on") == 1


def test_where_clips_are_augmented_changes_no_bit_of_a_stage(kitchen, tmp_path, capsys):
    """Nor whether a finished one is trained again."""
    drawn = {"rand_augment": "rand-m9-n4-mstd0.5", "random_erasing": 0.5, "mixup": 0.8}
    recipe = {**CLASSIFICATION, **drawn}
    loader, plain = (
        train(kitchen, tmp_path / "loader", recipe),
        train(kitchen, tmp_path / "plain", CLASSIFICATION),
    )
    device = train(kitchen, tmp_path / "device", {**recipe, "augment_on": "device"})
    assert equal(loader, device) and not equal(loader, plain)
    assert [line["loss"] for line in lines(loader)] == [line["loss"] for line in lines(device)]
    capsys.readouterr()
    train(kitchen, device, recipe)
    assert "nothing it depends on has changed; kept" in capsys.readouterr().err


def test_the_way_to_compute_comes_from_the_settings(kitchen, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr("avion_core.train.parts.compile_blocks", compiled.append)
    train(kitchen, tmp_path / "compiled", {**MASKED, "compile": True})
    assert [model.kind for model in compiled] == ["videomae"]
    with pytest.raises(ValueError, match="attention 'flash' needs"):
        train(kitchen, tmp_path / "flash", {**MASKED, "attention": "flash"})


def test_the_log_names_the_form_of_flash_attention(kitchen, masked, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(layers.ATTENTION_BACKENDS, "flash_2", layers.ATTENTION_BACKENDS["sdpa"])
    train(kitchen, tmp_path, {**MASKED, "attention": "flash"})
    assert "run/stage: attention flash_2" in capsys.readouterr().err
    assert equal(tmp_path, masked)


def test_masking_of_decoder_and_patches_come_from_the_settings(kitchen, masked, tmp_path):
    wide = {**MASKED, "frames": 8, "epochs": 1, "checkpoint_every_steps": 100}
    plain = train(kitchen, tmp_path / "plain", wide)
    assert not equal(train(kitchen, tmp_path / "half", {**wide, "decoder_mask_ratio": 0.5}), plain)
    recipe = {**CONTRASTIVE, "epochs": 1}
    every = train(kitchen, tmp_path / "every", recipe)
    assert not equal(train(kitchen, tmp_path / "few", {**recipe, "patch_dropout": 0.5}), every)


@pytest.mark.slow
def test_relevancy_goes_on_from_pretraining(kitchen, pretrained, tmp_path):
    first = {}
    for loss in RELEVANCY_LOSSES:
        mir = train(
            kitchen, tmp_path / loss, {**CONTRASTIVE, "task": "relevancy", "loss": loss}, start=pretrained
        )
        assert load_model(mir)[1].kind == "dual_encoder"
        assert not equal(mir, pretrained)
        assert all(line["loss"] > 0 for line in lines(mir))
        first[loss] = lines(mir)[0]["loss"]
    assert len(set(first.values())) == 3
    default = train(kitchen, tmp_path / "default", {**CONTRASTIVE, "task": "relevancy"}, start=pretrained)
    assert lines(default)[0]["loss"] == first["symmetric_multi_similarity"]


@pytest.mark.slow
def test_neighbours_and_tags_change_the_training(kitchen, tmp_path):
    plain = {**CONTRASTIVE, "epochs": 1}
    egonce = {**plain, "loss": "egonce", "tags": "none", "temperature": 0.07}
    once = train(kitchen, tmp_path / "once", plain)
    twice = train(kitchen, tmp_path / "twice", egonce)
    # without tags it is twice InfoNCE
    assert lines(twice)[0]["loss"] == pytest.approx(2 * lines(once)[0]["loss"], rel=1e-4)
    beside = train(kitchen, tmp_path / "beside", {**egonce, "neighbours": True, "neighbour_seconds": 10})
    assert lines(beside)[0]["loss"] > lines(twice)[0]["loss"]  # more clips to tell apart
    assert "neighbours" not in read_json(once / "manifest.json")["settings"]["stage"]
    tagged = train(kitchen, tmp_path / "tagged", {**egonce, "tags": "verb"})
    assert lines(tagged)[0]["loss"] < lines(twice)[0]["loss"]  # some other clips are positives


SIGMOID = {**CONTRASTIVE, "loss": "sigmoid", "epochs": 2}


@pytest.fixture(scope="module")
def sigmoid(kitchen, tmp_path_factory):
    return train(kitchen, tmp_path_factory.mktemp("run") / "sigmoid", SIGMOID)


def test_the_sigmoid_losss_bias_and_scale_are_trained_from_their_published_start(sigmoid):
    assert lines(sigmoid)[0]["logit_bias"] == -10
    assert lines(sigmoid)[0]["temperature"] == pytest.approx(0.1)
    last = weights(sigmoid)
    assert -10 < last["logit_bias"] < -9.9
    assert 0 < abs(last["logit_scale"] - math.log(10)) < 0.1


def test_the_sigmoid_losss_bias_is_kept_over_a_stop(kitchen, sigmoid, tmp_path, monkeypatch):
    updates = count_updates(monkeypatch, sigterm_after=1)
    with pytest.raises(SystemExit):
        train(kitchen, tmp_path, SIGMOID)
    train(kitchen, tmp_path, SIGMOID)
    assert updates == [1, 2, 3, 4]
    assert equal(tmp_path, sigmoid)


def test_the_sigmoid_losss_bias_is_waived_on_the_way_to_and_from_another_loss(
    kitchen, pretrained, sigmoid, tmp_path
):
    assert "logit_bias" not in weights(pretrained)
    short = {"epochs": 1, "waive_missing": ["logit_bias"]}
    on = train(kitchen, tmp_path / "on", {**SIGMOID, **short}, start=pretrained)
    assert lines(on)[0]["logit_bias"] == -10
    mir = {**CONTRASTIVE, "task": "relevancy", "epochs": 1}
    with pytest.raises(ValueError, match="1 unexpected: logit_bias"):
        train(kitchen, tmp_path / "refused", mir, start=sigmoid)
    train(kitchen, tmp_path / "mir", {**mir, "waive_unexpected": ["logit_bias"]}, start=sigmoid)
    train(kitchen, tmp_path / "cls", {**CLASSIFICATION, "epochs": 1}, start=sigmoid)


def test_classification_takes_the_video_tower_and_learns_the_label(kitchen, pretrained, tmp_path):
    recipe = {**CLASSIFICATION, "mixup": 0.8, "cutmix": 1.0, "label_smoothing": 0.1, "head_dropout": 0.5}
    model, description = load_model(train(kitchen, tmp_path / "cls", recipe, start=pretrained))
    assert (description.kind, description.classes, description.label) == ("video_classifier", 9, "action")
    assert model.head.out_features == 9


@pytest.mark.parametrize(
    ("recipe", "kind", "metric"),
    [
        (CLASSIFICATION, "recognition", "action_top1"),
        ({**CONTRASTIVE, "task": "relevancy"}, "retrieval", "mAP.mean"),
    ],
)
def test_a_stage_is_validated_by_an_evaluation_and_publishes_its_best(
    kitchen, pretrained, tmp_path, recipe, kind, metric
):
    names = {"retrieval": "sentences.arrow", "recognition": "classes.json"}
    files = {"chunks": kitchen / "chunks.parquet", "clips": kitchen / "clips.arrow"}
    files[names[kind].partition(".")[0]] = kitchen / names[kind]
    settings = EvaluationSettings.of_kind(kind, dataset="any", stage="any", batch_size=4)
    validation = ValidationData(settings, files)
    recipe = {**recipe, "validate_with": kind, "best_metric": metric, "ema_decay": 0.5}
    (tmp_path / ".partial-of-a-kill").mkdir()
    published = train(kitchen, tmp_path, recipe, start=pretrained, validation=validation)
    found = [line["validation"][metric] for line in lines(published) if "validation" in line]
    assert len(found) == recipe["epochs"]
    model, description = load_model(published)
    device = torch.device("cpu")
    again = validation.measure(model.eval(), description, title="again", device=device)
    assert again[metric] == pytest.approx(max(found), abs=1e-6)
    assert again.keys() - {"clips", "sentences"} == set(
        EVALUATIONS[kind].figure_names(recipe.get("label", ""))
    )
    manifest = read_json(published / "manifest.json")
    assert "validation_clips" in manifest["inputs"]
    recorded = manifest["settings"]["validation"]
    assert recorded["best"]["figures"][metric] == max(found)
    assert recorded["last"]["figures"][metric] == found[-1]
    assert not (tmp_path / ".partial-of-a-kill").exists()


def test_videomae_is_fine_tuned_and_says_what_begins_fresh(kitchen, masked, tmp_path, capsys):
    recipe = {
        **CLASSIFICATION,
        "model": "toy_videomae",
        "image_size_px": 64,
        "epochs": 1,
        "label": "verb",
        "optimizer": "lion",
        "betas": [0.9, 0.95],
        "layer_decay": 0.75,
        "drop_path": 0.1,
        "waive_missing": ["head.*", "fc_norm.*"],
    }
    finetune = train(kitchen, tmp_path, recipe, start=masked)
    said = (
        f"starts from {masked}; fresh: fc_norm.bias, fc_norm.weight, head.bias, head.weight; not used: none;"
    )
    assert said in capsys.readouterr().err
    assert load_model(finetune)[1].kind == "videomae_classifier"
    assert {line["learning_rate"] for line in lines(finetune)} == {1e-3}


@pytest.mark.slow
def test_after_a_kill_from_outside_the_rest_gives_the_same_bits(kitchen, tmp_path, monkeypatch):
    recipe = {**CLASSIFICATION, "epochs": 10, "mixup": 0.8, "drop_path": 0.2, "head_dropout": 0.5}
    recipe["checkpoint_every_steps"] = 3
    undisturbed = train(kitchen, tmp_path / "undisturbed", recipe)
    process = start_program(kitchen, tmp_path / "killed", recipe, cwd=tmp_path)
    wait_for(lambda: list((tmp_path / "killed").glob("checkpoints/*/step-*")), process)
    process.kill()
    process.wait()
    wait_for_forks_in(tmp_path)
    reached = max(int(path.name[5:]) for path in (tmp_path / "killed").glob("checkpoints/*/step-*"))
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    second_leg = count_updates(monkeypatch)
    train(kitchen, tmp_path / "killed", recipe)
    assert len(second_leg) == 20 - reached
    assert equal(tmp_path / "killed", undisturbed)
    assert [line["loss"] for line in lines(tmp_path / "killed")] == [
        line["loss"] for line in lines(undisturbed)
    ]


def test_sigterm_saves_and_exits_with_its_own_code(kitchen, masked, tmp_path, monkeypatch, capsys):
    updates = count_updates(monkeypatch, sigterm_after=2)
    with pytest.raises(SystemExit) as stop:
        train(kitchen, tmp_path, MASKED)
    assert stop.value.code == PREEMPTED_EXIT_CODE == 3
    assert "run/stage: asked to stop; saved after step 3 of 4" in capsys.readouterr().err
    train(kitchen, tmp_path, {**MASKED, "memory_mb": 4000, "loader_workers": 1})  # another machine
    assert len(updates) == 4
    assert equal(tmp_path, masked)


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "number"), [(1, signal.SIGTERM), (2, signal.SIGUSR1)])
def test_a_signal_to_the_whole_job_its_loaders_workers_too_saves(kitchen, tmp_path, capfd, number, processes):
    """torchrun hands a signal on to the groups of its processes, and so may the queue."""
    recipe = {**MASKED, "epochs": 5000, "loader_workers": 1, "processes": processes}
    launcher = TWO if processes == 2 else []
    job = start_program(kitchen, tmp_path, recipe, launcher=launcher, start_new_session=True)
    wait_for(lambda: list(tmp_path.glob("checkpoints/*/step-*")), job)
    os.killpg(job.pid, number)
    assert job.wait(timeout=60) == PREEMPTED_EXIT_CODE
    saved = re.search(r"asked to stop; saved after step (\d+)", capfd.readouterr().err)
    assert saved
    assert max(int(path.name[5:]) for path in tmp_path.glob("checkpoints/*/step-*")) == int(saved[1])


@pytest.mark.slow
def test_the_exit_code_is_its_own_though_nobody_reads_the_last_words(kitchen, tmp_path):
    job = start_program(kitchen, tmp_path, {**MASKED, "epochs": 5000}, stderr=subprocess.PIPE)
    wait_for(lambda: list(tmp_path.glob("checkpoints/*/step-*")), job)
    job.stderr.close()
    job.terminate()
    assert job.wait(timeout=60) == PREEMPTED_EXIT_CODE


@pytest.mark.slow
def test_further_requests_do_not_interrupt_its_end(kitchen, tmp_path, capfd):
    recipe = {**MASKED, "epochs": 5000, "loader_workers": 1}
    job = start_program(kitchen, tmp_path, recipe)
    wait_for(lambda: list(tmp_path.glob("checkpoints/*/step-*")), job)
    while job.poll() is None:
        job.terminate()
        time.sleep(0.01)
    errors = capfd.readouterr().err
    assert job.returncode == PREEMPTED_EXIT_CODE, errors
    assert "asked to stop; saved after step" in errors
    assert "Traceback" not in errors


def test_checkpoints_of_another_recipe_are_set_aside(kitchen, masked, tmp_path, monkeypatch, capsys):
    count_updates(monkeypatch, sigterm_after=1)
    with pytest.raises(SystemExit):
        train(kitchen, tmp_path, {**MASKED, "learning_rate": 5e-4})
    train(kitchen, tmp_path, MASKED)
    assert "set aside" in capsys.readouterr().err
    assert equal(tmp_path, masked)


def test_a_state_that_cannot_be_read_gives_way_to_the_one_before(kitchen, masked, tmp_path, monkeypatch):
    updates = count_updates(monkeypatch, sigterm_after=2)
    with pytest.raises(SystemExit):
        train(kitchen, tmp_path, MASKED)
    newest = max(tmp_path.glob("checkpoints/*/step-*"))
    (newest / "model.safetensors").write_bytes(b"cut short")
    train(kitchen, tmp_path, MASKED)
    assert updates == [1, 2, 3, 3, 4]
    assert equal(tmp_path, masked)


def test_a_changed_architecture_starts_anew(kitchen, tmp_path, monkeypatch):
    folder = shutil.copytree(architecture.FOLDERS[0], tmp_path / "architectures")
    monkeypatch.setattr(architecture, "FOLDERS", [folder])
    updates = count_updates(monkeypatch, sigterm_after=2)
    with pytest.raises(SystemExit):
        train(kitchen, tmp_path / "out", CONTRASTIVE)
    values = (folder / "toy_dual_encoder.yaml").read_text()
    (folder / "toy_dual_encoder.yaml").write_text(f"{values}\nactivation: quick_gelu\n")
    train(kitchen, tmp_path / "out", CONTRASTIVE)
    assert updates == [1, 2, 3, *range(1, 7)]


def test_a_second_job_in_the_same_folder_is_refused(kitchen, tmp_path):
    with (
        CheckpointStore(tmp_path / "checkpoints", {}).claim(),
        pytest.raises(ValueError, match="another process"),
    ):
        train(kitchen, tmp_path, CONTRASTIVE)


TWO = ["-m", "workflow_scripts.torchrun", "--standalone", "--nproc-per-node=2"]
NO_AMPLIFIED_ROUNDING = {"optimizer": "sgd", "learning_rate": 0.1}
"""AdamW makes full steps of the smallest gradients, also where two sums differ by their rounding alone."""


def train_in_two_processes(kitchen, out, recipe):
    assert in_processes(partial(train, kitchen, out, {**recipe, "processes": 2})) == [0, 0]
    return [line["loss"] for line in lines(out)]


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(kitchen, tmp_path):
    recipe = {**CONTRASTIVE, **NO_AMPLIFIED_ROUNDING}
    losses = train_in_two_processes(kitchen, tmp_path / "two", recipe)
    one = train(kitchen, tmp_path / "one", recipe)
    assert losses == pytest.approx([line["loss"] for line in lines(one)], rel=1e-4)
    assert losses[-1] < 0.99 * losses[0]


@pytest.mark.slow
def test_start_weights_are_read_once_and_reach_every_process(kitchen, pretrained, tmp_path, capfd):
    foreign = tmp_path / "avion.pt"
    recipe = {**CONTRASTIVE, **NO_AMPLIFIED_ROUNDING, "start_weights": str(foreign), "epochs": 1}
    recipe["processes"] = 2
    assert start_program(kitchen, tmp_path / "missing", recipe, launcher=TWO).wait(timeout=120) != 0
    assert capfd.readouterr().err.count("avion.pt: no such file") == 1
    EXPORTS["avion"](pretrained, foreign)
    losses = train_in_two_processes(kitchen, tmp_path / "two", recipe)
    one = train(kitchen, tmp_path / "one", {**recipe, "processes": 1})
    assert losses == pytest.approx([line["loss"] for line in lines(one)], rel=1e-4)


@pytest.mark.slow
def test_local_negatives_are_those_of_one_process(kitchen, tmp_path):
    """A fresh model chooses blindly: among the two clips of a process and not among all four."""
    losses = train_in_two_processes(
        kitchen, tmp_path, {**CONTRASTIVE, "negatives": "local", "temperature": 10, "epochs": 1}
    )
    assert losses[0] == pytest.approx(math.log(2), rel=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 10}, "9 clips do not fill one batch of 10; set a smaller batch_size"),
        ({"frames": 25}, "run/stage: frames is 25, and the longest clip has 24; set fewer frames"),
        ({"model": "toy_videomae"}, "cannot train 'toy_videomae', a videomae; it can train: dual_encoder"),
        (
            {"task": "classification", "label": "label"},
            "no class names for the label 'label'.*verb, noun, action",
        ),
    ],
)
def test_what_does_not_fit_is_one_clear_error(kitchen, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        train(kitchen, tmp_path, {**CONTRASTIVE, **change})


def count_updates(monkeypatch, *, sigterm_after: int | None = None) -> list[int]:
    """The steps computed from now on; after so many of them this process gets a SIGTERM."""
    steps, update = [], Training.update

    def counted(self, *arguments):
        result = update(self, *arguments)
        steps.append(self.step)
        if len(steps) == sigterm_after:
            os.kill(os.getpid(), signal.SIGTERM)
        return result

    monkeypatch.setattr(Training, "update", counted)
    return steps


def start_program(
    home: Path, out: Path, recipe: dict, *, launcher: Sequence[str] = (), **options: Any
) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"}
    command = [str(PYTHON.path), *launcher, __file__, str(home), str(out), json.dumps(recipe)]
    return subprocess.Popen(command, env=environment, **options)


def wait_for(condition, process: subprocess.Popen) -> None:
    while not condition():
        assert process.poll() is None, "the training ended before it could be killed"
        time.sleep(0.005)


if __name__ == "__main__":
    command.run(lambda: train(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])))
