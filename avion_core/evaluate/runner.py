"""Evaluate one trained stage and write the results:

- `metrics.json`: the figures, each with `<figure>_n`, the number of values it averages (queries that count,
  or classes that occur), `<figure>_interval: [low, high]` (`avion_core.evaluate.bootstrap`) and,
  where a clip could not be read, `<figure>_with_unreadable`, which counts such clips as wrong;
  `chance`; readable `clips` of `clips_in_table`, in `videos`; `frames`; and `bad_clips`, the unreadable
  ones with reasons. Figures and intervals cover the readable clips.
- `outputs.safetensors`: the evaluator's outputs, where `rows_N` are the clips' rows in the table, and for
  comparisons the score of each query by figure (`avion_core.evaluate.bootstrap.Scores`).
- `manifest.json`: the code, settings and inputs behind them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

from avion_core.config import EvaluationSettings
from avion_core.data.chunks import ChunkIndex
from avion_core.evaluate.code import evaluation_code
from avion_core.evaluate.figures import numbers
from avion_core.evaluate.inference import choose_device
from avion_core.evaluate.subject import EvaluationError, Measurement, Subject, measure
from avion_core.files import checksums, fingerprint, publish, write_json, write_manifest
from avion_core.finished import forget, keep, unfinish
from avion_core.manifests import MANIFEST
from avion_core.models.base import VideoModel
from avion_core.models.store import (
    DESCRIPTION_FILE,
    WEIGHTS_FILE,
    ModelDescription,
    load_model,
    read_description,
)

METRICS, OUTPUTS = "metrics.json", "outputs.safetensors"


def evaluate(
    settings: EvaluationSettings,
    *,
    title: str,
    model: Path,
    files: Mapping[str, Path],
    out: Path,
) -> None:
    """Measure the model of folder `model` and publish the results in the folder `out`.

    `files` by role: `chunks` (chunk index), `clips` (clip table; for multiple_choice, question table), and
    what else the kind reads: `sentences` (ranked by retrieval; without it, the clips' own texts), `classes` …
    Raises ValueError when model, data and kind do not match or nothing can be measured.
    """
    torch.set_num_threads(settings.threads)
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False  # as in training
    device = choose_device(settings.gpus)
    network, description = load_for(model, frames=settings.frames)
    subject = Subject(
        title=title,
        settings=settings,
        model=network.to(device),
        description=description,
        chunks=ChunkIndex.load(files["chunks"]),
        files=files,
        device=device,
    )
    inputs = {"weights": model / WEIGHTS_FILE, "model": model / DESCRIPTION_FILE, **files}
    identity = _identity(settings, inputs)
    if keep(out, (METRICS, OUTPUTS), identity=lambda _: fingerprint(identity), title=title):
        return
    found = measure(subject)
    _check_measured(found.figures, title)
    unfinish(out)
    with publish(out / OUTPUTS) as draft:
        arrays = {**found.outputs, **found.scores.to_arrays()}
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        save_file(contiguous, draft, metadata=found.header)
    write_json(out / METRICS, {**with_intervals(found), "frames": settings.frames})
    identity["bad_clips"] = found.figures["bad_clips"]
    recorded = settings.model_dump(mode="json")
    write_manifest(out / MANIFEST, settings=recorded, inputs=inputs, identity=identity)
    forget(out)


def _identity(settings: EvaluationSettings, inputs: Mapping[str, Path]) -> dict[str, Any]:
    """What determines the figures if all clips are readable; clips that were not may be by now."""
    code = evaluation_code(settings.kind)
    return {"recipe": settings.recipe(), "code": code, "inputs": checksums(inputs), "bad_clips": []}


def with_intervals(found: Measurement) -> dict[str, Any]:
    """The figures with n and interval, and with unreadable clips counted as wrong if there are any."""
    figures: dict[str, Any] = {
        name: dict(value) if isinstance(value, Mapping) else value for name, value in found.figures.items()
    }
    counts, intervals, strict = found.scores.counts(), found.scores.intervals(), found.strict.values()
    for name, (low, high) in intervals.items():
        group, _, figure = name.rpartition(".")
        place = figures[group] if group else figures
        value = place[figure]
        place[f"{figure}_n"] = counts[name]
        place[f"{figure}_interval"] = [min(low, value), max(high, value)]  # sums differ in the last digit
        if figures["bad_clips"]:
            place[f"{figure}_with_unreadable"] = min(strict[name], value)
    return figures


def load_for(folder: Path, *, frames: int) -> tuple[VideoModel, ModelDescription]:
    """The model of a folder, for clips of `frames` frames.

    Raises EvaluationError when it was trained with another number that its positions are fixed to, as in
    VideoMAE.
    """
    description, config = read_description(folder)
    if frames != description.frames and config.fixed_frames:
        raise EvaluationError(
            f"{folder}: this {description.kind} was trained with {description.frames} frames a clip and "
            f"cannot take {frames}; set the evaluation's frames to {description.frames}"
        )
    return load_model(folder, frames=frames)


def _check_measured(figures: Mapping[str, Any], title: str) -> None:
    for name, value in numbers(figures):
        if not math.isfinite(value):
            raise EvaluationError(f"{title}: nothing among the readable clips to measure '{name}' on")
