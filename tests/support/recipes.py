"""Stages of the toy models over few, small frames: seconds a training."""

from typing import Any

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
CAPTIONING: dict[str, Any] = {
    **CONTRASTIVE,
    "task": "captioning",
    "model": "toy_narrator",
    "learning_rate": 3e-3,
}
MASKED: dict[str, Any] = {
    **CONTRASTIVE,
    "task": "reconstruction",
    "model": "toy_videomae",
    "image_size_px": 64,
    "epochs": 2,
    "checkpoint_every_steps": 2,
}
