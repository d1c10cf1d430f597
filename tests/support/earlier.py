"""What the version before recorded, whose stages had the settings of all tasks."""

from __future__ import annotations

from typing import Any

EARLIER_SETTINGS: dict[str, Any] = {
    "task": "contrastive",
    "dataset": "ego4d",
    "narrations": ["human"],
    "label": "label",
    "model": "toy_dual_encoder",
    "start": None,
    "start_weights": None,
    "start_weights_key": None,
    "start_fresh": [],
    "waive_missing": [],
    "waive_unexpected": [],
    "frames": 4,
    "sampling": "segments",
    "stride": 4,
    "image_size_px": 64,
    "crop": "random_resized",
    "crop_scale": [0.5, 1.0],
    "horizontal_flip": 0.0,
    "rand_augment": None,
    "rand_augment_interpolation": "bilinear",
    "rand_augment_whole_frame": False,
    "random_erasing": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "label_smoothing": 0.0,
    "epochs": 10,
    "batch_size": 32,
    "optimizer": "adamw",
    "learning_rate": 0.001,
    "learning_rate_batch": None,
    "schedule": "cosine",
    "warmup_epochs": 1.0,
    "warmup_start_rate": 1e-06,
    "final_rate": 1e-05,
    "weight_decay": 0.01,
    "no_weight_decay": [],
    "betas": [0.9, 0.999],
    "momentum": 0.9,
    "layer_decay": 1.0,
    "gradient_clip": None,
    "precision": "fp32",
    "ema_decay": None,
    "validate_with": None,
    "validate_every_epochs": 1,
    "best_metric": None,
    "drop_path": 0.0,
    "head_dropout": 0.0,
    "loss": None,
    "negatives": "global",
    "temperature": None,
    "learn_temperature": None,
    "logit_bias": None,
    "margin": None,
    "relaxation": None,
    "min_relevancy": 0.1,
    "mask_ratio": 0.9,
    "target_epsilon": 1e-06,
    "decoder_mask_ratio": 0.0,
    "patch_dropout": 0.0,
}
"""Every setting of a stage's recipe in its order, with its default."""
EARLIER_CODE = {
    "ego4d": "def7eee8f0db1aca",
    "ek100": "13853457a071ad5f",
    "kinetics": "e7feffa5410dcb8c",
    "folder": "6a6c53187f0b1367",
    "lexicon": "7068e9ba846fce99",
}
"""Digests of the code that makes clip tables, by layout, and of the lexicon's."""


def earlier_recipe(recipe: dict[str, Any]) -> dict[str, Any]:
    """A stage's recipe as it was recorded."""
    return EARLIER_SETTINGS | recipe
