"""Evaluations of small random models on clips without videos."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from avion_core.config import EvaluationSettings
from avion_core.evaluate import inference, runner
from avion_core.files import read_json
from avion_core.media import MediaError
from avion_core.models.store import ModelDescription, build_model, save_model

SEGMENTS = {"sampling": "segments", "stride": 4}
TOWER = {"width": 16, "layers": 1, "heads": 2}


def pixels(video_id, start_s, frames):
    """One view of a clip: noise that is the same whenever it is read."""
    seed = [*video_id.encode(), round(start_s * 100)]
    return np.random.default_rng(seed).integers(256, size=(1, frames, 16, 16, 3), dtype=np.uint8)


class NoVideos:
    """Takes the place of ClipDataset; videos whose name begins with `torn` cannot be read."""

    seen: list = []  # noqa: RUF012

    def __init__(self, clips, chunks, view):
        self.clips, self.view = clips, view
        self.seen.append(view)

    def check_length(self, title):
        """Clips of any length."""

    def sample(self, row, rng):
        video = self.clips.video_id(row)
        if video.startswith("torn"):
            raise MediaError(f"{video}.mp4", "cut short")
        views = [pixels(video, self.clips.start_s(row) + k, self.view.frames) for k in range(self.view.clips)]
        return {"frames": np.concatenate(views)}


def save(folder, kind, config, *, frames=4, label="", classes=0, further=None, seen=SEGMENTS, change=None):
    """A fresh model, saved in a folder; `change` is called with it before."""
    torch.manual_seed(0)
    heads = {"classes": classes} if classes else {}
    heads |= {"further_classes": further} if further else {}
    model = build_model(kind, config, frames=frames, image_size_px=16, **heads)
    description = ModelDescription(kind, "test", frames, 16, classes, further or {}, label, **seen)
    if classes:  # a fresh head knows nothing; make its answers differ
        for head in (model.head, *model.further_heads.values()):
            torch.nn.init.normal_(head.weight)
    if change is not None:
        change(model)
    save_model(folder, model, description)
    return model.eval()


def settings(kind, **others):
    return EvaluationSettings.of_kind(
        kind, dataset="toy", stage="trained", **{"max_bad_share": 0.5, **others}
    )


def measure(place, kind, *, out="out", tables=(), **others):
    paths = {name: place / ("classes.json" if name == "classes" else f"{name}.arrow") for name in tables}
    files = {"chunks": place / "chunks.parquet", **paths}
    runner.evaluate(
        settings(kind, **others), title="toy", model=place / "model", files=files, out=place / out
    )
    return read_json(place / out / "metrics.json"), load_file(place / out / "outputs.safetensors")


def computed_batches(monkeypatch: pytest.MonkeyPatch, *, stop_after: int = 99) -> list[int]:
    """Sizes of the batches that are computed; the one after the last allowed is interrupted, as by Ctrl-C."""
    means, sizes = inference._pooled, []

    def noted(forward, views, *rest):
        if len(sizes) == stop_after:
            raise KeyboardInterrupt
        sizes.append(len(views))
        return means(forward, views, *rest)

    monkeypatch.setattr(inference, "_pooled", noted)
    return sizes
