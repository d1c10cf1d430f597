"""Manifests against the configuration: what differs is named, what older manifests lack is no error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from avion_core.config import Settings, load_settings
from avion_core.files import checksums, write_json, write_manifest
from avion_core.manifests import differences, stage_record


def settings(tmp_path: Path, **overrides: Any) -> Settings:
    frames = {"frames": 4, "image_size_px": 64}
    stage = {"task": "contrastive", "dataset": "ego4d", "model": "toy_dual_encoder", **frames, "epochs": 12}
    stage |= {"narrations": ["rephrased"], **overrides.pop("stage", {})}
    evaluation = {"kind": "multiple_choice", "dataset": "ego4d", "stage": "pretrain"}
    evaluation |= overrides.pop("evaluation", {})
    raw = {
        "results_dir": str(tmp_path / "results"),
        "selected_runs": ["llm"],
        "datasets": {"ego4d": {"layout": "ego4d", "source": "toy_kitchen"}},
        "stages": {"pretrain": stage},
        "evaluations": {"egomcq": evaluation},
        "runs": {"llm": {"title": "LLM", "stages": {"pretrain": {}}, "evaluations": ["egomcq"]}},
    }
    return load_settings({**raw, **overrides})


def make_results(made_with: Settings, tmp_path: Path, providers: tuple[str, ...] = ("lexicon",)) -> None:
    """Both manifests as a training and an evaluation write them."""
    tables = {}
    for place, name in enumerate(providers, 1):
        tables[f"clips_{place}"] = table = tmp_path / f"data/ego4d/narrations/{name}/train.arrow"
        table.parent.mkdir(parents=True, exist_ok=True)
        table.write_text("texts")
    stage = made_with.stage("llm", "pretrain").model_dump(mode="json")
    recorded = {"title": "llm/pretrain", "seed": made_with.seed, "stage": stage}
    results = tmp_path / "results/llm"
    identity = {"inputs": checksums(tables)}
    write_manifest(results / "pretrain/manifest.json", settings=recorded, inputs=tables, identity=identity)
    measured = made_with.evaluations["egomcq"].model_dump(mode="json")
    write_manifest(results / "egomcq/manifest.json", settings=measured, inputs={}, identity={"inputs": {}})


def said(found: Settings) -> list[str]:
    return [str(difference) for difference in differences(found)]


def test_results_of_this_configuration_differ_in_nothing(tmp_path):
    assert said(settings(tmp_path)) == []
    make_results(settings(tmp_path), tmp_path)
    assert said(settings(tmp_path)) == []


@pytest.mark.parametrize(
    ("change", "folder", "words"),
    [
        ({"stage": {"epochs": 99}}, "pretrain", "epochs is 12 in manifest.json, 99 in the configuration"),
        ({"seed": 7}, "pretrain", "seed is 0 in manifest.json, 7 in the configuration"),
        (
            {"stage": {"start_weights": "wieghts/vit.pt"}},
            "pretrain",
            "start_weights is null in manifest.json, wieghts/vit.pt in the configuration",
        ),
        (
            {"narrate": {"provider": "language_model"}},
            "pretrain",
            "narrate.provider is lexicon in manifest.json, language_model in the configuration",
        ),
        ({"evaluation": {"frames": 8}}, "egomcq", "frames is 4 in manifest.json, 8 in the configuration"),
        (
            {"evaluation": {"precision": "bf16"}},
            "egomcq",
            "precision is fp32 in manifest.json, bf16 in the configuration",
        ),
    ],
)
def test_what_decides_a_result_and_differs_is_named(tmp_path, change, folder, words):
    make_results(settings(tmp_path), tmp_path)
    assert said(settings(tmp_path, **change)) == [f"{tmp_path}/results/llm/{folder}: {words}"]


def test_of_two_providers_the_one_that_differs_is_named(tmp_path):
    both = {"stage": {"narrations": ["rephrased", "narrated"]}, "narrator": {"provider": "vision"}}
    make_results(settings(tmp_path, **both), tmp_path, ("lexicon", "other"))
    words = "narrator.provider is other in manifest.json, vision in the configuration"
    assert said(settings(tmp_path, **both)) == [f"{tmp_path}/results/llm/pretrain: {words}"]


def test_settings_of_the_job_are_no_difference(tmp_path):
    make_results(settings(tmp_path), tmp_path)
    assert said(settings(tmp_path, stage={"threads": 2}, evaluation={"memory_mb": 9000})) == []


def test_a_manifest_from_before_a_setting_existed_counts_as_its_default(tmp_path):
    make_results(settings(tmp_path), tmp_path)
    stage = settings(tmp_path).stage("llm", "pretrain").model_dump(mode="json")
    del stage["patch_dropout"], stage["loss"]
    recorded = {"seed": 0, "stage": {**stage, "a_setting_of_the_past": 3}}
    path = tmp_path / "results/llm/pretrain/manifest.json"
    write_json(path, {"revision": "old", "settings": recorded, "inputs": {}})
    assert said(settings(tmp_path)) == []
    assert said(settings(tmp_path, stage={"patch_dropout": 0.5})) == [
        f"{path.parent}: patch_dropout is 0.0 in manifest.json, 0.5 in the configuration"
    ]


@pytest.mark.parametrize(
    "manifest", [{}, {"settings": {}}, {"settings": {"stage": {"task": "gone"}}}, {"inputs": {}}]
)
def test_a_manifest_without_a_recipe_says_so_and_nothing_else(tmp_path, manifest):
    write_json(tmp_path / "results/llm/pretrain/manifest.json", manifest)
    assert stage_record(manifest).recipe is None
    assert said(settings(tmp_path)) == [
        f"{tmp_path}/results/llm/pretrain: manifest.json has no settings that this version can read"
    ]


@pytest.mark.parametrize(
    ("manifest", "where"),
    [
        ({"inputs": 3}, "inputs"),
        ({"inputs": {"clips": "clips.arrow"}}, "inputs: clips"),
        ({"inputs": {"clips": {"path": "clips.arrow"}}}, "inputs: clips: sha256"),
        ({"settings": []}, "settings"),
        (
            {"settings": {"validation": {"best": {"step": "3", "figures": {}}}}},
            "settings: validation: best: step",
        ),
    ],
)
def test_a_manifest_of_other_types_is_named_with_the_place(tmp_path, manifest, where):
    write_json(tmp_path / "results/llm/pretrain/manifest.json", manifest)
    with pytest.raises(ValueError, match=rf"pretrain/manifest\.json: {where}: .*; delete the folder"):
        differences(settings(tmp_path))


def test_a_manifest_that_is_no_manifest_is_named(tmp_path):
    write_json(tmp_path / "results/llm/pretrain/manifest.json", [1])
    with pytest.raises(ValueError, match=r"pretrain/manifest\.json: not a JSON object"):
        differences(settings(tmp_path))
