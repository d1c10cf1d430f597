"""Whole stages over the clips of a folder, and what they leave."""

import json
from pathlib import Path
from typing import Any

import torch

from avion_core.config import StageSettings
from avion_core.models.store import load_model
from avion_core.train.stages import train_stage
from avion_core.train.validation import ValidationData

FILES = {"sentences": "sentences.arrow", "classes": "classes.json"}
"""Those that a task may read, by role."""


def stage_files(
    home: Path, settings: StageSettings, *, start: Path | None = None, start_weights: Path | None = None
) -> dict[str, Path]:
    """Files of a stage by role; `start` is the folder of the stage that it starts from."""
    files = {"clips_1": home / "clips.arrow", "chunks": home / "chunks.parquet"}
    files |= {role: home / FILES[role] for role in settings.files}
    optional = {"start": start and start / "model.safetensors", "start_weights": start_weights}
    return files | {role: path for role, path in optional.items() if path}


def train(
    home: Path,
    out: Path,
    recipe: dict[str, Any],
    *,
    start: Path | None = None,
    seed: int = 0,
    validation: ValidationData | None = None,
    start_weights: Path | None = None,
) -> Path:
    """Train a stage over the clips of `home`; returns its folder."""
    settings = StageSettings.model_validate(recipe)
    train_stage(
        settings,
        title="run/stage",
        seed=seed,
        files=stage_files(home, settings, start=start, start_weights=start_weights),
        out=out,
        validation=validation,
    )
    return out


def lines(folder: Path) -> list[dict[str, Any]]:
    """The training log."""
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The trained weights by name."""
    return load_model(folder)[0].state_dict()


def equal(one: Path, other: Path) -> bool:
    """Whether two stages have the same weights, bit for bit."""
    left, right = weights(one), weights(other)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
