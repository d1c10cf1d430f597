"""Toy kitchens that render in a second."""

from typing import Any

from avion_core.config import ToyKitchenSettings

TINY: dict[str, Any] = {
    "short_side_px": 64,
    "ego4d_videos": 2,
    "ego4d_benchmark_videos": 1,
    "ek100_train_videos": 2,
    "ek100_validation_videos": 1,
    "video_seconds": (5.0, 5.0),
    "kinetics_clips_per_class": (1, 1),
    "kinetics_clip_seconds": 2.0,
}


def tiny_kitchen(**changes: Any) -> ToyKitchenSettings:
    """`TINY` with these settings instead."""
    return ToyKitchenSettings(**{**TINY, **changes})
