"""Stages of the toy models over few, small frames: seconds a training."""

from pathlib import Path
from typing import Any

from avion_core.config import StageSettings

CONTRASTIVE: dict[str, Any] = {
    "task": "contrastive",
    "dataset": "any",
    "model": "toy_dual_encoder",
    "frames": 2,
    "image_size_px": 32,
    "epochs": 3,
    "batch_size": 4,
    "learning_rate": 1e-3,
    "log_every_steps": 1,
    "checkpoint_every_steps": 100,
}
CLASSIFICATION: dict[str, Any] = {
    **CONTRASTIVE,
    "task": "classification",
    "label": "action",
    "waive_missing": ["head.*"],
}
MASKED: dict[str, Any] = {
    **CONTRASTIVE,
    "task": "reconstruction",
    "model": "toy_videomae",
    "image_size_px": 64,
    "epochs": 2,
    "checkpoint_every_steps": 2,
}
FILES = {"sentences": "sentences.arrow", "classes": "classes.json"}
"""Those that a task may read, by role."""


def stage_files(
    home: Path, settings: StageSettings, *, start: Path | None = None, start_weights: Path | None = None
) -> dict[str, Path]:
    """Files of a stage over the clips of the folder `home`, from the stage's folder `start`, by role."""
    files = {"clips_1": home / "clips.arrow", "chunks": home / "chunks.parquet"}
    files |= {role: home / FILES[role] for role in settings.files}
    optional = {"start": start and start / "model.safetensors", "start_weights": start_weights}
    return files | {role: path for role, path in optional.items() if path}
