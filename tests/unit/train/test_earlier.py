"""Results and checkpoints of versions whose recipes had the settings of all tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from avion_core.config import StageJob, StageSettings
from avion_core.files import fingerprint, write_json
from avion_core.train.earlier import begun_identity, finished_identity

FORMERLY = {
    "narrations": ["human"],
    "label": "label",
    "mixup": 0.0,
    "cutmix": 0.0,
    "label_smoothing": 0.0,
    "head_dropout": 0.0,
    "negatives": "global",
    "min_relevancy": 0.1,
    "mask_ratio": 0.9,
    "target_epsilon": 1e-6,
    "decoder_mask_ratio": 0.0,
    "patch_dropout": 0.0,
}
"""What every stage had, whatever its task."""
LOSS = dict.fromkeys(("loss", "temperature", "learn_temperature", "logit_bias", "margin", "relaxation"), None)
COMMON = {"dataset": "any", "model": "any", "nodes": 2, "processes": 4}
TASKS: list[dict[str, Any]] = [
    {"task": "contrastive"},
    {"task": "contrastive", "loss": "sigmoid", "logit_bias": -5.0, "negatives": "local"},
    {"task": "relevancy", "loss": "max_margin", "margin": 0.3},
    {"task": "classification", "mixup": 0.8},
    {"task": "reconstruction", "mask_ratio": 0.5},
]


def settings(given: dict[str, Any]) -> StageSettings:
    return StageSettings.model_validate({**COMMON, **given})


def identity(recipe: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    return {"recipe": recipe, "seed": seed, "inputs": {"clips_1": "abc"}}


def former(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The recorded settings of an earlier version, and its identity."""
    recorded = {**FORMERLY, **settings(given).model_dump(mode="json"), **LOSS, **given}
    world = {"nodes", "processes"} if recorded["negatives"] == "local" else set()
    job = StageJob.model_fields.keys() - world
    return recorded, identity({name: value for name, value in recorded.items() if name not in job})


@pytest.mark.parametrize("given", TASKS, ids=lambda given: "-".join(map(str, given.values())))
def test_a_finished_result_stays_valid(given: dict[str, Any]) -> None:
    recorded, before = former(given)
    manifest = {"settings": {"stage": recorded}, "identity": fingerprint(before)}
    now = identity(settings(given).recipe())
    assert finished_identity(now, manifest) == manifest["identity"] != fingerprint(now)
    others = [
        identity(settings({**given, "learning_rate": 1.0}).recipe()),
        identity(now["recipe"], seed=1),
        {**now, "inputs": {"clips_1": "def"}},
    ]
    own = {name: value for name, value in given.items() if name not in ("task", "loss")}
    if own:
        others.append(identity(settings({k: v for k, v in given.items() if k not in own}).recipe()))
    assert manifest["identity"] not in [finished_identity(other, manifest) for other in others]


@pytest.mark.parametrize("given", TASKS, ids=lambda given: "-".join(map(str, given.values())))
def test_a_result_of_this_version_has_its_own_identity(given: dict[str, Any]) -> None:
    now = identity(settings(given).recipe())
    manifest = {"settings": {"stage": settings(given).model_dump(mode="json")}}
    assert finished_identity(now, manifest) == fingerprint(now)
    assert finished_identity(now, {}) == fingerprint(now)


@pytest.mark.parametrize("given", TASKS, ids=lambda given: "-".join(map(str, given.values())))
def test_checkpoints_are_taken_up(given: dict[str, Any], tmp_path: Path) -> None:
    now = identity(settings(given).recipe())
    assert begun_identity(now, tmp_path) == now
    _, before = former(given)
    write_json(tmp_path / fingerprint(before) / "recipe.json", before)
    assert begun_identity(now, tmp_path) == before
    assert begun_identity({**now, "seed": 1}, tmp_path) == {**now, "seed": 1}
    other = identity(settings({**given, "epochs": 9}).recipe())
    assert begun_identity(other, tmp_path) == other
